//! A snapshot that one session exports and another imports.
//!
//! See <https://www.postgresql.org/docs/current/sql-set-transaction.html>.

use crate::error::Result;
use crate::postgres::session::Session;

/// Ends the export on the replication connection that exported the snapshot, as any statement does.
/// A session that has imported the snapshot keeps it.
pub(crate) const END_EXPORT: &str = "SELECT 1";

/// Begins a read-only transaction with the snapshot, and runs `then` in it.
pub(crate) async fn import(session: &Session, snapshot: &str, then: &str) -> Result<()> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT '{snapshot}'; {then}"
    );
    session
        .bounded("importing the snapshot", session.batch_execute(&sql))
        .await
}
