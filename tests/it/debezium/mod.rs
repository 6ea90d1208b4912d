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

use crate::support::debezium::{Distribution, NEWEST};
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
    Ok(format!(
        "debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.database.hostname={host}
debezium.source.database.port={port}
debezium.source.database.user=postgres
debezium.source.database.password=none
debezium.source.database.dbname={database}
debezium.source.topic.prefix=debezium
debezium.source.plugin.name=pgoutput
debezium.source.slot.name={slot}
debezium.source.publication.name=debezium
debezium.source.publication.autocreate.mode=disabled
debezium.source.snapshot.mode=no_data
debezium.source.table.include.list=public.outboxevent
debezium.source.tombstones.on.delete=false
debezium.source.extended.headers.enabled=false
debezium.source.poll.interval.ms=20
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.format.header=json
debezium.format.header.schemas.enable=false
debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers={brokers}
quarkus.log.level=INFO
quarkus.log.console.json=false
",
        database = database.name,
        brokers = kafka.brokers(),
    ))
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
