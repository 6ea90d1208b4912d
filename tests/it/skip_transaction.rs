//! A transaction that the server cannot decode: the error names it, and the operator skips exactly
//! this one.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::{self, MAJORS};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn it_is_named_and_skipped_alone_and_its_other_events_are_published() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for _ in 0..20 {
            fixture
                .database
                .insert("before", &fixture.topic, "{}")
                .await?;
        }
        // The row takes a few kilobytes on disk and prints as more than the server can hold.
        let topic = &fixture.topic;
        let row = |key: &str, payload: &str| {
            format!(
                "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 VALUES ('{key}', '{topic}', {payload});"
            )
        };
        let huge = "('[' || repeat('1e131071,', 8250) || '1e131071]')::jsonb";
        let transaction = [
            "BEGIN;".to_owned(),
            row("first", "'{}'"),
            row("huge", huge),
            row("last", "'{}'"),
            "COMMIT;".to_owned(),
        ];
        session.batch_execute(&transaction.concat()).await?;
        fixture.database.insert("after", topic, "{}").await?;
        assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
        let log = outboxd.log();
        let named = "outboxd skip-transaction --lsn ";
        let lsn = log.split(named).nth(1).with_context(|| log.clone())?;
        let lsn = lsn
            .split(|c: char| !(c.is_ascii_hexdigit() || c == '/'))
            .next()
            .context("a position")?
            .to_owned();
        ensure!(log.contains("SLOT_ERROR") && log.contains("54000"), "{log}");
        let slot = fixture.slot();
        let confirmed = format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        let before: String = session.value(&confirmed).await?;

        let skip = async |lsn: &str| {
            command(
                &fixture.settings,
                &["skip-transaction", "--lsn", lsn],
                LIMIT,
            )
            .await
        };
        let wrong = skip(&before).await?;
        let stderr = String::from_utf8_lossy(&wrong.stderr);
        ensure!(
            !wrong.status.success() && stderr.contains("no transaction"),
            "{stderr}"
        );
        assert_eq!(session.value::<String>(&confirmed).await?, before);
        let dead_letters: i64 = session
            .value("SELECT count(*) FROM outbox.dead_letter")
            .await?;
        assert_eq!(dead_letters, 0, "a wrong LSN changed the table");

        let skipped = skip(&lsn).await?;
        let stderr = String::from_utf8_lossy(&skipped.stderr);
        ensure!(skipped.status.success(), "{stderr}");
        let again = skip(&lsn).await?;
        let stderr = String::from_utf8_lossy(&again.stderr);
        ensure!(
            !again.status.success() && stderr.contains("is past"),
            "{stderr}"
        );

        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        wait_until("all but one to be marked", LIMIT, async || {
            Ok(match fixture.database.unpublished().await? {
                1 => Ok(()),
                left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
            })
        })
        .await?;
        let states = "SELECT string_agg(state || ' ' || error_code, ', ' ORDER BY state) \
                      FROM outbox.dead_letter \
                      WHERE state <> 'retried'";
        wait_until("the dead letter of the row alone", LIMIT, async || {
            let states: String = session.value(states).await?;
            let expected = "dead 54000, skipped 54000";
            Ok(if states == expected {
                Ok(())
            } else {
                Err(states)
            })
        })
        .await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let read = fixture.kafka.consume_all(&[topic]).await?;
        let sent: HashSet<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
        let good: Vec<i64> = session
            .value("SELECT array_agg(id ORDER BY id) FROM outbox.outbox WHERE event_type <> 'huge'")
            .await?;
        assert_eq!(sent, good.into_iter().collect());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_server_has_not_reached_is_no_transaction() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let position = async |sql: &str| session.value::<String>(sql).await;
    let far = position("SELECT (pg_current_wal_lsn() + 1000000000)::text").await?;
    let end = position("SELECT pg_current_wal_insert_lsn()::text").await?;
    for lsn in [far, end] {
        let skip = ["skip-transaction", "--lsn", &lsn];
        let skipped = command(&fixture.settings, &skip, Duration::from_secs(60)).await?;
        let stderr = String::from_utf8_lossy(&skipped.stderr);
        ensure!(
            !skipped.status.success() && stderr.contains("no transaction"),
            "{lsn}: {stderr}"
        );
    }
    // Neither lock nor slot is held any more.
    outboxd.respawn()?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    Ok(())
}
