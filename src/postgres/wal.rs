//! Positions of the server's log, as SQL tells them.

use tokio_postgres::types::PgLsn;

use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::session::Session;

/// Where the log ends now: everything that was committed before the question lies before it. What others have written and not
/// committed does too, and no client of the log may get that far for as long as nobody commits.
pub(crate) async fn log_position(session: &Session) -> Result<Lsn> {
    position(session, "pg_current_wal_insert_lsn()").await
}

/// Writes an empty message behind all that `session` has committed and tells where it ends, on disk. A client of the log gets there
/// by itself. It may not get to where the log is flushed: that can lie within a record of somebody else's, whose rest is flushed
/// when somebody commits, or when the server takes its next snapshot, 15 s later.
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

async fn position(session: &Session, call: &str) -> Result<Lsn> {
    let sql = format!("SELECT pg_catalog.{call}");
    let row = session.row("reading the log's position", &sql, &[]).await?;
    Ok(Lsn::new(row.get::<_, PgLsn>(0).into()))
}
