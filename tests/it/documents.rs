//! The lists of promises and faults cannot go stale: every test that `tests/faults.md` and
//! `docs/guarantees.md` name exists, and no fault loses its row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The rows of the first table of `tests/faults.md`.
const FAULTS: [&str; 124] = [
    "process killed at any step",
    "walsender terminated",
    "Postgres stopped without a checkpoint",
    "Postgres stopped while Kafka is away",
    "Postgres stopped in good order",
    "failover that loses the slot",
    "failover to a standby that lags",
    "server restored from older files that has written past our position",
    "ids that begin again while a dead letter is open",
    "ids that begin again while marks wait, or while rows are read",
    "id 0, negative ids, the lowest number",
    "two outboxes whose long names begin alike",
    "failover with a slot that standbys keep",
    "standby that the slot waits for is dead",
    "slot dropped",
    "slot invalidated",
    "slot that was created again by hand",
    "Kafka frozen",
    "brokers restarted in turn",
    "too few replicas in sync",
    "broker error about one topic",
    "report from before its topic was trusted again is read after it",
    "held event that stops the publisher",
    "network to Postgres cut",
    "connection to Postgres half open",
    "network to Kafka cut",
    "network to Kafka slow",
    "disk full under Postgres",
    "disk full under Kafka",
    "nowhere to write for outboxd",
    "event too large",
    "name that no topic can have",
    "topic that is not there",
    "nulls and odd JSON",
    "text that is not UTF-8",
    "row that the server cannot print",
    "damaged value in a row",
    "huge transaction",
    "rollbacks, savepoints, COPY, two phases",
    "prepared transaction open for long",
    "partitioned outbox",
    "partition and its parent as two outboxes",
    "columns added, dropped, renamed, retyped",
    "TRUNCATE",
    "table dropped, created again, or out of the publication",
    "mark that the table undoes",
    "mark that the table swallows",
    "table that refuses one mark after another",
    "mark that another program removes",
    "another program that publishes beside outboxd",
    "row marked as published that was never sent",
    "table without optional columns",
    "statement that the server refuses",
    "table that no mark fits any more",
    "dead letter of a table with ids of any type",
    "trigger of the table's owner",
    "writers in other time zones",
    "counter at the end of its range",
    "wall clock wrong or jumping",
    "machine suspended, or paused",
    "two or three instances",
    "another instance published and did not move the slot",
    "change of the stream counted and not passed on",
    "instance frozen, replaced and thawed",
    "instance cut off while its sibling publishes and stops",
    "two outboxes in one database",
    "two slots, or a slot and a poller, on one table",
    "lock taken by hand",
    "outboxd named as a synchronous standby",
    "answer of Postgres lost",
    "row locked, or hidden, or a write that fails for ever",
    "position without a transaction to skip",
    "log that nothing reads",
    "transaction open for long",
    "nothing to do for long",
    "server's own time-out for walsenders is 0 or 1 s",
    "SIGTERM",
    "second SIGTERM",
    "pause that a person requests and forgets",
    "what cannot work",
    "Kafka refuses to let us in",
    "all rights on Kafka revoked, or none given yet",
    "Kafka not reached before the first event",
    "password that changes while nothing is sent",
    "Postgres password that changes, or whose command fails",
    "Postgres that accepts a connection and says nothing",
    "topic made again after its leaders changed",
    "certificate authority renewed",
    "broker cut off from its controller",
    "time of creation that is no moment, or of any type",
    "value longer than a record can be",
    "optional columns added or dropped while it runs",
    "table with children, unlogged or foreign partition",
    "`headers` of a type that holds no object",
    "settings of role and database that change text or meaning",
    "`search_path` of the role that hides names of the catalog",
    "more parked keys than are kept",
    "dead-letter table of an earlier version",
    "second outbox in a schema or database",
    "unrelated function, index, publication or dead-letter table",
    "index whose build was cancelled",
    "several `init` at once",
    "schema dropped by a migration",
    "transaction that holds up `init` or `drop`",
    "right that is missing for `init` or `drop`",
    "database of another encoding",
    "server that poses as Postgres, or is broken",
    "broker that poses as Kafka, or is broken",
    "password asked for in clear text",
    "login of its own for replication",
    "password file that others may read",
    "values with line ends and escape sequences",
    "other users of the demo's machine",
    "page that asks under a foreign host name",
    "HTTP client that is slow or endless",
    "no setting for HTTP",
    "proxy with a cancel key of its own, or none",
    "pooler that shares server sessions",
    "provider that takes functions of the WAL away",
    "compute that is suspended",
    "Kafka password or certificate that is renewed",
    "token that ends, or cannot be had",
    "log-in or certificate that Kafka refuses",
    "secret with commas, equals signs and quotes",
];

/// The rows of its second table are numbered from 1 to this.
const INTERLEAVINGS: usize = 20;

/// A reason is a clause and not a word.
const REASON_MIN: usize = 12;

/// One row: what it is about, and the last of its cells.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    key: &'a str,
    shown: &'a str,
}

/// The rows of the table below this heading, its head left out.
fn rows<'a>(text: &'a str, heading: &str) -> Result<Vec<Row<'a>>> {
    let section = text.split("\n## ").find_map(|it| it.strip_prefix(heading));
    let section = section.with_context(|| format!("there is no section {heading}"))?;
    let lines = section.lines().filter(|line| line.starts_with('|'));
    let cells = lines.skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (key, shown) = (cells.first()?, cells.last().filter(|_| cells.len() > 1)?);
        Some(Row { key, shown })
    });
    let rows: Option<Vec<Row<'_>>> = cells.collect();
    rows.with_context(|| format!("a row of {heading} is no row"))
}

/// The tests that a cell names: what stands between backticks and has the form `file::function`.
fn named(cell: &str) -> Vec<&str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::")).collect()
}

/// The tests of a source file, each as `file::function`.
fn tests_of(file: &str, text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[tokio::test") || line.starts_with("#[test]");
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(function) = function.strip_prefix("fn ")
            && std::mem::take(&mut is_test)
        {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            tests.push(format!("{file}::{name}"));
        }
    }
    tests
}

/// The last name of a file's module: `tracker` of `engine/tracker.rs`, `engine` of `engine/mod.rs`.
fn module(path: &Path) -> Option<String> {
    let name = match path.file_stem()? {
        name if name == "mod" || name == "tests" => path.parent()?.file_name()?,
        name => name,
    };
    Some(name.to_string_lossy().into_owned())
}

/// All tests of this project.
fn tests() -> Result<BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "tests/it"].map(|folder| root.join(folder)).into();
    let mut tests = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let file = module(&path).context("a name")?;
                tests.extend(tests_of(&file, &fs::read_to_string(&path)?));
            }
        }
    }
    Ok(tests)
}

/// What is wrong with these rows, which have to be those of `keys` in this order.
fn faults(rows: &[Row<'_>], keys: &[&str], tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let found: Vec<&str> = rows.iter().map(|row| row.key).collect();
    if found != keys {
        faults.push(format!("the rows are {found:#?}, expected are {keys:#?}"));
    }
    for Row { key, shown } in rows {
        let named = named(shown);
        let absent = named.iter().filter(|name| !tests.contains(**name));
        faults.extend(absent.map(|name| format!("{key}: there is no test {name}")));
        if named.is_empty() && shown.len() < REASON_MIN {
            faults.push(format!("{key}: neither a test nor a reason"));
        }
    }
    faults
}

fn read(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn every_fault_has_its_row_and_every_row_its_tests_or_its_reason() -> Result<()> {
    let (text, tests) = (read("tests/faults.md")?, tests()?);
    let numbers: Vec<String> = (1..=INTERLEAVINGS).map(|it| it.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut wrong = faults(&rows(&text, "Faults\n")?, &FAULTS, &tests);
    wrong.extend(faults(&rows(&text, "Interleavings\n")?, &numbers, &tests));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A new row needs its line in `tests/it/alerts/faults.rs`.
#[test]
fn for_every_fault_it_is_known_which_alert_fires() {
    let known = crate::alerts::ALERTS.map(|(fault, _)| fault);
    assert_eq!(known, FAULTS);
}

#[test]
fn every_claim_about_security_names_tests_that_are_there() -> Result<()> {
    let (text, tests) = (read("docs/security.md")?, tests()?);
    let named = named(&text);
    assert!(named.len() > 15, "{named:?}");
    let absent: Vec<_> = named
        .iter()
        .filter(|name| !tests.contains(**name))
        .collect();
    assert!(absent.is_empty(), "{absent:?}");
    Ok(())
}

#[test]
fn every_promise_names_tests_that_are_there() -> Result<()> {
    let (text, tests) = (read("docs/guarantees.md")?, tests()?);
    let promises = rows(&text, "Guarantees\n")?;
    let keys: Vec<&str> = promises.iter().map(|row| row.key).collect();
    let mut wrong = faults(&promises, &keys, &tests);
    let bare = promises.iter().filter(|row| named(row.shown).is_empty());
    wrong.extend(bare.map(|row| format!("{}: no test", row.key)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_row_that_proves_nothing_is_seen() -> Result<()> {
    let text = "# Head\n\n## Faults\n\n| fault | holds | shown by |\n| --- | --- | --- |\n\
                | one | x | `a::b`, `a::c` |\n| two | x | `a::gone` |\n\
                | three | x | – |\n| four | x | nothing can freeze it |\n";
    let source = "#[test]\nfn b() {}\nfn gone() {}\n\
                  #[tokio::test(flavor = \"multi_thread\")]\n#[ignore]\nasync fn c()\n";
    let tests: BTreeSet<String> = tests_of("a", source).into_iter().collect();
    assert_eq!(Vec::from_iter(&tests), ["a::b", "a::c"]);
    let rows = rows(text, "Faults\n")?;
    let all = ["one", "two", "three", "four"];
    let wrong = faults(&rows, &all, &tests);
    let expected = [
        "two: there is no test a::gone",
        "three: neither a test nor a reason",
    ];
    assert_eq!(wrong, expected);
    assert_eq!(faults(&rows, &all[..3], &tests).len(), 3, "one more row");
    assert_eq!(faults(&rows[1..], &all, &tests).len(), 3, "one row less");
    Ok(())
}
