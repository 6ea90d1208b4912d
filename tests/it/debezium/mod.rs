//! outboxd beside a real Debezium Server with the Outbox Event Router: the records of the same rows
//! compared one by one, the hand-over from one to the other, and the options that the import knows.
//!
//! outboxd's settings are those that `import-debezium` makes of Debezium's own file.

mod compare;
mod groups;
mod hand_over;
mod options;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::debezium::{Distribution, NEWEST, Source};
use crate::support::kafka::Kafka;
use crate::support::not_offered;
use crate::support::outboxd::{Settings, command};
use crate::support::postgres::Database;

const LIMIT: Duration = Duration::from_secs(120);

/// Debezium Server, or none where the machine cannot offer it; the summary then says so.
fn offered(what: &str) -> Option<Distribution> {
    match Distribution::find(NEWEST) {
        Ok(distribution) => Some(distribution),
        Err(error) => {
            not_offered(&format!("{what}: Debezium Server {NEWEST}: {error:#}"));
            None
        }
    }
}

/// The options that every connector here has. The expressions of topics begin with `prefix`.
fn options(database: &Database, slot: &str, kafka: &Kafka) -> Result<String> {
    let (_, address) = database.url().split_once('@').context("a URL")?;
    let (host, rest) = address.split_once(':').context("a port")?;
    let (port, _) = rest.split_once('/').context("a database")?;
    let source = Source {
        host,
        port,
        database: &database.name,
        slot,
        publication: "debezium",
        table: "public.outboxevent",
    };
    let further = "debezium.source.extended.headers.enabled=false
debezium.source.poll.interval.ms=20
debezium.format.header=json
debezium.format.header.schemas.enable=false
quarkus.log.level=INFO
";
    Ok(source.options(&kafka.brokers()) + further)
}

/// The settings that `import-debezium` makes of this file.
async fn imported(file: &Path, folder: &Path) -> Result<Settings> {
    let file = file.display().to_string();
    let import = command(&Settings::nowhere()?, &["import-debezium", &file], LIMIT).await?;
    let said = String::from_utf8_lossy(&import.stderr).into_owned();
    ensure!(import.status.success(), "{said}");
    ensure!(!said.contains("unknown"), "{said}");
    let toml = folder.join("outboxd.toml");
    fs::write(&toml, &import.stdout)?;
    Ok(Settings::nowhere()?.set("OUTBOX_CONFIG", toml.display().to_string()))
}
