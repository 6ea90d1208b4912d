//! Settings of the database and the role change nothing of what outboxd sends and receives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, Database, MAJORS, Session};
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(90);

const HOSTILE: [&str; 24] = [
    "standard_conforming_strings = off",
    "quote_all_identifiers = on",
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "default_transaction_deferrable = on",
    "bytea_output = escape",
    "\"DateStyle\" = 'SQL, DMY'",
    "\"IntervalStyle\" = 'sql_standard'",
    "extra_float_digits = -15",
    "\"TimeZone\" = 'Asia/Kathmandu'",
    "client_encoding = 'LATIN1'",
    "array_nulls = off",
    "transform_null_equals = on",
    "xmlbinary = hex",
    "escape_string_warning = on",
    "backslash_quote = off",
    "client_min_messages = debug1",
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '100ms'",
    "row_security = on",
    "plan_cache_mode = force_generic_plan",
    "synchronous_commit = off",
];

/// Sets them all for the role, for the database, and for the role in the database.
async fn make_hostile(database: &Database, role: &str, major: u32) -> Result<()> {
    let name = &database.name;
    let session = database.connect().await?;
    let later = (major >= 17).then_some("transaction_timeout = '900ms'");
    for setting in HOSTILE.into_iter().chain(later) {
        for place in [
            format!("ALTER ROLE {role}"),
            format!("ALTER DATABASE {name}"),
            format!("ALTER ROLE {role} IN DATABASE {name}"),
        ] {
            let alter = format!("{place} SET {setting}");
            session.batch_execute(&alter).await.context(alter)?;
        }
    }
    Ok(())
}

async fn insert(session: &Session, topic: &str, payload: &str, key: &str) -> Result<i64> {
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload, region) \
               VALUES ('k', $1, decode($2, 'hex'), $3::text::timestamptz) RETURNING id";
    let row = session.query_one(sql, &[&topic, &payload, &key]).await?;
    Ok(row.try_get(0)?)
}

/// A session of the superuser that the settings of the database do not disturb.
async fn admin(database: &Database) -> Result<Session> {
    let options = "?options=-c%20statement_timeout%3D0%20-c%20default_transaction_read_only%3Doff\
                   %20-c%20lock_timeout%3D0%20-c%20idle_session_timeout%3D0\
                   %20-c%20standard_conforming_strings%3Don\
                   %20-c%20default_transaction_isolation%3Dread%5C%20committed";
    Session::open(&format!("{}{options}", database.unix_url())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_role_and_database_say_all_sources_publish_the_same_records() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let database = &fixture.database;
        let role = format!("{}_publisher", database.name);
        let output = command(&fixture.settings, &["init", "--role", &role], LIMIT).await?;
        ensure!(output.status.success(), "{output:?}");
        let session = database.connect().await?;
        session
            .batch_execute(
                "ALTER TABLE outbox.outbox ALTER event_payload TYPE bytea \
                       USING convert_to(event_payload::text, 'UTF8'), ADD region timestamptz",
            )
            .await?;
        make_hostile(database, &role, major).await?;
        // Twice the same host: both connections choose one that accepts writes.
        let url = database.url_as(&role);
        let (user, rest) = url.split_once('@').context("a role")?;
        let (host, name) = rest.split_once('/').context("a database")?;
        let url = format!("{user}@{host},{host}/{name}?target_session_attrs=read-write");
        let settings = fixture
            .settings
            .clone()
            .set("DATABASE_URL", url)
            .set("OUTBOX_KEY", "column:region")
            .set("OUTBOX_AUDIT_INTERVAL", "1s");
        publish_everywhere(&fixture, &settings).await?;
        // Preparing it again under these settings finds everything as it is.
        let owner = fixture.settings.clone().set("OUTBOX_KEY", "column:region");
        let output = command(&owner, &["init"], LIMIT).await?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && stdout.contains("ready"),
            "{output:?}"
        );
        let status = command(&settings, &["status"], LIMIT).await?;
        let stdout = String::from_utf8_lossy(&status.stdout);
        ensure!(stdout.contains("unpublished rows  0"), "{status:?}");
    }
    Ok(())
}

/// A first start with a backlog, the stream, the audit, a retried dead letter, and polling.
async fn publish_everywhere(fixture: &Fixture<'_>, settings: &Settings) -> Result<()> {
    let (database, topic) = (&fixture.database, &fixture.topic);
    let (payload, region) = ("5c00ff27c3b6", "2024-05-06 07:08:09.1+02");
    let admin = admin(database).await?;
    let marked = async || {
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        wait_for("every row to be marked", LIMIT, async || {
            Ok((admin.value::<i64>(left).await? == 0).then_some(()))
        })
        .await
    };
    insert(&admin, topic, payload, region).await?;
    let mut outboxd = Outboxd::spawn(settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert(&admin, topic, payload, region).await?;
    let dead = insert(&admin, "no such topic", payload, region).await?;
    let filed = "SELECT count(*) = 1 FROM outbox.dead_letter WHERE state = 'dead'";
    wait_for("the dead letter", LIMIT, async || {
        Ok(admin.value::<bool>(filed).await?.then_some(()))
    })
    .await?;
    let mend = "UPDATE outbox.outbox SET topic = $1 WHERE id = $2";
    admin.execute(mend, &[topic, &dead]).await?;
    let retry = command(settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    marked().await?;
    let again = "UPDATE outbox.outbox SET published_at = NULL WHERE id = 1";
    admin.batch_execute(again).await?;
    marked().await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let polling = settings.clone().set("OUTBOX_SOURCE", "poll");
    let mut outboxd = Outboxd::spawn(&polling)?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    insert(&admin, topic, payload, region).await?;
    marked().await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    let read = fixture.kafka.consume_all(&[topic]).await?;
    let mut ids: Vec<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 1, 2, 3, 4]);
    for record in &read {
        let value = record.value.as_deref();
        assert_eq!(value, Some(b"\x5c\x00\xff\x27\xc3\xb6".as_slice()));
        assert_eq!(
            record.key.as_deref(),
            Some(b"2024-05-06 05:08:09.1+00".as_slice())
        );
    }
    Ok(())
}
