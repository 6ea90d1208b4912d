//! Managed servers and what stands before them, each simulated by a real Postgres with roles and
//! functions taken away or replaced: `init`, `doctor`, `status`, and publishing across a restart.

mod addresses;
mod amazon;
mod others;
mod poolers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::kafka::Kafka;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::Session;
use crate::support::provider::{ADMIN, Simulated};

const LIMIT: Duration = Duration::from_secs(60);

/// How `outboxd init --role outboxd` ended as the administrator, and what it printed.
async fn init(simulated: &Simulated) -> Result<(Option<i32>, String)> {
    let settings = Settings::nowhere()?.set("DATABASE_URL", simulated.database.url_as(ADMIN));
    let output = command(&settings, &["init", "--role", "outboxd"], LIMIT).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text)?))
}

/// The settings of the role `outboxd`.
fn settings(simulated: &Simulated, kafka: &Kafka) -> Result<Settings> {
    Ok(Settings::nowhere()?
        .set("DATABASE_URL", simulated.database.url_as("outboxd"))
        .set("KAFKA_BROKERS", kafka.brokers()))
}

/// Inserts events as a service does, and publishes them in two runs.
async fn publishes_across_a_restart(
    session: &Session,
    kafka: &Kafka,
    topic: &str,
    settings: &Settings,
) -> Result<()> {
    let mut ids = Vec::new();
    let mut outboxd = Outboxd::spawn(settings)?;
    for run in 0..2 {
        ids.extend(insert(session, topic, 20).await?);
        let unpublished = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        outboxd
            .wait_for_value(session, unpublished, 0, LIMIT)
            .await?;
        let code = outboxd.stop(LIMIT).await?;
        ensure!(code == 0, "{code}: {}", outboxd.log());
        if run == 0 {
            outboxd.respawn()?;
        }
    }
    let consumed = kafka.consume_all(&[topic]).await?;
    for id in ids {
        let copies = consumed.iter().filter(|it| it.outbox_id() == Some(id));
        let copies = copies.count();
        ensure!(copies == 1, "row {id} was sent {copies} times");
    }
    Ok(())
}

/// Inserts this many events, and gives their ids.
async fn insert(session: &Session, topic: &str, count: i64) -> Result<Vec<i64>> {
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload)
               SELECT 'key' || i % 3, $1, jsonb_build_object('i', i)
                 FROM generate_series(1, $2::bigint) AS i
               RETURNING id";
    let rows = session.query(sql, &[&topic, &count]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What `outboxd doctor --json` says: each check with its verdict, and the text of both.
struct Examined {
    checks: Vec<Value>,
    text: String,
}

async fn doctor(settings: &Settings) -> Result<Examined> {
    let output = command(settings, &["doctor", "--json"], LIMIT).await?;
    let text = String::from_utf8(output.stdout)?;
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let checks = report["checks"].as_array().context("no checks")?.clone();
    Ok(Examined { checks, text })
}

impl Examined {
    /// The names of the checks of Postgres with this verdict.
    fn with(&self, verdict: &str) -> Vec<&str> {
        let of_postgres = |it: &&Value| it["side"] == "postgres" && it["verdict"] == verdict;
        let checks = self.checks.iter().filter(of_postgres);
        checks.filter_map(|it| it["check"].as_str()).collect()
    }
}

/// What `outboxd status --json` prints.
async fn status(settings: &Settings) -> Result<Value> {
    let output = command(settings, &["status", "--json"], LIMIT).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}
