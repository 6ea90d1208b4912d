//! Rows that the server cannot print, or prints too slowly or as no text: each is filed by
//! reference, and holds up no other, wherever the table is read.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::{self, Database, MAJORS, Server};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(90);

/// Inserts a row whose payload is stored outside of it, and returns its id.
async fn insert_toasted(database: &Database, topic: &str) -> Result<i64> {
    let session = database.connect().await?;
    let external = "ALTER TABLE outbox.outbox ALTER event_payload SET STORAGE EXTERNAL";
    session.batch_execute(external).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('damaged', $1, to_jsonb(repeat('damaged ', 20000))) RETURNING id";
    Ok(session.query_one(insert, &[&topic]).await?.try_get(0)?)
}

/// Overwrites everything that the table's rows store outside of them with zeros.
async fn damage(server: &mut Server, database: &Database) -> Result<()> {
    let session = database.connect().await?;
    let path: String = session
        .value(
            "SELECT pg_relation_filepath(reltoastrelid::regclass) FROM pg_class \
              WHERE oid = 'outbox.outbox'::regclass",
        )
        .await?;
    session.batch_execute("CHECKPOINT").await?;
    session.close().await;
    server.stop(Stop::Fast)?;
    let file = server.data_dir().join(path);
    let length = fs::metadata(&file)?.len();
    ensure!(length > 0, "nothing is stored there");
    fs::write(&file, vec![0; usize::try_from(length)?])?;
    server.resume()
}

/// Waits until this many rows are unpublished, and for the dead letters of these rows.
async fn expect_filed(fixture: &Fixture<'_>, outboxd: &Outboxd, ids: &[i64]) -> Result<()> {
    let session = fixture.database.connect().await?;
    let filed = "SELECT outbox_id::bigint, error_code, state, error FROM outbox.dead_letter \
                  WHERE state <> 'discarded' ORDER BY 1";
    wait_until(
        "the others to be marked, and the dead letters",
        LIMIT,
        async || {
            let left = fixture.database.unpublished().await?;
            let rows = session.query(filed, &[]).await?;
            let found: Vec<(i64, String, String, String)> = rows
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
                .collect();
            let expected = found.len() == ids.len()
                && found
                    .iter()
                    .zip(ids)
                    .all(|((row, code, state, error), id)| {
                        row == id
                            && code == "ROW_UNREADABLE"
                            && state == "dead"
                            && error.contains(&format!("row {id} of outbox.outbox"))
                    });
            Ok(match left == ids.len() as i64 && expected {
                true => Ok(()),
                false => Err(format!("{left} rows left, {found:?}: {}", outboxd.log())),
            })
        },
    )
    .await
}

async fn expect_sent_but(fixture: &Fixture<'_>, count: usize, ids: &[i64]) -> Result<()> {
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let sent: HashSet<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
    ensure!(sent.len() == count && read.len() == count, "{sent:?}");
    ensure!(ids.iter().all(|id| !sent.contains(id)), "{sent:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_value_costs_its_own_row_alone_in_poll_backlog_audit_and_retry() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let (database, topic) = (&fixture.database, &fixture.topic);
        let settings = fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s");
        database.fill(topic, 5).await?;
        let id = insert_toasted(database, topic).await?;
        database.fill(topic, 5).await?;
        damage(&mut server, database).await?;
        let session = database.connect().await?;

        let mut outboxd = Outboxd::spawn(&settings.polling())?;
        expect_filed(&fixture, &outboxd, &[id]).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

        let forget = "DELETE FROM outbox.dead_letter";
        session.batch_execute(forget).await?;
        database.fill(topic, 5).await?;
        let mut outboxd = Outboxd::spawn(&settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        expect_filed(&fixture, &outboxd, &[id]).await?;

        // The audit finds the row as soon as nothing hides it.
        session.batch_execute(forget).await?;
        expect_filed(&fixture, &outboxd, &[id]).await?;

        let retry = command(&settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        database.fill(topic, 5).await?;
        let again = "SELECT count(*) FROM outbox.dead_letter \
                      WHERE state = 'dead' AND jsonb_array_length(history) = 2";
        wait_until("the retry to be filed again", LIMIT, async || {
            Ok(match session.value::<i64>(again).await? {
                1 => Ok(()),
                _ => Err(outboxd.log()),
            })
        })
        .await?;
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        wait_until("the others to be marked", LIMIT, async || {
            Ok(match session.value::<i64>(left).await? {
                1 => Ok(()),
                left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
            })
        })
        .await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        expect_sent_but(&fixture, 20, &[id]).await?;
    }
    Ok(())
}

/// The rows in front of it fill the server's buffer, so some of them arrive before the time is up.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_takes_too_long_behind_large_rows_is_filed_and_the_others_go_on() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'large', $1, to_jsonb(repeat('x', 30000)) FROM generate_series(1, 4)";
    session.execute(insert, &[&fixture.topic]).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('huge', $1, ('[' || repeat('1e131071,', 8250) || '1e131071]')::jsonb) \
                  RETURNING id";
    let huge: i64 = session
        .query_one(insert, &[&fixture.topic])
        .await?
        .try_get(0)?;
    fixture.database.fill(&fixture.topic, 5).await?;
    let settings = fixture
        .settings
        .polling()
        .set("OUTBOX_OPERATION_TIMEOUT", "2s");
    let mut outboxd = Outboxd::spawn(&settings)?;
    expect_filed(&fixture, &outboxd, &[huge]).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    expect_sent_but(&fixture, 9, &[huge]).await
}

/// A cast without a function stores bytes that are no text, as a damaged page does.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_costs_its_own_row_alone_from_table_and_stream() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let (database, topic) = (&fixture.database, &fixture.topic);
        let session = database.connect().await?;
        session
            .batch_execute("CREATE CAST (bytea AS text) WITHOUT FUNCTION")
            .await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      VALUES ('\\xff41'::bytea::text, $1, '{}') RETURNING id";
        database.fill(topic, 5).await?;
        let first: i64 = session.query_one(insert, &[topic]).await?.try_get(0)?;
        database.fill(topic, 5).await?;
        let malformed = async |outboxd: &Outboxd, ids: &[i64]| {
            let filed = "SELECT array_agg(outbox_id::bigint ORDER BY id) FROM outbox.dead_letter \
                          WHERE state = 'dead' AND error_code = 'ROW_MALFORMED' \
                            AND error LIKE '%event_type that is not UTF-8%'";
            wait_until("the dead letters", LIMIT, async || {
                let found: Option<Vec<i64>> = session.value(filed).await?;
                let left = fixture.database.unpublished().await?;
                let expected = found.as_deref() == Some(ids) && left == ids.len() as i64;
                Ok(match expected {
                    true => Ok(()),
                    false => Err(format!("{left} left, {found:?}: {}", outboxd.log())),
                })
            })
            .await
        };
        let mut outboxd = Outboxd::spawn(&fixture.settings.polling())?;
        malformed(&outboxd, &[first]).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let second: i64 = session.query_one(insert, &[topic]).await?.try_get(0)?;
        database.fill(topic, 5).await?;
        malformed(&outboxd, &[first, second]).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        expect_sent_but(&fixture, 15, &[first, second]).await?;
    }
    Ok(())
}
