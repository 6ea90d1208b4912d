//! The advisory locks that let one of several instances publish: their keys, their holders, and how
//! they are taken.
//!
//! An instance holds two. One belongs to the database and the slot's name, the other to the table:
//! so neither two tables share a slot, nor two slots a table. A publisher that polls takes the same
//! two. `pg_locks` shows the keys, so another instance sees which table a holder serves.
//!
//! The events of a partition are its parent's too. So an instance for a partition also shares the
//! locks of the tables above it, and excludes the instances for these, but none for a sibling.
//!
//! No session waits for a lock, because a waiting session holds back vacuum: an instance that
//! stands by queries `pg_locks` at intervals.
//! See <https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>.

use std::time::Duration;

use tokio_postgres::Row;

use crate::config::TableName;
use crate::error::Result;
use crate::fnv::{fnv1a_32, fnv1a_64};
use crate::postgres::session::{Columns, Session};

/// A statement without effect, which keeps the session that holds the lock from being silent.
pub(crate) const KEEPALIVE: &str = "SELECT 1";

/// A session that holds the lock of a slot or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its server process; a prepared transaction has none.
    pub pid: Option<i32>,
    pub application: String,
    pub role: String,
    /// Whether it holds the slot's lock, or the table's alone.
    pub has_slot: bool,
    /// The table whose lock it holds.
    pub table: Option<LockedTable>,
    /// The replication slots that it reads.
    pub slots: Vec<String>,
    /// Its role may stream, or read the table: any role may take an advisory lock.
    pub may_publish: bool,
}

/// A table whose lock is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedTable {
    /// `schema.name`; none when it was dropped.
    pub name: Option<String>,
    /// It is the table of this instance.
    pub is_ours: bool,
}

/// The statement that takes the locks without waiting: true when all were free.
pub(crate) fn take_sql(slot: &str, table: u32) -> String {
    let (key, class, lock) = (slot_key(slot), table_class(), table.cast_signed());
    let above = above(&format!("'{table}'::pg_catalog.oid"));
    // An object id beyond 31 bits is a negative key.
    format!(
        "WITH RECURSIVE {above}
         SELECT coalesce(CASE WHEN pg_catalog.pg_try_advisory_lock('{key}'::int8)
                              THEN pg_catalog.pg_try_advisory_lock('{class}'::int4, '{lock}'::int4)
                         END, false)
            AND coalesce((SELECT pg_catalog.bool_and(pg_catalog.pg_try_advisory_lock_shared(
                                     '{class}'::int4, a.oid::int8::bit(32)::int4))
                            FROM above AS a), true)"
    )
}

/// The query `above`, to follow WITH RECURSIVE: the tables that this table is a partition of, or
/// inherits from, at any height.
fn above(table: &str) -> String {
    format!(
        "above AS (
            SELECT i.inhparent AS oid FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = {table}
             UNION
            SELECT i.inhparent FROM pg_catalog.pg_inherits AS i
              JOIN above AS a ON i.inhrelid = a.oid)"
    )
}

/// Takes the locks for this session, without waiting. False when another session has one of them;
/// the session may keep the others until it ends.
pub(crate) async fn take(session: &Session, slot: &str, table: u32) -> Result<bool> {
    let row = session
        .row("taking the lock", &take_sql(slot, table), &[])
        .await?;
    row.column(0)
}

/// Makes the server end the session, and so release its locks, after this much silence.
pub(crate) async fn limit_silence(session: &Session, limit: Duration) -> Result<()> {
    let limit = limit.as_millis();
    let set = format!("SET idle_session_timeout = '{limit}ms'");
    session.run("limiting the session's silence", &set).await
}

/// The server process that holds the lock of a slot.
pub async fn holder(session: &Session, slot: &str) -> Result<Option<i32>> {
    let no_table = TableName {
        schema: String::new(),
        name: String::new(),
    };
    let holders = holders(session, slot, &no_table).await?;
    Ok(holders.into_iter().find_map(|holder| holder.pid))
}

/// Everything that holds the lock of this slot or of this table.
///
/// # Errors
/// Of the server or the session.
pub async fn holders(session: &Session, slot: &str, table: &TableName) -> Result<Vec<Holder>> {
    let key = slot_key(slot).cast_unsigned();
    let (high, low) = (i64::from((key >> 32) as u32), i64::from(key as u32));
    let class = i64::from(table_class().cast_unsigned());
    let rows = session
        .rows(
            "reading the holders of the lock",
            &holders_sql(),
            &[&high, &low, &class, &table.schema, &table.name],
        )
        .await?;
    rows.iter().map(holder_of).collect()
}

fn holder_of(row: &Row) -> Result<Holder> {
    let (has_table, name, is_ours): (bool, _, _) = (row.column(4)?, row.column(5)?, row.column(6)?);
    Ok(Holder {
        pid: row.column(0)?,
        application: row.column(1)?,
        role: row.column(2)?,
        has_slot: row.column(3)?,
        table: has_table.then_some(LockedTable { name, is_ours }),
        slots: row.column(7)?,
        may_publish: row.column(8)?,
    })
}

/// `$1` and `$2` are the halves of the slot's key, `$3` the class of the tables' keys. A lock with
/// one key of eight bytes is of kind 1 (`objsubid`), one with two keys of four bytes of kind 2. A
/// holder's own table is the one whose lock it does not share; that of a table above ours is
/// shared with other partitions. The server reads the transaction of each lock by itself, so two
/// locks of a session that decodes may show two transactions: only a prepared transaction, which
/// has no process, is known by it.
fn holders_sql() -> String {
    let table = "(SELECT o.oid FROM own AS o)";
    format!("WITH RECURSIVE {above}, {HOLDERS}", above = above(table))
}

const HOLDERS: &str = "
    held AS (
        SELECT l.pid, CASE WHEN l.pid IS NULL THEN l.virtualtransaction END AS owner,
               l.classid::int8 AS class, l.objid::int8 AS object, l.objsubid::int4 AS kind,
               l.mode = 'ExclusiveLock' AS alone
          FROM pg_catalog.pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.granted
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                              WHERE d.datname = pg_catalog.current_database())),
    own AS (
        SELECT c.oid
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $4 AND c.relname = $5),
    ours AS (
        SELECT o.oid::int8 AS oid FROM own AS o),
    holders AS (
        SELECT h.pid, h.owner, pg_catalog.bool_or(h.kind = 1) AS has_slot,
               (SELECT pg_catalog.min(t.object) FROM held AS t
                 WHERE t.pid IS NOT DISTINCT FROM h.pid
                   AND t.owner IS NOT DISTINCT FROM h.owner
                   AND t.kind = 2 AND t.class = $3 AND t.alone) AS table_oid
          FROM held AS h
         WHERE (h.kind = 1 AND h.class = $1 AND h.object = $2)
            OR (h.kind = 2 AND h.class = $3
                AND (h.object IN (SELECT o.oid FROM ours AS o)
                     OR h.alone AND h.object IN (SELECT a.oid::int8 FROM above AS a)))
         GROUP BY h.pid, h.owner)
    SELECT s.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), s.has_slot,
           s.table_oid IS NOT NULL,
           (SELECT n.nspname::text || '.' || c.relname::text
              FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid::int8 = s.table_oid),
           coalesce(s.table_oid IN (SELECT o.oid FROM ours AS o), false),
           ARRAY(SELECT r.slot_name::text FROM pg_catalog.pg_replication_slots AS r
                  WHERE r.active_pid = s.pid),
           coalesce((SELECT u.rolsuper OR u.rolreplication
                         OR EXISTS (SELECT FROM pg_catalog.pg_roles AS p
                                     WHERE p.rolname = 'rds_replication'
                                       AND pg_catalog.pg_has_role(u.oid, p.oid, 'USAGE'))
                         OR EXISTS (SELECT FROM ours AS o
                                     WHERE pg_catalog.has_table_privilege(
                                               u.oid, o.oid::oid, 'SELECT'))
                       FROM pg_catalog.pg_roles AS u WHERE u.oid = a.usesysid), false)
      FROM holders AS s
      LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.pid";

/// The statement that ends another session, and so releases its locks.
pub(crate) fn end_sql(pid: i32) -> String {
    format!("SELECT pg_terminate_backend({pid})")
}

/// The key of a slot's lock: FNV-1a of a prefix and the slot's name, the same in every version of
/// outboxd.
fn slot_key(slot: &str) -> i64 {
    fnv1a_64(&[b"outboxd:", slot.as_bytes()]) as i64
}

/// The first key of every table's lock; the second is the table's object id.
fn table_class() -> i32 {
    fnv1a_32(&[b"outboxd table"]) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_and_table_are_locked_alone_and_the_tables_above_are_shared() {
        let sql = take_sql("outboxd_orders", 3_000_000_000);
        let slot = slot_key("outboxd_orders");
        assert!(sql.contains(&format!("pg_try_advisory_lock('{slot}'::int8)")));
        let class = table_class();
        let table = format!("pg_try_advisory_lock('{class}'::int4, '-1294967296'::int4)");
        assert!(sql.contains(&table), "{sql}");
        assert!(
            sql.contains("i.inhrelid = '3000000000'::pg_catalog.oid"),
            "{sql}"
        );
        let shared = "FROM above AS a), true)";
        assert!(
            sql.contains("pg_try_advisory_lock_shared") && sql.ends_with(shared),
            "{sql}"
        );
    }

    #[test]
    fn the_lock_of_a_slot_never_changes_its_number() {
        assert_eq!(slot_key("outboxd_orders"), 0x3254_cad5_5bbb_4f4f);
        assert_ne!(slot_key("outboxd_orders"), slot_key("outboxd_order"));
        assert_eq!(slot_key(""), 0xd059_0bc1_cdea_aca2_u64 as i64);
    }
}
