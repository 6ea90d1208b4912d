//! Two log-ins: the one for replication may stream and nothing else, the one for statements may
//! neither create nor read a slot. What each can and cannot do is what docs/security.md says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, Database, MAJORS, Session, turn};

const LIMIT: Duration = Duration::from_secs(60);

/// A database that `init` has prepared for two roles, and their names.
struct TwoLogins {
    database: Database,
    settings: Settings,
    sql: String,
    stream: String,
}

impl TwoLogins {
    async fn create(major: u32) -> Result<TwoLogins> {
        let database = Database::create(postgres::shared(major)).await?;
        let (sql, stream) = (
            format!("{}_sql", database.name),
            format!("{}_stream", database.name),
        );
        let settings = Settings::new(&database, kafka::shared())?;
        let arguments = ["init", "--role", &sql, "--replication-role", &stream];
        let made = command(&settings, &arguments, LIMIT).await?;
        let said = String::from_utf8([made.stdout, made.stderr].concat())?;
        ensure!(made.status.success(), "{said}");
        let again = command(&settings, &arguments, LIMIT).await?;
        let said = String::from_utf8([again.stdout, again.stderr].concat())?;
        ensure!(!said.contains("created"), "{said}");
        let settings = settings
            .set("DATABASE_URL", database.url_as(&sql))
            .set("REPLICATION_URL", database.url_as(&stream));
        Ok(TwoLogins {
            database,
            settings,
            sql,
            stream,
        })
    }

    /// Both roles own nothing but their rights.
    async fn drop_roles(&self) -> Result<()> {
        let (sql, stream) = (&self.sql, &self.stream);
        let drop = format!("DROP OWNED BY {sql}, {stream}; DROP ROLE {sql}, {stream}");
        self.database.connect().await?.batch_execute(&drop).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logins_publish_heal_and_stop_as_one_does() -> Result<()> {
    for major in MAJORS {
        let two = TwoLogins::create(major).await?;
        let database = &two.database;
        let topic = kafka::shared().topic("events", 2).await?;
        let oracle = Oracle::create(database).await?;
        database.fill(&topic, 50).await?;
        let mut outboxd = Outboxd::spawn(&two.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        database.insert("live", &topic, "{}").await?;
        database.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        // The slot is lost: the next start creates it again.
        let drop = format!(
            "SELECT pg_drop_replication_slot('outboxd_{}')",
            database.name
        );
        database.connect().await?.batch_execute(&drop).await?;
        database.insert("missed", &topic, "{}").await?;
        outboxd.respawn()?;
        database.all_marked(LIMIT).await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let examined = command(&two.settings, &["doctor"], LIMIT).await?;
        let said = String::from_utf8(examined.stdout)?;
        ensure!(!said.contains("fails"), "{said}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = kafka::shared().consume_all(&[&topic]).await?;
        check(&oracle.committed().await?, &consumed).expect_exact()?;
        // The publication belongs to the role that ran `init`.
        let dropped = command(&two.settings, &["drop", "--yes"], LIMIT).await?;
        let said = String::from_utf8(dropped.stderr)?;
        ensure!(said.contains("publication"), "{said}");
        let of_owner = two
            .settings
            .clone()
            .set("DATABASE_URL", database.unix_url());
        let dropped = command(&of_owner, &["drop", "--yes"], LIMIT).await?;
        let said = String::from_utf8([dropped.stdout, dropped.stderr].concat())?;
        ensure!(said.contains("dropped   replication slot"), "{said}");
        two.drop_roles().await?;
    }
    Ok(())
}

async fn refusal(session: &Session, sql: &str) -> Result<String> {
    let refused = session.batch_execute(sql).await;
    let error = refused.err().with_context(|| format!("{sql} was run"))?;
    let state = error.code().map(|code| code.code().to_owned());
    Ok(state.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_login_can_do_its_own_part_and_not_the_others() -> Result<()> {
    const DENIED: &str = "42501";
    for major in MAJORS {
        let two = TwoLogins::create(major).await?;
        let database = &two.database;
        let id = database.insert("one", "orders", "{}").await?;
        let sql = Session::open(&database.url_as(&two.sql)).await?;
        let stream = Session::open(&database.url_as(&two.stream)).await?;
        sql.batch_execute("SELECT * FROM outbox.outbox").await?;
        let mark = format!("UPDATE outbox.outbox SET published_at = now() WHERE id = {id}");
        sql.batch_execute(&mark).await?;
        for statement in [
            "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')".to_owned(),
            "SELECT pg_drop_replication_slot('other')".to_owned(),
            format!("SET ROLE {}", two.stream),
            "DELETE FROM outbox.outbox".to_owned(),
            "UPDATE outbox.outbox SET event_payload = '{}'".to_owned(),
            "INSERT INTO outbox.outbox (event_type, topic, event_payload)
             VALUES ('a', 'b', '{}')"
                .to_owned(),
        ] {
            assert_eq!(refusal(&sql, &statement).await?, DENIED, "{statement}");
        }
        let walsender = database.url_as(&two.sql) + "?replication=database";
        ensure!(walsender_starts(&walsender).await.is_err());
        for statement in [
            "SELECT * FROM outbox.outbox",
            "SELECT * FROM outbox.dead_letter",
            "UPDATE outbox.outbox SET published_at = now()",
        ] {
            assert_eq!(refusal(&stream, statement).await?, DENIED, "{statement}");
        }
        // REPLICATION is a right on the whole server: docs/security.md says so.
        let slot = format!("{}_any", database.name);
        let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        stream.batch_execute(&make).await?;
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        stream.batch_execute(&drop).await?;
        drop_sessions(sql, stream);
        two.drop_roles().await?;
    }
    Ok(())
}

fn drop_sessions(sql: Session, stream: Session) {
    drop((sql, stream));
}

/// Whether the server lets this login begin a replication session.
async fn walsender_starts(url: &str) -> Result<()> {
    use outboxd::config::{Config, Settings};
    use outboxd::replication::{ReplicationClient, SessionOptions};
    let settings = Settings {
        database_url: Some(url.replace("?replication=database", "")),
        ..Settings::default()
    };
    let config = Config::without_kafka(settings)?;
    let options = SessionOptions {
        wal_sender_timeout: LIMIT,
        idle_session_timeout: LIMIT,
        command_timeout: LIMIT,
        application_name: "outboxd test".into(),
    };
    ReplicationClient::connect(&config.database, &options).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_for_replication_that_may_not_replicate_is_named() -> Result<()> {
    let two = TwoLogins::create(turn(17)).await?;
    let alter = format!("ALTER ROLE {} NOREPLICATION", two.stream);
    two.database.connect().await?.batch_execute(&alter).await?;
    let ended = command(&two.settings, &["run"], LIMIT).await?;
    let said = String::from_utf8(ended.stderr)?;
    assert_eq!(ended.status.code(), Some(2), "{said}");
    ensure!(
        said.contains(&format!("role {} may not replicate", two.stream)),
        "{said}"
    );
    ensure!(
        said.contains(&format!("ALTER ROLE \"{}\" REPLICATION", two.stream)),
        "{said}"
    );
    two.drop_roles().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_that_takes_the_lock_is_named_whatever_it_calls_itself() -> Result<()>
{
    let two = TwoLogins::create(turn(15)).await?;
    let database = &two.database;
    let topic = kafka::shared().topic("events", 1).await?;
    // Its locks, as a running instance shows them to every role.
    let mut outboxd = Outboxd::spawn(&two.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let admin = database.connect().await?;
    let keys = "SELECT string_agg(
                    CASE WHEN objsubid = 1
                         THEN format('pg_try_advisory_lock(%s)',
                                     (classid::bigint << 32 | objid::bigint))
                         ELSE format('pg_try_advisory_lock(%s, %s)',
                                     classid::bigint::bit(32)::int, objid::bigint::bit(32)::int)
                    END, ', ')
                  FROM pg_locks
                 WHERE locktype = 'advisory' AND database = (
                           SELECT oid FROM pg_database WHERE datname = current_database())";
    let locks: String = admin.value(keys).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let stranger = database.create_role("stranger", "").await?;
    let session = Session::open(&database.url_as(&stranger)).await?;
    let take = format!("SET application_name = 'outboxd'; SELECT {locks}");
    session.batch_execute(&take).await?;
    outboxd.respawn()?;
    let named = outboxd.wait_for_status("the stranger to be named", LIMIT, |status| {
        status["waiting"]["on"] == "foreign-lock"
            && status["waiting"]["detail"].to_string().contains(&stranger)
    });
    named.await?;
    drop(session);
    database.insert("held", &topic, "{}").await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    admin
        .batch_execute(&format!("DROP ROLE {stranger}"))
        .await?;
    two.drop_roles().await
}
