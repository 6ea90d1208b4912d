//! `init`, `status` and `drop`, run by an operator or a script.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::outboxd::PROGRAM;
use crate::support::postgres::{Database, MAJORS, Session, private, shared, turn};

const LIMIT: Duration = Duration::from_secs(20);

async fn outboxd(url: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().env("DATABASE_URL", url);
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(timeout(LIMIT, command.output()).await??)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn init_makes_what_is_missing_and_leaves_the_rest_each_time() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let role = format!("{}_relay", database.name);
        let init = ["init", "--role", &role, "--checks"];
        let first = outboxd(database.url(), &init).await?;
        assert!(first.status.success(), "{}", err(&first));
        assert_eq!(
            out(&first).matches("created ").count(),
            16,
            "{}",
            out(&first)
        );
        assert!(out(&first).contains("ready"), "{}", out(&first));
        let again = outboxd(database.url(), &init).await?;
        assert!(again.status.success(), "{}", err(&again));
        assert_eq!(
            out(&again).matches("exists ").count(),
            16,
            "{}",
            out(&again)
        );
        database.insert("created", "orders", "{}").await?;
        let admin = database.connect().await?;
        let slots = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE database = '{}'",
            database.name
        );
        assert_eq!(admin.value::<i64>(&slots).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn init_adds_to_a_table_of_the_writers_without_touching_it() -> Result<()> {
    let database = Database::create(shared(turn(15))).await?;
    // The writers' table has only the first index; `init` adds the second.
    let session = database.connect().await?;
    session
        .batch_execute("DROP INDEX outbox.idx_outbox_unpublished_id")
        .await?;
    database.insert("created", "orders", "{}").await?;
    let init = outboxd(database.url(), &["init"]).await?;
    assert!(init.status.success(), "{}", err(&init));
    assert!(
        out(&init).contains("exists    table outbox.outbox"),
        "{}",
        out(&init)
    );
    let made = out(&init).contains("created   index outbox.idx_outbox_unpublished_id");
    assert!(made, "{}", out(&init));
    assert_eq!(database.unpublished().await?, 1);
    Ok(())
}

#[tokio::test]
async fn the_printed_sql_makes_the_same_and_needs_no_server_to_print() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let role = format!("{}_relay", database.name);
        let unreachable = "postgresql://nobody@127.0.0.1:1/nothing";
        let printed = outboxd(unreachable, &["init", "--print-sql", "--role", &role]).await?;
        assert!(printed.status.success(), "{}", err(&printed));
        let admin = database.connect().await?;
        // One batch each, as psql runs them: CREATE INDEX CONCURRENTLY cannot run in a transaction.
        for part in out(&printed).split("\n\n-- ") {
            let sql = format!("-- {part}");
            admin
                .batch_execute(&sql)
                .await
                .with_context(|| sql.clone())?;
        }
        let relay = database.url_as(&role);
        let status = outboxd(&relay, &["status", "--json"]).await?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        let problems = status["problems"].as_array().context("problems")?;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0]
                .as_str()
                .is_some_and(|text| text.contains("`outboxd run` creates it"))
        );
    }
    Ok(())
}

#[tokio::test]
async fn status_shows_how_far_the_slot_is_and_fails_when_no_session_reads_it() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(shared(major)).await?;
        outboxd(database.url(), &["init"]).await?;
        let slot = format!("outboxd_{}", database.name);
        let admin = database.connect().await?;
        let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        admin.batch_execute(&make).await?;
        let fill = "INSERT INTO outbox.outbox (event_type, topic, event_payload)
                    SELECT 'created', 'orders', '{}' FROM generate_series(1, 10001)";
        admin.batch_execute(fill).await?;
        let status = outboxd(database.url(), &["status", "--json"]).await?;
        assert_eq!(status.status.code(), Some(4));
        assert!(
            err(&status).contains("no process reads replication slot"),
            "{}",
            err(&status)
        );
        let status: Value = serde_json::from_slice(&status.stdout)?;
        assert_eq!(status["healthy"], false);
        assert_eq!(status["slot"], Value::String(slot));
        assert!(status["lag_bytes"].as_i64() > Some(10_001));
        assert_eq!(status["unpublished_rows"], 10_000);
        assert_eq!(status["unpublished_more"], true);
        let text = outboxd(database.url(), &["status"]).await?;
        assert!(out(&text).contains("10000+"), "{}", out(&text));
    }
    Ok(())
}

#[tokio::test]
async fn drop_wants_a_yes_takes_slot_and_publication_and_leaves_the_table() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(shared(major)).await?;
        outboxd(database.url(), &["init"]).await?;
        let slot = format!("outboxd_{}", database.name);
        let admin = database.connect().await?;
        let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        admin.batch_execute(&make).await?;
        let asked = outboxd(database.url(), &["drop"]).await?;
        assert_eq!(asked.status.code(), Some(1));
        assert!(err(&asked).contains("--yes"), "{}", err(&asked));
        assert!(database.slot(&slot).await?.is_some());
        let dropped = outboxd(database.url(), &["drop", "--yes"]).await?;
        assert!(dropped.status.success(), "{}", err(&dropped));
        assert!(database.slot(&slot).await?.is_none());
        let publications = "SELECT count(*) FROM pg_publication";
        assert_eq!(admin.value::<i64>(publications).await?, 0);
        assert_eq!(database.unpublished().await?, 0);
        let again = outboxd(database.url(), &["drop", "--yes"]).await?;
        assert!(again.status.success(), "{}", err(&again));
    }
    Ok(())
}

#[tokio::test]
async fn a_connector_of_debezium_becomes_settings_and_these_a_connector_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (connector, settings) = (
        folder.path().join("connector.json"),
        folder.path().join("outboxd.toml"),
    );
    let json = serde_json::json!({
        "name": "orders",
        "config": {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": "db.example",
            "database.user": "relay",
            "database.password": "Zq7Kw9Xv",
            "database.dbname": "orders",
            "table.include.list": "shop.outbox",
            "snapshot.mode": "initial",
            "snapshot.mood": "good",
            "transforms": "outbox",
            "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
            "transforms.outbox.table.field.event.key": "order_id",
        },
    });
    std::fs::write(&connector, json.to_string())?;
    let url = "postgresql://nobody@127.0.0.1:1/nothing";
    let import = outboxd(url, &["import-debezium", &connector.display().to_string()]).await?;
    assert!(import.status.success(), "{}", err(&import));
    let (text, said) = (out(&import), err(&import));
    assert!(
        text.contains("# - snapshot.mode: outboxd takes no snapshot"),
        "{text}"
    );
    assert!(
        said.contains("open      database_password_file: "),
        "{said}"
    );
    assert!(said.contains("unknown   snapshot.mood"), "{said}");
    assert!(
        !format!("{text}{said}").contains("Zq7Kw9Xv"),
        "{text}{said}"
    );
    std::fs::write(&settings, text)?;
    // The variable of the database overrides the file.
    let export = [
        "export-debezium",
        "--config",
        &settings.display().to_string(),
    ];
    let export = outboxd(url, &export).await?;
    assert!(export.status.success(), "{}", err(&export));
    let text = out(&export);
    assert!(text.contains("database.dbname=nothing\n"), "{text}");
    let key = "transforms.outbox.table.field.event.key=order_id\n";
    assert!(text.contains(key), "{text}");
    assert!(
        text.contains("table.include.list=shop\\\\.outbox\n"),
        "{text}"
    );
    std::fs::write(&connector, "connector.class=Mongo\n")?;
    let wrong = outboxd(url, &["import-debezium", &connector.display().to_string()]).await?;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        err(&wrong).contains("and not one of Postgres"),
        "{}",
        err(&wrong)
    );
    let missing = outboxd(url, &["import-debezium", "/nowhere"]).await?;
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        err(&missing).contains("cannot read /nowhere"),
        "{}",
        err(&missing)
    );
    Ok(())
}

#[tokio::test]
async fn drop_leaves_a_slot_that_is_in_use_and_names_its_reader() -> Result<()> {
    let database = Database::create(shared(turn(15))).await?;
    outboxd(database.url(), &["init"]).await?;
    let slot = format!("outboxd_{}", database.name);
    // A temporary slot is held by the session that created it.
    let reader = database.connect().await?;
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', true)");
    reader.batch_execute(&make).await?;
    let pid: i32 = reader.value("SELECT pg_backend_pid()").await?;
    let refused = outboxd(database.url(), &["drop", "--yes"]).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains(&format!("process {pid}")),
        "{}",
        err(&refused)
    );
    assert!(database.slot(&slot).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_named_with_the_statement_that_mends_it() -> Result<()>
{
    let server = private(
        turn(15),
        &["wal_level = replica", "max_replication_slots = 1"],
    )?;
    let admin = Session::open(&server.unix_url("postgres", "postgres")).await?;
    let url = server.url("postgres", "postgres");
    let init = outboxd(&url, &["init"]).await?;
    assert!(init.status.success(), "{}", err(&init));
    for text in [
        "to do",
        "wal_level is replica",
        "ALTER SYSTEM SET wal_level",
        "0 of 1",
    ] {
        assert!(
            out(&init).contains(text),
            "{text} is missing in {}",
            out(&init)
        );
    }
    admin.close().await;
    Ok(())
}

#[tokio::test]
async fn commands_end_with_the_code_that_fits_and_one_line_that_says_what_to_do() -> Result<()> {
    let database = Database::create_empty(shared(turn(15))).await?;
    let unknown = shared(turn(15)).url("no_such_database", "postgres");
    let absent = "postgresql://postgres@127.0.0.1:1/postgres";
    for (url, code, text) in [
        (unknown.as_str(), 5, "hint: check the database name"),
        (absent, 5, "hint: is the server up"),
        (database.url(), 4, "hint: run `outboxd init`"),
    ] {
        let status = outboxd(url, &["status"]).await?;
        assert_eq!(status.status.code(), Some(code), "{}", err(&status));
        assert!(err(&status).contains(text), "{}", err(&status));
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_named_by_the_step_that_needs_it_and_drop_changes_nothing() -> Result<()>
{
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let role = database.create_role("plain", "").await?;
        let plain = database.url_as(&role);
        let init = outboxd(&plain, &["init"]).await?;
        assert_eq!(init.status.code(), Some(2), "{}", err(&init));
        assert!(
            err(&init)
                .contains("\nhint: the role needs CREATE on the database, or CREATE on the schema"),
            "{}",
            err(&init)
        );

        let admin = database.connect().await?;
        outboxd(database.url(), &["init"]).await?;
        let slot = format!("outboxd_{}", database.name);
        let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        admin.batch_execute(&make).await?;
        for (attribute, problem, hint) in [
            (
                "NOREPLICATION",
                "may not drop a replication slot",
                "a role with REPLICATION",
            ),
            (
                "REPLICATION",
                "publication outboxd belongs to postgres",
                "connect as postgres",
            ),
        ] {
            admin
                .batch_execute(&format!("ALTER ROLE {role} {attribute}"))
                .await?;
            let refused = outboxd(&plain, &["drop", "--yes"]).await?;
            assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
            let text = err(&refused);
            assert!(text.contains(problem) && text.contains(hint), "{text}");
            assert!(database.slot(&slot).await?.is_some(), "{text}");
        }
        admin
            .batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')"))
            .await?;
    }
    Ok(())
}
