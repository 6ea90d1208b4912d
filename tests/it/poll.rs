//! Poll mode: the same records without a slot, each once, from one instance at a time.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, Database, MAJORS};
use crate::support::wait::{wait_for, wait_until};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// The server drops a silent session after 30 s; the standby notices within 2 s.
const FROZEN_LIMIT: Duration = Duration::from_secs(32);
const PATTERN: Pattern = Pattern {
    rows: 3,
    rest: Duration::from_millis(5),
};

fn in_order_of_id(consumed: &[ConsumedRecord]) -> bool {
    let mut last: HashMap<i32, i64> = HashMap::new();
    consumed.iter().all(|record| {
        let id = record.outbox_id().unwrap_or_default();
        last.insert(record.partition, id)
            .is_none_or(|before| before < id)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn polled_events_are_the_streams_records_in_order_of_id_and_say_where_they_come_from()
-> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let column = "ALTER TABLE outbox.outbox ADD COLUMN headers jsonb";
        session.batch_execute(column).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload, headers) \
                      SELECT 'k' || i % 5, $1, jsonb_build_object('ö', i, 'f', 1.50), \
                             '{\"traceparent\": \"00-ab-01\"}' \
                      FROM generate_series(1, 300) i";
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        outboxd.wait_for_phase("polling", LIMIT).await?;
        session.execute(insert, &[&fixture.topic]).await?;
        fixture.all_marked(LIMIT).await?;
        let status = outboxd.status().await?;
        assert_eq!(status["published_total"], 300, "{status}");
        for absent in ["slot", "publication", "slot_health", "received_lsn"] {
            assert_eq!(status[absent], Value::Null, "{absent}");
        }
        outboxd.wait_until_ready(LIMIT).await?;
        assert_eq!(outboxd.metric("outboxd_slot_lag_bytes").await?, None);
        assert!(fixture.database.slot(&fixture.slot()).await?.is_none());
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        check(&oracle.committed().await?, &consumed).expect_exact()?;
        assert!(in_order_of_id(&consumed));
        for record in &consumed {
            assert_eq!(record.header("outbox_source"), Some("table"));
            assert_eq!(record.header("traceparent"), Some("00-ab-01"));
            assert!(record.header("outbox_created_at").is_some());
            assert!(record.header("outbox_event_type").is_some());
            assert_eq!(record.header("outbox_lsn"), None);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_backlog_of_five_thousand_rows_goes_out_without_a_wait_once_it_is_asked_for() -> Result<()>
{
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        fixture.database.fill(&fixture.topic, 5_000).await?;
        let settings = fixture
            .settings
            .polling()
            .set("OUTBOX_PROCESS_INTERVAL", "1h");
        let output = command(&settings, &["run"], LIMIT).await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("over 1000 unpublished rows") && stderr.contains("--backlog publish"),
            "{stderr}"
        );
        let mut outboxd = Outboxd::spawn(&settings.set("OUTBOX_BACKLOG", "publish"))?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        check(&oracle.committed().await?, &consumed).expect_exact()?;
        assert!(in_order_of_id(&consumed));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_is_killed_repeats_only_what_was_not_marked() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        // A first start that finds a thousand unpublished rows would require OUTBOX_BACKLOG.
        outboxd.wait_for_phase("polling", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        // Until a row is marked, a table of over 1,000 rows would require OUTBOX_BACKLOG.
        let session = fixture.database.connect().await?;
        wait_for("the first mark", LIMIT, async || {
            let marked = "SELECT EXISTS (SELECT FROM outbox.outbox WHERE published_at IS NOT NULL)";
            Ok(session.value::<bool>(marked).await?.then_some(()))
        })
        .await?;
        let mut unmarked: HashMap<i64, usize> = HashMap::new();
        for kill in 0..5 {
            outboxd.wait_for_phase("polling", LIMIT).await?;
            // At any moment in full flow.
            tokio::time::sleep(Duration::from_millis(200 + kill * 97)).await;
            outboxd.kill()?;
            let open = "SELECT id FROM outbox.outbox WHERE published_at IS NULL";
            for row in fixture.database.connect().await?.query(open, &[]).await? {
                *unmarked.entry(row.get(0)).or_default() += 1;
            }
            outboxd.respawn()?;
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        // The poller sends in id order and commits come in another: only the set is compared.
        assert!(
            report.missing.is_empty() && report.phantom.is_empty() && report.altered.is_empty(),
            "{report}"
        );
        for (id, copies) in &report.duplicates {
            let open = unmarked.get(id).copied().unwrap_or_default();
            assert!(
                *copies <= 1 + open,
                "{id} was published {copies} times, {open} times unmarked"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_is_stopped_or_loses_its_session_under_load_repeats_nothing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        // A first start that finds a thousand unpublished rows would require OUTBOX_BACKLOG.
        outboxd.wait_for_phase("polling", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        for _ in 0..2 {
            outboxd
                .wait_for_status("events to flow", LIMIT, |status| {
                    status["published_total"].as_u64() > Some(100)
                })
                .await?;
            let session = fixture.database.connect().await?;
            let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'outboxd'";
            assert!(session.value::<i64>(kill).await? > 0);
            let again = outboxd.wait_for_status("another session", LIMIT, |status| {
                status["phase"] == "polling" && status["reconnects"] == 1
            });
            let before = again.await?["published_total"].as_u64();
            outboxd
                .wait_for_status("events to flow again", LIMIT, |status| {
                    status["published_total"].as_u64() > before
                })
                .await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            outboxd.respawn()?;
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        assert!(
            report.missing.is_empty() && report.duplicates.is_empty() && report.phantom.is_empty(),
            "{report}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn rows_that_are_locked_are_sent_once_and_hold_up_no_others() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        // More rows than one batch takes.
        fixture.database.fill(&fixture.topic, 25).await?;
        let locker = fixture.database.connect().await?;
        let lock = "BEGIN; SELECT id FROM outbox.outbox WHERE id <= 15 FOR UPDATE";
        locker.batch_execute(lock).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        for _ in 0..5 {
            fixture
                .database
                .insert("later", &fixture.topic, "{}")
                .await?;
            wait_until("the others to be marked", LIMIT, async || {
                let left = fixture.database.unpublished().await?;
                Ok(if left == 15 {
                    Ok(())
                } else {
                    Err(format!("{left} rows are unpublished"))
                })
            })
            .await?;
        }
        assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 30);
        locker.batch_execute("COMMIT").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_poller_takes_over_when_the_first_is_stopped_or_frozen() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut first = Outboxd::spawn(&fixture.settings.polling())?;
        first.wait_for_phase("polling", LIMIT).await?;
        let mut second =
            Outboxd::spawn(&Settings::new(&fixture.database, fixture.kafka)?.polling())?;
        second.wait_for_phase("standby", LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;

        first.freeze()?;
        let frozen = Instant::now();
        fixture.database.insert("b", &fixture.topic, "{}").await?;
        second.wait_for_phase("polling", FROZEN_LIMIT).await?;
        assert!(frozen.elapsed() < FROZEN_LIMIT);
        fixture.all_marked(LIMIT).await?;
        first.thaw()?;
        first.wait_for_phase("standby", LIMIT).await?;

        fixture.database.insert("c", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
        first.wait_for_phase("polling", LIMIT).await?;
        fixture.database.insert("d", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_role_without_replication_on_a_server_without_logical_log_is_enough() -> Result<()> {
    for major in MAJORS {
        let server = postgres::private(major, &["wal_level = replica"])?;
        let database = Database::create(&server).await?;
        let kafka = kafka::shared();
        let topic = kafka.topic("polled", 1).await?;
        let owner = Settings::new(&database, kafka)?.polling();
        let output = command(&owner, &["init", "--role", "poller"], LIMIT).await?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.contains("ready"),
            "{stdout}"
        );
        let session = database.connect().await?;
        let replicates = "SELECT rolreplication FROM pg_roles WHERE rolname = 'poller'";
        assert!(!session.value::<bool>(replicates).await?);
        let publications = "SELECT count(*) FROM pg_publication";
        assert_eq!(session.value::<i64>(publications).await?, 0);

        let settings = owner.set("DATABASE_URL", database.url_as("poller"));
        let idle = command(&settings, &["status"], LIMIT).await?;
        assert_eq!(idle.status.code(), Some(4));
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("polling", LIMIT).await?;
        database.insert("a", &topic, "{}").await?;
        wait_until("the row to be marked", LIMIT, async || {
            let left = database.unpublished().await?;
            Ok(if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} left"))
            })
        })
        .await?;
        let status = command(&settings, &["status", "--json"], LIMIT).await?;
        assert!(status.status.success(), "{status:?}");
        let status: Value = serde_json::from_slice(&status.stdout)?;
        assert_eq!(status["source"], "poll");
        assert_eq!(status["slot"], Value::Null);
        assert!(status["active_pid"].is_i64(), "{status}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(kafka.record_count(&[&topic]).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn polling_and_keeping_is_refused() -> Result<()> {
    let settings = Settings::nowhere()?
        .set("DATABASE_URL", "postgresql://db/orders")
        .set("KAFKA_BROKERS", "localhost:9092")
        .set("OUTBOX_SOURCE", "poll")
        .set("OUTBOX_AFTER_PUBLISH", "keep");
    let output = command(&settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("OUTBOX_AFTER_PUBLISH cannot be keep"),
        "{stderr}"
    );
    Ok(())
}

/// A row of a few kilobytes that prints as more than the server can hold.
#[tokio::test]
async fn a_row_that_the_server_cannot_print_is_named_and_spoils_no_snapshot() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        // Printing the row until it fails takes seconds, and longer on a busy machine.
        let settings = fixture
            .settings
            .clone()
            .set("OUTBOX_OPERATION_TIMEOUT", "120s");
        fixture.database.fill(&fixture.topic, 5).await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      VALUES ('huge', $1, \
                              ('[' || repeat('1e131071,', 8250) || '1e131071]')::jsonb) \
                      RETURNING id";
        let row = session.query_one(insert, &[&fixture.topic]).await?;
        let id: i64 = row.get(0);
        fixture.database.fill(&fixture.topic, 5).await?;
        let others_marked = async || {
            wait_until("all others to be marked", LIMIT * 4, async || match fixture
                .database
                .unpublished()
                .await?
            {
                1 => Ok(Ok(())),
                left => Ok(Err(format!("{left} rows are unpublished"))),
            })
            .await
        };
        let mut outboxd = Outboxd::spawn(&settings.polling())?;
        others_marked().await?;
        let dead_letter = "SELECT outbox_id || ' ' || error_code || ' ' || state || ' ' || error \
                           FROM outbox.dead_letter";
        let wait_for_dead_letter = async || {
            wait_for("the dead letter", LIMIT * 4, async || {
                let row = session.query_opt(dead_letter, &[]).await?;
                Ok(row.map(|row| row.get::<_, String>(0)))
            })
            .await
        };
        let filed = wait_for_dead_letter().await?;
        let named = format!("{id} ROW_UNREADABLE dead row {id} of outbox.outbox cannot be read");
        assert!(
            filed.starts_with(&named) && filed.contains("54000"),
            "{filed}"
        );
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        // Nor does it break the snapshot under which a slot is created.
        session
            .batch_execute("DELETE FROM outbox.dead_letter")
            .await?;
        fixture.database.fill(&fixture.topic, 5).await?;
        let backlog = settings.clone().set("OUTBOX_BACKLOG", "publish");
        let mut outboxd = Outboxd::spawn(&backlog)?;
        outboxd.wait_for_phase("streaming", LIMIT * 4).await?;
        others_marked().await?;
        assert_eq!(wait_for_dead_letter().await?, filed);
        let discard = ["dead-letter", "discard", "--all", "--yes"];
        let discarded = command(&fixture.settings, &discard, LIMIT).await?;
        assert!(discarded.status.success(), "{discarded:?}");
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let sent: HashSet<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
        assert!(sent.len() == 15 && read.len() == 15 && !sent.contains(&id));
    }
    Ok(())
}

/// A row that takes longer to print than a statement may run holds up no others.
#[tokio::test]
async fn a_row_that_takes_too_long_to_print_is_filed_and_the_others_go_on() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let settings = fixture
        .settings
        .clone()
        .set("OUTBOX_OPERATION_TIMEOUT", "2s");
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('huge', $1, ('[' || repeat('1e131071,', 8250) || '1e131071]')::jsonb) \
                  RETURNING id";
    let id: i64 = session
        .query_one(insert, &[&fixture.topic])
        .await?
        .try_get(0)?;
    let mut outboxd = Outboxd::spawn(&settings.polling())?;
    let dead_letter = "SELECT outbox_id || ' ' || error_code || ' ' || state || ' ' || \
                                  jsonb_array_length(history) FROM outbox.dead_letter";
    let expect_dead_letter = async |expected: String| {
        wait_until("the dead letter", LIMIT * 2, async || {
            let row = session.query_opt(dead_letter, &[]).await?;
            let found = row.map(|row| row.get::<_, String>(0));
            Ok(if found.as_ref() == Some(&expected) {
                Ok(())
            } else {
                Err(format!("{found:?}: {}", outboxd.log()))
            })
        })
        .await
    };
    expect_dead_letter(format!("{id} ROW_UNREADABLE dead 1")).await?;
    // A retry of this row holds up no others either.
    let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    assert!(retry.status.success(), "{retry:?}");
    fixture.database.fill(&fixture.topic, 5).await?;
    wait_until("all others to be marked", LIMIT, async || {
        Ok(match fixture.database.unpublished().await? {
            1 => Ok(()),
            left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
        })
    })
    .await?;
    let filed = "SELECT jsonb_array_length(history) = 2 AND state = 'dead' FROM outbox.dead_letter";
    wait_for("the retry to be filed again", LIMIT * 2, async || {
        Ok(session.value::<bool>(filed).await?.then_some(()))
    })
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 5);
    Ok(())
}

/// More poison rows than one batch takes, in front of all others.
#[tokio::test]
async fn poison_fills_no_batch_and_is_retried_like_any_other() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let poison = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k', 'no such topic', jsonb_build_object('i', i) \
                      FROM generate_series(1, 25) i";
        session.batch_execute(poison).await?;
        fixture.database.fill(&fixture.topic, 25).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        wait_until("the good rows to be marked", LIMIT, async || {
            Ok(match fixture.database.unpublished().await? {
                25 => Ok(()),
                left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
            })
        })
        .await?;
        let filed = "SELECT count(*) FROM outbox.dead_letter \
                     WHERE error_code = 'TOPIC_INVALID' AND state = 'dead'";
        wait_for("the poison to be filed", LIMIT, async || {
            Ok((session.value::<i64>(filed).await? == 25).then_some(()))
        })
        .await?;
        // Rows with an open dead letter are not read, not even after a restart.
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        outboxd.respawn()?;
        fixture.database.fill(&fixture.topic, 5).await?;
        wait_until("the new rows to be marked", LIMIT, async || {
            Ok(match fixture.database.unpublished().await? {
                25 => Ok(()),
                left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
            })
        })
        .await?;
        let history = "SELECT max(jsonb_array_length(history)) FROM outbox.dead_letter";
        assert_eq!(session.value::<i32>(history).await?, 1);
        session
            .execute(
                "UPDATE outbox.outbox SET topic = $1 WHERE published_at IS NULL",
                &[&fixture.topic],
            )
            .await?;
        let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        assert!(retry.status.success(), "{retry:?}");
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let sent: HashSet<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
        assert!(sent.len() == 55 && read.len() == 55, "each once");
    }
    Ok(())
}
