//! The replication slot over SQL: reading, copying, advancing and dropping it, and the transactions
//! that delay its creation.
//!
//! Slot names are shared by all databases of a server, and a session of any database may drop any
//! slot. So the statements that copy or drop a slot require `database = current_database() AND
//! plugin = 'pgoutput'`, and a slot of another database or plugin is an error that names its owner,
//! never a slot to heal.
//! See <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>.

use tokio_postgres::types::PgLsn;

use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::session::{Columns, Session};
use crate::postgres::sqlstate::{self, ServerError};

const REPLICATION: &str = "the role needs REPLICATION: ALTER ROLE ... REPLICATION, or on Amazon \
                           RDS GRANT rds_replication";

/// The output plugin of outboxd's slots.
pub(crate) const PLUGIN: &str = "pgoutput";

/// How many open transactions are named at most.
const BLOCKERS_MAX: i64 = 20;

/// A logical slot of this database and of our plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name, unique in the whole server.
    pub name: String,
    /// The server process that reads from it.
    pub active_pid: Option<i32>,
    /// The confirmed position. A lost slot still has it: the start of the gap. A slot that is being
    /// created has none.
    pub confirmed_flush: Option<Lsn>,
    /// The start of the WAL that is kept for it; none when it is lost.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How many bytes of WAL may be written before the slot can be lost; none without
    /// `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Whether the server drops it with the connection that created it.
    pub temporary: bool,
    /// Whether standbys keep a copy of it (Postgres 17 and later).
    pub failover: Option<bool>,
    /// Why it is lost, as the server reports it (Postgres 17 and later).
    pub invalidation_reason: Option<String>,
    /// Bytes of WAL written since the confirmed position.
    pub lag_bytes: i64,
    /// Bytes of WAL that are kept for it.
    pub retained_bytes: i64,
    /// The end of the server's WAL, in bytes since its beginning: only differences mean something.
    pub wal_bytes: i64,
}

#[cfg(test)]
impl Slot {
    /// One that can be read from, at this position.
    pub(crate) fn at(confirmed: Lsn) -> Self {
        Slot {
            name: "outboxd_orders".to_owned(),
            active_pid: None,
            confirmed_flush: Some(confirmed),
            restart: None,
            wal_status: Some("reserved".to_owned()),
            safe_wal_size: None,
            temporary: false,
            failover: None,
            invalidation_reason: None,
            lag_bytes: 0,
            retained_bytes: 0,
            wal_bytes: 0,
        }
    }
}

impl Slot {
    /// Whether it can no longer be read from.
    pub fn is_lost(&self) -> bool {
        is_lost(
            self.invalidation_reason.as_deref(),
            self.wal_status.as_deref(),
        )
    }

    /// Whether it is about to be lost: its WAL may be removed at the next checkpoint, or less than
    /// a tenth of the WAL that the server may keep for it is left.
    pub fn is_near_loss(&self) -> bool {
        if self.is_lost() {
            return false;
        }
        let left = self.safe_wal_size.map(|left| left.max(0));
        let may_be_kept = |left: i64| left.saturating_add(self.retained_bytes);
        self.wal_status.as_deref() == Some("unreserved")
            || left.is_some_and(|left| left < may_be_kept(left) / 10)
    }
}

/// Whether a slot with these columns can no longer be read from.
fn is_lost(invalidation_reason: Option<&str>, wal_status: Option<&str>) -> bool {
    invalidation_reason.is_some() || wal_status == Some("lost")
}

/// Reads the slot `name`; `None` when the server has none of that name.
///
/// A physical slot of that name, or one of another database or plugin, is a fatal error.
pub async fn read(session: &Session, name: &str) -> Result<Option<Slot>> {
    let what = format!("reading replication slot {name}");
    let Some(row) = session.row_if_any(&what, READ, &[&name]).await? else {
        return Ok(None);
    };
    let (database, plugin): (Option<String>, Option<String>) = (row.column(0)?, row.column(1)?);
    if row.column::<Option<bool>>(2)? != Some(true) || plugin.as_deref() != Some(PLUGIN) {
        return Err(foreign(name, database.as_deref(), plugin.as_deref()));
    }
    let lsn = |at| {
        let lsn = row.column::<Option<PgLsn>>(at);
        lsn.map(|lsn| lsn.map(|lsn| Lsn::new(lsn.into())))
    };
    Ok(Some(Slot {
        name: name.to_owned(),
        active_pid: row.column(3)?,
        confirmed_flush: lsn(4)?,
        restart: lsn(5)?,
        wal_status: row.column(6)?,
        safe_wal_size: row.column(7)?,
        temporary: row.column(8)?,
        failover: row.column(9)?,
        invalidation_reason: row.column(10)?,
        lag_bytes: row.column(11)?,
        retained_bytes: row.column(12)?,
        wal_bytes: row.column(13)?,
    }))
}

/// Read through jsonb, a column that this version of the server does not have is null.
const READ: &str = "
    SELECT s.database::text, s.plugin::text, s.database = pg_catalog.current_database(),
           s.active_pid, s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, s.safe_wal_size,
           s.temporary,
           (pg_catalog.to_jsonb(s) ->> 'failover')::bool,
           pg_catalog.to_jsonb(s) ->> 'invalidation_reason',
           greatest(0, pg_catalog.pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn))::int8,
           greatest(0, pg_catalog.pg_wal_lsn_diff(now.lsn, s.restart_lsn))::int8,
           pg_catalog.pg_wal_lsn_diff(now.lsn, '0/0')::int8
      FROM pg_catalog.pg_replication_slots AS s,
           (SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                        THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_lsn()
                   END AS lsn) AS now
     WHERE s.slot_name = $1";

fn foreign(name: &str, database: Option<&str>, plugin: Option<&str>) -> Error {
    let owner = match (database, plugin) {
        (Some(database), Some(plugin)) => format!("database {database}, plugin {plugin}"),
        _ => "a physical standby".to_owned(),
    };
    Error::fatal(
        Code::Config,
        format!("replication slot {name} belongs to {owner}"),
    )
    .with_hint(
        "slot names are shared by all databases of a server: set OUTBOX_SLOT to another name",
    )
}

/// Copies the slot `from` to the permanent slot `to`, and returns its position.
pub async fn copy(session: &Session, from: &str, to: &str) -> Result<Lsn> {
    let what = format!("copying replication slot {from} to {to}");
    const SQL: &str = "
         SELECT (pg_catalog.pg_copy_logical_replication_slot(
                     slot_name, $2::text::name, false)).lsn
           FROM pg_catalog.pg_replication_slots
          WHERE slot_name = $1 AND plugin = 'pgoutput'
            AND database = pg_catalog.current_database()";
    let copied = session
        .for_slots()
        .row_if_any(&what, SQL, &[&from, &to])
        .await;
    match copied.map_err(needs_replication)? {
        Some(row) => Ok(Lsn::new(row.column::<PgLsn>(0)?.into())),
        None => Err(Error::transient(
            Code::Slot,
            format!("{what}: {from} does not exist"),
        )),
    }
}

/// Another client's slot of this database, as far as it can be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherSlot {
    pub(crate) name: String,
    pub(crate) confirmed: Lsn,
    pub(crate) active_pid: Option<i32>,
    pub(crate) lost: bool,
    /// The publication has been as it is since before the slot's position: the server decodes the
    /// slot's WAL with the catalogs of that time.
    pub(crate) follows_publication: bool,
}

/// The slots of this database beside `own`, with what they say of a publication.
///
/// No transaction that is older than a slot's `catalog_xmin` can be invisible to what is decoded
/// from it. The rows that make up the publication have to be of such transactions.
pub(crate) async fn others(
    session: &Session,
    own: &str,
    publication: &str,
) -> Result<Vec<OtherSlot>> {
    const SQL: &str = "
        WITH made AS (
            SELECT pg_catalog.age(p.xmin) AS age FROM pg_catalog.pg_publication AS p
             WHERE p.pubname = $2
               AND (p.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r
                                               WHERE r.prpubid = p.oid))
            UNION ALL
            SELECT pg_catalog.age(r.xmin)
              FROM pg_catalog.pg_publication_rel AS r
              JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
             WHERE p.pubname = $2)
        SELECT s.slot_name::text, s.confirmed_flush_lsn, s.active_pid,
               pg_catalog.to_jsonb(s) ->> 'invalidation_reason', s.wal_status,
               coalesce((SELECT min(age) FROM made) > pg_catalog.age(s.catalog_xmin), false)
          FROM pg_catalog.pg_replication_slots AS s
         WHERE s.database = pg_catalog.current_database() AND s.plugin = 'pgoutput'
           AND NOT s.temporary AND s.slot_name <> $1 AND s.confirmed_flush_lsn IS NOT NULL
         ORDER BY s.slot_name";
    let session = session.for_slots();
    let what = "reading the slots of this database";
    let rows = session.rows(what, SQL, &[&own, &publication]).await?;
    let slot = |row: &tokio_postgres::Row| {
        let (reason, wal_status): (Option<String>, Option<String>) =
            (row.column(3)?, row.column(4)?);
        Ok(OtherSlot {
            name: row.column(0)?,
            confirmed: Lsn::new(row.column::<PgLsn>(1)?.into()),
            active_pid: row.column(2)?,
            lost: is_lost(reason.as_deref(), wal_status.as_deref()),
            follows_publication: row.column(5)?,
        })
    };
    rows.iter().map(slot).collect()
}

/// Confirms a position for a slot that no session reads from. A slot that is at the position or
/// past it stays where it is.
///
/// # Errors
/// Those of the server, also when a session reads from the slot.
pub(crate) async fn advance(session: &Session, name: &str, to: Lsn) -> Result<()> {
    let slot = read(session, name).await?;
    let confirmed = slot.and_then(|slot| slot.confirmed_flush);
    if confirmed.is_none_or(|confirmed| confirmed >= to) {
        return Ok(());
    }
    let what = format!("confirming {to} for slot {name}");
    let sql = "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn)::text";
    let to = to.to_string();
    let moved = session.for_slots().rows(&what, sql, &[&name, &to]).await;
    moved.map(|_rows| ()).map_err(needs_replication)
}

/// Moves a slot that no session reads from past the transaction whose commit is at `lsn`.
pub(crate) async fn advance_past_commit(session: &Session, name: &str, lsn: Lsn) -> Result<()> {
    // A slot skips transactions whose commit lies before its position. The server adds the 1.
    const SQL: &str =
        "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn + 1)::text";
    let what = format!("moving slot {name}");
    let lsn = lsn.to_string();
    let moved = session.for_slots().rows(&what, SQL, &[&name, &lsn]).await;
    moved.map(|_rows| ()).map_err(needs_replication)
}

/// Drops the slot `name`; false when there is none. The server refuses to drop a slot that a
/// session reads from (55006).
pub async fn drop(session: &Session, name: &str) -> Result<bool> {
    if read(session, name).await?.is_none() {
        return Ok(false);
    }
    const SQL: &str = "SELECT pg_catalog.pg_drop_replication_slot(slot_name)
           FROM pg_catalog.pg_replication_slots
          WHERE slot_name = $1 AND plugin = 'pgoutput'
            AND database = pg_catalog.current_database()";
    let what = format!("dropping replication slot {name}");
    let dropped = session.for_slots().row_if_any(&what, SQL, &[&name]).await;
    Ok(dropped.map_err(needs_replication)?.is_some())
}

/// Fails unless the session's role may drop slots. On Amazon RDS, membership in rds_replication
/// replaces the attribute REPLICATION.
pub async fn check_rights(session: &Session) -> Result<()> {
    const SQL: &str = "SELECT current_user::text,
                EXISTS (SELECT FROM pg_catalog.pg_roles
                         WHERE rolname = current_user AND (rolsuper OR rolreplication))
                OR EXISTS (SELECT FROM pg_catalog.pg_roles
                            WHERE rolname = 'rds_replication'
                              AND pg_catalog.pg_has_role(oid, 'USAGE'))";
    let session = session.for_slots();
    let row = session.row("reading the role's rights", SQL, &[]).await?;
    let (role, may): (String, bool) = (row.column(0)?, row.column(1)?);
    match may {
        true => Ok(()),
        false => Err(Error::fatal(
            Code::Config,
            format!("role {role} may not drop a replication slot"),
        )
        .with_hint("connect as a superuser, or as a role with REPLICATION")),
    }
}

/// The error of a command that needs REPLICATION; where a right is missing, it is that one.
pub(crate) fn classify_replication(context: impl Into<String>, server: ServerError) -> Error {
    let is_right = server.is_of_privileges();
    let error = sqlstate::classify(context, server);
    match is_right {
        true => error.with_hint(REPLICATION),
        false => error,
    }
}

/// The same for an SQL function of slots.
pub(crate) fn needs_replication(error: Error) -> Error {
    match ServerError::of(&error).is_some_and(ServerError::is_of_privileges) {
        true => error.with_hint(REPLICATION),
        false => error,
    }
}

/// How many slots the server has, and how many it may have.
pub async fn used_and_max(session: &Session) -> Result<(i64, i64)> {
    const SQL: &str = "SELECT count(*), pg_catalog.current_setting('max_replication_slots')::int8
           FROM pg_catalog.pg_replication_slots";
    let row = session.row("counting replication slots", SQL, &[]).await?;
    Ok((row.column(0)?, row.column(1)?))
}

/// The open transactions that the creation of a slot waits for, each in words, the oldest first.
///
/// These are all transactions with a transaction id, of any database, prepared ones included. A
/// plain role sees process and database of each; a member of `pg_read_all_stats` also sees how long
/// it has been open.
pub async fn blockers(session: &Session) -> Result<Vec<String>> {
    const SQL: &str = "SELECT coalesce('prepared transaction ' || pg_catalog.quote_literal(p.gid)
                             || ' of database ' || p.database,
                         'pid ' || l.pid || coalesce(' of database ' || a.datname, ''),
                         'a prepared transaction')
                || coalesce(', open for ' || pg_catalog.date_trunc(
                       'second', pg_catalog.clock_timestamp() - coalesce(p.prepared, a.xact_start)
                   ), '')
           FROM (SELECT pid, pg_catalog.min(transactionid::text::int8) AS xid
                   FROM pg_catalog.pg_locks
                  WHERE locktype = 'transactionid' AND granted
                    AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
                  GROUP BY pid, virtualtransaction) AS l
           LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
           LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction::text::int8 = l.xid
          ORDER BY coalesce(p.prepared, a.xact_start), l.xid
          LIMIT $1";
    let rows = session
        .rows("listing open transactions", SQL, &[&BLOCKERS_MAX])
        .await?;
    rows.iter().map(|row| row.column(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(wal_status: &str, safe_wal_size: Option<i64>, retained_bytes: i64) -> Slot {
        Slot {
            name: "outboxd_orders".to_owned(),
            active_pid: None,
            confirmed_flush: None,
            restart: None,
            wal_status: Some(wal_status.to_owned()),
            safe_wal_size,
            temporary: false,
            failover: None,
            invalidation_reason: None,
            lag_bytes: 0,
            retained_bytes,
            wal_bytes: 0,
        }
    }

    #[test]
    fn a_slot_is_near_its_loss_when_its_log_may_go_or_little_of_its_room_is_left() {
        assert!(!slot("reserved", None, 1 << 40).is_near_loss());
        assert!(!slot("extended", Some(10), 90).is_near_loss());
        assert!(slot("extended", Some(9), 91).is_near_loss());
        assert!(slot("unreserved", Some(-5), 100).is_near_loss());
        assert!(slot("unreserved", None, 0).is_near_loss());
        assert!(!slot("lost", None, 0).is_near_loss());
        assert!(!slot("reserved", Some(0), 0).is_near_loss());
    }
}
