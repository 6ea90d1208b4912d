//! The options of the real Debezium, each of which the import carries over or names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{LIMIT, offered};
use crate::support::debezium::NEWEST;
use crate::support::folder::Folder;
use crate::support::outboxd::{Settings, command};

/// A line for each option: its kind and its name.
const LIST: &str = include_str!("options.txt");

const HEAD: &str = "# The options of Debezium Server ";

/// The options of the list that are of this kind.
fn listed(kind: &str) -> impl Iterator<Item = &'static str> {
    LIST.lines().filter_map(move |line| {
        let (found, name) = line.split_once(' ')?;
        (found == kind).then_some(name)
    })
}

/// The option in a connector's file. The names of some stand for all that match an expression.
fn in_file(kind: &str, name: &str) -> String {
    let name = name
        .replace("([^.]+)", "SHA-256")
        .replace("(.+)", "salt")
        .replace("(d+)", "10");
    match kind {
        "router" => format!("transforms.outbox.{name}"),
        "producer" => format!("producer.override.{name}"),
        _ => name,
    }
}

#[tokio::test]
async fn the_import_knows_every_option_of_debezium() -> Result<()> {
    ensure!(
        LIST.starts_with(&format!("{HEAD}{NEWEST}")),
        "another version"
    );
    let mut text = String::from(
        "transforms=outbox\ntransforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         connector.class=io.debezium.connector.postgresql.PostgresConnector\n",
    );
    let mut names = Vec::new();
    for kind in ["router", "postgres", "connect", "producer"] {
        for name in listed(kind) {
            let name = in_file(kind, name);
            if !matches!(name.as_str(), "transforms" | "connector.class") {
                text.push_str(&format!("{name}=zzz\n"));
                names.push(name);
            }
        }
    }
    ensure!(names.len() > 200, "{} options", names.len());
    let folder = Folder::new("options")?;
    let file = folder.join("connector.properties");
    fs::write(&file, text)?;
    let file = file.display().to_string();
    let output = command(&Settings::nowhere()?, &["import-debezium", &file], LIMIT).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");
    let unknown: Vec<&str> = said
        .lines()
        .filter(|it| it.starts_with("unknown"))
        .collect();
    ensure!(unknown.is_empty(), "{}", unknown.join("\n"));
    Ok(())
}

#[test]
fn the_list_of_options_is_the_one_of_debeziums_own_classes() -> Result<()> {
    let Some(debezium) = offered("the list of Debezium's options") else {
        return Ok(());
    };
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/services/debezium/Options.java"
    );
    let printed = debezium.run_source(Path::new(source))?;
    let lines = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let (found, listed) = (lines(&printed), lines(LIST));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
        let only: Vec<String> = a.difference(b).cloned().collect();
        only.join("\n")
    };
    let lacking = only(&found, &listed);
    ensure!(lacking.is_empty(), "the list lacks\n{lacking}");
    let stale = only(&listed, &found);
    ensure!(stale.is_empty(), "Debezium does not have\n{stale}");
    found.first().context("options")?;
    Ok(())
}
