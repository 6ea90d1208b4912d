//! How a service writes to the outbox: the crate's `Writer`, and the files of `sql/`.

use std::error::Error as _;

use anyhow::{Context, Result};
use outboxd::error::Code;
use outboxd::outbox::{NewEvent, Writer};
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::support::postgres::{self, Database, Session};

const SCHEMA: &str = include_str!("../../sql/schema.sql");
const DEAD_LETTER: &str = include_str!("../../sql/dead_letter.sql");
const PUBLICATION: &str = include_str!("../../sql/publication.sql");
const ROLE: &str = concat!(
    include_str!("../../sql/role.sql"),
    include_str!("../../sql/role_replication.sql")
);
const WRITE_EVENT: &str = include_str!("../../sql/write_event.sql");
const WRITE_EVENT_HEADERS: &str = include_str!("../../sql/write_event_headers.sql");
const CHECKS: &str = include_str!("../../sql/checks.sql");

/// This many numbers `1e131071` print as more than 10 MiB, from less than a kilobyte of JSON.
const SMALL_BUT_LARGE: usize = 81;

fn numbers(count: usize) -> String {
    format!("[{}]", vec!["1e131071"; count].join(","))
}

/// A file of `sql/` filled in with the usual names and this database's own role.
fn filled(sql: &str, database: &Database) -> String {
    sql.replace("{{schema}}", "\"outbox\"")
        .replace("{{table}}", "\"outbox\".\"outbox\"")
        .replace("{{dead_letter}}", "\"outbox\".\"dead_letter\"")
        .replace("{{publication}}", "\"outboxd\"")
        .replace("{{function}}", "\"write_event\"")
        .replace("{{key}}", "\"key\"")
        .replace("{{role}}", &role(database))
}

fn role(database: &Database) -> String {
    format!("\"{}_least\"", database.name)
}

async fn rows(session: &Session) -> Result<i64> {
    session.value("SELECT count(*) FROM outbox.outbox").await
}

#[tokio::test]
async fn an_event_is_there_if_its_transaction_commits_and_not_otherwise() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let mut session = database.connect().await?;
    let writer = Writer::new("outbox.outbox")?;
    let order = json!({ "number": 7, "a": [1.50, "ö"] });
    let event = NewEvent::new("OrderCreated", "orders", &order);

    let transaction = session.transaction().await?;
    writer.write_event(&transaction, &event).await?;
    transaction.rollback().await?;
    assert_eq!(rows(&session).await?, 0);

    let transaction = session.transaction().await?;
    let id = writer.write_event(&transaction, &event).await?;
    let text = NewEvent::new("OrderPaid", "orders", r#"{"b": 1, "a": 1.50}"#);
    let next = writer.write_event(&transaction, &text).await?;
    transaction.commit().await?;
    assert!(next > id);
    let written = session
        .query(
            "SELECT id, event_type, topic, event_payload::text, published_at IS NULL
             FROM outbox.outbox ORDER BY id",
            &[],
        )
        .await?;
    let written: Vec<(i64, String, String, String, bool)> = written
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect();
    let expected = [
        (id, "OrderCreated", r#"{"a": [1.5, "ö"], "number": 7}"#),
        (next, "OrderPaid", r#"{"a": 1.50, "b": 1}"#),
    ]
    .map(|(id, kind, json)| {
        (
            id,
            kind.to_owned(),
            "orders".to_owned(),
            json.to_owned(),
            true,
        )
    });
    assert_eq!(written, expected);
    Ok(())
}

#[tokio::test]
async fn a_prepared_writer_writes_the_same_and_is_parsed_once() -> Result<()> {
    let server = postgres::private(postgres::turn(17), &["log_min_duration_statement = 0"])?;
    let database = Database::create(&server).await?;
    let mut session = database.connect().await?;
    let parsed = || {
        let log = server.log();
        log.lines().filter(|line| line.contains(" parse ")).count()
    };
    let writer = Writer::new("outbox.outbox")?;
    let prepared = writer.prepare(&*session).await?;
    let event = NewEvent::new("OrderCreated", "orders", r#"{"a": 1.50}"#);
    for _ in 0..20 {
        let transaction = session.transaction().await?;
        prepared.write_event(&transaction, &event).await?;
        transaction.commit().await?;
    }
    assert_eq!(parsed(), 1, "prepared once");
    writer.write_event(&*session, &event).await?;
    assert_eq!(parsed(), 2, "parsed for each event");
    let same = "SELECT count(DISTINCT (event_type, topic, event_payload)) FROM outbox.outbox";
    assert_eq!(
        (rows(&session).await?, session.value(same).await?),
        (21, 1_i64)
    );
    let large = numbers(SMALL_BUT_LARGE);
    for payload in [large.as_str(), "{"] {
        let refused = NewEvent::new("OrderCreated", "orders", payload);
        let error = prepared.write_event(&*session, &refused).await.unwrap_err();
        assert_eq!(error.code(), Code::Write, "{}", error.report());
    }
    let elsewhere = Writer::new("outbox.missing")?;
    let error = elsewhere.prepare(&*session).await.unwrap_err();
    assert_eq!(error.code(), Code::Config, "{}", error.report());
    Ok(())
}

#[tokio::test]
async fn headers_and_a_key_go_with_an_event_where_the_table_has_them() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let session = database.connect().await?;
    let plain = NewEvent::new("OrderCreated", "orders", "{}");
    let traced = plain.with_headers(r#"{"traceparent": "00-1"}"#);
    let json = json!({ "tenant": 7 });
    let key = "6c84fb90-12c4-11e1-840d-7b25c5ee775a";
    let (writer, keyed) = (Writer::new("outbox.outbox")?, Writer::new("outbox.outbox")?);
    let keyed = keyed.with_key_column("order id");
    // The poller's table takes events without either, and no others.
    writer.write_event(&*session, &plain).await?;
    keyed.write_event(&*session, &plain).await?;
    let error = writer.write_event(&*session, &traced).await.unwrap_err();
    assert!(error.report().contains("42703"), "{}", error.report());
    session
        .batch_execute("ALTER TABLE outbox.outbox ADD headers jsonb, ADD \"order id\" uuid")
        .await?;
    let prepared = keyed.prepare(&*session).await?;
    for event in [
        plain,
        traced,
        plain.with_key(key),
        traced.with_key(key),
        plain.with_headers(&json),
    ] {
        keyed.write_event(&*session, &event).await?;
        prepared.write_event(&*session, &event).await?;
    }
    for (condition, expected) in [
        ("headers IS NULL AND \"order id\" IS NULL", 4_i64),
        ("headers ->> 'traceparent' = '00-1'", 4),
        (&format!("\"order id\" = '{key}'"), 4),
        ("headers = '{\"tenant\": 7}'", 2),
    ] {
        let count = format!("SELECT count(*) FROM outbox.outbox WHERE {condition}");
        assert_eq!(session.value::<i64>(&count).await?, expected, "{condition}");
    }
    let many: serde_json::Map<_, _> = (0..1_001).map(|i| (i.to_string(), json!(i))).collect();
    let (many, long) = (json!(many), "k".repeat((1 << 20) + 1));
    let list = json!([1]);
    for refused in [
        plain.with_headers("[1]"),
        plain.with_headers("{"),
        plain.with_headers(&list),
        plain.with_headers(&many),
        plain.with_key(&long),
    ] {
        let error = keyed.write_event(&*session, &refused).await.unwrap_err();
        assert_eq!(error.code(), Code::Write, "{}", error.report());
        assert!(error.hint().is_some(), "{}", error.report());
    }
    // A key that its column cannot take, and a writer that knows no column.
    let error = keyed.write_event(&*session, &plain.with_key("7")).await;
    assert!(error.unwrap_err().report().contains("22P02"));
    let error = writer.write_event(&*session, &plain.with_key(key)).await;
    assert!(error.unwrap_err().report().contains("with_key_column"));
    Ok(())
}

#[tokio::test]
async fn what_could_never_be_published_is_refused_and_the_transaction_goes_on() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let mut session = database.connect().await?;
    let writer = Writer::new("outbox.outbox")?;
    let transaction = session.transaction().await?;
    let large = numbers(SMALL_BUT_LARGE);
    assert!(large.len() < 1_000);
    let largest = format!("\"{}\"", "x".repeat(10 * 1024 * 1024 - 2));
    let too_large = format!("\"{}\"", "x".repeat(10 * 1024 * 1024 - 1));
    for (event_type, topic, payload) in [
        ("", "orders", "{}"),
        ("OrderCreated", "", "{}"),
        ("OrderCreated", "a b", "{}"),
        ("OrderCreated", "..", "{}"),
        ("OrderCreated", "orders", large.as_str()),
        ("OrderCreated", "orders", too_large.as_str()),
    ] {
        let event = NewEvent::new(event_type, topic, payload);
        let error = writer.write_event(&transaction, &event).await.unwrap_err();
        assert_eq!(error.code(), Code::Write, "{}", error.report());
        assert!(!error.is_transient(), "{}", error.report());
        assert!(
            error.hint().is_some() || error.source().is_some(),
            "{}",
            error.report()
        );
    }
    let event = NewEvent::new("OrderCreated", "orders", largest.as_str());
    writer.write_event(&transaction, &event).await?;
    transaction.commit().await?;
    assert_eq!(rows(&session).await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_reported_with_its_reason() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    let writer = Writer::new("outbox.outbox")?;
    for payload in ["{", r#""\u0000""#, &numbers(9_000)] {
        let event = NewEvent::new("OrderCreated", "orders", payload);
        let error = writer.write_event(&*session, &event).await.unwrap_err();
        assert_eq!(error.code(), Code::Write, "{}", error.report());
        assert!(!error.is_transient(), "{}", error.report());
        assert!(error.report().contains("SQLSTATE"), "{}", error.report());
    }
    assert_eq!(rows(&session).await?, 0);

    let elsewhere = Writer::new("outbox.\"No such table\"")?;
    let event = NewEvent::new("OrderCreated", "orders", "{}");
    let error = elsewhere.write_event(&*session, &event).await.unwrap_err();
    assert!(
        error.message().contains("outbox.No such table"),
        "{}",
        error.report()
    );
    assert_eq!(Writer::new("outbox").unwrap_err().code(), Code::Config);
    Ok(())
}

#[tokio::test]
async fn each_file_may_run_twice_on_a_database_with_or_without_the_table() -> Result<()> {
    for major in postgres::MAJORS {
        let server = postgres::shared(major);
        for database in [
            Database::create_empty(server).await?,
            Database::create(server).await?,
        ] {
            let session = database.connect().await?;
            for _ in 0..2 {
                for sql in [
                    SCHEMA,
                    DEAD_LETTER,
                    PUBLICATION,
                    ROLE,
                    WRITE_EVENT,
                    WRITE_EVENT_HEADERS,
                    CHECKS,
                ] {
                    session.batch_execute(&filled(sql, &database)).await?;
                }
            }
            let publication = session
                .query_one(
                    "SELECT pubinsert, pubupdate OR pubdelete OR pubtruncate, pubviaroot
                     FROM pg_publication WHERE pubname = 'outboxd'",
                    &[],
                )
                .await?;
            let flags: [bool; 3] = [publication.get(0), publication.get(1), publication.get(2)];
            assert_eq!(flags, [true, false, true]);
            let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'outbox'
                           AND indexdef LIKE '%WHERE (published_at IS NULL)'";
            assert_eq!(session.value::<i64>(indexes).await?, 2);
            drop_role(&session, &database).await?;
        }
    }
    Ok(())
}

async fn drop_role(session: &Session, database: &Database) -> Result<()> {
    let role = role(database);
    let sql = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    session.batch_execute(&sql).await?;
    Ok(())
}

#[tokio::test]
async fn the_function_writes_events_and_says_why_it_refuses_one() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    session
        .batch_execute(&filled(WRITE_EVENT, &database))
        .await?;
    let id: i64 = session
        .value("SELECT outbox.write_event('OrderCreated', 'orders', '{\"b\": 1, \"a\": 2}')")
        .await?;
    let written: String = session
        .value(&format!(
            "SELECT event_payload::text FROM outbox.outbox WHERE id = {id}"
        ))
        .await?;
    assert_eq!(written, r#"{"a": 2, "b": 1}"#);

    let wrong = SqlState::INVALID_PARAMETER_VALUE;
    let large = SqlState::PROGRAM_LIMIT_EXCEEDED;
    for (arguments, state, words) in [
        ("'', 'orders', '{}'", &wrong, "event type is empty"),
        ("NULL, 'orders', '{}'", &wrong, "event type is empty"),
        ("'a', '', '{}'", &wrong, "names no topic"),
        ("'a', 'a b', '{}'", &wrong, "'a b'"),
        ("'a', '..', '{}'", &wrong, "'..'"),
        ("'a', E'ab\\n', '{}'", &wrong, "does not take"),
        ("'a', repeat('x', 250), '{}'", &wrong, "does not take"),
        ("'a', 'b', NULL", &wrong, "no payload"),
        (
            "'a', 'b', to_jsonb(repeat('x', 10485759))",
            &large,
            "10485761 bytes",
        ),
        (
            &format!("'a', 'b', '{}'", numbers(SMALL_BUT_LARGE)),
            &large,
            "prints as",
        ),
        (
            &format!("'a', 'b', '{}'", numbers(9_000)),
            &large,
            "more than Postgres can hold",
        ),
    ] {
        let sql = format!("SELECT outbox.write_event({arguments})");
        let error = session.batch_execute(&sql).await.unwrap_err();
        let error = error.as_db_error().context("the server refuses")?;
        let arguments = &arguments[..arguments.len().min(80)];
        assert_eq!(error.code(), state, "{arguments}: {error}");
        assert!(error.message().contains(words), "{arguments}: {error}");
        assert!(error.hint().is_some(), "{arguments}: {error}");
    }
    assert_eq!(rows(&session).await?, 1);
    Ok(())
}

#[tokio::test]
async fn the_constraints_stop_new_rows_and_let_old_ones_be_marked() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    let insert = |kind: &str, topic: &str, payload: &str| {
        format!(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload)
             VALUES ('{kind}', '{topic}', '{payload}')"
        )
    };
    session
        .batch_execute(&insert("", "", &numbers(SMALL_BUT_LARGE)))
        .await?;
    session.batch_execute(&filled(CHECKS, &database)).await?;
    for (kind, topic, payload) in [
        ("", "b", "{}"),
        ("a", "", "{}"),
        ("a", "b", numbers(SMALL_BUT_LARGE).as_str()),
    ] {
        let error = session
            .batch_execute(&insert(kind, topic, payload))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION));
    }
    session.batch_execute(&insert("a", "b", "{}")).await?;
    let marked = session
        .execute(
            "UPDATE outbox.outbox SET published_at = now() WHERE published_at IS NULL",
            &[],
        )
        .await?;
    assert_eq!(marked, 2);
    Ok(())
}

#[tokio::test]
async fn the_role_can_publish_and_nothing_else() -> Result<()> {
    for major in postgres::MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        let admin = database.connect().await?;
        for sql in [DEAD_LETTER, PUBLICATION, ROLE] {
            admin.batch_execute(&filled(sql, &database)).await?;
        }
        database.insert("a", "b", "{}").await?;
        let name = role(&database).replace('"', "");
        let session = Session::open(&database.url_as(&name)).await?;
        let slot = format!("{}_slot", database.name);
        for sql in [
            "SELECT id FROM outbox.outbox WHERE published_at IS NULL FOR UPDATE SKIP LOCKED",
            "UPDATE outbox.outbox SET published_at = now(),
                    times_attempted = coalesce(times_attempted, 0) + 1",
            "INSERT INTO outbox.dead_letter (system_id, payload_sha256, error_code, error, state)
             VALUES ('1', '', 'a', 'b', 'dead')",
            "UPDATE outbox.dead_letter SET state = 'retry' WHERE state = 'dead'",
            "SELECT system_identifier FROM pg_control_system()",
            "SELECT timeline_id FROM pg_control_checkpoint()",
            "SELECT pg_postmaster_start_time(), pg_current_wal_insert_lsn()",
            "SELECT pg_xact_status(pg_current_xact_id())",
            "SELECT pg_try_advisory_lock(1)",
            &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"),
            &format!("SELECT pg_copy_logical_replication_slot('{slot}', '{slot}2')"),
            &format!("SELECT pg_drop_replication_slot('{slot}')"),
            &format!("SELECT pg_drop_replication_slot('{slot}2')"),
        ] {
            session
                .batch_execute(sql)
                .await
                .with_context(|| format!("{major}: {sql}"))?;
        }
        for sql in [
            "INSERT INTO outbox.outbox (event_type, topic, event_payload) VALUES ('a', 'b', '{}')",
            "UPDATE outbox.outbox SET event_payload = '{}'",
            "DELETE FROM outbox.outbox",
            "TRUNCATE outbox.outbox",
            "DELETE FROM outbox.dead_letter",
        ] {
            let error = session.batch_execute(sql).await.unwrap_err();
            assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{sql}"
            );
        }
        session.close().await;
        drop_role(&admin, &database).await?;
    }
    Ok(())
}
