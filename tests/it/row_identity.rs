//! An id alone names no row: ids come again after a TRUNCATE, in a restored server, by hand. No new
//! row is taken for an old one, and every value of the type is an id.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, Kafka};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS, Session};
use crate::support::process::{freeze, signal};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// Inserts `rows` events of this kind, with the numbers 1 to `rows` as payloads.
async fn insert(session: &Session, topic: &str, kind: &str, rows: i64) -> Result<()> {
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
               SELECT $1, $2, jsonb_build_object('n', i) FROM generate_series(1, $3::bigint) i";
    session.execute(sql, &[&kind, &topic, &rows]).await?;
    Ok(())
}

/// The payloads of the records of this kind, in the order of their partitions and offsets.
async fn arrived(kafka: &Kafka, topic: &str, kind: &str) -> Result<Vec<String>> {
    let consumed = kafka.consume_all(&[topic]).await?;
    let of_kind = consumed
        .into_iter()
        .filter(|record| record.key.as_deref() == Some(kind.as_bytes()));
    let text = |value: Option<Vec<u8>>| String::from_utf8_lossy(&value.unwrap_or_default()).into();
    let mut values: Vec<String> = of_kind.map(|record| text(record.value)).collect();
    values.sort();
    Ok(values)
}

/// The payloads of [`insert`], sorted.
fn numbered(rows: i64) -> Vec<String> {
    let mut payloads: Vec<String> = (1..=rows).map(|n| format!("{{\"n\": {n}}}")).collect();
    payloads.sort();
    payloads
}

async fn wait_until_arrived(fixture: &Fixture<'_>, kind: &str, rows: i64) -> Result<()> {
    wait_for_events(fixture.kafka, &fixture.topic, kind, rows).await
}

async fn wait_for_events(kafka: &Kafka, topic: &str, kind: &str, rows: i64) -> Result<()> {
    wait_until(&format!("the {kind} events"), LIMIT, async || {
        let mut found = arrived(kafka, topic, kind).await?;
        found.dedup();
        Ok(if found == numbered(rows) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
    .await
}

async fn retry_all(settings: &Settings) -> Result<()> {
    let retry = command(settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    Ok(())
}

const IDS: [i64; 6] = [0, -1, i64::MIN, i64::MIN + 1, 7, i64::MAX];

async fn insert_ids(session: &Session, topic: &str) -> Result<()> {
    let sql = "INSERT INTO outbox.outbox (id, event_type, topic, event_payload) \
               OVERRIDING SYSTEM VALUE \
               SELECT id, 'k', $1, jsonb_build_object('id', id) FROM unnest($2::bigint[]) AS id";
    session.execute(sql, &[&topic, &&IDS[..]]).await?;
    Ok(())
}

#[tokio::test]
async fn every_value_of_the_type_is_an_id_for_backlog_stream_and_poll() -> Result<()> {
    for (what, streams_first) in [("backlog", false), ("stream", true), ("poll", false)] {
        let fixture =
            Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let settings = match what {
            "poll" => fixture.settings.polling().set("OUTBOX_BATCH_SIZE", "2"),
            _ => fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s"),
        };
        if !streams_first {
            insert_ids(&session, &fixture.topic).await?;
        }
        let mut outboxd = Outboxd::spawn(&settings)?;
        if streams_first {
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            insert_ids(&session, &fixture.topic).await?;
        }
        fixture.all_marked(LIMIT).await.context(what)?;
        if what != "poll" {
            let audits = outboxd.status().await?["audits_total"].as_u64();
            let status = outboxd
                .wait_for_status("two audits", LIMIT, |status| {
                    status["audits_total"].as_u64() > audits.map(|audits| audits + 1)
                })
                .await?;
            assert_eq!(status["missed_events_total"], 0, "{what}: {status}");
        }
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let mut sent: Vec<i64> = consumed.iter().filter_map(|it| it.outbox_id()).collect();
        sent.sort_unstable();
        let mut ids = IDS;
        ids.sort_unstable();
        assert_eq!(sent, ids, "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn the_row_of_a_dead_letter_may_have_any_id() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert_ids(&session, "no such topic").await?;
    let open = "SELECT count(*) FROM outbox.dead_letter AS d JOIN outbox.outbox AS o \
                    ON d.outbox_id = o.id::text WHERE d.state = 'dead'";
    wait_until("a dead letter for each row", LIMIT, async || {
        let count: i64 = session.value(open).await?;
        Ok(if count == 6 {
            Ok(())
        } else {
            Err(format!("{count}: {}", outboxd.log()))
        })
    })
    .await?;
    let mend = "UPDATE outbox.outbox SET topic = $1";
    session.execute(mend, &[&fixture.topic]).await?;
    retry_all(&fixture.settings).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 6);
    Ok(())
}

/// The server's files are an older copy, and the server has written past the position that outboxd
/// had received before outboxd is back: nothing but the history itself shows the difference.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_that_has_overtaken_loses_no_row_and_marks_none_unsent() -> Result<()> {
    for (major, marks_wait) in [(MAJORS[0], false), (MAJORS[1], true)] {
        let mut server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let mut settings = fixture.settings.clone();
        if marks_wait {
            settings = settings
                .set("OUTBOX_BATCH_SIZE", "100000")
                .set("OUTBOX_PROCESS_INTERVAL", "1h");
        }
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        server.stop(Stop::Fast)?;
        server.keep_copy()?;
        server.resume()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let old = fixture.database.connect().await?;
        insert(&old, &fixture.topic, "old", 100).await?;
        outboxd
            .wait_for_status("everything to be published", LIMIT, |status| {
                let left = if marks_wait { 100 } else { 0 };
                status["published_total"] == 100 && status["unmarked_records"] == left
            })
            .await?;
        outboxd.freeze()?;
        server.stop(Stop::Immediate)?;
        server.put_back()?;
        server.resume()?;
        let new = fixture.database.connect().await?;
        insert(&new, &fixture.topic, "new", 60).await?;
        let overtake = "CREATE TABLE filler AS \
                        SELECT i, repeat('x', 500) FROM generate_series(1, 40000) AS i; \
                        CHECKPOINT";
        new.batch_execute(overtake).await?;
        insert(&new, &fixture.topic, "newer", 40).await?;
        outboxd.thaw()?;
        wait_until_arrived(&fixture, "new", 60).await?;
        wait_until_arrived(&fixture, "newer", 40).await?;
        if marks_wait {
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        }
        fixture.all_marked(LIMIT).await?;
    }
    Ok(())
}

/// Marks wait for as long as another session holds advisory lock 42.
const HOLD_MARKS: &str = "
    CREATE FUNCTION outbox.hold() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(42); RETURN new; END$$;
    CREATE TRIGGER hold BEFORE UPDATE ON outbox.outbox
        FOR EACH ROW EXECUTE FUNCTION outbox.hold()";

/// A poller keeps no position that a history could be compared by.
#[tokio::test(flavor = "multi_thread")]
async fn a_poller_marks_no_row_of_a_restored_server_that_it_has_not_sent() -> Result<()> {
    let mut server = postgres::private(postgres::turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let prepare = fixture.database.connect().await?;
    prepare.batch_execute(HOLD_MARKS).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    server.stop(Stop::Fast)?;
    server.keep_copy()?;
    server.resume()?;
    let old = fixture.database.connect().await?;
    old.batch_execute("SELECT pg_advisory_lock(42)").await?;
    insert(&old, &fixture.topic, "old", 50).await?;
    outboxd
        .wait_for_status("rows that wait for their marks", LIMIT, |status| {
            status["published_total"] == 50 && status["unmarked_records"] == 50
        })
        .await?;
    outboxd.freeze()?;
    server.stop(Stop::Immediate)?;
    server.put_back()?;
    server.resume()?;
    let new = fixture.database.connect().await?;
    insert(&new, &fixture.topic, "new", 60).await?;
    outboxd.thaw()?;
    wait_until_arrived(&fixture, "new", 60).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

const TRUNCATE: &str = "TRUNCATE outbox.outbox RESTART IDENTITY";

/// The marks of a poller's events come when the table has new rows with their ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_poller_takes_no_new_row_for_one_that_it_has_sent_and_that_is_gone() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 2).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    let session = database.connect().await?;
    insert(&session, &topic, "first", 1).await?;
    database.all_marked(LIMIT).await?;
    kafka.freeze()?;
    insert(&session, &topic, "old", 40).await?;
    outboxd
        .wait_for_status("records in flight", LIMIT, |status| {
            status["in_flight_records"] == 40
        })
        .await?;
    session.batch_execute(TRUNCATE).await?;
    insert(&session, &topic, "new", 60).await?;
    kafka.thaw()?;
    wait_for_events(&kafka, &topic, "new", 60).await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// The stream has not delivered the new rows yet when the marks of the old ones are due.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_waits_for_a_row_that_is_gone_marks_no_new_row_of_its_id() -> Result<()> {
    let server = postgres::private(postgres::turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let settings = fixture.settings.clone();
    let settings = settings.set("OUTBOX_BATCH_SIZE", "100000");
    let mut outboxd = Outboxd::spawn(&settings.set("OUTBOX_PROCESS_INTERVAL", "1h"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    insert(&session, &fixture.topic, "old", 50).await?;
    outboxd
        .wait_for_status("rows that wait for their marks", LIMIT, |status| {
            status["published_total"] == 50 && status["unmarked_records"] == 50
        })
        .await?;
    let slot = fixture.database.slot(&fixture.slot()).await?;
    let walsender = slot.and_then(|it| it.active_pid).context("a session")?;
    freeze(walsender)?;
    session.batch_execute(TRUNCATE).await?;
    insert(&session, &fixture.topic, "new", 60).await?;
    // A stop waits for no full batch of marks, but for the walsender.
    outboxd.terminate()?;
    outboxd
        .wait_for_status("no mark to wait", LIMIT, |status| {
            status["unmarked_records"] == 0
        })
        .await?;
    let marked = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NOT NULL";
    assert_eq!(session.value::<i64>(marked).await?, 0);
    signal(walsender, "CONT")?;
    assert_eq!(outboxd.wait(LIMIT).await?, 0, "{}", outboxd.log());
    outboxd.respawn()?;
    wait_until_arrived(&fixture, "new", 60).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.all_marked(LIMIT).await?;
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 110);
    Ok(())
}

/// The figures of `outboxd status`.
async fn figures(fixture: &Fixture<'_>) -> Result<Value> {
    let status = command(&fixture.settings, &["status", "--json"], LIMIT).await?;
    serde_json::from_slice(&status.stdout).with_context(|| format!("{status:?}"))
}

/// Waits until this many dead letters are in this state.
async fn wait_for_letters(session: &Session, state: &str, count: i64) -> Result<()> {
    wait_until(
        &format!("{count} dead letters {state}"),
        LIMIT,
        async || {
            let sql = "SELECT count(*) FILTER (WHERE state = $1), \
                          coalesce(string_agg(to_jsonb(d)::text, ' '), '') \
                     FROM outbox.dead_letter AS d";
            let row = session.query_one(sql, &[&state]).await?;
            Ok(if row.get::<_, i64>(0) == count {
                Ok(())
            } else {
                Err(row.get(1))
            })
        },
    )
    .await
}

/// The ids begin again while a dead letter is open: the new row of its id is an event like any
/// other, and a retry sends the old event, once with the new row published, once with it on its
/// way.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_dead_letter_neither_hides_nor_sends_nor_marks_a_new_row_of_its_id() -> Result<()> {
    for (major, polls) in [(MAJORS[0], true), (MAJORS[1], false)] {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let settings = match polls {
            true => fixture.settings.polling(),
            false => fixture.settings.clone(),
        };
        let phase = if polls { "polling" } else { "streaming" };
        let mut outboxd = Outboxd::spawn(&settings)?;
        for round in 1..=2 {
            outboxd.wait_for_phase(phase, LIMIT).await?;
            let late = format!("{}_late_{round}", fixture.topic);
            let [first, new] = ["first", "new"].map(|kind| format!("{kind}{round}"));
            insert(&session, &fixture.topic, &first, 1).await?;
            insert(&session, &late, "dead", 1).await?;
            wait_for_letters(&session, "dead", 1).await?;
            let waiting = "the row that waits for its dead letter";
            outboxd
                .wait_for_status(waiting, LIMIT, |status| status["dead_letter_rows"] == 1)
                .await?;
            assert_eq!(figures(&fixture).await?["dead_letter_rows"], 1);
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            if !polls {
                // Healing reads the table.
                let drop = "SELECT pg_drop_replication_slot($1)";
                session.execute(drop, &[&fixture.slot()]).await?;
            }
            fixture.kafka.create_topic(&late, 1, &[]).await?;
            session
                .batch_execute("BEGIN; TRUNCATE outbox.outbox RESTART IDENTITY")
                .await?;
            insert(&session, &fixture.topic, &new, 3 * round).await?;
            if round == 1 {
                session.batch_execute("COMMIT").await?;
                outboxd.respawn()?;
                wait_until_arrived(&fixture, &new, 3 * round).await?;
                fixture.all_marked(LIMIT).await?;
                retry_all(&fixture.settings).await?;
            } else {
                retry_all(&fixture.settings).await?;
                session.batch_execute("COMMIT").await?;
                outboxd.respawn()?;
            }
            wait_for_letters(&session, "retried", round).await?;
            wait_until_arrived(&fixture, &new, 3 * round).await?;
            assert_eq!(arrived(fixture.kafka, &late, "dead").await?, numbered(1));
            fixture.all_marked(LIMIT).await?;
            assert_eq!(
                arrived(fixture.kafka, &fixture.topic, &new).await?,
                numbered(3 * round)
            );
            assert_eq!(figures(&fixture).await?["dead_letter_rows"], 0);
        }
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}
