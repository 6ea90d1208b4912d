//! SQL on real servers: sessions, slots, publications, and the checks at the start.

use std::time::Duration;

use anyhow::{Context, Result};
use outboxd::config::{Config, Settings};
use outboxd::error::{Code, Error};
use outboxd::lsn::Lsn;
use outboxd::postgres::setup::Setup;
use outboxd::postgres::{self, Session, preflight, publication, slot, table_shape};
use tokio::net::TcpListener;

use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Database, MAJORS, private_with_password, shared, turn};
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(20);

fn config(url: &str, change: impl FnOnce(&mut Settings)) -> Result<Config> {
    let mut settings = Settings {
        database_url: Some(url.to_owned()),
        ..Settings::default()
    };
    change(&mut settings);
    Ok(Config::without_kafka(settings)?)
}

async fn open(url: &str) -> Result<Session> {
    let config = config(url, |_| ())?;
    Ok(postgres::connect(&config.database, "test", LIMIT).await?)
}

/// The error of a connection attempt.
async fn refusal(url: &str, limit: Duration) -> Result<Error> {
    let config = config(url, |_| ())?;
    let refused = postgres::connect(&config.database, "test", limit).await;
    refused.err().context("the connection was made")
}

/// A database prepared as by `init`, and the connection string of the role that `init` created.
async fn ready(major: u32) -> Result<(Database, String)> {
    let database = Database::create(shared(major)).await?;
    let role = database.create_role("relay", "REPLICATION").await?;
    let config = config(database.url(), |_| ())?;
    let session = open(database.url()).await?;
    let setup = Setup {
        config: &config,
        role: Some(&role),
        replication_role: None,
        checks: false,
        partitioned: None,
    };
    for step in setup.steps(true) {
        session.run(step.purpose, &step.sql).await?;
    }
    let url = database.url_as(&role);
    Ok((database, url))
}

async fn shape(session: &Session, config: &Config) -> Result<table_shape::TableShape> {
    table_shape::read(session, &config.table, &config.mapping)
        .await?
        .context("the table is there")
}

#[tokio::test]
async fn nothing_that_an_administrator_has_set_changes_a_session() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(shared(major)).await?;
        let name = &database.name;
        let hostile = format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on;
             ALTER DATABASE {name} SET default_transaction_isolation = 'serializable';
             ALTER DATABASE {name} SET statement_timeout = 1;
             ALTER DATABASE {name} SET lock_timeout = 1;
             ALTER DATABASE {name} SET idle_session_timeout = 1000;
             ALTER DATABASE {name} SET idle_in_transaction_session_timeout = 1;
             ALTER DATABASE {name} SET search_path = outbox;
             ALTER DATABASE {name} SET synchronous_commit = off;
             ALTER DATABASE {name} SET bytea_output = escape;
             ALTER DATABASE {name} SET DateStyle = 'German';
             ALTER DATABASE {name} SET IntervalStyle = 'iso_8601';
             ALTER DATABASE {name} SET extra_float_digits = 0;
             ALTER DATABASE {name} SET row_security = on;
             ALTER DATABASE {name} SET plan_cache_mode = force_generic_plan;
             ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'"
        );
        let admin = database.connect().await?;
        admin.batch_execute(&hostile).await?;
        let session = open(database.url()).await?;
        // New in Postgres 17.
        if major >= 17 {
            let later = format!("ALTER DATABASE {name} SET transaction_timeout = 1000");
            admin.batch_execute(&later).await?;
            let value = "SELECT pg_catalog.current_setting('transaction_timeout')";
            let fresh = open(database.url()).await?;
            let read = fresh.row("reading a setting", value, &[]).await?;
            assert_eq!(read.get::<_, String>(0), "0", "transaction_timeout");
        }
        for (setting, expected) in [
            ("default_transaction_read_only", "off"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_session_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            ("search_path", ""),
            ("synchronous_commit", "on"),
            ("row_security", "off"),
            ("bytea_output", "hex"),
            ("IntervalStyle", "postgres"),
            ("DateStyle", "ISO, DMY"),
            ("extra_float_digits", "3"),
            ("client_encoding", "UTF8"),
            ("plan_cache_mode", "force_custom_plan"),
            ("TimeZone", "Asia/Tokyo"),
        ] {
            let sql = "SELECT pg_catalog.current_setting($1)";
            let value: String = session
                .row("reading a setting", sql, &[&setting])
                .await?
                .get(0);
            assert_eq!(value, expected, "{setting} on {major}");
        }
        let date = session.row(
            "a date",
            "SELECT pg_catalog.make_date(2024, 5, 6)::text",
            &[],
        );
        assert_eq!(date.await?.get::<_, String>(0), "2024-05-06");
    }
    Ok(())
}

#[tokio::test]
async fn a_statement_without_an_answer_ends_in_time_and_ends_its_session() -> Result<()> {
    let database = Database::create(shared(turn(15))).await?;
    let config = config(database.url(), |_| ())?;
    let limit = Duration::from_millis(500);
    let session = postgres::connect(&config.database, "test", limit).await?;
    let pid = session.backend_pid();
    let error = session
        .run("sleeping", "SELECT pg_catalog.pg_sleep(60)")
        .await
        .err();
    let error = error.context("it did not run out of time")?;
    assert!(
        error.is_transient() && error.report().contains("no answer within"),
        "{error:?}"
    );
    tokio::time::timeout(LIMIT, session.closed()).await?;
    assert!(session.run("anything", "SELECT 1").await.is_err());
    let observer = database.connect().await?;
    wait_for("the server to end the statement", LIMIT, async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        Ok((observer.value::<i64>(&sql).await? == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_end_of_a_session_is_seen_at_once_with_the_servers_last_words() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(shared(major)).await?;
        let session = open(database.url()).await?;
        // A backend that exits with unread input resets the connection, and its last message is
        // lost.
        session.run("settling", "SELECT 1").await?;
        let kill = format!("SELECT pg_terminate_backend({})", session.backend_pid());
        assert!(database.connect().await?.value::<bool>(&kill).await?);
        tokio::time::timeout(LIMIT, session.closed()).await?;
        assert!(session.is_closed());
        let error = session.end_error("waiting");
        assert!(error.is_transient());
        assert!(error.report().contains("57P01"), "{}", error.report());
        let error = session
            .run("anything", "SELECT 1")
            .await
            .err()
            .context("it ran")?;
        assert!(error.report().contains("57P01"), "{}", error.report());
    }
    Ok(())
}

#[tokio::test]
async fn sessions_of_one_server_agree_on_who_it_is_whatever_their_time_zone() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(shared(major)).await?;
        let role = database.create_role("plain", "REPLICATION").await?;
        let zone = format!("ALTER ROLE {role} SET TimeZone = 'Asia/Tokyo'");
        let admin = database.connect().await?;
        admin.batch_execute(&zone).await?;
        let (first, second) = (
            open(database.url()).await?,
            open(&database.url_as(&role)).await?,
        );
        let (first, second) = (
            postgres::server(&first).await?,
            postgres::server(&second).await?,
        );
        assert_eq!(first, second);
        assert_eq!(first.version / 10_000, major);
        assert!(!first.in_recovery);
        assert_eq!(first.lineage.timeline, 1);
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        assert_eq!(
            admin.value::<String>(sql).await?,
            first.lineage.system_id.to_string()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_log_in_is_fatal_and_an_absent_server_is_not() -> Result<()> {
    let server = private_with_password(turn(15), "right")?;
    let url = server.url("postgres", "postgres");
    let wrong = url.replace("postgres@", "postgres:wrong@");
    let error = refusal(&wrong, LIMIT).await?;
    assert_eq!(
        (error.code(), error.is_transient()),
        (Code::Connect, false),
        "{error:?}"
    );
    assert!(error.report().contains("28P01") && !error.report().contains("wrong"));
    let missing = shared(turn(15)).url("no_such_database", "postgres");
    let error = refusal(&missing, LIMIT).await?;
    assert_eq!(
        (error.code(), error.is_transient()),
        (Code::Connect, false),
        "{error:?}"
    );
    assert!(error.report().contains("3D000"), "{}", error.report());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let closed = format!("postgresql://postgres@{}/postgres", listener.local_addr()?);
    drop(listener);
    let error = refusal(&closed, LIMIT).await?;
    assert_eq!(
        (error.code(), error.is_transient()),
        (Code::Connect, true),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_refuses_or_never_answers_does_not_keep_us_from_the_next() -> Result<()> {
    let database = Database::create(shared(turn(15))).await?;
    let (_, server) = database.url().split_once('@').context("a url")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let silent = listener.local_addr()?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    for first in [silent, closed] {
        let config = config(&format!("postgresql://postgres@{first},{server}"), |_| ())?;
        let limit = Duration::from_secs(2);
        let session = postgres::connect(&config.database, "test", limit).await?;
        assert!(!session.is_closed(), "{first}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_pooler_is_refused() -> Result<()> {
    let server = shared(turn(15));
    let database = Database::create(server).await?;
    let Some(pooler) = PgBouncer::before(server, &["pool_mode = transaction"]).await? else {
        return Ok(());
    };
    let url = pooler.url(&database.name, "postgres");
    let error = refusal(&url, LIMIT).await?;
    assert!(
        error.message().contains("is a connection pooler"),
        "{error:?}"
    );
    assert!(!error.is_transient());
    Ok(())
}

#[tokio::test]
async fn a_slot_of_another_database_or_kind_is_never_ours() -> Result<()> {
    for major in MAJORS {
        let ours = Database::create(shared(major)).await?;
        let theirs = Database::create(shared(major)).await?;
        let name = format!("{}_{}", ours.name, theirs.name);
        let make = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        theirs.connect().await?.batch_execute(&make).await?;
        let foreign_plugin = format!("{name}_decoding");
        let make = format!(
            "SELECT pg_create_logical_replication_slot('{foreign_plugin}', 'test_decoding')"
        );
        ours.connect().await?.batch_execute(&make).await?;
        let session = open(ours.url()).await?;
        for (slot, owner) in [
            (&name, &theirs.name),
            (&foreign_plugin, &"test_decoding".to_owned()),
        ] {
            let read = slot::read(&session, slot)
                .await
                .err()
                .context("it was read")?;
            assert_eq!(read.code(), Code::Config);
            assert!(read.message().contains(owner.as_str()), "{read:?}");
            assert!(slot::drop(&session, slot).await.is_err());
            assert!(slot::copy(&session, slot, "stolen").await.is_err());
            assert!(theirs.slot(slot).await?.is_some(), "{slot} is still there");
        }
        assert_eq!(slot::read(&session, "stolen").await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn a_copied_slot_stands_where_the_temporary_one_stood() -> Result<()> {
    for major in MAJORS {
        let (database, url) = ready(major).await?;
        let session = open(&url).await?;
        let maker = database.connect().await?;
        let (temporary, lasting) = (
            format!("{}_t", database.name),
            format!("{}_l", database.name),
        );
        let make = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput', true)";
        let made: String = maker.query_one(make, &[&temporary]).await?.try_get(0)?;
        let made: Lsn = made.parse()?;
        database.insert("created", "orders", "{}").await?;
        assert_eq!(slot::copy(&session, &temporary, &lasting).await?, made);
        let copy = slot::read(&session, &lasting)
            .await?
            .context("the copy is there")?;
        assert_eq!(copy.confirmed_flush, Some(made));
        assert!(!copy.temporary && !copy.is_lost() && copy.active_pid.is_none());
        assert!(copy.lag_bytes > 0 && copy.retained_bytes >= copy.lag_bytes);
        assert_eq!(copy.failover, (major >= 17).then_some(false));
        let busy = slot::drop(&session, &temporary)
            .await
            .err()
            .context("it was dropped")?;
        assert!(busy.is_transient() && busy.code() == Code::Slot, "{busy:?}");
        let (used, max) = slot::used_and_max(&session).await?;
        assert!(used >= 2 && max >= used);
        assert!(slot::drop(&session, &lasting).await?);
        assert!(!slot::drop(&session, &lasting).await?);
        drop(maker);
    }
    Ok(())
}

#[tokio::test]
async fn what_a_new_slot_waits_for_is_named_in_any_database() -> Result<()> {
    for major in MAJORS {
        let (database, url) = ready(major).await?;
        let other = Database::create(shared(major)).await?;
        let writer = other.connect().await?;
        writer.batch_execute("BEGIN; CREATE TABLE t ()").await?;
        let pid: i32 = writer.value("SELECT pg_backend_pid()").await?;
        let gid = format!("gid of {}", other.name);
        let prepare = format!("BEGIN; CREATE TABLE u (); PREPARE TRANSACTION '{gid}'");
        other.connect().await?.batch_execute(&prepare).await?;
        let named = slot::blockers(&open(&url).await?).await?;
        let open_one = format!("pid {pid} of database {}", other.name);
        let prepared = format!("prepared transaction '{gid}' of database {}", other.name);
        let names = |text: &str| named.iter().any(|line| line.starts_with(text));
        // Ended before any assertion can fail: every new slot of the server waits for it.
        let end = format!("ROLLBACK PREPARED '{gid}'");
        other.connect().await?.batch_execute(&end).await?;
        writer.batch_execute("ROLLBACK").await?;
        assert!(names(&open_one) && names(&prepared), "{named:?}");
        drop(database);
    }
    Ok(())
}

#[tokio::test]
async fn what_init_makes_is_all_that_a_plain_role_needs() -> Result<()> {
    for major in MAJORS {
        let (_database, url) = ready(major).await?;
        let config = config(&url, |_| ())?;
        let shape = preflight::check(&open(&url).await?, &config).await?;
        assert!(shape.id_is_integer() && shape.id_is_key && !shape.partitioned);
        assert!(shape.column("created_at").is_some());
    }
    Ok(())
}

#[tokio::test]
async fn a_start_names_each_thing_that_would_lose_or_hold_up_events() -> Result<()> {
    // What is done to a database that is ready, and what the check then says.
    let cases = [
        ("ALTER ROLE {role} NOREPLICATION", "may not replicate"),
        (
            "DROP TABLE outbox.outbox",
            "there is no table outbox.outbox",
        ),
        (
            "ALTER TABLE outbox.outbox DROP COLUMN topic",
            "has no column topic",
        ),
        (
            "ALTER TABLE outbox.outbox DROP COLUMN published_at",
            "has no column published_at",
        ),
        (
            "ALTER TABLE outbox.outbox RENAME event_type TO kind",
            "has no column event_type",
        ),
        (
            "ALTER TABLE outbox.outbox DROP CONSTRAINT outbox_pkey",
            "primary or unique key",
        ),
        (
            "ALTER TABLE outbox.outbox ALTER published_at TYPE date",
            "published_at has the type date",
        ),
        (
            "ALTER TABLE outbox.outbox DROP COLUMN event_type;
             ALTER TABLE outbox.outbox ADD event_type text GENERATED ALWAYS AS (topic) STORED",
            "event_type is a generated column",
        ),
        ("REVOKE SELECT ON outbox.outbox FROM {role}", "lacks SELECT"),
        (
            "REVOKE UPDATE (published_at) ON outbox.outbox FROM {role}",
            "lacks UPDATE",
        ),
        ("REVOKE USAGE ON SCHEMA outbox FROM {role}", "lacks USAGE"),
        (
            "ALTER TABLE outbox.outbox ENABLE ROW LEVEL SECURITY",
            "row-level security",
        ),
        (
            "DROP PUBLICATION outboxd",
            "there is no publication outboxd",
        ),
        (
            "ALTER PUBLICATION outboxd DROP TABLE outbox.outbox",
            "does not contain outbox.outbox",
        ),
        (
            "ALTER PUBLICATION outboxd SET (publish = 'update')",
            "does not publish inserts",
        ),
        (
            "ALTER PUBLICATION outboxd SET TABLE outbox.outbox (id, topic, published_at)",
            "leaves out event_type, event_payload",
        ),
        (
            "ALTER PUBLICATION outboxd SET TABLE outbox.outbox WHERE (topic = 'orders')",
            "hides events by its row filter",
        ),
        (
            "ALTER PUBLICATION outboxd SET TABLE outbox.outbox WHERE (published_at IS NULL);
             ALTER PUBLICATION outboxd SET (publish = 'insert, update')",
            "makes every update of outbox.outbox fail",
        ),
        (
            "ALTER TABLE outbox.outbox REPLICA IDENTITY NOTHING;
             ALTER PUBLICATION outboxd SET (publish = 'insert, delete')",
            "makes every update of outbox.outbox fail",
        ),
    ];
    for major in MAJORS {
        for (change, complaint) in cases {
            let (database, url) = ready(major).await?;
            let role = config(&url, |_| ())?.database.user().to_owned();
            let change = change.replace("{role}", &role);
            database
                .connect()
                .await?
                .batch_execute(&change)
                .await
                .context(change.clone())?;
            let config = config(&url, |_| ())?;
            let error = preflight::check(&open(&url).await?, &config).await.err();
            let report = error
                .with_context(|| format!("{change} passed on {major}"))?
                .report();
            assert!(report.contains(complaint), "{change} on {major}: {report}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn publications_that_let_every_event_through_are_taken_as_they_are() -> Result<()> {
    let cases = [
        "DROP PUBLICATION outboxd; CREATE PUBLICATION outboxd FOR ALL TABLES",
        "DROP PUBLICATION outboxd; CREATE PUBLICATION outboxd FOR TABLES IN SCHEMA outbox",
        "ALTER PUBLICATION outboxd SET (publish = 'insert, update, delete, truncate')",
        "ALTER PUBLICATION outboxd SET TABLE outbox.outbox WHERE (published_at IS NULL)",
        "ALTER PUBLICATION outboxd SET TABLE outbox.outbox
             (id, event_type, topic, event_payload, published_at)",
    ];
    for major in MAJORS {
        for change in cases {
            let (database, url) = ready(major).await?;
            database
                .connect()
                .await?
                .batch_execute(change)
                .await
                .context(change)?;
            let config = config(&url, |_| ())?;
            preflight::check(&open(&url).await?, &config)
                .await
                .context(change)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn several_errors_are_listed_together_and_a_single_one_keeps_its_hint() -> Result<()> {
    let (database, url) = ready(15).await?;
    let config = config(&url, |_| ())?;
    let admin = database.connect().await?;
    admin.batch_execute("DROP PUBLICATION outboxd").await?;
    let session = open(&url).await?;
    let one = preflight::check(&session, &config)
        .await
        .err()
        .context("it passed")?;
    assert_eq!(one.code(), Code::Slot);
    assert!(
        one.hint()
            .is_some_and(|hint| hint.contains("CREATE PUBLICATION")),
        "{one:?}"
    );
    let role = config.database.user();
    admin
        .batch_execute(&format!("ALTER ROLE {role} NOREPLICATION"))
        .await?;
    let two = preflight::check(&session, &config)
        .await
        .err()
        .context("it passed")?;
    let report = two.report();
    assert!(
        report.contains("REPLICATION") && report.contains("no publication"),
        "{report}"
    );
    assert_eq!(report.lines().count(), 1, "{report}");
    Ok(())
}

#[tokio::test]
async fn rows_of_a_partitioned_table_have_to_arrive_under_its_own_name() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let admin = database.connect().await?;
        admin
            .batch_execute(
                "CREATE SCHEMA outbox;
                 CREATE TABLE outbox.outbox (
                     id bigint GENERATED BY DEFAULT AS IDENTITY, event_type text, topic text,
                     event_payload jsonb, created_at timestamp DEFAULT now(),
                     published_at timestamp, PRIMARY KEY (id, created_at)
                 ) PARTITION BY RANGE (created_at);
                 CREATE TABLE outbox.early PARTITION OF outbox.outbox
                     FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
                 CREATE TABLE outbox.late PARTITION OF outbox.outbox DEFAULT;",
            )
            .await?;
        let dead_letter = include_str!("../../sql/dead_letter.sql");
        let dead_letter = dead_letter.replace("{{dead_letter}}", "outbox.dead_letter");
        admin.batch_execute(&dead_letter).await?;
        let config = config(database.url(), |_| ())?;
        let session = open(database.url()).await?;
        let shape = shape(&session, &config).await?;
        assert!(shape.partitioned && shape.id_is_key);
        publication::create(&session, "outboxd", &config.table).await?;
        let names = async || {
            let state = publication::inspect(&session, "outboxd", &shape).await?;
            let state = state.context("the publication is there")?;
            let names: Vec<_> = state.relations.iter().map(ToString::to_string).collect();
            anyhow::Ok((names, state.missing.len()))
        };
        assert_eq!(names().await?, (vec!["outbox.outbox".to_owned()], 0));
        let leaves = "ALTER PUBLICATION outboxd SET (publish_via_partition_root = false)";
        admin.batch_execute(leaves).await?;
        let both = vec!["outbox.early".to_owned(), "outbox.late".to_owned()];
        assert_eq!(names().await?, (both, 0));
        // The publisher looks for the table's own name, and a partition can be created at any time.
        let error = preflight::check(&session, &config)
            .await
            .err()
            .context("it passed")?;
        assert!(
            error
                .message()
                .contains("under the names of its partitions"),
            "{error:?}"
        );
        let one = "ALTER PUBLICATION outboxd SET TABLE outbox.late";
        admin.batch_execute(one).await?;
        assert_eq!(names().await?, (vec!["outbox.late".to_owned()], 1));
        let error = preflight::check(&session, &config)
            .await
            .err()
            .context("it passed")?;
        assert!(
            error
                .message()
                .contains("does not contain partition outbox.early"),
            "{error:?}"
        );
    }
    Ok(())
}
