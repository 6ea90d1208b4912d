//! An outage of Kafka delays events and nothing else: memory stays bounded, the session stays, and
//! the order is kept.

use std::time::Duration;

use anyhow::Result;

use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const OUTAGE: Duration = Duration::from_secs(60);
/// librdkafka's time-out for a silent broker. Until it expires, librdkafka polls in a loop for
/// whether it may send.
const SILENCE: Duration = Duration::from_secs(10);
const MEMORY_LIMIT: u64 = 16 << 20;
/// Memory beside the events in flight: the program, librdkafka and what the allocator retains.
const CONSTANT: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_for_a_minute_costs_nothing_but_time() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 4).await?;
    let silence = format!("socket.timeout.ms={}", SILENCE.as_millis());
    let settings = Settings::new(&database, &kafka)?.set("KAFKA_PROPERTIES", silence);
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let pattern = Pattern {
        rows: 40,
        rest: Duration::from_millis(20),
    };
    let writers = Writers::start(&database, &topic, 4, pattern);
    let slot = format!("outboxd_{}", database.name);
    let walsender =
        async || anyhow::Ok(database.slot(&slot).await?.and_then(|slot| slot.active_pid));
    outboxd
        .wait_for_status("events to flow", LIMIT, |status| {
            status["published_total"].as_u64() > Some(100)
        })
        .await?;
    let before = walsender().await?;
    assert!(before.is_some());
    kafka.freeze()?;
    let waiting = outboxd
        .wait_for_status("the wait for Kafka to be named", LIMIT, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    assert!(
        waiting["waiting"]["detail"].to_string().contains(&topic),
        "{waiting}"
    );
    let (livez, _) = outboxd.get("/livez").await?;
    assert_eq!(livez, 200);
    tokio::time::sleep(2 * SILENCE).await;
    let ticks = outboxd.cpu_ticks()?;
    let rest = OUTAGE - 2 * SILENCE;
    tokio::time::sleep(rest).await;
    // A tick is a hundredth of a second, so this is a tenth of one CPU.
    let used = outboxd.cpu_ticks()? - ticks;
    assert!(used < 10 * rest.as_secs(), "{used} ticks in {rest:?}");
    let peak = outboxd.peak_resident_bytes()?;
    assert!(peak < MEMORY_LIMIT + CONSTANT, "{} MiB", peak >> 20);
    assert_eq!(walsender().await?, before, "{}", outboxd.log());
    let (readyz, reason) = outboxd.get("/readyz").await?;
    assert_eq!(readyz, 503, "{reason}");
    kafka.thaw()?;
    writers.stop().await?;
    outboxd
        .wait_for_status("everything to be settled", LIMIT * 2, |status| {
            status["in_flight_records"] == 0
                && status["slot_health"]["lag_bytes"].as_i64() < Some(1 << 20)
        })
        .await?;
    assert_eq!(walsender().await?, before, "{}", outboxd.log());
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(database.unpublished().await?, 0);
    let consumed = kafka.consume_all(&[&topic]).await?;
    let committed = oracle.committed().await?;
    assert!(
        committed.len() > 10_000,
        "{} events are too light a load",
        committed.len()
    );
    check(&committed, &consumed).expect_exact()
}
