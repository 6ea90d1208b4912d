//! Faults of table, rights, publication and slot, each in a database of its own.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::examine;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Settings, command};
use crate::support::postgres::{self, turn};

/// One fault: the SQL that plants it, in which `{role}` and `{slot}` stand for the names, the
/// settings it needs, and what the check says.
pub(super) struct Planted {
    pub(super) sql: &'static str,
    pub(super) set: &'static [(&'static str, &'static str)],
    /// Whether the doctor connects as a role with what `init --role` grants.
    pub(super) as_role: bool,
    pub(super) check: &'static str,
    pub(super) verdict: &'static str,
    pub(super) words: &'static [&'static str],
}

pub(super) const PLAIN: Planted = Planted {
    sql: "",
    set: &[],
    as_role: false,
    check: "",
    verdict: "fails",
    words: &[],
};

const DELETE: &[(&str, &str)] = &[("OUTBOX_AFTER_PUBLISH", "delete")];

const OF_THE_TABLE: [Planted; 14] = [
    Planted {
        sql: "DROP TABLE outbox.outbox CASCADE",
        check: "table",
        words: &["no table outbox.outbox", "outboxd init"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox DROP COLUMN published_at",
        check: "table",
        words: &["no column published_at"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox ALTER COLUMN event_payload TYPE int USING 1",
        check: "table",
        words: &["event_payload has the type integer"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox DROP CONSTRAINT outbox_pkey",
        check: "table",
        words: &["no primary or unique key", "ADD UNIQUE (id)"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER PUBLICATION outboxd DROP TABLE outbox.outbox; \
              ALTER TABLE outbox.outbox SET UNLOGGED",
        check: "table",
        words: &["unlogged", "SET LOGGED"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox ALTER COLUMN times_attempted DROP DEFAULT, \
              ALTER COLUMN times_attempted TYPE text",
        check: "statements",
        words: &["times_attempted", "cannot be counted", "TYPE integer"],
        ..PLAIN
    },
    Planted {
        sql: "DROP TABLE outbox.dead_letter",
        check: "dead-letters",
        words: &["no table outbox.dead_letter", "outboxd init"],
        ..PLAIN
    },
    Planted {
        sql: "CREATE RULE protect AS ON UPDATE TO outbox.outbox DO INSTEAD NOTHING",
        check: "triggers",
        words: &["rule protect", "never happens", "DROP RULE"],
        ..PLAIN
    },
    Planted {
        sql: "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql \
              AS 'BEGIN RETURN NULL; END'; \
              CREATE TRIGGER guard BEFORE UPDATE ON outbox.outbox \
              FOR EACH ROW EXECUTE FUNCTION refuse()",
        check: "triggers",
        verdict: "warning",
        words: &["trigger guard", "DISABLE TRIGGER"],
        ..PLAIN
    },
    Planted {
        sql: "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql \
              AS 'BEGIN RETURN NULL; END'; \
              CREATE TRIGGER guard AFTER DELETE ON outbox.outbox \
              FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
        set: DELETE,
        check: "triggers",
        verdict: "warning",
        words: &["trigger guard", "deletion"],
        ..PLAIN
    },
    Planted {
        sql: "DROP INDEX outbox.idx_outbox_unpublished_id",
        check: "index",
        verdict: "warning",
        words: &["CREATE INDEX CONCURRENTLY"],
        ..PLAIN
    },
    Planted {
        sql: "UPDATE pg_index SET indisvalid = false \
              WHERE indexrelid = 'outbox.idx_outbox_unpublished_id'::regclass",
        check: "index",
        verdict: "warning",
        words: &["not valid", "REINDEX INDEX CONCURRENTLY"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox SET (autovacuum_enabled = false)",
        check: "bloat",
        verdict: "warning",
        words: &["autovacuum", "RESET (autovacuum_enabled)"],
        ..PLAIN
    },
    Planted {
        sql: "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
              SELECT 'k', 'none', '{}' FROM generate_series(1, 1001)",
        check: "backlog",
        words: &["over 1000 unpublished rows", "OUTBOX_BACKLOG=publish"],
        ..PLAIN
    },
];

const OF_RIGHTS: [Planted; 9] = [
    Planted {
        sql: "ALTER ROLE {role} NOREPLICATION",
        as_role: true,
        check: "replication-right",
        words: &["may not replicate", "REPLICATION"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER ROLE {role} CONNECTION LIMIT 3",
        as_role: true,
        check: "role-limits",
        words: &["3 connections", "CONNECTION LIMIT"],
        ..PLAIN
    },
    Planted {
        sql: "DO $$ BEGIN EXECUTE format('ALTER ROLE {role} VALID UNTIL %L', \
              now() + interval '3 days'); END $$",
        as_role: true,
        check: "role-limits",
        verdict: "warning",
        words: &["expires in", "VALID UNTIL"],
        ..PLAIN
    },
    Planted {
        sql: "REVOKE SELECT ON outbox.outbox FROM {role}",
        as_role: true,
        check: "rights",
        words: &["lacks SELECT", "GRANT SELECT"],
        ..PLAIN
    },
    Planted {
        sql: "REVOKE UPDATE (published_at, times_attempted) ON outbox.outbox FROM {role}",
        as_role: true,
        check: "rights",
        words: &["lacks UPDATE", "GRANT UPDATE"],
        ..PLAIN
    },
    Planted {
        sql: "",
        set: DELETE,
        as_role: true,
        check: "rights",
        words: &["lacks DELETE", "GRANT DELETE"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox ENABLE ROW LEVEL SECURITY",
        as_role: true,
        check: "row-level-security",
        words: &["hides rows", "BYPASSRLS"],
        ..PLAIN
    },
    Planted {
        sql: "REVOKE INSERT ON outbox.dead_letter FROM {role}",
        as_role: true,
        check: "dead-letters",
        words: &["lacks SELECT, INSERT or UPDATE", "GRANT"],
        ..PLAIN
    },
    Planted {
        sql: "REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        as_role: true,
        check: "login",
        words: &["permission denied for database"],
        ..PLAIN
    },
];

const OF_THE_STREAM: [Planted; 9] = [
    Planted {
        sql: "DROP PUBLICATION outboxd",
        check: "publication",
        words: &["no publication outboxd", "CREATE PUBLICATION"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER PUBLICATION outboxd DROP TABLE outbox.outbox",
        check: "publication",
        words: &["does not contain outbox.outbox", "ADD TABLE"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER PUBLICATION outboxd SET (publish = 'update')",
        check: "publication",
        words: &["does not publish inserts", "publish = 'insert'"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER PUBLICATION outboxd SET TABLE outbox.outbox WHERE (topic = 'a')",
        check: "publication",
        words: &["row filter", "SET TABLE"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER PUBLICATION outboxd SET TABLE outbox.outbox (id, topic)",
        check: "publication",
        words: &["leaves out", "event_payload"],
        ..PLAIN
    },
    Planted {
        sql: "ALTER TABLE outbox.outbox REPLICA IDENTITY NOTHING; \
              ALTER PUBLICATION outboxd SET (publish = 'insert, update')",
        check: "publication",
        words: &["makes every update", "publish = 'insert'"],
        ..PLAIN
    },
    Planted {
        sql: "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')",
        check: "slot",
        words: &["plugin test_decoding", "OUTBOX_SLOT"],
        ..PLAIN
    },
    Planted {
        sql: "SELECT pg_create_physical_replication_slot('{slot}')",
        check: "slot",
        words: &["a physical standby", "OUTBOX_SLOT"],
        ..PLAIN
    },
    Planted {
        sql: "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
        check: "slot",
        verdict: "warning",
        words: &["no process reads", "outboxd run"],
        ..PLAIN
    },
];

/// Plants the fault in a prepared database, and examines.
async fn plant(planted: &Planted, major: u32) -> Result<()> {
    let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
    let database = &fixture.database;
    let role = format!("{}_relay", database.name);
    let mut settings: Settings = fixture.settings.clone();
    if planted.as_role {
        let init = ["init", "--role", &role];
        command(&settings, &init, super::LIMIT).await?;
        settings = settings.set("DATABASE_URL", database.url_as(&role));
    }
    for (name, value) in planted.set {
        settings = settings.set(name, *value);
    }
    let sql = planted.sql.replace("{role}", &role);
    let sql = sql.replace("{slot}", &fixture.slot());
    let sql = sql.replace("{database}", &database.name);
    database.connect().await?.batch_execute(&sql).await?;
    let examined = examine(&settings).await?;
    examined.expect(planted.check, planted.verdict, planted.words)?;
    if planted.as_role {
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        database.connect().await?.batch_execute(&drop).await?;
    }
    Ok(())
}

/// Plants each fault, four at a time.
pub(super) async fn plant_each(cases: &'static [Planted], major: u32) -> Result<()> {
    let mut running = JoinSet::new();
    let mut problems = Vec::new();
    // Row filters and column lists are new in 15.
    let is_known = |it: &&Planted| major >= 15 || !it.sql.contains("SET TABLE outbox.outbox ");
    for planted in cases.iter().filter(is_known) {
        while running.len() >= 4 {
            problems.extend(running.join_next().await.transpose()?.and_then(Result::err));
        }
        let case = async move { plant(planted, major).await.context(planted.sql) };
        running.spawn(case);
    }
    for result in running.join_all().await {
        problems.extend(result.err());
    }
    assert!(problems.is_empty(), "{problems:#?}");
    Ok(())
}

#[tokio::test]
async fn faults_of_the_table_are_named_with_what_fixes_them() -> Result<()> {
    plant_each(&OF_THE_TABLE, turn(17)).await
}

#[tokio::test]
async fn rights_and_limits_of_the_role_are_named_with_what_fixes_them() -> Result<()> {
    plant_each(&OF_RIGHTS, turn(15)).await
}

#[tokio::test]
async fn faults_of_publication_and_slot_are_named_with_what_fixes_them() -> Result<()> {
    plant_each(&OF_THE_STREAM, turn(17)).await
}

#[tokio::test]
async fn a_locked_table_ends_the_examination_and_hides_nothing_else() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let locker = fixture.database.connect().await?;
    let lock = "BEGIN; LOCK TABLE outbox.outbox";
    locker.batch_execute(lock).await?;
    let examined = examine(&fixture.settings).await?;
    examined.expect("table", "cannot say", &["no answer", "a lock"])?;
    examined.expect("statements", "cannot say", &["not reached", "table"])?;
    examined.expect("topics", "cannot say", &["not reached", "table"])?;
    examined.expect("lock", "ok", &[])?;
    examined.expect("wal-retention", "warning", &["-1"])?;
    examined.expect("kafka-answer", "ok", &[])
}

/// A page of this index has a tenth of the entries that it could have.
#[tokio::test(flavor = "multi_thread")]
async fn a_bloated_index_is_named_with_what_fixes_it() -> Result<()> {
    let server = postgres::private(turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    fixture.database.fill(&fixture.topic, 450_000).await?;
    for sql in [
        "DROP INDEX outbox.idx_outbox_unpublished_id",
        "CREATE INDEX idx_outbox_unpublished_id ON outbox.outbox (id) WITH (fillfactor = 10) \
         WHERE published_at IS NULL",
        "VACUUM (ANALYZE) outbox.outbox",
    ] {
        session.batch_execute(sql).await?;
    }
    let examined = examine(&fixture.settings).await?;
    examined.expect(
        "bloat",
        "warning",
        &[
            "idx_outbox_unpublished_id has",
            "REINDEX INDEX CONCURRENTLY",
        ],
    )?;
    examined.expect("index", "ok", &["finds unpublished rows"])
}
