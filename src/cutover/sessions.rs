//! What the sessions of other roles did last with the table, by `pg_stat_activity`.
//!
//! The server shows the text of a session's last statement, also when it is over. Whether that is a
//! search is read from its first word and the table's name: a wrong guess makes the wait longer or
//! needs another proof, and is printed with the plan.

use crate::error::Result;
use crate::postgres::{Columns, Session};
use crate::table_name::TableName;

/// What a statement does with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It reads rows to send.
    Search,
    /// It changes rows, such as a mark, and reads nothing that is sent.
    Mark,
    /// The session has rolled a transaction back.
    Rollback,
    /// Anything else.
    Other,
}

/// A session, and its last statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSeen {
    /// Its server process.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// Its `application_name`.
    pub application: String,
    /// When it began, in microseconds of the server's clock since 1970: process ids come again.
    pub born: i64,
    /// When the statement began, on the same clock.
    pub began: i64,
    /// The statement runs.
    pub is_active: bool,
    /// What the statement does with the table.
    pub last: Use,
    /// Whether the login may see what the session does.
    pub is_visible: bool,
}

const SESSIONS: &str = "
    SELECT a.pid, a.usename::text, coalesce(a.application_name, ''),
           (extract(epoch FROM a.backend_start) * 1000000)::int8,
           coalesce((extract(epoch FROM a.query_start) * 1000000)::int8, 0),
           coalesce(a.state, '') NOT LIKE 'idle%',
           coalesce(a.query, ''), a.state IS NOT NULL
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
       AND a.usename IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
     ORDER BY a.pid";

/// The sessions of this database, but for this one and those of role `own`.
///
/// # Errors
/// Of the server or the session.
pub async fn sessions(session: &Session, table: &TableName, own: &str) -> Result<Vec<SessionSeen>> {
    let rows = session.rows("reading the sessions", SESSIONS, &[]).await?;
    let seen = rows.iter().map(|row| {
        let query: String = row.column(6)?;
        Ok(SessionSeen {
            pid: row.column(0)?,
            role: row.column(1)?,
            application: row.column(2)?,
            born: row.column(3)?,
            began: row.column(4)?,
            is_active: row.column(5)?,
            last: last_use(&query, &table.name),
            is_visible: row.column(7)?,
        })
    });
    let seen: Vec<SessionSeen> = seen.collect::<Result<_>>()?;
    Ok(seen.into_iter().filter(|it| it.role != own).collect())
}

/// What this statement does with the table of this name.
fn last_use(query: &str, table: &str) -> Use {
    let text = query.to_lowercase();
    let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let first = words.find(|word| !word.is_empty()).unwrap_or("");
    if matches!(first, "rollback" | "abort") {
        return Use::Rollback;
    }
    let table = table.to_lowercase();
    if !text.contains(&table) {
        return Use::Other;
    }
    match first {
        "insert" | "grant" | "revoke" | "alter" | "create" | "drop" | "comment" | "analyze"
        | "vacuum" | "reindex" | "cluster" | "truncate" => Use::Other,
        "update" | "delete" if !text.contains("returning") => Use::Mark,
        _ => Use::Search,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_known_by_its_first_word_and_the_table() {
        for (query, expected) in [
            ("select * from outbox.outbox where x", Use::Search),
            ("-- poll\nSELECT 1 FROM Outbox", Use::Search),
            ("UPDATE outbox.outbox SET a = 1 WHERE id = $1", Use::Mark),
            ("UPDATE outbox SET a = 1 RETURNING *", Use::Search),
            ("DELETE FROM outbox WHERE id = 1", Use::Mark),
            ("INSERT INTO outbox VALUES (1) RETURNING id", Use::Other),
            ("SELECT 1 FROM orders", Use::Other),
            ("GRANT SELECT ON outbox.outbox TO public", Use::Other),
            ("VACUUM (ANALYZE) outbox.outbox", Use::Other),
            ("ROLLBACK", Use::Rollback),
            ("", Use::Other),
        ] {
            let found = last_use(query, "outbox");
            assert_eq!(found, expected, "{query}");
        }
    }
}
