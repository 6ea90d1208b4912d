//! A snapshot that one session exports and another imports.
//!
//! See <https://www.postgresql.org/docs/current/sql-set-transaction.html>.

use crate::error::Result;
use crate::postgres::session::Session;

/// A statement for the replication connection that has exported a snapshot. Any statement ends the
/// transaction that exports it; a session that has imported it keeps it.
pub(crate) const END_EXPORT: &str = "SELECT 1";

/// Begins a read-only transaction that sees the snapshot, and runs `then` in it.
pub(crate) async fn import(session: &Session, snapshot: &str, then: &str) -> Result<()> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT '{snapshot}'; {then}"
    );
    session
        .bounded("importing the snapshot", session.batch_execute(&sql))
        .await
}
