//! A clean stop: exit code 0 in time, and the next start repeats nothing.

use std::io::BufRead;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings, get, init, spawn_unread};
use crate::support::postgres::{self, Database, MAJORS};
use crate::support::wait::wait_for;
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
    // Signals within a second of the first are the same request.
    let began = Instant::now();
    let code = wait_for("the end", LIMIT, async || {
        outboxd.terminate()?;
        Ok(outboxd.exit_code())
    })
    .await?;
    assert_eq!(code, 128 + 15);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// `timeout 10 outboxd run` signals the process and its group within a millisecond.
#[tokio::test(flavor = "multi_thread")]
async fn two_signals_at_once_are_one_and_a_hangup_stops_in_good_order() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    for signals in [&["TERM", "TERM"][..], &["INT", "TERM", "HUP"], &["HUP"]] {
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        for signal in signals {
            outboxd.signal(signal)?;
        }
        let code = outboxd.wait(LIMIT).await?;
        assert_eq!(code, 0, "{signals:?}: {}", outboxd.log());
        assert!(outboxd.log().contains("stopped"), "{}", outboxd.log());
        outboxd.respawn()?;
    }
    fixture.all_marked(LIMIT).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_stops_neither_the_events_nor_a_stop() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let settings = fixture.settings.clone().set("OUTBOX_LOG", "trace");
    let mut child = spawn_unread(&settings)?;
    let metric = async |name: &str| {
        let metrics = get(settings.http(), "/metrics").await.map(|(_, body)| body);
        let metrics = metrics.unwrap_or_default();
        let line = metrics.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    // A first start that finds a thousand unpublished rows would require OUTBOX_BACKLOG.
    wait_for("the stream", LIMIT, async || {
        Ok((metric("outboxd_ready").await == Some(1.0)).then_some(()))
    })
    .await?;
    let dropped = "outboxd_log_lines_dropped_total";
    wait_for("log lines that are not read", LIMIT, async || {
        fixture.database.fill(&fixture.topic, 200).await?;
        Ok((metric(dropped).await > Some(0.0)).then_some(()))
    })
    .await?;
    for _ in 0..20 {
        fixture.database.insert("a", &fixture.topic, "{}").await?;
    }
    fixture.all_marked(LIMIT).await?;
    // Once it is read again, the log says what it lacks.
    let stderr = child.stderr.take().context("a pipe")?;
    let reader = std::thread::spawn(move || {
        let lines = std::io::BufReader::new(stderr).lines();
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("log lines were dropped"))
    });
    wait_for("the line about dropped lines", LIMIT, async || {
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        Ok(reader.is_finished().then_some(()))
    })
    .await?;
    assert!(reader.join().expect("it does not panic"));
    // The pipe's reader has ended; a second process is stopped while it is not read.
    child.kill()?;
    child.wait()?;
    let mut child = spawn_unread(&settings)?;
    wait_for("the log to be full again", LIMIT, async || {
        fixture.database.fill(&fixture.topic, 200).await?;
        Ok((metric(dropped).await > Some(0.0)).then_some(()))
    })
    .await?;
    fixture.all_marked(LIMIT).await?;
    let kill = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status()?;
    assert!(kill.success());
    let status = wait_for("the stop", LIMIT, async || Ok(child.try_wait()?)).await;
    child.kill()?;
    assert_eq!(status?.code(), Some(0));
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
