//! The audit compares the table with the slot: whatever made the slot skip events, exactly those
//! are found within two audits, and are published again or left to the operator.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS, Session};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// Time limit from a change of the catalogs to the named problem.
const NOTICED: Duration = Duration::from_secs(15);

async fn fixture(major: u32) -> Result<Fixture<'static>> {
    let mut fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
    fixture.settings = fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s");
    Ok(fixture)
}

/// Each event has a key of its own, since events read from the table arrive out of order.
async fn insert(session: &Session, topic: &str, kind: &str, rows: i64) -> Result<BTreeSet<i64>> {
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
               SELECT $1 || i, $2, jsonb_build_object('kind', $1::text, 'n', i) \
                 FROM generate_series(1, $3::bigint) i RETURNING id";
    let rows = session.query(sql, &[&kind, &topic, &rows]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn number(status: &serde_json::Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_default()
}

/// Waits until this many missed events are found and published, by the first or second audit that
/// ends after `before` audits.
///
/// Counts the audits that had ended while nothing was found: further ones may end between the
/// finding and the next status.
async fn expect_found(outboxd: &Outboxd, missed: usize, before: u64) -> Result<()> {
    let fruitless = Cell::new(0);
    let status = outboxd
        .wait_for_status("the missed events", LIMIT, |status| {
            let is_found = number(status, "missed_events_total") >= missed as u64;
            if !is_found {
                fruitless.set(number(status, "audits_total"));
            }
            is_found
        })
        .await?;
    assert_eq!(number(&status, "missed_events_total"), missed as u64);
    ensure!(fruitless.get() <= before + 1, "{fruitless:?}, {status}");
    outboxd.wait_for_log(&["missed-events"], LIMIT).await?;
    let is_resolved = |status: &serde_json::Value| {
        number(status, "missed_events") == 0 && status["troubles"] == serde_json::json!([])
    };
    outboxd
        .wait_for_status("the problem to end", LIMIT, is_resolved)
        .await?;
    outboxd.wait_until_ready(LIMIT).await?;
    let metric = outboxd.metric("outboxd_missed_events_total").await?;
    assert_eq!(metric, Some(missed as f64));
    Ok(())
}

/// The ids of the records that were read from the table.
async fn ids_from_table(fixture: &Fixture<'_>) -> Result<Vec<i64>> {
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let of_table = consumed
        .iter()
        .filter(|record| record.header("outbox_source") == Some("table"));
    let mut ids: Vec<i64> = of_table.filter_map(|record| record.outbox_id()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Moves the slot by hand while outboxd is stopped: it skips three events and delivers the two
/// after them.
async fn behind_its_back(change: &str, after_publish: &str) -> Result<()> {
    for major in MAJORS {
        let mut fixture = fixture(major).await?;
        fixture.settings = fixture.settings.set("OUTBOX_AFTER_PUBLISH", after_publish);
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        insert(&session, &fixture.topic, "before", 2).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let missed = insert(&session, &fixture.topic, "missed", 3).await?;
        session
            .batch_execute(&change.replace("SLOT", &format!("'{}'", fixture.slot())))
            .await?;
        insert(&session, &fixture.topic, "after", 2).await?;
        outboxd.respawn()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        expect_found(&outboxd, 3, 0).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(ids_from_table(&fixture).await?, Vec::from_iter(missed));
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_that_was_created_again_has_missed_is_found() -> Result<()> {
    behind_its_back(
        "SELECT pg_drop_replication_slot(SLOT); \
         SELECT pg_create_logical_replication_slot(SLOT, 'pgoutput')",
        "mark",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_that_was_advanced_by_hand_has_missed_is_found() -> Result<()> {
    behind_its_back(
        "SELECT pg_replication_slot_advance(SLOT, pg_current_wal_lsn())",
        "delete",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_while_the_table_was_out_of_the_publication_is_found() -> Result<()> {
    for major in MAJORS {
        let fixture = fixture(major).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        session
            .batch_execute("ALTER PUBLICATION outboxd DROP TABLE outbox.outbox")
            .await?;
        let missed = insert(&session, &fixture.topic, "missed", 2).await?;
        let named = outboxd
            .wait_for_status("the problem to be named", NOTICED, |status| {
                status["troubles"][0]["name"] == "not-published"
            })
            .await?;
        ensure!(
            named["troubles"][0]["remedy"]
                .as_str()
                .is_some_and(|hint| hint.contains("ADD TABLE")),
            "{named}"
        );
        let (code, body) = outboxd.get("/readyz").await?;
        ensure!(code == 503 && body.starts_with("not-published: "), "{body}");
        let metric = "outboxd_trouble{trouble=\"not-published\"}";
        assert_eq!(outboxd.metric(metric).await?, Some(1.0));
        outboxd
            .wait_for_log(&["not-published", "hint"], LIMIT)
            .await?;
        // The missed events are found although the table is still missing from the publication.
        fixture.all_marked(LIMIT).await?;
        session
            .batch_execute("ALTER PUBLICATION outboxd ADD TABLE outbox.outbox")
            .await?;
        insert(&session, &fixture.topic, "after", 2).await?;
        outboxd
            .wait_for_status("the problem to end", NOTICED, |status| {
                status["troubles"] == serde_json::json!([])
            })
            .await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.metric(metric).await?, Some(0.0));
        outboxd.wait_until_ready(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(ids_from_table(&fixture).await?, Vec::from_iter(missed));
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

/// An older copy of the server's files is restored, and the server writes past outboxd's position
/// before outboxd reconnects: no LSN shows the gap, and the audit has nothing to find.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_server_wrote_up_to_our_own_position_comes_from_the_stream() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let settings = fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        server.stop(Stop::Fast)?;
        server.keep_copy()?;
        server.resume()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        insert(&session, &fixture.topic, "old", 500).await?;
        fixture.all_marked(LIMIT).await?;
        let status = outboxd
            .wait_for_status("everything to be confirmed", LIMIT, |status| {
                status["published_total"] == 500
                    && status["received_lsn"] == status["confirmed_lsn"]
            })
            .await?;
        let own = status["received_lsn"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let audits = number(&status, "audits_total");
        outboxd.freeze()?;
        server.stop(Stop::Immediate)?;
        server.put_back()?;
        server.resume()?;
        let session = fixture.database.connect().await?;
        insert(&session, &fixture.topic, "missed", 5).await?;
        let before = format!("SELECT pg_current_wal_insert_lsn() < '{own}'");
        ensure!(
            session.value::<bool>(&before).await?,
            "too much was written"
        );
        let past = format!("SELECT pg_switch_wal() > '{own}'");
        wait_until("the server to pass outboxd's position", LIMIT, async || {
            session.batch_execute("SELECT pg_current_xact_id()").await?;
            let is_past: bool = session.value(&past).await?;
            Ok(if is_past { Ok(()) } else { Err(String::new()) })
        })
        .await?;
        insert(&session, &fixture.topic, "after", 3).await?;
        outboxd.thaw()?;
        fixture.all_marked(LIMIT).await?;
        let status = outboxd
            .wait_for_status("two more audits", LIMIT, |status| {
                number(status, "audits_total") > audits + 2
            })
            .await?;
        assert_eq!(status["missed_events_total"], 0, "{status}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert!(ids_from_table(&fixture).await?.is_empty());
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let values: BTreeSet<_> = consumed.iter().map(|record| record.value.clone()).collect();
        assert_eq!((consumed.len(), values.len()), (508, 508));
    }
    Ok(())
}

/// As with a poller: a row whose `published_at` is reset is published again.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_mark_was_taken_away_goes_out_again() -> Result<()> {
    for major in MAJORS {
        let fixture = fixture(major).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        let rows = Vec::from_iter(insert(&session, &fixture.topic, "again", 5).await?);
        fixture.all_marked(LIMIT).await?;
        let again = vec![rows[1], rows[3]];
        let sql = "UPDATE outbox.outbox SET published_at = NULL WHERE id = ANY ($1)";
        session.execute(sql, &[&again]).await?;
        let before = number(&outboxd.status().await?, "audits_total");
        expect_found(&outboxd, 2, before).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(ids_from_table(&fixture).await?, again);
        let report = fixture.verdict(&oracle).await?;
        let twice: Vec<_> = again.iter().map(|id| (*id, 2)).collect();
        ensure!(report.is_complete(), "{report}");
        assert_eq!(report.duplicates, twice);
    }
    Ok(())
}

/// Restarts outboxd after its slot was advanced past these events.
async fn miss(fixture: &Fixture<'_>, rows: i64) -> Result<Outboxd> {
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let session = fixture.database.connect().await?;
    insert(&session, &fixture.topic, "missed", rows).await?;
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
    session.execute(advance, &[&fixture.slot()]).await?;
    outboxd.respawn()?;
    Ok(outboxd)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_halt_one_missed_event_ends_it_and_nothing_is_sent() -> Result<()> {
    for major in MAJORS {
        let mut fixture = fixture(major).await?;
        fixture.settings = fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", "halt");
        let mut outboxd = miss(&fixture, 2).await?;
        assert_eq!(outboxd.wait(LIMIT).await?, 1);
        let log = outboxd.log();
        ensure!(
            log.contains("SLOT_ERROR") && log.contains("skipped 2 events"),
            "{log}"
        );
        assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
        // The error message names the statement that leaves the events out.
        let (_, statement) = log
            .lines()
            .rev()
            .find_map(|line| line.split_once("to leave them out: "))
            .unwrap_or_default();
        let statement = statement.trim_end_matches(')');
        fixture
            .database
            .connect()
            .await?
            .batch_execute(statement)
            .await?;
        outboxd.respawn()?;
        outboxd
            .wait_for_status("a clean audit", LIMIT, |status| {
                number(status, "audits_total") > 1
            })
            .await?;
        assert_eq!(fixture.database.unpublished().await?, 0);
        assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_thousand_missed_events_are_sent_only_on_request() -> Result<()> {
    let fixture = fixture(15).await?;
    let mut outboxd = miss(&fixture, 1_001).await?;
    assert_eq!(outboxd.wait(LIMIT).await?, 1);
    let log = outboxd.log();
    ensure!(
        log.contains("skipped 1001 events") && log.contains("--backlog publish"),
        "{log}"
    );
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
    let asked = outboxd.settings().clone().set("OUTBOX_BACKLOG", "publish");
    *outboxd.settings() = asked;
    outboxd.respawn()?;
    expect_found(&outboxd, 1_001, 0).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(ids_from_table(&fixture).await?.len(), 1_001);
    Ok(())
}

/// A missed row that another session has locked is sent once, however many audits find it
/// unpublished.
#[tokio::test(flavor = "multi_thread")]
async fn a_missed_row_that_is_locked_is_sent_once() -> Result<()> {
    let fixture = fixture(15).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    insert(&session, &fixture.topic, "locked", 1).await?;
    fixture.all_marked(LIMIT).await?;
    let locker = fixture.database.connect().await?;
    session
        .batch_execute("UPDATE outbox.outbox SET published_at = NULL")
        .await?;
    locker
        .batch_execute("BEGIN; SELECT FROM outbox.outbox FOR UPDATE")
        .await?;
    let status = outboxd
        .wait_for_status("the missed event", LIMIT, |status| {
            number(status, "missed_events_total") == 1
        })
        .await?;
    let audits = number(&status, "audits_total");
    outboxd
        .wait_for_status("further audits", LIMIT, |status| {
            number(status, "audits_total") >= audits + 3
        })
        .await?;
    locker.batch_execute("COMMIT").await?;
    expect_found_once(&outboxd).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 2);
    Ok(())
}

async fn expect_found_once(outboxd: &Outboxd) -> Result<()> {
    let status = outboxd
        .wait_for_status("the problem to end", LIMIT, |status| {
            status["troubles"] == serde_json::json!([])
        })
        .await?;
    assert_eq!(number(&status, "missed_events_total"), 1);
    Ok(())
}

/// Events in flight are never taken for missed ones: under load, through kills, lost sessions and
/// crashes of the server.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_nothing_was_missed() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let settings = fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
        let mut logs = String::new();
        // A kill, the end of its sessions, and a crash of the server.
        for round in 0..3 {
            let audits = number(&outboxd.status().await?, "audits_total");
            outboxd
                .wait_for_status("an audit under load", LIMIT, |status| {
                    number(status, "audits_total") >= audits + 2
                })
                .await?;
            match round {
                0 => {
                    outboxd.kill()?;
                    logs.push_str(&outboxd.log());
                    outboxd.respawn()?;
                }
                1 => {
                    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                                WHERE application_name LIKE 'outboxd%'";
                    fixture.database.connect().await?.execute(end, &[]).await?;
                }
                _ => {
                    server.stop(Stop::Immediate)?;
                    server.resume()?;
                }
            }
            outboxd.wait_for_phase("streaming", LIMIT).await?;
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        logs.push_str(&outboxd.log());
        ensure!(!logs.contains("missed-events"), "{logs}");
        ensure!(ids_from_table(&fixture).await?.is_empty());
        fixture.verdict(&oracle).await?.expect_complete()?;
    }
    Ok(())
}
