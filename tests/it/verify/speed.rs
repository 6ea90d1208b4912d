//! One missing event among ten million: that it is found, and what that costs.
//!
//! Rows and records are written directly, as outboxd writes them.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;

use super::stage::{LIMIT, Stage};
use crate::support::outboxd::PROGRAM;
use crate::support::{heavy, is_long_run};

const KEYS: i64 = 1_000;
const CREATED: &str = "2026-01-01 00:00:00";

/// The events: ten million, or so many as this variable says.
fn events() -> i64 {
    let given = std::env::var("OUTBOXD_VERIFY_EVENTS").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or(10_000_000)
}

/// Writes the records of all rows but one.
fn produce(stage: &Stage, source: &str, events: i64, missing: i64) -> Result<()> {
    let producer: BaseProducer = stage
        .kafka()
        .client()
        .set("queue.buffering.max.messages", "500000")
        .set("linger.ms", "20")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .create()?;
    for id in (1..=events).filter(|id| *id != missing) {
        let (key, value) = (format!("k{}", id % KEYS), format!("{{\"n\": {id}}}"));
        let (id, lsn) = (
            id.to_string(),
            format!("{:X}/{:X}", id >> 20, id << 12 & 0xFFFF_FFFF),
        );
        let said = [
            ("outbox_id", id.as_str()),
            ("outbox_created_at", CREATED),
            ("outbox_event_type", &key),
            ("outbox_lsn", &lsn),
            ("outbox_index", "0"),
            ("outbox_committed_at", "2026-01-01T00:00:00.000000Z"),
            ("outbox_source_id", source),
        ];
        let mut headers = OwnedHeaders::new_with_capacity(said.len());
        for (key, value) in said {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        let mut record = BaseRecord::to(stage.topic())
            .key(&key)
            .payload(&value)
            .headers(headers);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(std::time::Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        producer.poll(std::time::Duration::ZERO);
    }
    producer.flush(LIMIT)?;
    Ok(())
}

/// The most memory that the process has had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_event_of_ten_million_is_found_within_the_memory_of_a_small_process()
-> Result<()> {
    if !is_long_run("one missing event of ten million is found") {
        return Ok(());
    }
    let _alone = heavy().await;
    let (events, missing) = (events(), events() / 3);
    let stage = Stage::create(&[]).await?;
    let source = format!("{}.outbox.outbox", stage.fixture.database.name);
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at, \
                                             times_attempted, published_at) \
                  SELECT 'k' || i % $2::bigint, $1, jsonb_build_object('n', i), \
                         '2026-01-01', 1, '2026-01-01 00:00:01' \
                    FROM generate_series(1, $3::bigint) AS i";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&stage.topic(), &KEYS, &events];
    stage.session.execute(insert, &params).await?;
    stage.session.batch_execute("ANALYZE outbox.outbox").await?;
    tokio::task::block_in_place(|| produce(&stage, &source, events, missing))?;

    let began = Instant::now();
    let mut child = std::process::Command::new(PROGRAM)
        .args(["verify", "--json"])
        .env_clear()
        .envs(stage.settings.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut kib = 0;
    while child.try_wait()?.is_none() {
        kib = kib.max(peak(child.id()).unwrap_or_default());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let output = child.wait_with_output()?;
    let found: Value = serde_json::from_slice(&output.stdout).context("JSON")?;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "{events} events: {seconds:.1} s, {:.0} records/s, peak {} MiB: {found}",
        events as f64 / seconds,
        kib / 1_024
    );
    ensure!(found["missing"] == 1, "{found}");
    ensure!(
        found["events"][0]["id"] == missing.to_string().as_str(),
        "{found}"
    );
    ensure!(found["matched"] == events - 1, "{found}");
    for kind in ["duplicate", "phantom", "altered", "out_of_order", "unknown"] {
        ensure!(found[kind] == 0, "{found}");
    }
    ensure!(kib > 0 && kib <= 64 << 10, "{kib} KiB");
    Ok(())
}
