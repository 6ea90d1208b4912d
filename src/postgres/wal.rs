//! Positions in the server's WAL, read over SQL.

use tokio_postgres::types::PgLsn;

use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::session::{Columns, Session};

/// The current end of the WAL. Everything that was committed before the query lies before it, and
/// so do changes that are not committed yet. A replication client may reach it only after the next
/// commit.
pub(crate) async fn log_position(session: &Session) -> Result<Lsn> {
    position(session, "pg_current_wal_insert_lsn()").await
}

/// Writes an empty message behind everything that `session` has committed, flushes it, and returns
/// its end. A replication client reaches that position by itself. It may not reach the flush
/// position: that may lie within a record of another session, and the rest of the record is flushed
/// with the next commit, or when the server logs its next snapshot, up to 15 s later.
///
/// For Postgres 17 and later; earlier ones do not flush a message.
/// <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION>
pub(crate) async fn emit_logical_message(session: &Session) -> Result<Lsn> {
    position(
        session,
        "pg_logical_emit_message(false, 'outboxd', '', true)",
    )
    .await
}

/// The bytes of WAL that the server has written since it was initialised, to compare two reads.
///
/// # Errors
/// Those of the session.
pub async fn wal_bytes(session: &Session) -> Result<i64> {
    const SQL: &str = "
        SELECT pg_catalog.pg_wal_lsn_diff(
                   CASE WHEN pg_catalog.pg_is_in_recovery()
                        THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_lsn()
                   END, '0/0')::int8";
    let row = session.row("reading the WAL position", SQL, &[]).await?;
    row.column(0)
}

async fn position(session: &Session, call: &str) -> Result<Lsn> {
    let sql = format!("SELECT pg_catalog.{call}");
    let row = session.row("reading the WAL position", &sql, &[]).await?;
    Ok(Lsn::new(row.column::<PgLsn>(0)?.into()))
}
