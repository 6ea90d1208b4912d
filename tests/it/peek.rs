//! `outboxd peek`: shows what would be sent next, as it is sent then, and moves nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS, Session};

const LIMIT: Duration = Duration::from_secs(60);

/// The events that `peek --json` shows with these arguments.
async fn peek(settings: &Settings, arguments: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["peek", "--json"], arguments].concat();
    let output = command(settings, &arguments, LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {stderr}");
    let printed = String::from_utf8(output.stdout)?;
    let events = printed.lines().map(serde_json::from_str);
    Ok(events.collect::<Result<_, _>>()?)
}

/// The standard error of `peek` with these arguments, which has to fail.
async fn refused(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let arguments = [&["peek"], arguments].concat();
    let output = command(settings, &arguments, LIMIT).await?;
    ensure!(!output.status.success(), "{arguments:?} succeeds");
    Ok(String::from_utf8(output.stderr)?)
}

/// Everything that the server shows of the slot's position and owner.
async fn slot_of(session: &Session, slot: &str) -> Result<String> {
    let sql = format!(
        "SELECT concat_ws(' ', confirmed_flush_lsn, restart_lsn, catalog_xmin, active_pid) \
           FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    session.value(&sql).await
}

async fn own_slots(session: &Session) -> Result<i64> {
    let sql = "SELECT count(*) FROM pg_replication_slots \
                WHERE database = current_database() AND slot_name LIKE 'outboxd_peek%'";
    session.value(sql).await
}

/// The publisher is frozen while its slot is active, so what was written since waits in the slot.
#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_is_sent_next_beside_the_publisher_and_moves_nothing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture
            .database
            .insert("before", &fixture.topic, "{}")
            .await?;
        fixture.all_marked(LIMIT).await?;
        fixture.all_confirmed(LIMIT).await?;
        outboxd.freeze()?;
        let topic = &fixture.topic;
        session
            .batch_execute(&format!(
                "BEGIN;
                 INSERT INTO outbox.outbox (event_type, topic, event_payload) VALUES
                     ('a', '{topic}', '{{\"n\": 1}}'), ('ö', '{topic}', '{{\"n\": 2}}');
                 COMMIT;
                 INSERT INTO outbox.outbox (event_type, topic, event_payload)
                     VALUES ('c', '{topic}', '{{\"n\": 3}}')"
            ))
            .await?;
        let slot = fixture.slot();
        let before = slot_of(&session, &slot).await?;
        let shown = peek(&fixture.settings, &[]).await?;
        assert_eq!(slot_of(&session, &slot).await?, before);
        assert_eq!(own_slots(&session).await?, 0, "the copy is dropped");
        ensure!(
            before.split(' ').count() == 4,
            "the slot is active: {before}"
        );

        let part = |event: &Value, name: &str| event[name].clone();
        let indexes: Vec<_> = shown.iter().map(|it| part(it, "index")).collect();
        assert_eq!(indexes, [json!(0), json!(1), json!(0)]);
        assert_eq!(shown[0]["lsn"], shown[1]["lsn"]);
        assert_ne!(shown[1]["lsn"], shown[2]["lsn"]);

        outboxd.thaw()?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let sent = fixture.kafka.consume_all(&[topic]).await?;
        assert_eq!(sent.len(), 4);
        for event in &shown {
            let value = event["value"].as_str().context("a value")?;
            let is_it =
                |value: &str, sent: &Option<Vec<u8>>| sent.as_deref() == Some(value.as_bytes());
            let sent = sent.iter().find(|record| is_it(value, &record.value));
            let sent = sent.with_context(|| format!("{value} is in Kafka"))?;
            let key = event["key"].as_str().context("a key")?;
            ensure!(is_it(key, &sent.key), "{event}");
            let headers = sent
                .headers
                .iter()
                .map(|(name, value)| json!([name, String::from_utf8_lossy(value)]));
            assert_eq!(event["headers"], Value::from_iter(headers), "{event}");
        }
        assert_eq!(peek(&fixture.settings, &[]).await?, [json!(null); 0]);
    }
    Ok(())
}

/// A database with a slot and events that no publisher reads.
async fn waiting(server: &postgres::Server) -> Result<(Fixture<'static>, Session)> {
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    create_slot(&session, &fixture.slot()).await?;
    for (kind, topic) in [("a", "one"), ("b", "two"), ("c", "one"), ("d", "two")] {
        fixture.database.insert(kind, topic, "{}").await?;
    }
    Ok((fixture, session))
}

async fn create_slot(session: &Session, slot: &str) -> Result<()> {
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    Ok(session.batch_execute(&create).await?)
}

fn keys(shown: &[Value]) -> Vec<&str> {
    shown
        .iter()
        .filter_map(|event| event["key"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn count_topic_and_position_choose_the_events() -> Result<()> {
    let (fixture, session) = waiting(postgres::shared(postgres::turn(15))).await?;
    let settings = &fixture.settings;
    let all = peek(settings, &[]).await?;
    assert_eq!(keys(&all), ["a", "b", "c", "d"]);
    assert_eq!(keys(&peek(settings, &["--count", "2"]).await?), ["a", "b"]);
    let of_topic = peek(settings, &["--only-topic", "two"]).await?;
    assert_eq!(keys(&of_topic), ["b", "d"]);
    let one = peek(settings, &["--only-topic", "two", "--count", "1"]).await?;
    assert_eq!(keys(&one), ["b"]);
    let lsn = all[2]["lsn"].as_str().context("a position")?;
    assert_eq!(keys(&peek(settings, &["--lsn", lsn]).await?), ["c", "d"]);
    let end: String = session.value("SELECT pg_current_wal_lsn()::text").await?;
    assert_eq!(keys(&peek(settings, &["--lsn", &end]).await?), [""; 0]);

    let before = refused(settings, &["--lsn", "0/1"]).await?;
    ensure!(
        before.contains("0/1 is before the position of slot"),
        "{before}"
    );
    let table = peek(settings, &["--from", "table"]).await?;
    assert_eq!(keys(&table), ["a", "b", "c", "d"]);
    assert_eq!(table[0]["lsn"], Value::Null);
    let neither = refused(settings, &["--from", "table", "--lsn", lsn]).await?;
    ensure!(neither.contains("the table would be read"), "{neither}");
    let polled = peek(&settings.polling(), &["--only-topic", "one"]).await?;
    assert_eq!(keys(&polled), ["a", "c"]);
    assert_eq!(polled[0]["lsn"], Value::Null, "as run would read");
    let text = command(settings, &["peek", "--count", "1"], LIMIT).await?;
    let text = String::from_utf8(text.stdout)?;
    for line in [
        "topic        one",
        "key          a",
        "partition    by key",
        "raise --count",
    ] {
        ensure!(text.contains(line), "{line}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_value_is_cut_and_a_refused_event_has_its_reason() -> Result<()> {
    let (fixture, session) = waiting(postgres::shared(postgres::turn(17))).await?;
    let settings = &fixture.settings;
    session
        .batch_execute(
            "DELETE FROM outbox.outbox;
             INSERT INTO outbox.outbox (event_type, topic, event_payload)
                 VALUES ('long', 'one', to_jsonb(repeat('ö', 300))), ('bad', 'no topic', '{}');
             INSERT INTO outbox.dead_letter (system_id, outbox_id, payload_sha256, error_code,
                                             error, state, event_created_at)
                 SELECT '1', id::text, '', 'TOPIC_INVALID', 'e', 'dead', created_at::text
                   FROM outbox.outbox WHERE event_type = 'bad'",
        )
        .await?;
    let shown = peek(settings, &["--from", "slot"]).await?;
    let [.., long, bad] = shown.as_slice() else {
        anyhow::bail!("{shown:?}");
    };
    let value = long["value"].as_str().context("a value")?;
    assert_eq!(value.chars().count(), 200);
    assert_eq!(long["value_bytes"], 602);
    assert_eq!(long["is_cut"], true);
    assert_eq!(long["refused"], Value::Null);
    assert_eq!(bad["refused"]["code"], "TOPIC_INVALID");
    assert_eq!(bad["dead_letter"]["state"], "dead");
    let whole = peek(settings, &["--full", "--only-topic", "one"]).await?;
    let value = whole.last().and_then(|it| it["value"].as_str());
    assert_eq!(value.map(|it| it.chars().count()), Some(302));
    // The table's readers leave out what has an open dead letter.
    assert_eq!(keys(&peek(settings, &["--from", "table"]).await?), ["long"]);
    let text = command(settings, &["peek"], LIMIT).await?;
    let text = String::from_utf8(text.stdout)?;
    for part in [
        "refused      TOPIC_INVALID: ",
        "dead letter  1, dead, TOPIC_INVALID",
        "602 bytes",
    ] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_missing_lost_or_not_to_be_copied_is_an_error_that_says_so() -> Result<()> {
    for major in MAJORS {
        let config = ["max_slot_wal_keep_size = 16MB", "max_replication_slots = 1"];
        let server = postgres::private(major, &config)?;
        let database = Database::create(&server).await?;
        let settings = Settings::new(&database, kafka::shared())?;
        init(&settings).await?;
        let session = database.connect().await?;
        let slot = format!("outboxd_{}", database.name);
        let missing = refused(&settings, &["--from", "slot"]).await?;
        ensure!(
            missing.contains(&format!("slot {slot} does not exist")),
            "{missing}"
        );
        database.insert("a", "one", "{}").await?;
        assert_eq!(keys(&peek(&settings, &[]).await?), ["a"], "from the table");

        create_slot(&session, &slot).await?;
        database.insert("b", "one", "{}").await?;
        let full = refused(&settings, &[]).await?;
        ensure!(full.contains("max_replication_slots"), "{full}");

        let role = database.create_role("reader", "").await?;
        let url = database.url_as(&role);
        let reader = settings.clone().set("DATABASE_URL", url);
        session
            .batch_execute(&format!(
                "GRANT USAGE ON SCHEMA outbox TO {role}; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO {role}"
            ))
            .await?;
        let rights = refused(&reader, &[]).await?;
        ensure!(rights.contains("REPLICATION"), "{rights}");
        let keys_of = peek(&reader, &["--from", "table"]).await?;
        assert_eq!(keys(&keys_of), ["a", "b"]);

        for _ in 0..4 {
            session
                .batch_execute(
                    "SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS t (); CHECKPOINT",
                )
                .await?;
            session.batch_execute("DROP TABLE t").await?;
        }
        let lost = refused(&settings, &[]).await?;
        ensure!(lost.contains(&format!("slot {slot} is lost")), "{lost}");
        ensure!(lost.contains("--from table"), "{lost}");
    }
    Ok(())
}
