//! What an earlier version left behind: its dead-letter table, by its shape and by its name.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS};

const LIMIT: Duration = Duration::from_secs(60);

/// Takes away what this version has added to the table of dead letters.
const EARLIER: &str = "
    ALTER TABLE outbox.dead_letter DROP COLUMN table_oid;
    DO $$
    DECLARE
        new regclass;
    BEGIN
        FOR new IN SELECT indexrelid::regclass FROM pg_index
                    WHERE indrelid = 'outbox.dead_letter'::regclass
                      AND pg_get_indexdef(indexrelid) LIKE '%hashtextextended%'
        LOOP
            EXECUTE format('DROP INDEX %s', new);
        END LOOP;
    END $$;
    CREATE UNIQUE INDEX ON outbox.dead_letter (system_id, outbox_id, payload_sha256)
        WHERE outbox_id IS NOT NULL";

/// The unique indexes that speak of rows, as they are defined.
const INDEXES: &str = "SELECT string_agg(pg_get_indexdef(indexrelid), E'\\n') FROM pg_index \
                        WHERE indrelid = 'outbox.dead_letter'::regclass AND indisunique \
                          AND pg_get_indexdef(indexrelid) LIKE '%outbox_id, payload_sha256%'";

const DEAD: &str = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead'";
const RETRIED: &str = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'retried'";

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_letters_of_an_earlier_version_are_kept_and_name_their_rows() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let late = format!("{}_late", fixture.topic);
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let dead = fixture.database.insert("dead", &late, "{}").await?;
        outboxd.wait_for_value(&session, DEAD, 1, LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        session.batch_execute(EARLIER).await?;
        // Until then it is named, and no event is sent.
        let refused = Outboxd::spawn(&fixture.settings)?;
        let code = refused.wait(LIMIT).await?;
        let log = refused.log();
        ensure!(code == 2 && log.contains("outboxd init"), "{code}: {log}");
        for _ in 0..2 {
            init(&fixture.settings).await?;
        }
        let indexes: String = session.value(INDEXES).await?;
        ensure!(
            indexes.lines().count() == 1 && indexes.contains("hashtextextended"),
            "{indexes}"
        );
        fixture.kafka.create_topic(&late, 1, &[]).await?;
        outboxd.respawn()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        outboxd.wait_for_value(&session, DEAD, 1, LIMIT).await?;
        let retry = ["dead-letter", "retry", "--all"];
        let retry = command(&fixture.settings, &retry, LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        outboxd.wait_for_value(&session, RETRIED, 1, LIMIT).await?;
        fixture.all_marked(LIMIT).await?;
        let sent = fixture.kafka.consume_all(&[&late]).await?;
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].outbox_id(), Some(dead));
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

/// A name that leaves no room for the suffix was cut without a digest.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_by_the_name_of_an_earlier_version_is_found_and_can_be_renamed() -> Result<()> {
    let database = Database::create_empty(postgres::shared(postgres::turn(17))).await?;
    let kafka = kafka::shared();
    let table = format!("{}_orders", "e".repeat(50));
    let settings = Settings::new(&database, kafka)?.set("OUTBOX_TABLE", format!("outbox.{table}"));
    init(&settings).await?;
    let session = database.connect().await?;
    let name = "SELECT relname::text FROM pg_class WHERE relname LIKE '%dead_letter' \
                   AND relkind = 'r' AND relnamespace = 'outbox'::regnamespace";
    let now: String = session.value(name).await?;
    let earlier = format!("{}_dead_letter", "e".repeat(50) + "_");
    ensure!(now != earlier && now.len() <= 63, "{now}");
    let rename = format!("ALTER TABLE outbox.{now} RENAME TO {earlier}");
    session.batch_execute(&rename).await?;
    let refused = Outboxd::spawn(&settings)?;
    let code = refused.wait(LIMIT).await?;
    let log = refused.log();
    let (_, hint) = log.split_once("first ALTER TABLE ").unwrap_or_default();
    let (statement, _) = hint
        .split_once("; then run `outboxd init`")
        .unwrap_or_default();
    ensure!(code == 2 && !statement.is_empty(), "{code}: {log}");
    // Inside a quoted log line, quotation marks are escaped.
    let statement = format!("ALTER TABLE {}", statement.replace("\\\"", "\""));
    session.batch_execute(&statement).await?;
    assert_eq!(session.value::<String>(name).await?, now);
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// Without a time of creation, the table and the payload name the row beside its id.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_of_creation_a_dead_letter_is_still_not_that_of_a_new_row() -> Result<()> {
    for (major, source) in [(MAJORS[0], "poll"), (MAJORS[1], "slot")] {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let (database, topic) = (&fixture.database, &fixture.topic);
        let session = database.connect().await?;
        session
            .batch_execute("ALTER TABLE outbox.outbox DROP COLUMN created_at")
            .await?;
        let settings = fixture.settings.clone().set("OUTBOX_SOURCE", source);
        let late = format!("{topic}_late");
        let mut outboxd = Outboxd::spawn(&settings)?;
        let phase = if source == "poll" {
            "polling"
        } else {
            "streaming"
        };
        outboxd.wait_for_phase(phase, LIMIT).await?;
        database.insert("dead", &late, "{\"old\": 1}").await?;
        database.insert("dead", &late, "{\"old\": 2}").await?;
        outboxd.wait_for_value(&session, DEAD, 2, LIMIT).await?;
        // The same payload in the same table cannot be told from the old row; another can.
        session
            .batch_execute("TRUNCATE outbox.outbox RESTART IDENTITY")
            .await?;
        database.insert("new", topic, "{\"new\": 1}").await?;
        database.all_marked(LIMIT).await?;
        fixture.kafka.create_topic(&late, 1, &[]).await?;
        let retry = command(&settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        outboxd.wait_for_value(&session, RETRIED, 2, LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let values = async |topic: &str| -> Result<Vec<String>> {
            let read = fixture.kafka.consume_all(&[topic]).await?;
            let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap_or_default());
            let values: Result<Vec<String>, _> =
                read.into_iter().map(|record| text(record.value)).collect();
            Ok(values?)
        };
        assert_eq!(values(topic).await?, ["{\"new\": 1}"]);
        let mut old = values(&late).await?;
        old.sort();
        assert_eq!(old, ["{\"old\": 1}", "{\"old\": 2}"]);
    }
    Ok(())
}
