//! `init` and `drop` beside what is there: other people's objects, several outboxes, locks, missing
//! rights.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::outboxd::PROGRAM;
use crate::support::postgres::{Database, MAJORS, Session, shared, turn};

const LIMIT: Duration = Duration::from_secs(60);

/// Six columns of the poller that outboxd replaces, and a counter.
const POLLERS_TABLE: &str = "
    CREATE SCHEMA IF NOT EXISTS outbox;
    CREATE TABLE outbox.outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_type text NOT NULL,
        topic text NOT NULL,
        event_payload jsonb NOT NULL,
        created_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
        times_attempted integer DEFAULT 0,
        published_at timestamp
    );";

/// Runs a command of outboxd with these further variables.
async fn run_with(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().env("DATABASE_URL", url);
    command.envs(variables.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(timeout(LIMIT, command.output()).await??)
}

async fn run(url: &str, arguments: &[&str]) -> Result<Output> {
    run_with(url, arguments, &[]).await
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `init` with these arguments, which has to succeed; what it printed.
async fn init(database: &Database, arguments: &[&str]) -> Result<String> {
    init_of(database, "outbox.outbox", arguments).await
}

async fn init_of(database: &Database, table: &str, arguments: &[&str]) -> Result<String> {
    let all: Vec<&str> = ["init", "--table", table]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let done = run(database.url(), &all).await?;
    ensure!(done.status.success(), "{}{}", out(&done), err(&done));
    Ok(out(&done))
}

/// The line of the list that is about this thing.
fn line<'t>(text: &'t str, thing: &str) -> Result<&'t str> {
    let found = text.lines().find(|line| line.contains(thing));
    found.with_context(|| format!("nothing about {thing} in:\n{text}"))
}

fn expect(text: &str, thing: &str, outcome: &str) -> Result<()> {
    let line = line(text, thing)?;
    ensure!(line.starts_with(outcome), "not {outcome}: {line}\n{text}");
    Ok(())
}

/// A role named after this database, that is dropped with what it owns at the end.
async fn drop_role(database: &Database, role: &str) -> Result<()> {
    let sql = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    Ok(database.connect().await?.batch_execute(&sql).await?)
}

#[tokio::test]
async fn two_outboxes_of_one_schema_have_everything_twice() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        init(&database, &[]).await?;
        let first = init_of(&database, "outbox.\"Events\"", &[]).await?;
        let again = init_of(&database, "outbox.\"Events\"", &[]).await?;
        for thing in [
            "table outbox.Events",
            "index outbox.idx_Events_unpublished",
            "index outbox.idx_Events_unpublished_id",
            "table outbox.Events_dead_letter",
            "function outbox.Events_write_event(text, text, jsonb)",
            "publication outboxd_outbox_events_",
        ] {
            expect(&first, thing, "created ")?;
            expect(&again, thing, "exists ")?;
        }
        ensure!(again.contains("ready"), "{again}");
        // The first is as it was.
        let of_first = init(&database, &["--dry-run"]).await?;
        ensure!(
            !of_first.contains("missing ") && !of_first.contains("to do "),
            "{of_first}"
        );
        let session = database.connect().await?;
        session
            .batch_execute(
                "SELECT outbox.write_event('a', 't', '{}');
                 SELECT outbox.\"Events_write_event\"('b', 't', '{}')",
            )
            .await?;
        for table in ["outbox.outbox", "outbox.\"Events\""] {
            let rows = format!("SELECT count(*) FROM {table}");
            assert_eq!(session.value::<i64>(&rows).await?, 1, "{table}");
        }
        let published = "SELECT count(DISTINCT tablename) FROM pg_publication_tables";
        assert_eq!(session.value::<i64>(published).await?, 2);
        let each = "SELECT max(tables) FROM (SELECT count(*) AS tables
                      FROM pg_publication_tables GROUP BY pubname) AS p";
        assert_eq!(session.value::<i64>(each).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn functions_of_others_stay_and_none_of_ours_takes_their_calls() -> Result<()> {
    let bodies = [
        // The same arguments, the same table.
        (
            "text, text, jsonb",
            "(a text, b text, c jsonb) RETURNS bigint LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO outbox.outbox (event_type, topic, event_payload)
                 VALUES ('theirs', b, c); RETURN -1; END$$",
        ),
        // Other arguments, which a call with plain literals fits as well.
        (
            "text, text, json",
            "(a text, b text, c json) RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint'",
        ),
        (
            "text, text, jsonb, text",
            "(a text, b text, c jsonb, d text DEFAULT 'x')
             RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint'",
        ),
    ];
    let database = Database::create_empty(shared(turn(15))).await?;
    let session = database.connect().await?;
    session.batch_execute(POLLERS_TABLE).await?;
    for (arguments, body) in bodies {
        let create = format!("CREATE FUNCTION outbox.write_event{body}");
        session.batch_execute(&create).await?;
        let said = init(&database, &[]).await?;
        expect(&said, &format!("write_event({arguments})"), "kept ")?;
        ensure!(said.contains("ready"), "{said}");
        let call = "SELECT outbox.write_event('a', 't', '{}')";
        assert_eq!(session.value::<i64>(call).await?, -1, "{arguments}");
        let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace";
        assert_eq!(session.value::<i64>(functions).await?, 1, "{arguments}");
        let drop = format!("DROP FUNCTION outbox.write_event({arguments})");
        session.batch_execute(&drop).await?;
    }
    // The same file for a person stays away from them, too.
    let create = format!("CREATE FUNCTION outbox.write_event{}", bodies[1].1);
    session.batch_execute(&create).await?;
    let file = include_str!("../../sql/write_event.sql")
        .replace("{{schema}}", "outbox")
        .replace("{{table}}", "outbox.outbox")
        .replace("{{function}}", "write_event");
    session.batch_execute(&file).await?;
    let call = "SELECT outbox.write_event('a', 't', '{}')";
    assert_eq!(session.value::<i64>(call).await?, -1);
    Ok(())
}

#[tokio::test]
async fn indexes_are_found_by_what_they_cover() -> Result<()> {
    let database = Database::create_empty(shared(turn(17))).await?;
    let session = database.connect().await?;
    session.batch_execute(POLLERS_TABLE).await?;
    // Names of ours that other tables and other columns have.
    session
        .batch_execute(
            "CREATE TABLE outbox.other (id bigint, published_at timestamp);
             CREATE INDEX idx_outbox_unpublished ON outbox.other (id);
             CREATE INDEX idx_outbox_unpublished_id ON outbox.outbox (event_type)
                 WHERE published_at IS NULL;
             CREATE INDEX theirs ON outbox.outbox (published_at) WHERE published_at IS NULL",
        )
        .await?;
    let said = init(&database, &[]).await?;
    expect(&said, "index outbox.theirs", "exists ")?;
    expect(
        &said,
        "index outbox.idx_outbox_unpublished_id_2",
        "created ",
    )?;
    let again = init(&database, &[]).await?;
    expect(
        &again,
        "index outbox.idx_outbox_unpublished_id_2",
        "exists ",
    )?;
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'outbox'";
    assert_eq!(session.value::<i64>(indexes).await?, 4);
    Ok(())
}

#[tokio::test]
async fn an_invalid_index_of_ours_is_built_again_and_any_other_is_named() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let session = database.connect().await?;
        session.batch_execute(POLLERS_TABLE).await?;
        for name in ["idx_outbox_unpublished_id", "theirs"] {
            cancel_build(&database, name).await?;
        }
        let said = init(&database, &[]).await?;
        expect(&said, "index outbox.idx_outbox_unpublished_id", "created ")?;
        let theirs = line(&said, "index outbox.theirs")?;
        ensure!(
            theirs.starts_with("kept ")
                && theirs.contains("DROP INDEX CONCURRENTLY IF EXISTS \"outbox\".\"theirs\""),
            "{said}"
        );
        let invalid = "SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index
                        WHERE indrelid = 'outbox.outbox'::regclass AND NOT indisvalid";
        assert_eq!(session.value::<String>(invalid).await?, "outbox.theirs");
    }
    Ok(())
}

/// Leaves an invalid index on the unpublished rows by id: its build is cancelled while it waits for
/// a transaction.
async fn cancel_build(database: &Database, name: &str) -> Result<()> {
    let writer = database.connect().await?;
    let insert = "BEGIN; INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('a', 't', '{}')";
    writer.batch_execute(insert).await?;
    let builder = database.connect().await?;
    let pid: i32 = builder.value("SELECT pg_backend_pid()").await?;
    let create = format!(
        "CREATE INDEX CONCURRENTLY {name} ON outbox.outbox (id) WHERE published_at IS NULL"
    );
    let build = tokio::spawn(async move { builder.batch_execute(&create).await });
    let waits = format!(
        "SELECT count(*) FROM pg_locks \
          WHERE pid = {pid} AND NOT granted AND locktype = 'virtualxid'"
    );
    let watcher = database.connect().await?;
    watcher
        .wait_for_value("the build to wait", &waits, 1, LIMIT)
        .await?;
    let cancel = format!("SELECT pg_cancel_backend({pid})");
    ensure!(watcher.value::<bool>(&cancel).await?, "it is cancelled");
    ensure!(build.await?.is_err(), "the build was cancelled");
    writer.batch_execute("ROLLBACK").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn six_at_once_come_one_after_another() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let role = format!("{}_relay", database.name);
        let arguments = ["init", "--checks", "--role", &role];
        let all = (0..6).map(|_| run(database.url(), &arguments));
        let mut created = 0;
        for done in futures(all.collect()).await {
            let done = done?;
            ensure!(done.status.success(), "{}{}", out(&done), err(&done));
            ensure!(out(&done).contains("ready"), "{}", out(&done));
            created += usize::from(out(&done).contains("created   table outbox.outbox\n"));
        }
        assert_eq!(created, 1);
        drop_role(&database, &role).await?;
    }
    Ok(())
}

/// Several at once.
async fn futures<F>(all: Vec<F>) -> Vec<F::Output>
where
    F: Future,
{
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => is_ready = false,
                }
            }
        }
        match is_ready {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn the_schema_dropped_by_a_migration_comes_back_in_one_step() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        init(&database, &[]).await?;
        let session = database.connect().await?;
        session.batch_execute("DROP SCHEMA outbox CASCADE").await?;
        let dry = init(&database, &["--dry-run"]).await?;
        expect(&dry, "outbox.outbox in publication outboxd", "missing ")?;
        let said = init(&database, &[]).await?;
        expect(&said, "outbox.outbox in publication outboxd", "created ")?;
        ensure!(said.contains("ready"), "{said}");
        // One that has another table, or hides rows, is unrelated.
        for (change, statement) in [
            (
                "CREATE TABLE public.other (id bigint);
                 ALTER PUBLICATION outboxd SET TABLE public.other",
                "ALTER PUBLICATION \"outboxd\" ADD TABLE \"outbox\".\"outbox\"",
            ),
            (
                "ALTER PUBLICATION outboxd SET TABLE outbox.outbox WHERE (topic = 'a')",
                "ALTER PUBLICATION \"outboxd\" SET TABLE \"outbox\".\"outbox\"",
            ),
            (
                "ALTER PUBLICATION outboxd SET TABLE outbox.outbox;
                 ALTER PUBLICATION outboxd SET (publish = 'delete')",
                "ALTER PUBLICATION \"outboxd\" SET (publish = 'insert')",
            ),
        ] {
            session.batch_execute(change).await?;
            let before: String = session.value(PUBLICATION).await?;
            let left = run(database.url(), &["init"]).await?;
            assert_eq!(left.status.code(), Some(2), "{}", out(&left));
            expect(&out(&left), "publication outboxd", "to do ")?;
            ensure!(out(&left).contains(statement), "{}", out(&left));
            ensure!(out(&left).contains("as postgres: "), "{}", out(&left));
            assert_eq!(session.value::<String>(PUBLICATION).await?, before);
        }
    }
    Ok(())
}

const PUBLICATION: &str = "
    SELECT (SELECT p::text FROM pg_publication AS p)
        || coalesce((SELECT string_agg(t::text, ' ') FROM pg_publication_tables AS t), '')";

#[tokio::test]
async fn an_unrelated_dead_letter_table_is_neither_used_nor_altered() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let session = database.connect().await?;
        for create in [
            "CREATE TABLE public.dead_letter (id bigint, payload_sha256 bytea)",
            "CREATE VIEW public.dead_letter AS SELECT 1 AS id",
        ] {
            session.batch_execute(create).await?;
            let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
                            WHERE attrelid = 'public.dead_letter'::regclass AND attnum > 0";
            let before: String = session.value(columns).await?;
            let role = format!("{}_relay", database.name);
            let arguments = ["init", "--table", "public.outbox", "--role", &role];
            let left = run(database.url(), &arguments).await?;
            assert_eq!(left.status.code(), Some(2), "{}", out(&left));
            let said = out(&left);
            expect(&said, "table public.dead_letter", "to do ")?;
            ensure!(
                said.contains("RENAME TO") && !said.contains("ready"),
                "{said}"
            );
            expect(&said, "table public.outbox", "")?;
            assert_eq!(session.value::<String>(columns).await?, before);
            let granted =
                format!("SELECT has_table_privilege('{role}', 'public.dead_letter', 'SELECT')");
            ensure!(
                !session.value::<bool>(&granted).await?,
                "nothing is granted on it"
            );
            // `run` says the same, before anything is sent.
            let broker = [
                ("KAFKA_BROKERS", "127.0.0.1:1"),
                ("OUTBOX_HTTP_LISTEN", "off"),
            ];
            let refused = ["run", "--table", "public.outbox"];
            let refused = run_with(database.url(), &refused, &broker).await?;
            assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
            ensure!(
                err(&refused).contains("is not the table of dead letters"),
                "{}",
                err(&refused)
            );
            let kind = if create.contains("VIEW") {
                "VIEW"
            } else {
                "TABLE"
            };
            session
                .batch_execute(&format!("DROP {kind} public.dead_letter"))
                .await?;
            drop_role(&database, &role).await?;
        }
        let done = run(database.url(), &["init", "--table", "public.outbox"]).await?;
        ensure!(
            done.status.success() && out(&done).contains("ready"),
            "{}",
            out(&done)
        );
    }
    Ok(())
}

#[tokio::test]
async fn each_part_of_a_role_is_made_by_itself() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let owner = database.create_role("owner", "CREATEROLE").await?;
        let relay = database.create_role("relay", "").await?;
        let session = database.connect().await?;
        let grant = format!(
            "GRANT CREATE ON DATABASE {} TO {owner}; ALTER ROLE {relay} NOLOGIN",
            database.name
        );
        session.batch_execute(&grant).await?;
        if major >= 16 {
            let admin = format!("GRANT {relay} TO {owner} WITH ADMIN OPTION");
            session.batch_execute(&admin).await?;
        }
        // The owner may grant on its tables, and not give REPLICATION.
        let url = database.url_as(&owner);
        let left = run(&url, &["init", "--role", &relay]).await?;
        let said = out(&left);
        assert_eq!(left.status.code(), Some(2), "{said}{}", err(&left));
        expect(&said, &format!("LOGIN of role {relay}"), "created ")?;
        expect(&said, &format!("REPLICATION of role {relay}"), "to do ")?;
        expect(&said, "on outbox.outbox", "created ")?;
        expect(&said, "on outbox.dead_letter", "created ")?;
        let statement = format!("ALTER ROLE \"{relay}\" REPLICATION");
        ensure!(said.contains(&statement), "{said}");
        session.batch_execute(&statement).await?;
        let again = run(&url, &["init", "--role", &relay]).await?;
        ensure!(again.status.success(), "{}{}", out(&again), err(&again));
        // Another right goes: that one comes back, and no other is touched.
        let revoke = format!("REVOKE UPDATE ON outbox.dead_letter FROM {relay}");
        session.batch_execute(&revoke).await?;
        let dry = run(&url, &["init", "--role", &relay, "--dry-run"]).await?;
        assert_eq!(out(&dry).matches("missing ").count(), 1, "{}", out(&dry));
        expect(&out(&dry), "on outbox.dead_letter", "missing ")?;
        for role in [relay, owner] {
            drop_role(&database, &role).await?;
        }
    }
    Ok(())
}

/// As on Amazon RDS: only the provider gives REPLICATION, and a role replaces it.
#[tokio::test]
async fn a_member_of_the_providers_role_needs_no_replication() -> Result<()> {
    let server = crate::support::postgres::private(turn(15), &[])?;
    let database = Database::create_empty(&server).await?;
    let master = database.create_role("master", "CREATEROLE").await?;
    let session = database.connect().await?;
    let setup = format!(
        "CREATE ROLE rds_replication NOLOGIN;
         GRANT rds_replication TO {master} WITH ADMIN OPTION;
         GRANT CREATE ON DATABASE {} TO {master};
         CREATE ROLE outboxd LOGIN; CREATE ROLE fresh LOGIN;
         GRANT rds_replication TO outboxd",
        database.name
    );
    session.batch_execute(&setup).await?;
    for (role, outcome) in [
        ("outboxd", "exists "),
        ("fresh", "created "),
        ("newer", "created "),
    ] {
        if turn(15) >= 16 && role == "fresh" {
            session
                .batch_execute(&format!("GRANT fresh TO {master} WITH ADMIN OPTION"))
                .await?;
        }
        let done = run(&database.url_as(&master), &["init", "--role", role]).await?;
        let said = out(&done);
        ensure!(done.status.success(), "{said}{}", err(&done));
        expect(
            &said,
            &format!("membership of role {role} in rds_replication"),
            outcome,
        )?;
        expect(&said, "on outbox.outbox", "created ")?;
        let member = format!("SELECT pg_has_role('{role}', 'rds_replication', 'USAGE')");
        ensure!(session.value::<bool>(&member).await?, "{said}");
        let status = run(&database.url_as(role), &["init", "--dry-run"]).await?;
        ensure!(!out(&status).contains("missing "), "{}", out(&status));
    }
    Ok(())
}

#[tokio::test]
async fn a_database_of_another_encoding_is_named_before_anything_is_created() -> Result<()> {
    let server = shared(turn(15));
    let admin = Session::open(&server.unix_url("postgres", "postgres")).await?;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("init_{}", encoding.to_lowercase());
        let create =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        admin.batch_execute(&create).await?;
        let url = server.unix_url(&name, "postgres");
        let refused = run(&url, &["init"]).await?;
        assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
        ensure!(err(&refused).contains(encoding), "{}", err(&refused));
        let inside = Session::open(&url).await?;
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox'";
        assert_eq!(inside.value::<i64>(schemas).await?, 0);
        // The files themselves can be run in it.
        for file in [
            include_str!("../../sql/schema.sql"),
            include_str!("../../sql/dead_letter.sql"),
            include_str!("../../sql/write_event.sql"),
        ] {
            let file = file
                .replace("{{schema}}", "outbox")
                .replace("{{table}}", "outbox.outbox")
                .replace("{{dead_letter}}", "outbox.dead_letter")
                .replace("{{function}}", "write_event");
            inside.batch_execute(&file).await.context(encoding)?;
        }
        inside.close().await;
        admin
            .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await?;
    }
    Ok(())
}

/// A transaction that has written to the table and stays open.
async fn open_writer(database: &Database, application: &str) -> Result<(Session, i32)> {
    let writer = database.connect().await?;
    let name = format!("SET application_name = '{application}'");
    writer.batch_execute(&name).await?;
    let insert = "BEGIN; INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('a', 'secret-topic', '{}')";
    writer.batch_execute(insert).await?;
    let pid = writer.value("SELECT pg_backend_pid()").await?;
    Ok((writer, pid))
}

/// What `init` does while the transaction is open, and the longest that an insert took meanwhile.
struct Beside {
    output: Output,
    slowest_insert: Duration,
}

async fn init_beside(database: &Database, arguments: &[&str], timeout: &str) -> Result<Beside> {
    let variables = [("OUTBOX_OPERATION_TIMEOUT", timeout)];
    let mut init = std::pin::pin!(run_with(database.url(), arguments, &variables));
    let session = database.connect().await?;
    let mut slowest_insert = Duration::ZERO;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('b', 't', '{}')";
    loop {
        let began = Instant::now();
        let insert = async {
            session.batch_execute(insert).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            anyhow::Ok(())
        };
        tokio::select! {
            output = &mut init => return Ok(Beside { output: output?, slowest_insert }),
            done = insert => done?,
        }
        slowest_insert = slowest_insert.max(began.elapsed());
    }
}

const PARTITIONED: &str = "
    CREATE SCHEMA outbox;
    CREATE TABLE outbox.outbox (
        id bigint GENERATED BY DEFAULT AS IDENTITY, event_type text, topic text,
        event_payload jsonb, created_at timestamp DEFAULT now(),
        published_at timestamp, PRIMARY KEY (id, created_at)
    ) PARTITION BY RANGE (created_at);
    CREATE TABLE outbox.early PARTITION OF outbox.outbox
        FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
    CREATE TABLE outbox.late PARTITION OF outbox.outbox DEFAULT;";

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_init_up_and_no_writer() -> Result<()> {
    for (major, table, arguments) in [
        (MAJORS[0], POLLERS_TABLE, &["init", "--checks"][..]),
        (MAJORS[1], POLLERS_TABLE, &["init", "--checks"]),
        (MAJORS[1], PARTITIONED, &["init"]),
        (MAJORS[0], PARTITIONED, &["init", "--checks"]),
    ] {
        let database = Database::create_empty(shared(major)).await?;
        database.connect().await?.batch_execute(table).await?;
        let (writer, pid) = open_writer(&database, "nightly").await?;
        let Beside {
            output,
            slowest_insert,
        } = init_beside(&database, arguments, "6s").await?;
        let (said, lines) = (out(&output), err(&output));
        assert_eq!(output.status.code(), Some(3), "{said}{lines}");
        // One wait of two seconds, on a machine that does other things as well.
        ensure!(
            slowest_insert < Duration::from_secs(4),
            "{slowest_insert:?}"
        );
        for words in [
            format!("waits for pid {pid} ("),
            "application nightly".to_owned(),
            "role postgres".to_owned(),
            "idle in transaction".to_owned(),
            "last statement SELECT".to_owned(),
        ] {
            ensure!(lines.contains(&words), "{words}: {lines}");
        }
        ensure!(!lines.contains("secret-topic"), "{lines}");
        ensure!(lines.contains("repeat `outboxd init`"), "{lines}");
        // The others are made.
        expect(&said, "table outbox.dead_letter", "created ")?;
        expect(
            &said,
            "function outbox.write_event(text, text, jsonb)",
            "created ",
        )?;
        let undone = said
            .lines()
            .filter(|line| line.starts_with("to do "))
            .count();
        ensure!(undone >= 1 && said.contains("as postgres: "), "{said}");
        let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
        assert_eq!(writer.value::<i64>(invalid).await?, 0, "{said}");
        writer.batch_execute("COMMIT").await?;
        let again = run(database.url(), arguments).await?;
        ensure!(again.status.success(), "{}{}", out(&again), err(&again));
        ensure!(out(&again).contains("ready"), "{}", out(&again));
        let valid = "SELECT count(*) FROM pg_indexes WHERE tablename = 'outbox'
                        AND indexdef LIKE '%WHERE (published_at IS NULL)'";
        assert_eq!(database.connect().await?.value::<i64>(valid).await?, 2);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn init_goes_on_when_the_transaction_ends() -> Result<()> {
    let database = Database::create_empty(shared(turn(17))).await?;
    database
        .connect()
        .await?
        .batch_execute(POLLERS_TABLE)
        .await?;
    let (writer, _) = open_writer(&database, "short").await?;
    let mut command = Command::new(PROGRAM);
    command.args(["init", "--checks"]).env_clear();
    command.env("DATABASE_URL", database.url());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let lines = child.stderr.take().context("standard error")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(lines));
    let first = timeout(LIMIT, lines.next_line()).await??;
    let first = first.context("it says for whom it waits")?;
    ensure!(first.contains("application short"), "{first}");
    writer.batch_execute("COMMIT").await?;
    let done = timeout(LIMIT, child.wait_with_output()).await??;
    ensure!(
        done.status.success() && out(&done).contains("ready"),
        "{}",
        out(&done)
    );
    ensure!(!out(&done).contains("to do "), "{}", out(&done));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_waits_for_no_lock_and_names_its_holder() -> Result<()> {
    let database = Database::create_empty(shared(turn(15))).await?;
    init(&database, &[]).await?;
    let slot = format!("outboxd_{}", database.name);
    let session = database.connect().await?;
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    session.batch_execute(&make).await?;
    let holder = database.connect().await?;
    let lock = "BEGIN; ALTER PUBLICATION outboxd OWNER TO postgres; \
                COMMENT ON PUBLICATION outboxd IS 'mine'";
    holder.batch_execute(lock).await?;
    let pid: i32 = holder.value("SELECT pg_backend_pid()").await?;
    let variables = [("OUTBOX_OPERATION_TIMEOUT", "5s")];
    let waiting = run_with(database.url(), &["drop", "--yes"], &variables).await?;
    assert_eq!(waiting.status.code(), Some(3), "{}", err(&waiting));
    let said = err(&waiting);
    ensure!(said.contains(&format!("waits for pid {pid} (")), "{said}");
    holder.batch_execute("ROLLBACK").await?;
    let dropped = run(database.url(), &["drop", "--yes"]).await?;
    ensure!(dropped.status.success(), "{}", err(&dropped));
    ensure!(
        out(&dropped).contains("dropped   publication outboxd"),
        "{}",
        out(&dropped)
    );
    Ok(())
}

#[tokio::test]
async fn drop_looks_at_the_rights_first_and_leaves_what_others_use() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let relay = format!("{}_relay", database.name);
        init(&database, &["--role", &relay]).await?;
        let slot = format!("outboxd_{}", database.name);
        let session = database.connect().await?;
        let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        session.batch_execute(&make).await?;
        let publications = "SELECT count(*) FROM pg_publication";
        // The role that publishes may drop the slot and not the publication: neither goes.
        let dry = run(&database.url_as(&relay), &["drop", "--dry-run"]).await?;
        ensure!(dry.status.success(), "{}", err(&dry));
        expect(&out(&dry), &format!("replication slot {slot}"), "to drop ")?;
        expect(&out(&dry), "belongs to postgres", "to do ")?;
        let refused = run(&database.url_as(&relay), &["drop", "--yes"]).await?;
        assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
        ensure!(
            err(&refused).contains("connect as postgres"),
            "{}",
            err(&refused)
        );
        ensure!(!err(&refused).contains("REPLICATION"), "{}", err(&refused));
        ensure!(database.slot(&slot).await?.is_some(), "the slot stays");
        let dry = run(database.url(), &["drop", "--dry-run"]).await?;
        expect(&out(&dry), "publication outboxd", "to drop ")?;
        ensure!(
            database.slot(&slot).await?.is_some(),
            "a list drops nothing"
        );
        // A publication that has another table is not outboxd's alone.
        session
            .batch_execute(
                "CREATE TABLE public.other (id bigint);
                 ALTER PUBLICATION outboxd ADD TABLE public.other",
            )
            .await?;
        let dropped = run(database.url(), &["drop", "--yes"]).await?;
        ensure!(dropped.status.success(), "{}", err(&dropped));
        expect(&out(&dropped), "publication outboxd", "kept ")?;
        ensure!(out(&dropped).contains("public.other"), "{}", out(&dropped));
        assert_eq!(session.value::<i64>(publications).await?, 1);
        ensure!(database.slot(&slot).await?.is_none(), "the slot is gone");
        drop_role(&database, &relay).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_list_of_what_is_left_names_statement_and_role_and_the_statements_do_it() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        let session = database.connect().await?;
        session.batch_execute(POLLERS_TABLE).await?;
        let plain = database.create_role("plain", "").await?;
        let usage = format!("GRANT USAGE, CREATE ON SCHEMA outbox TO {plain}");
        session.batch_execute(&usage).await?;
        let left = run(&database.url_as(&plain), &["init", "--checks"]).await?;
        let said = out(&left);
        assert_eq!(left.status.code(), Some(2), "{said}{}", err(&left));
        expect(&said, "table outbox.dead_letter", "created ")?;
        for thing in [
            "index outbox.idx_outbox_unpublished_id",
            "constraints of outbox.outbox",
            "publication outboxd",
        ] {
            expect(&said, thing, "to do ")?;
        }
        ensure!(!err(&left).contains("REPLICATION"), "{}", err(&left));
        let statements = said.lines().filter_map(|line| {
            let (by, statement) = line.strip_prefix("          as ")?.split_once(": ")?;
            by.contains("postgres").then_some(statement)
        });
        let statements: Vec<&str> = statements.collect();
        ensure!(statements.len() >= 4, "{said}");
        for statement in statements {
            session
                .batch_execute(statement)
                .await
                .with_context(|| statement.to_owned())?;
        }
        let done = run(database.url(), &["init", "--checks"]).await?;
        ensure!(done.status.success(), "{}{}", out(&done), err(&done));
        ensure!(!out(&done).contains("created "), "{}", out(&done));
        drop_role(&database, &plain).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dry_run_changes_nothing() -> Result<()> {
    let database = Database::create_empty(shared(turn(17))).await?;
    let role = format!("{}_relay", database.name);
    let said = init(&database, &["--dry-run", "--checks", "--role", &role]).await?;
    ensure!(
        !said.contains("created ") && !said.contains("to do "),
        "{said}"
    );
    assert_eq!(said.matches("missing ").count(), 16, "{said}");
    let session = database.connect().await?;
    let made = format!(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox')
              + (SELECT count(*) FROM pg_publication)
              + (SELECT count(*) FROM pg_roles WHERE rolname = '{role}')"
    );
    assert_eq!(session.value::<i64>(&made).await?, 0);
    Ok(())
}

#[tokio::test]
async fn the_functions_take_headers_and_a_key_where_the_table_has_them() -> Result<()> {
    for major in MAJORS {
        let database = Database::create_empty(shared(major)).await?;
        init(&database, &[]).await?;
        let session = database.connect().await?;
        let write = |arguments: &str| format!("SELECT outbox.write_event({arguments})");
        for arguments in [
            "'a', 't', '{}'",
            "'a', 't', '{}', '{\"traceparent\": \"00-1\"}'",
            "'a', 't', '{}', headers => NULL",
            "event_type => 'a', topic => 't', payload => '{}', headers => '{}'",
        ] {
            session
                .batch_execute(&write(arguments))
                .await
                .context(arguments.to_owned())?;
        }
        for (arguments, words) in [
            ("'a', 't', '{}', '[1]'", "no JSON object"),
            (
                "'a', 't', '{}', jsonb_build_object('a', repeat('x', 1048577))",
                "headers with",
            ),
            ("'', 't', '{}', '{}'", "event type is empty"),
            ("'a', 't', '{}', '{}', repeat('k', 1048577)", "the key"),
        ] {
            let error = session.batch_execute(&write(arguments)).await.unwrap_err();
            let error = error.as_db_error().context("the server refuses")?;
            ensure!(error.message().contains(words), "{arguments}: {error}");
            ensure!(error.hint().is_some(), "{arguments}: {error}");
        }
        let headers = "SELECT count(*) FROM outbox.outbox WHERE headers ->> 'traceparent' = '00-1'";
        assert_eq!(session.value::<i64>(headers).await?, 1);
        // A key of any type, once the configuration names its column.
        session
            .batch_execute("ALTER TABLE outbox.outbox ADD \"order id\" uuid")
            .await?;
        let key = [("OUTBOX_KEY", "column:order id")];
        let done = run_with(database.url(), &["init"], &key).await?;
        ensure!(done.status.success(), "{}{}", out(&done), err(&done));
        ensure!(
            out(&done).contains("with the key order id"),
            "{}",
            out(&done)
        );
        let id = "6c84fb90-12c4-11e1-840d-7b25c5ee775a";
        for arguments in [
            format!("'k', 't', '{{}}', NULL, '{id}'"),
            format!("'k', 't', '{{}}', '{{\"a\": \"b\"}}', key => '{id}'"),
        ] {
            session
                .batch_execute(&write(&arguments))
                .await
                .context(arguments)?;
        }
        let keys = format!("SELECT count(*) FROM outbox.outbox WHERE \"order id\" = '{id}'");
        assert_eq!(session.value::<i64>(&keys).await?, 2);
    }
    Ok(())
}

#[tokio::test]
async fn the_pollers_table_gets_no_column_and_no_further_function() -> Result<()> {
    let database = Database::create_empty(shared(turn(15))).await?;
    let session = database.connect().await?;
    session.batch_execute(POLLERS_TABLE).await?;
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
                    WHERE attrelid = 'outbox.outbox'::regclass AND attnum > 0";
    let before: String = session.value(columns).await?;
    let said = init(&database, &[]).await?;
    ensure!(!said.contains("jsonb, jsonb"), "{said}");
    assert_eq!(session.value::<String>(columns).await?, before);
    session
        .batch_execute("SELECT outbox.write_event('a', 't', '{}')")
        .await?;
    // With the column, the next `init` adds the function, and the calls stay what they are.
    session
        .batch_execute("ALTER TABLE outbox.outbox ADD headers jsonb NOT NULL DEFAULT '{}'")
        .await?;
    let said = init(&database, &[]).await?;
    expect(
        &said,
        "write_event(text, text, jsonb, jsonb, text)",
        "created ",
    )?;
    session
        .batch_execute(
            "SELECT outbox.write_event('a', 't', '{}');
             SELECT outbox.write_event('a', 't', '{}', '{\"a\": \"b\"}')",
        )
        .await?;
    let rows = "SELECT count(*) FROM outbox.outbox";
    assert_eq!(session.value::<i64>(rows).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_view_of_the_tables_name_is_named() -> Result<()> {
    let database = Database::create_empty(shared(turn(17))).await?;
    let session = database.connect().await?;
    session
        .batch_execute("CREATE SCHEMA outbox; CREATE VIEW outbox.outbox AS SELECT 1 AS id")
        .await?;
    let left = run(database.url(), &["init"]).await?;
    assert_eq!(left.status.code(), Some(2), "{}", out(&left));
    ensure!(
        out(&left).contains("outbox.outbox is a view"),
        "{}",
        out(&left)
    );
    expect(&out(&left), "publication outboxd", "to do ")
}
