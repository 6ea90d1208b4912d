//! Errors that cannot pass end the start with one line, what to do about it and the right exit
//! code; errors that may pass are retried.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::ephemeral::free_port;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS};

const LIMIT: Duration = Duration::from_secs(5);

/// `outboxd run` must end within the limit, with this exit code and these words.
async fn expect_end(settings: &Settings, code: i32, words: &[&str]) -> Result<()> {
    let began = Instant::now();
    let output = command(settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let count = |start: &str| {
        stderr
            .lines()
            .filter(|line| line.starts_with(start))
            .count()
    };
    assert!(count("error: ") > 0, "{stderr}");
    assert_eq!(
        count("hint: "),
        count("error: "),
        "a hint for each: {stderr}"
    );
    for word in words {
        assert!(stderr.contains(word), "no {word} in {stderr}");
    }
    assert!(began.elapsed() < LIMIT);
    Ok(())
}

#[tokio::test]
async fn logins_and_databases_that_cannot_work_end_at_once() -> Result<()> {
    for major in MAJORS {
        let server = postgres::private_with_password(major, "right")?;
        let kafka = kafka::shared();
        let settings = |url: String| -> Result<Settings> {
            Ok(Settings::nowhere()?
                .set("DATABASE_URL", url)
                .set("KAFKA_BROKERS", kafka.brokers()))
        };
        let url = |user: &str, password: &str, database: &str| {
            format!(
                "postgresql://{user}:{password}@127.0.0.1:{}/{database}",
                server.port()
            )
        };
        expect_end(
            &settings(url("postgres", "wrong", "postgres"))?,
            1,
            &["28P01"],
        )
        .await?;
        expect_end(
            &settings(url("postgres", "right", "missing"))?,
            1,
            &["3D000"],
        )
        .await?;
        let output = command(
            &settings(url("postgres", "s3cr3t", "postgres"))?,
            &["run"],
            LIMIT,
        )
        .await?;
        assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cr3t"));
    }
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_not_prepared_says_what_is_missing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let role = fixture.database.create_role("plain", "").await?;
        session
            .batch_execute(&format!(
                "GRANT USAGE ON SCHEMA outbox TO {role}; \
                 GRANT ALL ON ALL TABLES IN SCHEMA outbox TO {role}"
            ))
            .await?;
        let as_role = fixture
            .settings
            .clone()
            .set("DATABASE_URL", fixture.database.url_as(&role));
        expect_end(&as_role, 2, &["REPLICATION"]).await?;
        let elsewhere = |table: &str| fixture.settings.clone().set("OUTBOX_TABLE", table);
        expect_end(
            &elsewhere("outbox.missing"),
            2,
            &["outbox.missing", "outboxd init"],
        )
        .await?;
        session
            .batch_execute(
                "CREATE TABLE outbox.half (id bigint PRIMARY KEY, topic text, event_type text, \
                 published_at timestamp, times_attempted int)",
            )
            .await?;
        expect_end(&elsewhere("outbox.half"), 2, &["event_payload"]).await?;
        let publication = fixture
            .settings
            .clone()
            .set("OUTBOX_PUBLICATION", "missing");
        expect_end(&publication, 1, &["missing", "outboxd init"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_have_slots_says_how_to_change_it() -> Result<()> {
    for major in MAJORS {
        let kafka = kafka::shared();
        for (line, code, words) in [
            ("wal_level = replica", 2, ["wal_level", "logical"]),
            (
                "max_replication_slots = 1",
                1,
                ["max_replication_slots", "slot"],
            ),
        ] {
            let server = postgres::private(major, &[line])?;
            let database = Database::create(&server).await?;
            let settings = Settings::new(&database, kafka)?;
            // `init` reports the same problem; this test is about `run`.
            let _reported = init(&settings).await;
            expect_end(&settings, code, &words).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_listed_together() -> Result<()> {
    let settings = Settings::nowhere()?
        .set("DATABASE_URL", "postgresql://db/orders")
        .set("KAFKA_BROKERS", "localhost:9092")
        .set("OUTBOX_AFTER_PUBLISH", "keep")
        .set("OUTBOX_BACKLOG", "publish")
        .set("KAFKA_PROPERTIES", "acks=1")
        .set("OUTBOX_BATCH_SIZE", "0");
    let output = command(&settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for name in ["OUTBOX_BACKLOG", "acks", "OUTBOX_BATCH_SIZE"] {
        assert!(stderr.contains(name), "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_said_so() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let absent = format!("postgresql://postgres@127.0.0.1:{}/orders", free_port()?);
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("DATABASE_URL", absent))?;
    outboxd
        .wait_for_log(&["CONNECT_ERROR", "retrying"], LIMIT)
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    let absent = format!("127.0.0.1:{}", free_port()?);
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("KAFKA_BROKERS", absent))?;
    let words = ["WARN", "no Kafka broker has answered", "Connection refused"];
    outboxd.wait_for_log(&words, LIMIT * 4).await?;
    outboxd.wait_for_phase("streaming", LIMIT * 4).await?;
    fixture
        .database
        .insert("held", &fixture.topic, "{}")
        .await?;
    outboxd
        .wait_for_status("Kafka to be named", LIMIT * 4, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    Ok(())
}
