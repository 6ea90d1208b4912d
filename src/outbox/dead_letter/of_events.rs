//! The open dead letters of events that are shown: nothing is decided by it.

use crate::config::TableName;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::dead_letter::OPEN;
use crate::postgres::{Columns, ServerError, Session};

/// The most dead letters that are read for one list of events.
const LETTERS_MAX: i64 = 1_000;

/// An open dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LetterOfEvent {
    /// Its id.
    pub(crate) id: i64,
    /// The id of its event.
    pub(crate) outbox_id: String,
    /// The commit of its event; `None` if that was read from the table.
    pub(crate) commit_lsn: Option<Lsn>,
    pub(crate) state: String,
    pub(crate) error_code: String,
}

/// The open dead letters of events with these ids, the newest first; none where the table of the
/// dead letters does not exist.
///
/// # Errors
/// Of the table or the server.
pub(crate) async fn of_events(
    session: &Session,
    outbox: &TableName,
    ids: &[&str],
) -> Result<Vec<LetterOfEvent>> {
    let table = outbox.dead_letter();
    let what = format!("reading {table}");
    let sql = format!(
        "SELECT d.id, d.outbox_id, d.commit_lsn::text, d.state, d.error_code \
           FROM {table} AS d WHERE d.outbox_id = ANY ($1::text[]) AND d.{OPEN} \
          ORDER BY d.id DESC LIMIT {LETTERS_MAX}",
        table = table.quoted()
    );
    let rows = match session.rows(&what, &sql, &[&ids]).await {
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        rows => rows?,
    };
    let letter = |row: &tokio_postgres::Row| {
        let commit_lsn: Option<&str> = row.column(2)?;
        Ok(LetterOfEvent {
            id: row.column(0)?,
            outbox_id: row.column(1)?,
            commit_lsn: commit_lsn.and_then(|lsn| lsn.parse().ok()),
            state: row.column(3)?,
            error_code: row.column(4)?,
        })
    };
    rows.iter().map(letter).collect()
}

fn is_missing(error: &crate::error::Error) -> bool {
    ServerError::of(error).is_some_and(|server| server.code == "42P01")
}
