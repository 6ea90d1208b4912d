//! Migrations of the outbox table while events flow: columns are found by name, and a migration
//! that would lose an event ends the publisher before anything behind it is confirmed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{MAJORS, shared, turn};

const LIMIT: Duration = Duration::from_secs(60);

fn insert(key: &str, topic: &str) -> String {
    format!(
        "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
         VALUES ('{key}', '{topic}', '{{\"k\": \"{key}\"}}');"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_between_and_inside_transactions_lose_and_mistake_nothing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let one = |key: &str| insert(key, &fixture.topic);
        // Events follow each migration, and every second migration shares a transaction with events
        // before and after it.
        let migrations = [
            "ALTER TABLE outbox.outbox ADD first text DEFAULT 'topic'",
            "ALTER TABLE outbox.outbox ADD tenant uuid",
            "ALTER TABLE outbox.outbox DROP first",
            "ALTER TABLE outbox.outbox ALTER topic TYPE varchar(300)",
            "ALTER TABLE outbox.outbox RENAME tenant TO customer",
            "ALTER TABLE outbox.outbox ALTER created_at TYPE timestamptz",
            "ALTER TABLE outbox.outbox ALTER event_payload TYPE json",
            "ALTER TABLE outbox.outbox ALTER event_payload TYPE text",
            "CREATE INDEX ON outbox.outbox (event_type)",
            "ALTER TABLE outbox.outbox ADD headers jsonb DEFAULT '{\"traceparent\": \"00-1\"}'",
            "ALTER TABLE outbox.outbox SET (fillfactor = 70)",
            "TRUNCATE outbox.outbox",
        ];
        for (n, migration) in migrations.iter().enumerate() {
            let (before, behind) = (one("before"), one("behind"));
            let script = match n % 2 {
                0 => format!("{before} {migration}; {behind}"),
                _ => format!("BEGIN; {before} {migration}; {behind} COMMIT;"),
            };
            // One statement at a time: a script in one message would be one transaction.
            for statement in script.split_inclusive(';') {
                session
                    .batch_execute(statement)
                    .await
                    .with_context(|| statement.to_owned())?;
            }
            session.batch_execute(&one("apart")).await?;
        }
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        report.expect_exact()?;
        assert_eq!(report.consumed, migrations.len() * 3);
        let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let traced = read
            .iter()
            .filter(|record| record.header("traceparent") == Some("00-1"));
        assert_eq!(traced.count(), 8, "rows written while the column existed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_needed_and_renamed_ends_the_publisher_and_nothing_behind_it_is_lost()
-> Result<()> {
    let fixture = Fixture::create(shared(turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut ids = vec![fixture.database.insert("k", &fixture.topic, "{}").await?];
    fixture.all_marked(LIMIT).await?;
    session
        .batch_execute("ALTER TABLE outbox.outbox RENAME topic TO destination")
        .await?;
    let renamed = "INSERT INTO outbox.outbox (event_type, destination, event_payload) \
                   VALUES ('k', $1, '{}') RETURNING id";
    let row = session.query_one(renamed, &[&fixture.topic]).await?;
    ids.push(row.try_get(0)?);
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(
        log.contains("CONFIG_ERROR") && log.contains("no column topic"),
        "{log}"
    );
    // A start reports it as well.
    outboxd.respawn()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    ensure!(
        outboxd.log().contains("no column topic"),
        "{}",
        outboxd.log()
    );
    session
        .batch_execute("ALTER TABLE outbox.outbox RENAME destination TO topic")
        .await?;
    ids.push(fixture.database.insert("k", &fixture.topic, "{}").await?);
    // The WAL keeps the event under the other column name: the operator skips the transaction, and
    // the event is read from the table.
    outboxd.respawn()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    let log = outboxd.log();
    let lsn = log.split("skip-transaction --lsn ").nth(1);
    let lsn = lsn.and_then(|rest| rest.split_whitespace().next());
    let lsn = lsn.with_context(|| log.clone())?;
    let skip = command(
        &fixture.settings,
        &["skip-transaction", "--lsn", lsn],
        LIMIT,
    )
    .await?;
    ensure!(skip.status.success(), "{skip:?}");
    outboxd.respawn()?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let mut arrived: Vec<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, ids, "each once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_encoding_is_refused() -> Result<()> {
    let server = shared(turn(15));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("{}_{}", fixture.database.name, encoding.to_lowercase());
        session
            .batch_execute(&format!(
                "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' \
                 LC_COLLATE 'C' LC_CTYPE 'C'"
            ))
            .await?;
        let settings = Settings::nowhere()?
            .set("DATABASE_URL", server.unix_url(&name, "postgres"))
            .set("KAFKA_BROKERS", fixture.kafka.brokers());
        let run = command(&settings, &["run"], LIMIT).await?;
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        session
            .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await?;
        assert_eq!(run.status.code(), Some(2), "{stderr}");
        ensure!(
            stderr.contains(&format!("encoded in {encoding}")),
            "{stderr}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_pass_as_they_are_printed_whatever_is_in_them() -> Result<()> {
    let fixture = Fixture::create(shared(turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let payloads = [
        "null",
        "true",
        "0",
        "-0.0",
        "1e400",
        "\"text\"",
        "[]",
        "{}",
        "[1, [2, [3]]]",
        r#"{"a": {"b": null}, "a": 2}"#,
        r#""é ü 漢字 \u00e9 \ud83d\ude00 \\ \" \/ \n""#,
    ];
    for payload in payloads {
        fixture
            .database
            .insert("k", &fixture.topic, payload)
            .await?;
    }
    // Postgres cannot store a zero byte in text, so none can arrive.
    let zero = fixture
        .database
        .insert("k", &fixture.topic, r#""\u0000""#)
        .await;
    ensure!(zero.is_err());
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()?;
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let values = read
        .iter()
        .map(|record: &ConsumedRecord| record.value.clone());
    let printed: Vec<String> = session
        .value("SELECT array_agg(event_payload::text ORDER BY id) FROM outbox.outbox")
        .await?;
    let printed = printed.into_iter().map(|text| Some(text.into_bytes()));
    assert_eq!(Vec::from_iter(values), Vec::from_iter(printed));
    Ok(())
}
