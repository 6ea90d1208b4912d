//! The publisher inside another program: it starts once, stops once, and reports its status.

use std::time::Duration;

use anyhow::Result;
use outboxd::config::{Config, Settings};
use outboxd::error::Code;
use outboxd::publisher::{Phase, Publisher};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn starting_twice_and_stopping_what_is_not_started_are_errors() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let settings = Settings {
        database_url: Some(fixture.database.unix_url().to_owned()),
        kafka_brokers: Some(fixture.kafka.brokers()),
        ..Settings::default()
    };
    let mut publisher = Publisher::new(Config::from_settings(settings)?);
    let early = publisher.stop().await.expect_err("it is not started");
    assert_eq!(early.code(), Code::Lifecycle);
    publisher.start().await?;
    let twice = publisher.start().await.expect_err("it is started");
    assert_eq!(twice.code(), Code::Lifecycle);
    wait_until("the stream", LIMIT, async || {
        let status = publisher.status();
        Ok(if status.phase == Phase::Streaming {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        })
    })
    .await?;
    publisher.stop().await?;
    assert_eq!(publisher.status().phase, Phase::Stopped);
    let late = publisher.stop().await.expect_err("it is stopped");
    assert_eq!(late.code(), Code::Lifecycle);
    Ok(())
}

#[tokio::test]
async fn delete_removes_what_is_published_and_keep_leaves_the_table_alone() -> Result<()> {
    for major in MAJORS {
        for (mode, left, unpublished) in [("delete", 0, 0), ("keep", 300, 300)] {
            let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
            let oracle = Oracle::create(&fixture.database).await?;
            let mut outboxd =
                Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_AFTER_PUBLISH", mode))?;
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            for _ in 0..3 {
                let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                              SELECT 'k' || i % 5, $1, '{}' FROM generate_series(1, 100) i";
                fixture
                    .database
                    .connect()
                    .await?
                    .execute(insert, &[&fixture.topic])
                    .await?;
            }
            outboxd
                .wait_for_status("all to be published", LIMIT, |status| {
                    status["published_total"] == 300 && status["unmarked_records"] == 0
                })
                .await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let session = fixture.database.connect().await?;
            let count: i64 = session.value("SELECT count(*) FROM outbox.outbox").await?;
            assert_eq!(
                (count, fixture.database.unpublished().await?),
                (left, unpublished),
                "{mode}"
            );
            fixture.verdict(&oracle).await?.expect_exact()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn metrics_and_health_show_what_was_published_and_where_the_slot_stands() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for _ in 0..20 {
        fixture
            .database
            .insert("Created", &fixture.topic, "{}")
            .await?;
    }
    fixture.all_marked(LIMIT).await?;
    let topic = &fixture.topic;
    let processed =
        format!("outbox_events_processed_total{{topic=\"{topic}\",status=\"published\"}}");
    assert_eq!(outboxd.metric(&processed).await?, Some(20.0));
    let observed = format!("outbox_processing_duration_seconds_count{{topic=\"{topic}\"}}");
    assert_eq!(outboxd.metric(&observed).await?, Some(20.0));
    for name in [
        "outboxd_slot_lag_bytes",
        "outboxd_retained_wal_bytes",
        "outboxd_slot_active",
    ] {
        assert!(outboxd.metric(name).await?.is_some(), "{name}");
    }
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    outboxd.wait_until_ready(LIMIT).await?;
    assert!(outboxd.get("/").await?.1.contains(&fixture.slot()));
    Ok(())
}

/// Two instances on one slot: one publishes; the other takes over when the first stops.
#[tokio::test]
async fn a_second_instance_waits_and_takes_over() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut first = Outboxd::spawn(&fixture.settings)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let mut second = Outboxd::spawn(&crate::support::outboxd::Settings::new(
        &fixture.database,
        fixture.kafka,
    )?)?;
    second.wait_for_phase("standby", LIMIT).await?;
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    second.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.insert("b", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    fixture.verdict(&oracle).await?.expect_exact()
}

/// The row is tried again every two seconds, and the wait for it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_locked_row_lasts_since_it_was_first_tried() -> Result<()> {
    // The row is locked for more than a minute, and every new slot of its server waits for that.
    let server = postgres::private(postgres::turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut other = fixture.database.connect().await?;
    let id = fixture.database.insert("a", &fixture.topic, "{}").await?;
    let lock = other.transaction().await?;
    let sql = "SELECT FROM outbox.outbox WHERE id = $1 AND published_at IS NULL FOR UPDATE";
    assert_eq!(lock.query(sql, &[&id]).await?.len(), 1);
    let lasts = |seconds: f64| {
        move |status: &serde_json::Value| {
            let waiting = &status["waiting"];
            waiting["on"] == "write-back" && waiting["seconds"].as_f64() > Some(seconds)
        }
    };
    outboxd
        .wait_for_status("the wait to last", LIMIT, lasts(15.0))
        .await?;
    let why = outboxd
        .wait_for_log(&["rows have not been marked", "write-back"], LIMIT * 2)
        .await?;
    assert!(why.contains("WARN"), "{why}");
    wait_until("readiness to end", LIMIT * 2, async || {
        let (code, why) = outboxd.get("/readyz").await?;
        let named = code == 503 && why.contains("write-back");
        Ok(named.then_some(()).ok_or(why))
    })
    .await?;
    lock.rollback().await?;
    fixture.all_marked(LIMIT).await?;
    outboxd
        .wait_for_log(&["rows are marked", "write-back"], LIMIT)
        .await?;
    wait_until("readiness", LIMIT, async || {
        let (code, why) = outboxd.get("/readyz").await?;
        Ok(if code == 200 { Ok(()) } else { Err(why) })
    })
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
