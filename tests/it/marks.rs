//! What a mark really did: tables that undo or swallow it, tables without the optional columns,
//! columns that cannot be written, and triggers of the table's owner.

use std::collections::HashMap;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::partitions::{BY_TIME, partitioned};
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS, Session, shared, turn};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(90);

/// A database with an outbox of another shape, which `init` has prepared.
struct Shaped {
    database: Database,
    topic: String,
    settings: Settings,
}

impl Shaped {
    /// `columns` stand between the brackets of CREATE TABLE; `init` must find nothing to do.
    async fn create(major: u32, columns: &str, settings: &[(&str, &str)]) -> Result<Shaped> {
        let shaped = Shaped::unprepared(major, columns, settings).await?;
        let init = shaped.init().await?;
        let out = text(&init.stdout);
        ensure!(init.status.success() && out.contains("ready"), "{init:?}");
        Ok(shaped)
    }

    async fn unprepared(major: u32, columns: &str, settings: &[(&str, &str)]) -> Result<Shaped> {
        let database = Database::create_empty(shared(major)).await?;
        let table = format!("CREATE SCHEMA outbox; CREATE TABLE outbox.outbox ({columns})");
        database.connect().await?.batch_execute(&table).await?;
        let kafka = kafka::shared();
        let mut all = Settings::new(&database, kafka)?.set("OUTBOX_PROCESS_INTERVAL", "200ms");
        for (name, value) in settings {
            all = all.set(name, *value);
        }
        Ok(Shaped {
            topic: kafka.topic("marks", 4).await?,
            settings: all,
            database,
        })
    }

    async fn init(&self) -> Result<Output> {
        command(&self.settings, &["init"], LIMIT).await
    }

    async fn insert(&self, session: &Session, topic: &str, rows: i32) -> Result<()> {
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k' || i % 5, $1, '{\"n\": 1}' FROM generate_series(1, $2) AS i";
        session.execute(insert, &[&topic, &rows]).await?;
        Ok(())
    }

    /// How many records the topic has, and how many of them repeat an earlier one.
    async fn consumed(&self) -> Result<(usize, usize)> {
        let all = kafka::shared().consume_all(&[&self.topic]).await?;
        let mut ids: Vec<Option<&str>> = all.iter().map(|it| it.header("outbox_id")).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok((all.len(), all.len() - ids.len()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until this statement returns this number.
async fn expect(session: &Session, what: &str, sql: &str, expected: i64) -> Result<()> {
    session.wait_for_value(what, sql, expected, LIMIT).await
}

const NOT_MARKED: &str =
    "SELECT count(*) FROM outbox.dead_letter WHERE state = 'published-not-marked'";
const FILED: &str = "SELECT count(*) FROM outbox.dead_letter";
const UNPUBLISHED: &str = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";

/// The slot has passed everything that was written before.
async fn slot_passes(session: &Session) -> Result<()> {
    let end: String = session.value("SELECT pg_current_wal_lsn()::text").await?;
    let passed = format!(
        "SELECT count(*) FROM pg_replication_slots \
          WHERE database = current_database() AND confirmed_flush_lsn >= '{end}'::pg_lsn"
    );
    expect(session, "the slot to pass", &passed, 1).await
}

/// A trigger that keeps each row as it was, one that takes the mark away again in the same
/// statement, and one that does so when the transaction commits.
const UNDONE: [&str; 3] = [
    "CREATE FUNCTION outbox.undo() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN RETURN OLD; END$$;
     CREATE TRIGGER undo BEFORE UPDATE ON outbox.outbox
         FOR EACH ROW EXECUTE FUNCTION outbox.undo()",
    "CREATE FUNCTION outbox.undo() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN UPDATE outbox.outbox SET published_at = NULL WHERE id = new.id; RETURN NULL; END$$;
     CREATE TRIGGER undo AFTER UPDATE ON outbox.outbox FOR EACH ROW
         WHEN (new.published_at IS NOT NULL) EXECUTE FUNCTION outbox.undo()",
    "CREATE FUNCTION outbox.undo() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN UPDATE outbox.outbox SET published_at = NULL WHERE id = new.id; RETURN NULL; END$$;
     CREATE CONSTRAINT TRIGGER undo AFTER UPDATE ON outbox.outbox
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
         WHEN (new.published_at IS NOT NULL) EXECUTE FUNCTION outbox.undo()",
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_marks_the_table_undoes_are_sent_once_and_filed() -> Result<()> {
    for (source, phase) in [("slot", "streaming"), ("poll", "polling")] {
        for (n, undo) in UNDONE.iter().enumerate() {
            let fixture = Fixture::create(shared(MAJORS[n % 2]), kafka::shared()).await?;
            let session = fixture.database.connect().await?;
            session.batch_execute(undo).await?;
            let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                          SELECT 'k' || i % 5, $1, '{}' FROM generate_series(1, $2) AS i";
            session.execute(insert, &[&fixture.topic, &1_200]).await?;
            let settings = fixture.settings.clone().set("OUTBOX_SOURCE", source);
            let settings = settings
                .set("OUTBOX_BACKLOG", "publish")
                .set("OUTBOX_DEAD_LETTERS_PER_MINUTE", "10000")
                .set("OUTBOX_AUDIT_INTERVAL", "1s")
                .set("OUTBOX_PROCESS_INTERVAL", "200ms");
            let mut outboxd = Outboxd::spawn(&settings)?;
            expect(&session, "the backlog to be filed", NOT_MARKED, 1_200)
                .await
                .with_context(|| outboxd.log())?;
            outboxd.wait_for_phase(phase, LIMIT).await?;
            session.execute(insert, &[&fixture.topic, &10]).await?;
            expect(&session, "new rows to be filed", NOT_MARKED, 1_210).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let lines = outboxd.log().lines().count();
            ensure!(lines < 200, "{lines} lines in the log");
            // A restart repeats nothing either.
            outboxd.respawn()?;
            outboxd.wait_for_phase(phase, LIMIT).await?;
            session.execute(insert, &[&fixture.topic, &1]).await?;
            expect(&session, "another row to be filed", NOT_MARKED, 1_211).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let records = fixture.kafka.record_count(&[&fixture.topic]).await?;
            assert_eq!(records, 1_211, "{source}, trigger {n}");
        }
    }
    Ok(())
}

const PARTITIONS: &str = "
    CREATE TABLE outbox.old PARTITION OF outbox.outbox
        FOR VALUES FROM (MINVALUE) TO ('2025-06-01');
    CREATE TABLE outbox.new PARTITION OF outbox.outbox DEFAULT;";

/// No row is looked at behind its mark before the trigger is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_created_beside_a_running_outboxd_undoes_no_mark_unseen() -> Result<()> {
    let by_time = format!("{BY_TIME}{PARTITIONS}");
    // The table of the second case is made by `init`.
    let cases = [("outbox.old", by_time.as_str()), ("outbox.outbox", "")];
    for (n, (of, table)) in cases.into_iter().enumerate() {
        let database = partitioned(MAJORS[n % 2], table).await?;
        let session = database.connect().await?;
        let kafka = kafka::shared();
        let topic = kafka.topic("undone", 1).await?;
        let settings = Settings::new(&database, kafka)?;
        init(&settings).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at) \
                      SELECT 'k' || i % 5, $1, '{}', \
                             '2025-05-07'::timestamp + i % 2 * INTERVAL '60 days' \
                        FROM generate_series(1, 200) AS i";
        session.execute(insert, &[&topic]).await?;
        database.all_marked(LIMIT).await?;
        let undo = UNDONE[1].replace(
            "AFTER UPDATE ON outbox.outbox",
            &format!("AFTER UPDATE ON {of}"),
        );
        session.batch_execute(&undo).await?;
        session.execute(insert, &[&topic]).await?;
        let filed = if of == "outbox.outbox" { 200 } else { 100 };
        expect(&session, "marks to be filed", NOT_MARKED, filed)
            .await
            .with_context(|| outboxd.log())?;
        expect(&session, "the others to be marked", UNPUBLISHED, filed).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(kafka.record_count(&[&topic]).await?, 400, "{of}");
    }
    Ok(())
}

const SWALLOWED: [(&str, &str); 2] = [
    (
        "mark",
        "CREATE FUNCTION outbox.swallow() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER swallow BEFORE UPDATE ON outbox.outbox FOR EACH ROW
             WHEN (old.event_type = 'k0') EXECUTE FUNCTION outbox.swallow()",
    ),
    (
        "delete",
        "CREATE FUNCTION outbox.swallow() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER swallow BEFORE DELETE ON outbox.outbox FOR EACH ROW
             WHEN (old.event_type = 'k0') EXECUTE FUNCTION outbox.swallow()",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_marks_the_table_swallows_are_filed_and_hold_nothing_up() -> Result<()> {
    for major in MAJORS {
        for (mode, swallow) in SWALLOWED {
            let fixture = Fixture::create(shared(major), kafka::shared()).await?;
            let session = fixture.database.connect().await?;
            session.batch_execute(swallow).await?;
            let settings = fixture.settings.clone().set("OUTBOX_AFTER_PUBLISH", mode);
            let mut outboxd = Outboxd::spawn(&settings)?;
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                          SELECT 'k' || i % 5, $1, '{}' FROM generate_series(1, $2) AS i";
            // One of the five is locked besides, and is filed when it is free.
            let mut locker = fixture.database.connect().await?;
            outboxd.freeze()?;
            session.execute(insert, &[&fixture.topic, &25]).await?;
            let lock = locker.transaction().await?;
            let locked = "SELECT FROM outbox.outbox WHERE id = \
                          (SELECT min(id) FROM outbox.outbox WHERE event_type = 'k0') FOR UPDATE";
            lock.execute(locked, &[]).await?;
            outboxd.thaw()?;
            expect(&session, "four to be filed", NOT_MARKED, 4)
                .await
                .with_context(|| outboxd.log())?;
            expect(&session, "the others to be marked", UNPUBLISHED, 5).await?;
            assert_eq!(
                session.value::<i64>(NOT_MARKED).await?,
                4,
                "the fifth is locked"
            );
            lock.rollback().await?;
            expect(&session, "the fifth to be filed", NOT_MARKED, 5).await?;
            slot_passes(&session).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            outboxd.respawn()?;
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let records = fixture.kafka.record_count(&[&fixture.topic]).await?;
            assert_eq!(records, 25, "{mode} on {major}");
            // The fixed table takes the mark of a dead letter that is discarded.
            session
                .batch_execute("DROP TRIGGER swallow ON outbox.outbox")
                .await?;
            let all = [
                "dead-letter",
                "discard",
                "--state",
                "published-not-marked",
                "--yes",
            ];
            let discard = command(&settings, &all, LIMIT).await?;
            ensure!(discard.status.success(), "{discard:?}");
            outboxd.respawn()?;
            expect(&session, "all to be marked", UNPUBLISHED, 0).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let records = fixture.kafka.record_count(&[&fixture.topic]).await?;
            assert_eq!(records, 25, "{mode} on {major}");
        }
    }
    Ok(())
}

const ALWAYS: &str = "event_type text NOT NULL, topic text NOT NULL, event_payload jsonb NOT NULL";
const ID: &str = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY";

/// The optional columns of tables in the field, and the modes that work without the others.
const SHAPES: [(&str, &str, &str); 8] = [
    (
        "created_at timestamptz DEFAULT now(), published_at timestamptz",
        "slot",
        "mark",
    ),
    (
        "created_at timestamptz DEFAULT now(), published_at timestamptz",
        "poll",
        "mark",
    ),
    (
        "times_attempted int DEFAULT 0, published_at timestamp",
        "slot",
        "mark",
    ),
    (
        "times_attempted smallint, published_at timestamp",
        "poll",
        "mark",
    ),
    (
        "published_at timestamp, times_attempted numeric",
        "slot",
        "mark",
    ),
    ("created_at timestamp DEFAULT now()", "slot", "delete"),
    ("note text", "poll", "delete"),
    ("times_attempted bigint", "slot", "keep"),
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_the_optional_columns_are_published_and_marked() -> Result<()> {
    for (n, (columns, source, mode)) in SHAPES.into_iter().enumerate() {
        let columns = format!("{ID}, {ALWAYS}, {columns}");
        let settings = [("OUTBOX_SOURCE", source), ("OUTBOX_AFTER_PUBLISH", mode)];
        let shaped = Shaped::create(MAJORS[n % 2], &columns, &settings).await?;
        let what = format!("{columns}, {source}, {mode}");
        one_of_each_shape(&shaped, source, mode)
            .await
            .with_context(|| what)?;
    }
    Ok(())
}

async fn one_of_each_shape(shaped: &Shaped, source: &str, mode: &str) -> Result<()> {
    let session = shaped.database.connect().await?;
    let phase = if source == "slot" {
        "streaming"
    } else {
        "polling"
    };
    let left = match mode {
        "mark" => UNPUBLISHED,
        "delete" => "SELECT count(*) FROM outbox.outbox",
        _ => "SELECT 0::bigint",
    };
    let keeps = mode == "keep";
    if !keeps {
        shaped.insert(&session, &shaped.topic, 3).await?;
    }
    let mut outboxd = Outboxd::spawn(&shaped.settings)?;
    outboxd.wait_for_phase(phase, LIMIT).await?;
    shaped.insert(&session, &shaped.topic, 3).await?;
    shaped.insert(&session, "no such topic", 1).await?;
    expect(&session, "the dead letter", FILED, 1)
        .await
        .with_context(|| outboxd.log())?;
    let dead = if keeps { 0 } else { 1 };
    expect(&session, "the marks", left, dead)
        .await
        .with_context(|| outboxd.log())?;
    if source == "slot" {
        slot_passes(&session).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    outboxd.respawn()?;
    outboxd.wait_for_phase(phase, LIMIT).await?;
    let fix = "UPDATE outbox.outbox SET topic = $1 WHERE topic = 'no such topic'";
    session.execute(fix, &[&shaped.topic]).await?;
    let retry = command(&shaped.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    let open = format!("{FILED} WHERE state <> 'retried'");
    expect(&session, "the retry", &open, 0)
        .await
        .with_context(|| outboxd.log())?;
    expect(&session, "its mark", left, 0).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(
        !log.contains("retrying") && !log.contains("CONFIG_ERROR"),
        "{log}"
    );
    let events = if keeps { 4 } else { 7 };
    assert_eq!(shaped.consumed().await?, (events, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_of_the_mode_cannot_do_is_said_before_anything_is_sent() -> Result<()> {
    let marked = "published_at timestamp";
    for (columns, mode, words) in [
        (
            format!("{ID}, {ALWAYS}, {marked}, times_attempted text DEFAULT '0'"),
            "mark",
            ["times_attempted", "text"],
        ),
        (
            format!("{ID}, {ALWAYS}, {marked}, times_attempted boolean"),
            "mark",
            ["times_attempted", "boolean"],
        ),
        (
            format!("id uuid DEFAULT gen_random_uuid(), {ALWAYS}, {marked}"),
            "mark",
            [
                "outbox.outbox.id is no primary or unique key",
                "OUTBOX_AFTER_PUBLISH=keep",
            ],
        ),
        (
            format!("id text PRIMARY KEY, {ALWAYS}, published_at text"),
            "mark",
            [
                "outbox.outbox.published_at has the type text",
                "outboxd init --print-sql",
            ],
        ),
    ] {
        let mode = [("OUTBOX_AFTER_PUBLISH", mode)];
        let shaped = Shaped::unprepared(turn(17), &columns, &mode).await?;
        let session = shaped.database.connect().await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      VALUES ('k', $1, '{}')";
        if !columns.contains("id text") {
            session.execute(insert, &[&shaped.topic]).await?;
        }
        let init = shaped.init().await?;
        ensure!(init.status.success(), "{init:?}");
        let run = command(&shaped.settings, &["run"], LIMIT).await?;
        assert_eq!(run.status.code(), Some(2), "{run:?}");
        for said in [text(&init.stdout), text(&run.stderr)] {
            for word in words {
                ensure!(said.contains(word), "no {word} in {said}");
            }
            ensure!(!said.contains("ADD PRIMARY KEY"), "{said}");
        }
        assert_eq!(shaped.consumed().await?, (0, 0), "{columns}");
    }
    // A rule in place of the table: its result cannot be read back.
    let fixture = Fixture::create(shared(turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let rule = "CREATE RULE frozen AS ON UPDATE TO outbox.outbox DO INSTEAD NOTHING";
    session.batch_execute(rule).await?;
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    let run = command(&fixture.settings, &["run"], LIMIT).await?;
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{said}");
    ensure!(
        said.contains("RETURNING") && said.contains("0A000"),
        "{said}"
    );
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keep_an_event_of_any_id_that_cannot_be_published_is_filed_and_retried() -> Result<()>
{
    for (major, id) in [
        (15, "id uuid PRIMARY KEY DEFAULT gen_random_uuid()"),
        (
            17,
            "id text PRIMARY KEY DEFAULT (random() * 1e9)::bigint::text",
        ),
        (
            15,
            "id numeric PRIMARY KEY DEFAULT (random() * 1e9)::bigint",
        ),
    ] {
        let columns = format!("{id}, {ALWAYS}, created_at timestamp DEFAULT now()");
        let keep = [("OUTBOX_AFTER_PUBLISH", "keep")];
        let shaped = Shaped::create(major, &columns, &keep).await?;
        let session = shaped.database.connect().await?;
        let mut outboxd = Outboxd::spawn(&shaped.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        shaped.insert(&session, &shaped.topic, 50).await?;
        shaped.insert(&session, "no such topic", 1).await?;
        shaped.insert(&session, &shaped.topic, 50).await?;
        expect(&session, "the dead letter", FILED, 1)
            .await
            .with_context(|| outboxd.log())?;
        slot_passes(&session).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        outboxd.respawn()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let all = ["dead-letter", "discard", "--all", "--yes"];
        let discard = command(&shaped.settings, &all, LIMIT).await?;
        ensure!(discard.status.success(), "{discard:?}");
        let open = format!("{FILED} WHERE state <> 'discarded'");
        expect(&session, "the letter to be closed", &open, 0)
            .await
            .with_context(|| outboxd.log())?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(shaped.consumed().await?, (100, 0), "{id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_triggers_of_the_tables_owner_find_their_names() -> Result<()> {
    for (n, mode) in ["mark", "delete"].into_iter().enumerate() {
        let fixture = Fixture::create(shared(MAJORS[n]), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let triggers = "
            CREATE SCHEMA app;
            CREATE TABLE app.audit_log (event bigint);
            CREATE TABLE public.filed (letter bigint);
            CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN INSERT INTO audit_log VALUES (old.id); RETURN NULL; END$$;
            CREATE FUNCTION app.alert() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN INSERT INTO filed VALUES (new.id); RETURN NULL; END$$;
            CREATE TRIGGER note AFTER UPDATE OR DELETE ON outbox.outbox
                FOR EACH ROW EXECUTE FUNCTION app.note();
            CREATE TRIGGER alert AFTER INSERT OR UPDATE ON outbox.dead_letter
                FOR EACH ROW EXECUTE FUNCTION app.alert()";
        session.batch_execute(triggers).await?;
        let name = &fixture.database.name;
        let path = format!("ALTER DATABASE {name} SET search_path = app, public");
        session.batch_execute(&path).await?;
        let settings = fixture.settings.clone().set("OUTBOX_AFTER_PUBLISH", mode);
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for topic in [&fixture.topic, "no such topic"] {
            fixture.database.insert("k", topic, "{}").await?;
        }
        let filed = "SELECT count(*) FROM public.filed";
        expect(&session, "the dead letter", filed, 1)
            .await
            .with_context(|| outboxd.log())?;
        expect(&session, "the mark", UNPUBLISHED, 1)
            .await
            .with_context(|| outboxd.log())?;
        let all = ["dead-letter", "discard", "--all", "--yes"];
        let discard = command(&settings, &all, LIMIT).await?;
        ensure!(discard.status.success(), "{discard:?}");
        expect(&session, "the discarded row's mark", UNPUBLISHED, 0)
            .await
            .with_context(|| outboxd.log())?;
        assert_eq!(
            session
                .value::<i64>("SELECT count(*) FROM app.audit_log")
                .await?,
            2
        );
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let log = outboxd.log();
        ensure!(!log.contains("retrying"), "{log}");
    }
    Ok(())
}

/// An error of class 42 in a trigger is not the statement's: the row is filed.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_names_what_is_not_there_costs_its_own_row_alone() -> Result<()> {
    let fixture = Fixture::create(shared(turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let trigger = "
        CREATE FUNCTION outbox.note() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN INSERT INTO nowhere VALUES (old.id); RETURN NULL; END$$;
        CREATE TRIGGER note AFTER UPDATE ON outbox.outbox FOR EACH ROW
            WHEN (old.event_type = 'noted') EXECUTE FUNCTION outbox.note()";
    session.batch_execute(trigger).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for kind in ["a", "noted", "b"] {
        fixture.database.insert(kind, &fixture.topic, "{}").await?;
    }
    expect(&session, "it to be filed", NOT_MARKED, 1)
        .await
        .with_context(|| outboxd.log())?;
    expect(&session, "the others to be marked", UNPUBLISHED, 1).await?;
    slot_passes(&session).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_no_mark_fits_any_more_ends_the_publisher_unless_it_passes() -> Result<()> {
    let fixture = Fixture::create(shared(turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let retype = |kind: &str| {
        format!(
            "ALTER TABLE outbox.outbox ALTER times_attempted DROP DEFAULT, \
             ALTER times_attempted TYPE {kind} USING times_attempted::{kind}"
        )
    };
    // A state that passes at once costs nothing.
    session.batch_execute(&retype("text")).await?;
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    outboxd
        .wait_for_log(&["CONFIG_ERROR", "retrying"], LIMIT)
        .await?;
    session.batch_execute(&retype("integer")).await?;
    fixture.all_marked(LIMIT).await?;
    session.batch_execute(&retype("text")).await?;
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    let log = outboxd.log();
    let error = log.lines().find(|line| line.starts_with("error: "));
    let error = error.with_context(|| log.clone())?;
    ensure!(
        error.contains("CONFIG_ERROR") && error.contains("outbox.outbox"),
        "{log}"
    );
    // The next start says so before it sends anything.
    outboxd.respawn()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 2);
    session.batch_execute(&retype("integer")).await?;
    outboxd.respawn()?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// Writers in other time zones than outboxd, and tables with another idea of the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_has_the_time_that_the_tables_writers_would_give_it() -> Result<()> {
    let utc = "(now() AT TIME ZONE 'utc')";
    for (n, (created, published, default)) in [
        ("timestamp", "timestamp", "CURRENT_TIMESTAMP"),
        ("timestamp", "timestamp", utc),
        ("timestamp", "timestamptz", "CURRENT_TIMESTAMP"),
        ("timestamptz", "timestamp", "now()"),
        ("timestamptz", "timestamptz", "now()"),
    ]
    .into_iter()
    .enumerate()
    {
        let columns = format!(
            "{ID}, {ALWAYS}, created_at {created} DEFAULT {default} NOT NULL, \
             published_at {published}, CHECK (published_at >= created_at)"
        );
        let shaped = Shaped::create(MAJORS[n % 2], &columns, &[]).await?;
        let session = shaped.database.connect().await?;
        let name = &shaped.database.name;
        let zone = format!("ALTER DATABASE {name} SET TimeZone = 'America/New_York'");
        session.batch_execute(&zone).await?;
        let mut outboxd = Outboxd::spawn(&shaped.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for zone in [
            "Asia/Tokyo",
            "UTC",
            "America/New_York",
            "Pacific/Kiritimati",
        ] {
            let set = format!("SET TimeZone = '{zone}'");
            session.batch_execute(&set).await?;
            shaped.insert(&session, &shaped.topic, 5).await?;
        }
        expect(&session, "all to be marked", UNPUBLISHED, 0)
            .await
            .with_context(|| outboxd.log())?;
        assert_eq!(
            session.value::<i64>(FILED).await?,
            0,
            "{created} {published}"
        );
        if default == utc {
            let near = "SELECT count(*) FROM outbox.outbox \
                         WHERE published_at BETWEEN created_at AND created_at + interval '90 s'";
            assert_eq!(
                session.value::<i64>(near).await?,
                20,
                "in UTC as created_at"
            );
        }
        // A deliberate time in the far future is no time zone.
        let far = "INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at) \
                   VALUES ('far', $1, '{}', '2999-01-01')";
        session.execute(far, &[&shaped.topic]).await?;
        expect(&session, "the far one to be filed", NOT_MARKED, 1).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(shaped.consumed().await?, (21, 0));
    }
    Ok(())
}

/// A counter at the end of its range is no reason to refuse a mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_at_its_limit_stays_there() -> Result<()> {
    for (kind, most) in [
        ("smallint", "32767"),
        ("integer", "2147483647"),
        ("bigint", "9223372036854775807"),
    ] {
        let columns = format!(
            "{ID}, {ALWAYS}, published_at timestamp, times_attempted {kind} DEFAULT {most}"
        );
        let shaped = Shaped::create(turn(17), &columns, &[]).await?;
        let session = shaped.database.connect().await?;
        shaped.insert(&session, &shaped.topic, 2).await?;
        let mut outboxd = Outboxd::spawn(&shaped.settings)?;
        expect(&session, "the marks", UNPUBLISHED, 0)
            .await
            .with_context(|| outboxd.log())?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(session.value::<i64>(FILED).await?, 0);
    }
    Ok(())
}

/// The server's log names each statement that a session parses.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_again_and_again_is_prepared_once() -> Result<()> {
    let server = postgres::private(turn(17), &["log_min_duration_statement = 0"])?;
    for (source, phase) in [("slot", "streaming"), ("poll", "polling")] {
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let settings = fixture.settings.clone().set("OUTBOX_SOURCE", source);
        let settings = settings
            .set("OUTBOX_AUDIT_INTERVAL", "1s")
            .set("OUTBOX_PROCESS_INTERVAL", "100ms");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase(phase, LIMIT).await?;
        let parsed = || {
            let log = server.log();
            let ours = format!("@{} outboxd", fixture.database.name);
            let lines = log.lines().filter(|line| line.contains(&ours));
            let parsed = lines.filter(|line| line.contains(" parse s"));
            parsed.map(str::to_owned).collect::<Vec<String>>()
        };
        let round = async |rounds: i64| -> Result<()> {
            for _ in 0..rounds {
                fixture.database.insert("k", &fixture.topic, "{}").await?;
                fixture.all_marked(LIMIT).await?;
            }
            // The requests of dead letters are read each second, the audit runs each second.
            let all = ["dead-letter", "discard", "--all", "--yes"];
            let discard = command(&fixture.settings, &all, LIMIT).await?;
            ensure!(discard.status.success(), "{discard:?}");
            let open = format!("{FILED} WHERE state <> 'discarded'");
            expect(&session, "the letter to be closed", &open, 0).await
        };
        let letter = "INSERT INTO outbox.dead_letter \
            (system_id, outbox_id, topic, payload_sha256, error_code, error, state) \
            VALUES ('1', $1, $2, '', 'X', 'x', 'dead')";
        session.execute(letter, &[&"-1", &fixture.topic]).await?;
        round(5).await?;
        session.execute(letter, &[&"-2", &fixture.topic]).await?;
        round(20).await?;
        let parsed = parsed();
        ensure!(!parsed.is_empty(), "the log names what is parsed");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        // The server process and the statement; of one that begins with a new line, the log's first
        // line has nothing.
        let name = |line: &str| {
            let process = line.split_once('[')?.1.split_once(']')?.0.to_owned();
            let statement = line.split_once(" parse s")?.1.split_once(": ")?.1.trim();
            (!statement.is_empty()).then(|| (process, statement.to_owned()))
        };
        let mut times: HashMap<_, u32> = HashMap::new();
        for name in parsed.iter().filter_map(|line| name(line)) {
            *times.entry(name).or_default() += 1;
        }
        // At a start two statements of several lines may begin alike; there were 25 rounds.
        times.retain(|_, times| *times > 2);
        let again = times;
        ensure!(again.is_empty(), "{source}: {again:#?}");
        drop(outboxd);
    }
    Ok(())
}

/// One reset is a person's wish; a program that resets every mark is not obeyed for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_program_keeps_unpublished_is_not_sent_for_ever() -> Result<()> {
    for (source, phase) in [("slot", "streaming"), ("poll", "polling")] {
        let fixture = Fixture::create(shared(turn(15)), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let settings = fixture.settings.clone().set("OUTBOX_SOURCE", source);
        let settings = settings
            .set("OUTBOX_AUDIT_INTERVAL", "1s")
            .set("OUTBOX_PROCESS_INTERVAL", "100ms");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase(phase, LIMIT).await?;
        for _ in 0..3 {
            fixture.database.insert("k", &fixture.topic, "{}").await?;
        }
        // The program undoes each mark as soon as it sees it.
        wait_until("the rows to be filed", LIMIT, async || {
            let undo = "UPDATE outbox.outbox SET published_at = NULL \
                         WHERE published_at IS NOT NULL";
            session.batch_execute(undo).await?;
            let filed = "SELECT count(*) FROM outbox.dead_letter \
                          WHERE error_code = 'MARK_REMOVED' AND state = 'dead'";
            let filed = session.value::<i64>(filed).await?;
            Ok((filed == 3)
                .then_some(())
                .ok_or_else(|| format!("{filed} are")))
        })
        .await
        .with_context(|| outboxd.log())?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let first = read.iter().filter_map(ConsumedRecord::outbox_id).min();
        let copies = |id| read.iter().filter(|it| it.outbox_id() == id).count();
        ensure!(copies(first) <= 4, "{source}: {} records", read.len());
    }
    Ok(())
}

/// Every event is in Kafka once, and no dead letter follows the other without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_every_mark_ends_the_publisher_at_the_limit_of_dead_letters()
-> Result<()> {
    for (major, source) in [(MAJORS[0], "slot"), (MAJORS[1], "poll")] {
        let fixture = Fixture::create(shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        session
            .batch_execute(
                "ALTER TABLE outbox.outbox ADD CONSTRAINT never CHECK (published_at IS NULL)",
            )
            .await?;
        let settings = fixture
            .settings
            .clone()
            .set("OUTBOX_SOURCE", source)
            .set("OUTBOX_PROCESS_INTERVAL", "100ms")
            .set("OUTBOX_DEAD_LETTERS_PER_MINUTE", "20");
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k' || i % 5, $1, '{}' FROM generate_series(1, 5) AS i";
        for start in 0..2 {
            let outboxd = Outboxd::spawn(&settings)?;
            let mut rows = 0;
            while outboxd.exit_code().is_none() {
                ensure!(rows < 2_000, "it goes on: {}", outboxd.log());
                session.execute(insert, &[&fixture.topic]).await?;
                rows += 5;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let log = outboxd.log();
            ensure!(outboxd.wait(LIMIT).await? == 1, "{log}");
            ensure!(
                log.contains("PUBLISH_ERROR") && log.contains("MARKS_REFUSED"),
                "{log}"
            );
            ensure!(start == 1 || rows > 20, "{rows} rows");
        }
        session
            .batch_execute("ALTER TABLE outbox.outbox DROP CONSTRAINT never")
            .await?;
        let unlimited = settings.set("OUTBOX_DEAD_LETTERS_PER_MINUTE", "10000");
        let mut outboxd = Outboxd::spawn(&unlimited)?;
        let discard = [
            "dead-letter",
            "discard",
            "--state",
            "published-not-marked",
            "--yes",
        ];
        let discarded = command(&unlimited, &discard, LIMIT).await?;
        ensure!(discarded.status.success(), "{discarded:?}");
        expect(&session, "the marks", UNPUBLISHED, 0)
            .await
            .with_context(|| outboxd.log())?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let rows: i64 = session.value("SELECT count(*) FROM outbox.outbox").await?;
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let ids: std::collections::HashSet<i64> = consumed
            .iter()
            .filter_map(ConsumedRecord::outbox_id)
            .collect();
        assert_eq!((ids.len() as i64, consumed.len() as i64), (rows, rows));
    }
    Ok(())
}
