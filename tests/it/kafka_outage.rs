//! An outage of Kafka delays events and nothing else: memory stays bounded, the session stays, and
//! the order is kept.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::heavy;
use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const OUTAGE: Duration = Duration::from_secs(60);
/// The most processor time of the outage: a twentieth of one processor.
const TICKS_MAX: u64 = OUTAGE.as_secs() * TICKS_A_SECOND / 20;
const TICKS_A_SECOND: u64 = 100;
/// How long processor time is compared.
const SAMPLE: Duration = Duration::from_secs(30);
const MEMORY_LIMIT: u64 = 16 << 20;
/// Memory beside the events in flight: the program, librdkafka and what the allocator retains.
const CONSTANT: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_for_a_minute_costs_nothing_but_time() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 4).await?;
    let settings = Settings::new(&database, &kafka)?;
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
    let (frozen, ticks) = (Instant::now(), outboxd.cpu_ticks()?);
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
    tokio::time::sleep(OUTAGE.saturating_sub(frozen.elapsed())).await;
    let used = outboxd.cpu_ticks()? - ticks;
    assert!(used <= TICKS_MAX, "{used} ticks in {:?}", frozen.elapsed());
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

/// One replica a partition: those that the frozen broker leads wait for it. The others go on, so
/// there are records to send all the time.
#[tokio::test(flavor = "multi_thread")]
async fn one_frozen_broker_of_three_costs_no_processor_while_the_others_go_on() -> Result<()> {
    let _turn = heavy().await;
    let mut brokers = kafka::cluster(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    brokers[0].create_replicated("events", 6, 1, &[]).await?;
    let settings = Settings::new(&database, &brokers[0])?;
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let pattern = Pattern {
        rows: 1,
        rest: Duration::from_millis(20),
    };
    let writers = Writers::start(&database, "events", 4, pattern);
    let published = async || -> Result<u64> {
        let status = outboxd.status().await?;
        status["published_total"].as_u64().context("a number")
    };
    let used = async || -> Result<(u64, u64)> {
        let before = (outboxd.cpu_ticks()?, published().await?);
        tokio::time::sleep(SAMPLE).await;
        Ok((
            outboxd.cpu_ticks()? - before.0,
            published().await? - before.1,
        ))
    };
    let healthy = used().await?;
    brokers[2].freeze()?;
    // Until it is noticed, and a record has stalled.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let frozen = used().await?;
    brokers[2].thaw()?;
    assert!(frozen.1 > healthy.1 / 4, "{healthy:?}, {frozen:?} events");
    let more = SAMPLE.as_secs() * TICKS_A_SECOND / 20;
    assert!(
        frozen.0 <= healthy.0 + more,
        "{healthy:?}, {frozen:?} ticks"
    );
    writers.stop().await?;
    database.all_marked(LIMIT * 2).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = brokers[0].consume_all(&["events"]).await?;
    check(&oracle.committed().await?, &consumed).expect_complete()
}
