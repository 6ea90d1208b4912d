//! A clean stop: exit code 0 in time, and the next start repeats nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, MAJORS};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_exit_in_time_and_the_next_start_repeats_nothing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let pattern = Pattern {
            rows: 10,
            rest: Duration::from_millis(2),
        };
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
        for signal in ["TERM", "INT", "TERM", "TERM"] {
            let before = fixture.kafka.record_count(&[&fixture.topic]).await?;
            outboxd
                .wait_for_status("five hundred more events", LIMIT, |status| {
                    status["published_total"].as_u64() >= Some(500)
                })
                .await?;
            let began = Instant::now();
            outboxd.signal(signal)?;
            assert_eq!(outboxd.wait(LIMIT).await?, 0, "{}", outboxd.log());
            assert!(
                began.elapsed() < OPERATION_TIMEOUT,
                "the stop took {:?}",
                began.elapsed()
            );
            assert!(fixture.kafka.record_count(&[&fixture.topic]).await? > before);
            outboxd.respawn()?;
        }
        writers.stop().await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 1).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    kafka.freeze()?;
    database.insert("held", &topic, "{}").await?;
    outboxd
        .wait_for_status("a record in flight", LIMIT, |status| {
            status["in_flight_records"] == 1
        })
        .await?;
    outboxd.terminate()?;
    outboxd.wait_for_phase("stopping", LIMIT).await?;
    let began = Instant::now();
    outboxd.terminate()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 128 + 15);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// The flushed WAL may end with records of an open transaction that the walsender does not send
/// before that transaction ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_what_others_have_written_and_not_committed() -> Result<()> {
    for major in MAJORS {
        // With these settings a flush ends at a page boundary, often in the middle of a record.
        let flushing = ["wal_writer_delay = 1ms", "wal_writer_flush_after = 0"];
        let server = postgres::private(major, &flushing)?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BATCH_SIZE", "1"))?;
        let other = fixture.database.connect().await?;
        other.batch_execute("CREATE TABLE other (n int)").await?;
        for _ in 0..12 {
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            other.batch_execute("BEGIN").await?;
            fixture.database.insert("a", &fixture.topic, "{}").await?;
            while fixture.database.unpublished().await? > 0 {
                for _ in 0..5 {
                    let write = "INSERT INTO other SELECT generate_series(1, 10)";
                    other.batch_execute(write).await?;
                }
            }
            let began = Instant::now();
            outboxd.terminate()?;
            assert_eq!(outboxd.wait(LIMIT).await?, 0, "{}", outboxd.log());
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "{major}: {took:?}");
            other.batch_execute("ROLLBACK").await?;
            outboxd.respawn()?;
        }
    }
    Ok(())
}
