//! Odd values, rows and shapes of the table: one of them costs at most its own event.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, Session};
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

fn auditing(settings: &Settings) -> Settings {
    settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s")
}

/// Inserts one row for each of these times of creation, which are SQL.
async fn insert_created(session: &Session, topic: &str, created: &[&str]) -> Result<()> {
    for created in created {
        let insert = format!(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at) \
             VALUES ('k', '{topic}', '{{}}', {created})"
        );
        session.batch_execute(&insert).await.context(insert)?;
    }
    Ok(())
}

async fn consumed_ids(fixture: &Fixture<'_>) -> Result<Vec<i64>> {
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let mut ids: Vec<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// A first start, the stream, the audit, a retried dead letter and polling, each with rows of these
/// times of creation.
async fn publish_created(major: u32, change: &str, created: &[&str]) -> Result<()> {
    let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    session.batch_execute(change).await?;
    insert_created(&session, &fixture.topic, created).await?;
    insert_created(&session, "no such topic", created).await?;
    let mut outboxd = Outboxd::spawn(&auditing(&fixture.settings))?;
    let filed = "SELECT count(*) FROM outbox.dead_letter WHERE error_code = 'TOPIC_INVALID'";
    wait_until("the dead letters", LIMIT, async || {
        let filed = session.value::<i64>(filed).await?;
        ensure!(outboxd.exit_code().is_none(), "{}", outboxd.log());
        Ok(match filed == created.len() as i64 {
            true => Ok(()),
            false => Err(format!("{filed}: {}", outboxd.log())),
        })
    })
    .await?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert_created(&session, &fixture.topic, created).await?;
    let topic = &fixture.topic;
    let mend = format!("UPDATE outbox.outbox SET topic = '{topic}' WHERE topic <> '{topic}'");
    session.batch_execute(&mend).await?;
    let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    fixture.all_marked(LIMIT).await?;
    let again = "UPDATE outbox.outbox SET published_at = NULL WHERE id <= $1";
    session.execute(again, &[&(created.len() as i64)]).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    insert_created(&session, &fixture.topic, created).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let count = created.len() as i64;
    let expected = (1..=count).chain(1..=count * 4);
    let mut expected: Vec<i64> = expected.collect();
    expected.sort_unstable();
    assert_eq!(consumed_ids(&fixture).await?, expected, "{change}");
    Ok(())
}

const ALTER: &str = "ALTER TABLE outbox.outbox ALTER created_at DROP DEFAULT, \
                     ALTER created_at DROP NOT NULL, ALTER created_at TYPE";

#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_creation_that_is_no_moment_of_this_era_stops_nothing() -> Result<()> {
    let moments = [
        "'infinity'",
        "'-infinity'",
        "'0044-03-15 BC'",
        "'294276-12-31 23:59:59.999999'",
        "NULL",
    ];
    publish_created(15, &format!("{ALTER} timestamp"), &moments).await?;
    publish_created(17, &format!("{ALTER} timestamptz"), &moments).await?;
    let days = ["'infinity'", "'5874897-12-31'", "'4713-01-01 BC'", "NULL"];
    publish_created(17, &format!("{ALTER} date"), &days).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_creation_of_any_type_stops_nothing() -> Result<()> {
    let to = |type_name: &str| format!("{ALTER} {type_name} USING NULL");
    let texts = ["'yesterday'", "''", "repeat('x', 4000)", "'Ö'", "NULL"];
    publish_created(15, &to("text"), &texts).await?;
    let numbers = ["1714975689000", "-1", "9223372036854775807", "NULL"];
    publish_created(17, &to("bigint"), &numbers).await?;
    // The array prints as a megabyte.
    let json = [
        "'{\"at\": 1}'",
        "('[1e131071' || repeat(',1e131071', 7) || ']')::jsonb",
        "NULL",
    ];
    publish_created(17, &to("jsonb"), &json).await?;
    let domain = format!(
        "CREATE DOMAIN outbox.moment AS timestamp; {}",
        to("outbox.moment")
    );
    publish_created(15, &domain, &["'infinity'", "now()", "NULL"]).await
}

#[tokio::test]
async fn an_unsent_backlog_is_reported_whatever_its_times_of_creation_are() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let fill = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                SELECT 'k', 't', '{}' FROM generate_series(1, 1001)";
    session.batch_execute(fill).await?;
    for (change, oldest) in [
        (
            "UPDATE outbox.outbox SET created_at = '-infinity' WHERE id = 9",
            Some("-infinity"),
        ),
        (&format!("{ALTER} bigint USING 7"), None),
        ("ALTER TABLE outbox.outbox DROP created_at", None),
    ] {
        session.batch_execute(change).await?;
        for settings in [fixture.settings.clone(), fixture.settings.polling()] {
            let run = command(&settings, &["run"], LIMIT).await?;
            let stderr = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(2), "{stderr}");
            ensure!(
                stderr.contains("over 1000 unpublished rows"),
                "{change}: {stderr}"
            );
            let shown = oldest.map(|oldest| format!("the oldest from {oldest}"));
            let has = |text: &String| stderr.contains(text);
            ensure!(shown.as_ref().is_none_or(has), "{change}: {stderr}");
        }
    }
    Ok(())
}

/// The row with this id is published, and its record has this header.
async fn expect_header(fixture: &Fixture<'_>, id: i64, expected: Option<&str>) -> Result<()> {
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let last = read.iter().rfind(|record| record.outbox_id() == Some(id));
    let record = last.with_context(|| format!("row {id} was not sent"))?;
    let header = record.header("traceparent");
    ensure!(header == expected, "row {id}: {header:?}");
    Ok(())
}

const ADD: &str = "ALTER TABLE outbox.outbox ADD headers jsonb";
const DROP: &str = "ALTER TABLE outbox.outbox DROP headers";
const TRACED: &str = "UPDATE outbox.outbox SET headers = '{\"traceparent\": \"00-1\"}', \
                      published_at = NULL WHERE id = $1";
const AGAIN: &str = "UPDATE outbox.outbox SET published_at = NULL WHERE id = $1";

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_follows_optional_columns_that_come_and_go() -> Result<()> {
    for major in postgres::MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        session.batch_execute(ADD).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        outboxd.wait_for_phase("polling", LIMIT).await?;
        for turn in 0..3 {
            // A row of its own for each turn: one that comes back too often is filed.
            let id = fixture.database.insert("k", &fixture.topic, "{}").await?;
            fixture.all_marked(LIMIT).await?;
            if turn > 0 {
                session.batch_execute(ADD).await?;
            }
            session.execute(TRACED, &[&id]).await?;
            fixture.all_marked(LIMIT).await?;
            expect_header(&fixture, id, Some("00-1")).await?;
            session.batch_execute(DROP).await?;
            session.execute(AGAIN, &[&id]).await?;
            fixture.all_marked(LIMIT).await?;
            expect_header(&fixture, id, None).await?;
        }
        session
            .batch_execute("ALTER TABLE outbox.outbox DROP created_at")
            .await?;
        fixture.database.insert("k", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

/// The columns change between the list of the rows and the read of their values as well.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_change_all_the_time_end_no_poller() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let often = fixture
        .settings
        .polling()
        .set("OUTBOX_PROCESS_INTERVAL", "1ms");
    let mut outboxd = Outboxd::spawn(&often)?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    for _ in 0..150 {
        session.batch_execute(&format!("{ADD}; {DROP}")).await?;
        session.batch_execute(ADD).await?;
        fixture.database.insert("k", &fixture.topic, "{}").await?;
        session.batch_execute(DROP).await?;
        fixture.database.insert("k", &fixture.topic, "{}").await?;
        ensure!(outboxd.exit_code().is_none(), "{}", outboxd.log());
    }
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let ids: BTreeSet<i64> = consumed_ids(&fixture).await?.into_iter().collect();
    assert_eq!(ids.len(), 300);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_and_retries_follow_optional_columns_that_come_and_go() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&auditing(&fixture.settings))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session.batch_execute(ADD).await?;
    let dead = fixture.database.insert("k", "no such topic", "{}").await?;
    let filed = "SELECT count(*) = 1 FROM outbox.dead_letter WHERE state = 'dead'";
    wait_for("the dead letter", LIMIT, async || {
        Ok(session.value::<bool>(filed).await?.then_some(()))
    })
    .await?;
    let mend = "UPDATE outbox.outbox SET topic = $1, headers = '{\"traceparent\": \"00-2\"}' \
                 WHERE id = $2";
    session.execute(mend, &[&fixture.topic, &dead]).await?;
    let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    fixture.all_marked(LIMIT).await?;
    expect_header(&fixture, dead, Some("00-2")).await?;
    // The catalogs are read every eight seconds. A row that comes back too often is filed, so each
    // attempt has a row of its own.
    let traced = async || {
        let id = fixture.database.insert("k", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        session.execute(TRACED, &[&id]).await?;
        fixture.all_marked(LIMIT).await?;
        let found = expect_header(&fixture, id, Some("00-1")).await;
        anyhow::Ok(found.is_ok().then_some(id))
    };
    let id = wait_for("the audit to read the new column", LIMIT, traced).await?;
    session.batch_execute(DROP).await?;
    session.execute(AGAIN, &[&id]).await?;
    fixture.all_marked(LIMIT).await?;
    expect_header(&fixture, id, None).await?;
    session
        .batch_execute("ALTER TABLE outbox.outbox DROP created_at")
        .await?;
    session.execute(AGAIN, &[&id]).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// Prints as 197 MB.
const LONG: &str = "('[1e131071' || repeat(',1e131071', 1499) || ']')::jsonb";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_prints_as_two_hundred_megabytes_is_filed_by_reference_in_bounded_memory()
-> Result<()> {
    let _one_at_a_time = heavy().await;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let add = "ALTER TABLE outbox.outbox ADD note jsonb, ADD headers jsonb";
    session.batch_execute(add).await?;
    let topic = &fixture.topic;
    let insert = async |columns: &str, values: &str| -> Result<i64> {
        let sql = format!(
            "INSERT INTO outbox.outbox (event_type, topic, {columns}) \
             VALUES ('k', '{topic}', {values}) RETURNING id"
        );
        session.value(&sql).await
    };
    let settings = fixture
        .settings
        .clone()
        .set("OUTBOX_OPERATION_TIMEOUT", "120s");
    let mut sent = Vec::new();
    let expect_filed = async |expected: &[i64]| {
        let filed = "SELECT coalesce(array_agg(outbox_id::bigint ORDER BY id), '{}') \
                       FROM outbox.dead_letter WHERE error_code = 'RECORD_TOO_LARGE' \
                        AND state = 'dead' AND coalesce(length(payload), 0) <= 2 \
                        AND topic IS NOT NULL";
        wait_until("the dead letters", LIMIT * 2, async || {
            let filed: Vec<i64> = session.value(filed).await?;
            Ok(if filed == expected {
                Ok(())
            } else {
                Err(format!("{filed:?}"))
            })
        })
        .await
    };
    for polls in [false, true] {
        let settings = if polls {
            settings.polling()
        } else {
            settings.clone()
        };
        let mut outboxd = Outboxd::spawn(&settings)?;
        let phase = if polls { "polling" } else { "streaming" };
        outboxd.wait_for_phase(phase, LIMIT).await?;
        sent.push(insert("event_payload", "'{}'").await?);
        let payload = insert("event_payload", LONG).await?;
        let headers = format!(
            "'{{}}', {}",
            LONG.replace("('[", "('{\"a\": [").replace("']'", "']}'")
        );
        let headers = insert("event_payload, headers", &headers).await?;
        // outboxd does not read this column, so it costs no event.
        sent.push(insert("event_payload, note", &format!("'{{}}', {LONG}")).await?);
        sent.push(insert("event_payload", "'{}'").await?);
        expect_filed(&[payload, headers]).await?;
        wait_until("the others", LIMIT * 2, async || {
            let left = fixture.database.unpublished().await?;
            Ok(if left == 2 {
                Ok(())
            } else {
                Err(format!("{left}: {}", outboxd.log()))
            })
        })
        .await?;
        // The retry reads the table.
        let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        let again = "SELECT count(*) = 2 FROM outbox.dead_letter \
                      WHERE state = 'dead' AND jsonb_array_length(history) > 1";
        wait_for("the retries to be filed again", LIMIT * 2, async || {
            Ok(session.value::<bool>(again).await?.then_some(()))
        })
        .await?;
        expect_filed(&[payload, headers]).await?;
        let peak = outboxd.peak_resident_bytes()? / MIB;
        ensure!(peak < 100, "polling: {polls}, {peak} MiB");
        let discard = ["dead-letter", "discard", "--all", "--yes"];
        let discarded = command(&fixture.settings, &discard, LIMIT).await?;
        ensure!(discarded.status.success(), "{discarded:?}");
        fixture.all_marked(LIMIT * 2).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    assert_eq!(consumed_ids(&fixture).await?, sent);
    Ok(())
}

/// Runs `outboxd run` to its end; returns the output.
async fn refusal(settings: &Settings) -> Result<String> {
    let run = command(settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{stderr}");
    Ok(stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_rows_the_slot_does_not_bring_are_named_before_the_start_and_while_it_runs()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let child = "CREATE TABLE outbox.old () INHERITS (outbox.outbox)";
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session.batch_execute(child).await?;
    outboxd
        .wait_for_status("the child to be named", LIMIT, |status| {
            status.to_string().contains("outbox.old")
        })
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    for settings in [fixture.settings.clone(), fixture.settings.polling()] {
        let stderr = refusal(&settings).await?;
        ensure!(
            stderr.contains("table outbox.old inherits from outbox.outbox"),
            "{stderr}"
        );
        ensure!(stderr.contains("NO INHERIT"), "{stderr}");
    }

    session
        .batch_execute(
            "DROP TABLE outbox.old; ALTER TABLE outbox.outbox RENAME TO before; \
             CREATE TABLE outbox.outbox (LIKE outbox.before INCLUDING DEFAULTS INCLUDING INDEXES) \
             PARTITION BY RANGE (id); \
             CREATE TABLE outbox.p1 PARTITION OF outbox.outbox FOR VALUES FROM (1) TO (100); \
             CREATE UNLOGGED TABLE outbox.p2 (LIKE outbox.outbox INCLUDING ALL)",
        )
        .await?;
    let published = "ALTER PUBLICATION outboxd SET TABLE outbox.outbox";
    session.batch_execute(published).await?;
    let attach = "ALTER TABLE outbox.outbox ATTACH PARTITION outbox.p2 \
                  FOR VALUES FROM (100) TO (200)";
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session.batch_execute(attach).await?;
    outboxd
        .wait_for_status("the partition to be named", LIMIT, |status| {
            status.to_string().contains("outbox.p2")
        })
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let stderr = refusal(&fixture.settings).await?;
    ensure!(
        stderr.contains("partition outbox.p2 is unlogged"),
        "{stderr}"
    );
    ensure!(stderr.contains("SET LOGGED"), "{stderr}");
    // Polling reads the table, and needs no WAL.
    let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test]
async fn headers_of_a_type_that_holds_no_object_are_refused_before_the_start() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    for type_name in [
        "text",
        "text[]",
        "bytea",
        "character varying",
        "jsonb[]",
        "xml",
    ] {
        let add = format!("ALTER TABLE outbox.outbox ADD headers {type_name}");
        session.batch_execute(&add).await?;
        for settings in [fixture.settings.clone(), fixture.settings.polling()] {
            let stderr = refusal(&settings).await?;
            let expected = format!("outbox.outbox.headers has the type {type_name}");
            ensure!(
                stderr.contains(&expected) && stderr.contains("jsonb"),
                "{stderr}"
            );
        }
        session.batch_execute(DROP).await?;
    }
    let domain = "CREATE DOMAIN outbox.inner AS jsonb; CREATE DOMAIN outbox.pairs AS outbox.inner; \
                  ALTER TABLE outbox.outbox ADD headers outbox.pairs";
    session.batch_execute(domain).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    // One statement: the poller may read a row as soon as its insert has committed.
    let insert = format!(
        "INSERT INTO outbox.outbox (event_type, topic, event_payload, headers) \
         VALUES ('k', '{}', '{{}}', '{{\"traceparent\": \"00-1\"}}') RETURNING id",
        fixture.topic
    );
    let id = session.value::<i64>(&insert).await?;
    fixture.all_marked(LIMIT).await?;
    expect_header(&fixture, id, Some("00-1")).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
