//! Postgres restarts: the stream goes on where it was, and the server's shutdown is never held up.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::{Oracle, Report};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, MAJORS};
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// Time limit from the server's return to the stream.
const BACK: Duration = Duration::from_secs(5);

/// Each restart comes once the stream has passed the position at which its session began: only then
/// does the stream prove that the server has the same history.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_postgres_the_stream_goes_on_in_five_seconds_and_repeats_nothing()
-> Result<()> {
    for major in MAJORS {
        restarts_under_load(major, true).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_postgres_before_the_stream_has_caught_up_lose_nothing_and_keep_the_order()
-> Result<()> {
    let report = restarts_under_load(postgres::turn(17), false).await?;
    report.expect_complete()
}

/// Restarts Postgres four times while services write; with `catches_up` none before the stream has
/// passed the position at which its session began.
async fn restarts_under_load(major: u32, catches_up: bool) -> Result<Report> {
    let mut server = postgres::private(major, &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
    for stop in [Stop::Fast, Stop::Immediate, Stop::Fast, Stop::Immediate] {
        if catches_up {
            let began = fixture.window().await?.written;
            let is_past = async || Ok((fixture.window().await?.confirmed > began).then_some(()));
            wait_for("the stream to catch up", LIMIT, is_past).await?;
        }
        outboxd.wait_for_events(200, LIMIT).await?;
        let began = Instant::now();
        server.stop(stop)?;
        let took = began.elapsed();
        assert!(took < BACK, "the server's stop took {took:?}");
        outboxd.wait_for_phase("reconnecting", LIMIT).await?;
        server.resume()?;
        outboxd.wait_for_phase("streaming", BACK).await?;
    }
    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await
}

/// Records in flight cannot be confirmed, so the server would wait for their confirmation without
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_of_postgres_is_not_held_up_while_kafka_is_frozen() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &[])?;
        let mut kafka = kafka::private(&[])?;
        let database = Database::create(&server).await?;
        let topic = kafka.topic("events", 1).await?;
        let settings = Settings::new(&database, &kafka)?;
        init(&settings).await?;
        let oracle = Oracle::create(&database).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        kafka.freeze()?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k' || i % 9, $1, '{}' FROM generate_series(1, 50000) i";
        database.connect().await?.execute(insert, &[&topic]).await?;
        outboxd
            .wait_for_status("records in flight", LIMIT, |status| {
                status["in_flight_records"].as_u64() > Some(1_000)
            })
            .await?;
        let began = Instant::now();
        server.stop(Stop::Fast)?;
        assert!(
            began.elapsed() < BACK,
            "the server's stop took {:?}",
            began.elapsed()
        );
        server.resume()?;
        kafka.thaw()?;
        outboxd
            .wait_for_status("everything to be published", LIMIT, |status| {
                status["published_total"] == 50_000 && status["unmarked_records"] == 0
            })
            .await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = kafka.consume_all(&[&topic]).await?;
        crate::support::oracle::check(&oracle.committed().await?, &consumed).expect_exact()?;
    }
    Ok(())
}
