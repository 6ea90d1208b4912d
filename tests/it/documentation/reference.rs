//! The manual's tables are complete: every setting, metric and alert has its row, and no page names
//! one that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use clap::{Args, Command};
use outboxd::config::{Config, Settings};

use super::{pages, read};

/// Variables that are no settings of a publisher.
const OTHERS: [&str; 5] = [
    "OUTBOX_CONFIG",
    "OUTBOXD_CACHE",
    "OUTBOXD_TEST_KAFKA_DIR",
    "OUTBOXD_TEST_POSTGRES_BIN_15",
    "OUTBOXD_TEST_POSTGRES_BIN_17",
];

/// Every setting that has a variable, with the default that its help names.
fn settings() -> BTreeMap<String, Option<String>> {
    let command = Settings::augment_args(Command::new("settings"));
    let settings = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?.to_owned();
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let default = help
            .split_once("[default: ")
            .map(|(_, it)| it.trim_end_matches(']'));
        Some((name, default.map(str::to_owned)))
    });
    settings.collect()
}

/// The names of all settings, and of the variables beside them.
pub(super) fn setting_names() -> BTreeSet<String> {
    let others = OTHERS.map(str::to_owned);
    settings().into_keys().chain(others).collect()
}

/// The words of a text, by letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Words of this text that look like settings and are none.
pub(super) fn unknown_settings<'t>(text: &'t str, known: &BTreeSet<String>) -> BTreeSet<&'t str> {
    let prefixes = ["OUTBOX_", "OUTBOXD_", "DATABASE_", "KAFKA_"];
    words(text)
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .filter(|word| !word.ends_with('_') && !known.contains(*word))
        .collect()
}

/// The rows of the first table below a heading of the second level, each as its cells.
fn table(text: &str, heading: &str) -> Result<Vec<Vec<String>>> {
    let section = text
        .split("\n## ")
        .find_map(|it| it.strip_prefix(heading)?.strip_prefix('\n'));
    let section = section.with_context(|| format!("there is no section {heading}"))?;
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let lines = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        line.trim_matches('|')
            .split('|')
            .map(|it| it.trim().to_owned())
            .collect()
    };
    Ok(lines.map(cells).collect())
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_setting_has_its_row_with_its_default() -> Result<()> {
    let mut documented = BTreeMap::new();
    for row in table(&read("docs/settings.md")?, "All settings")? {
        let [name, default, ..] = &row[..] else {
            anyhow::bail!("{row:?} is no row");
        };
        let default = default.replace('`', "");
        let has_default = !default.is_empty() && !default.starts_with("required");
        documented.insert(name.replace('`', ""), has_default.then_some(default));
    }
    assert_eq!(documented, settings());
    Ok(())
}

/// A documented default, given by name, changes nothing.
#[test]
fn the_defaults_are_those_of_the_program() -> Result<()> {
    let required =
        "database_url = \"postgres://outboxd@db/orders\"\nkafka_brokers = \"kafka:9092\"\n";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outboxd.toml");
    let shown = |lines: &str| {
        std::fs::write(&file, format!("{required}{lines}"))?;
        let config = Config::from_settings(Settings::load(&file));
        anyhow::Ok(format!("{:#?}", config.with_context(|| lines.to_owned())?))
    };
    let expected = shown("")?;
    for (name, default) in settings() {
        // A backlog that is published by default is published with a limit.
        let Some(default) = default.filter(|_| name != "OUTBOX_BACKLOG") else {
            continue;
        };
        let default = default.split(';').next().unwrap_or_default();
        let default = default.replace("<database>", "orders");
        let name = name.trim_start_matches("OUTBOX_").to_lowercase();
        assert_eq!(
            shown(&format!("{name} = \"{default}\"\n"))?,
            expected,
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn no_page_names_a_setting_that_does_not_exist() -> Result<()> {
    let known = setting_names();
    for page in pages()? {
        let text = read(&page)?;
        let unknown = unknown_settings(&text, &known);
        assert!(unknown.is_empty(), "{page}: {unknown:?}");
    }
    Ok(())
}

/// The metrics of `src/metrics/names.rs`.
fn metrics() -> Result<BTreeSet<String>> {
    let text = read("src/metrics/names.rs")?;
    let names = text
        .split("&str = \"")
        .skip(1)
        .filter_map(|it| it.split('"').next());
    let is_metric = |name: &&str| name.starts_with("outbox") || name.starts_with("process_");
    let names = names.filter(is_metric);
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 20, "the names are found");
    Ok(names)
}

#[test]
fn every_metric_has_its_row() -> Result<()> {
    let mut documented = BTreeSet::new();
    for row in table(&read("docs/operations.md")?, "Metrics")? {
        let names = quoted(row.first().context("a cell")?);
        documented.extend(
            names
                .filter_map(|it| it.split('{').next())
                .map(str::to_owned),
        );
    }
    assert_eq!(documented, metrics()?);
    Ok(())
}

/// The names in the array of this constant of `src/status/names.rs`.
fn names(constant: &str) -> Result<BTreeSet<String>> {
    let text = read("src/status/names.rs")?;
    let (_, array) = text
        .split_once(&format!("const {constant}: "))
        .context("the constant")?;
    let (array, _) = array.split_once("];").context("the array's end")?;
    Ok(array
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect())
}

/// Each has a series of its own.
#[test]
fn every_wait_and_every_problem_has_its_row() -> Result<()> {
    for (heading, constant) in [("Waits", "WAITS"), ("Problems", "PROBLEMS")] {
        let rows = table(&read("docs/operations.md")?, heading)?;
        let cells = rows.iter().filter_map(|row| row.first());
        let documented = cells.flat_map(|cell| quoted(cell)).map(str::to_owned);
        assert_eq!(
            documented.collect::<BTreeSet<_>>(),
            names(constant)?,
            "{heading}"
        );
    }
    Ok(())
}

#[test]
fn no_page_and_no_alert_names_a_metric_that_does_not_exist() -> Result<()> {
    let known = metrics()?;
    let mut files = pages()?;
    let others = [
        "docker/alerts.yaml",
        "docker/grafana/dashboards/outboxd.json",
    ];
    files.extend(others.map(str::to_owned));
    for file in files {
        let text = read(&file)?;
        // A table that `init` makes, and a slot.
        let text = text.replace("outbox.outboxd_state", "");
        let text = text.replace("replication slot outboxd_orders", "");
        let named =
            words(&text).filter(|word| word.starts_with("outboxd_") && !word.ends_with('_'));
        let is_known = |name: &str| {
            let of_histogram = name.strip_suffix("_bucket");
            known.contains(name) || of_histogram.is_some_and(|stem| known.contains(stem))
        };
        let unknown: BTreeSet<&str> = named.filter(|it| !is_known(it)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    Ok(())
}

#[test]
fn every_alert_has_its_section_and_leads_there() -> Result<()> {
    let (alerts, page) = (read("docker/alerts.yaml")?, read("docs/operations.md")?);
    let names = |prefix: &str, text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        lines
            .filter_map(|it| it.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    };
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("Alerts\n"))
        .context("no section on alerts")?;
    let alerts_named = names("- alert: ", &alerts);
    assert_eq!(names("### ", section), alerts_named);
    for part in section.split("\n### ").skip(1) {
        for step in ["**Means**: ", "**Look at**: ", "**Do**: "] {
            let text = part.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(step), "{step}is missing in {part}");
        }
    }
    let place = |name: &String| format!("docs/operations.md#{}", anchor(name));
    let links: Vec<String> = alerts_named.iter().map(place).collect();
    assert_eq!(names("runbook_url: ", &alerts), links);
    let severities = names("labels: { severity: ", &alerts);
    assert_eq!(severities.len(), links.len(), "each has a severity");
    Ok(())
}

/// The anchor that a heading has on GitHub.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_inside_the_repository_leads_somewhere() -> Result<()> {
    let mut files = pages()?;
    files.extend(["CONTRIBUTING.md", "tests/README.md", "CHANGELOG.md"].map(str::to_owned));
    let mut lost = Vec::new();
    for file in &files {
        let (folder, _) = file.rsplit_once('/').unwrap_or(("", ""));
        let text = read(file)?;
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next())
        {
            if target.contains("://") {
                continue;
            }
            let (path, place) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                file.clone()
            } else {
                format!("{folder}/{path}")
            };
            let path = path.trim_start_matches('/');
            let found = super::root().join(path);
            let headings = || {
                anyhow::Ok(
                    read(path)?
                        .lines()
                        .filter(|it| it.starts_with('#'))
                        .map(anchor)
                        .collect::<Vec<_>>(),
                )
            };
            if !found.exists() || (!place.is_empty() && !headings()?.iter().any(|it| it == place)) {
                lost.push(format!("{file}: {target}"));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
    Ok(())
}
