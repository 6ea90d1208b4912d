//! The table of the dead letters: files events that could not be published, and closes those that
//! are resolved.
//!
//! Owns all that the publisher writes there; [`admin`] has the requests of persons. An event is
//! settled only once it is filed here, so every write is repeatable: an event is identified by its
//! row's id and `created_at` (or its position in the WAL) and its payload, and a write of unknown
//! outcome is repeated. A different payload with the same identity is a different event and gets an
//! entry of its own; nothing is dropped silently. Closing a dead letter and marking its row are one
//! transaction, so no reader of the table takes the row for one to publish.
//!
//! A row that the outbox itself refuses to change never holds up the others: the batch is halved
//! down to it, and its dead letter stays open with this error, which hides the row from every
//! reader.

pub mod admin;
mod closing;
pub(crate) mod holder_number;
mod insert;
mod json;
mod key_hash;
mod letter_list;
pub(crate) mod of_events;
mod open;
pub mod outcome;
mod parked;
pub mod prune;
mod request_statements;
mod requests;
mod row_identity;
pub(crate) mod skipped;
mod types;

use crate::config::{Config, TableName};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::dead_letter::closing::Closing;
use crate::outbox::marking::Marking;
use crate::outbox::refusal::is_refusal;
use crate::outbox::{RowId, RowName};
use crate::postgres::{Columns, Session, TableShape, row_error, sql_error};
use crate::status::OpenDeadLetters;

pub(crate) use holder_number::HolderNumber;
pub use key_hash::KeyHash;
pub(crate) use key_hash::beginning;
pub(crate) use letter_list::LetterList;
pub(crate) use parked::PARKED_KEYS_MAX;
pub use parked::{ParkedKey, ParkedKeyList};
pub(crate) use row_identity::is_about;
pub(crate) use types::{CLOSED, OPEN};
pub use types::{
    CloseDeadLetter, NewDeadLetter, Rejection, Resolution, ResolveRequest, WaitingRows,
};

/// The most rows of a statement.
const ROWS_MAX: usize = 500;

/// The highest count of a state.
const COUNT_MAX: i64 = 100_000;

/// The statements for one outbox and its dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pub(crate) table: TableName,
    outbox: TableName,
    file: String,
    closing: Closing,
    requests: String,
    copy: String,
    parked_keys: String,
    open: String,
    /// `None` if rows are neither marked nor deleted.
    waiting: Option<String>,
    /// `None` if attempts are not counted in the outbox.
    count: Option<String>,
}

impl DeadLetters {
    /// The statements for an outbox that passed the preflight check.
    pub fn new(config: &Config, shape: &TableShape) -> Self {
        let marking = Marking::new(config.after_publish, shape);
        let table = config.table.dead_letter();
        DeadLetters {
            outbox: config.table.clone(),
            file: insert::file_sql(config, shape),
            closing: Closing::new(shape, &marking),
            requests: request_statements::requests_sql(&table),
            copy: request_statements::copy_sql(&table),
            parked_keys: parked::read_sql(&table),
            open: open::sql(&table),
            waiting: marking
                .writes()
                .then(|| row_identity::waiting_sql(shape, &marking)),
            count: count_sql(&marking),
            table,
        }
    }

    /// Every statement but the one that counts attempts.
    pub(crate) fn statements(&self) -> Vec<String> {
        let always = [&self.file, &self.requests, &self.copy, &self.parked_keys];
        let known = [filed_sql(&self.table), filed_recently_sql(&self.table)];
        let mut all: Vec<String> = always.into_iter().cloned().chain(known).collect();
        all.push(self.open.clone());
        all.extend(self.closing.statements());
        all.extend(self.waiting.clone());
        all
    }

    /// The statement that counts attempts in the outbox, if they are counted there.
    pub(crate) fn count_statement(&self) -> Option<&str> {
        self.count.as_deref()
    }

    /// Files by reference that Kafka has the events of these rows and the table refuses to mark
    /// them.
    pub(crate) async fn file_not_marked(
        &self,
        session: &Session,
        system_id: &str,
        rows: &[(RowName, Rejection)],
    ) -> Result<()> {
        insert::file_not_marked(session, &self.table, &self.file, system_id, rows).await
    }

    /// Files dead letters in their order. Each statement is a transaction; repeating one changes
    /// nothing.
    ///
    /// A dead letter that comes from the table (`known`) becomes dead or parked again, and keeps
    /// its stored content if nothing could be read this time. An entry with a request to retry or
    /// discard keeps that request if its event is only delivered again, and a dead one does not
    /// become parked behind itself.
    ///
    /// # Errors
    /// Of the table or the server: the outcome is then unknown.
    pub async fn file(
        &self,
        session: &Session,
        system_id: &str,
        dead_letters: &[NewDeadLetter],
    ) -> Result<()> {
        insert::file(session, &self.table, &self.file, system_id, dead_letters).await
    }

    /// The unpublished rows that open dead letters are about, counted up to 10,000; `None` with
    /// `keep`.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn waiting_rows(&self, session: &Session) -> Result<Option<WaitingRows>> {
        let Some(sql) = &self.waiting else {
            return Ok(None);
        };
        let what = format!("counting rows of {} with dead letters", self.outbox);
        let row = session.row(&what, sql, &[]).await?;
        Ok(Some(WaitingRows {
            all: row.column(0)?,
            parked: row.column(1)?,
        }))
    }

    /// Closes dead letters, and marks their rows (or deletes them, or leaves them) in the same
    /// transaction. A published row counts one more attempt. A row that refuses leaves its dead
    /// letter open, as `published-not-marked` or `skipped`, and counts as closed.
    ///
    /// The session should have a short `lock_timeout`: rows may be locked.
    ///
    /// # Errors
    /// Of the table or the server, including a locked row (transient): repeat it.
    pub async fn close(&self, session: &Session, closings: &[CloseDeadLetter]) -> Result<()> {
        self.closing.close(session, closings).await
    }

    /// Counts one more attempt for each of these unpublished rows; a row that is named twice gets
    /// two. Does nothing if the outbox is not changed or has no such column. A row that refuses is
    /// skipped: the count is only informative.
    ///
    /// # Errors
    /// Of the table or the server. The outcome is then unknown, and a repeat may count twice.
    pub async fn count_attempts(&self, session: &Session, rows: &[RowId]) -> Result<()> {
        let Some(sql) = &self.count else {
            return Ok(());
        };
        let what = format!("counting attempts in {}", self.outbox);
        // Sorted, so that the entries of one row stay together and halving ends at a single row.
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let mut parts: Vec<&[RowId]> = rows.chunks(ROWS_MAX).collect();
        while let Some(part) = parts.pop() {
            let work = async { Ok(session.change(sql, &[&part]).await) };
            let Err(error) = session.bounded(&what, work).await? else {
                continue;
            };
            if !is_refusal(session, &what, &error, &[sql]).await? {
                return Err(sql_error(what, error));
            }
            if part.len() > 1 {
                let (left, right) = part.split_at(part.len() / 2);
                parts.push(right);
                parts.push(left);
            } else {
                let row = part.first().map(tracing::field::display);
                let error = row_error(&error).logged;
                tracing::warn!(row, error, "attempts of a row cannot be counted");
            }
        }
        Ok(())
    }

    /// The keys whose later events have to wait.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn parked_keys(&self, session: &Session) -> Result<ParkedKeyList> {
        parked::read(session, &self.table, &self.parked_keys).await
    }

    /// The open dead letters by state, topic and error code.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn open(&self, session: &Session) -> Result<OpenDeadLetters> {
        open::read(session, &self.table, &self.open).await
    }
}

/// The dead letters that the publisher reads before it starts over.
#[derive(Debug, Default)]
pub(crate) struct DeadLetterState {
    /// The keys whose later events have to wait.
    pub(crate) parked: ParkedKeyList,
    /// Rows of the outbox whose events the stream delivers from `since` on, and which are filed
    /// here.
    pub(crate) filed: Vec<(String, Lsn)>,
    /// How many were filed in the last minute, parked ones left out.
    pub(crate) filed_recently: u32,
}

/// Reads the state of the dead letters. With `parks`, waits for all writes under way, those of an
/// earlier process included: a dead letter that was missed would let later events of its key pass.
///
/// # Errors
/// Of the table or the server. The session cannot be used any more then.
pub(crate) async fn known(
    session: &Session,
    outbox: &TableName,
    system_id: &str,
    since: Option<Lsn>,
    parks: bool,
) -> Result<DeadLetterState> {
    let dead_letters = outbox.dead_letter();
    let what = format!("reading {dead_letters}");
    if parks {
        // Conflicts with every write, and with no other usual statement.
        let lock = format!("BEGIN; LOCK TABLE {} IN SHARE MODE", dead_letters.quoted());
        session.run(&what, &lock).await?;
    }
    let keys = parked::read_sql(&dead_letters);
    let parked = parked::read(session, &dead_letters, &keys).await?;
    if parks {
        session.run(&what, "COMMIT").await?;
    }
    let filed = match since {
        Some(since) => filed(session, &dead_letters, system_id, since).await?,
        None => Vec::new(),
    };
    Ok(DeadLetterState {
        parked,
        filed,
        filed_recently: filed_recently(session, &dead_letters).await?,
    })
}

/// The rows are filed in the order of their ids, so the newest are enough.
async fn filed_recently(session: &Session, dead_letters: &TableName) -> Result<u32> {
    let sql = filed_recently_sql(dead_letters);
    let what = format!("counting the newest rows of {dead_letters}");
    let count = session.row_if_any(&what, &sql, &[]).await?;
    let count: Option<i64> = count.map(|row| row.column(0)).transpose()?;
    let count = count.unwrap_or(0);
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

async fn filed(
    session: &Session,
    dead_letters: &TableName,
    system_id: &str,
    since: Lsn,
) -> Result<Vec<(String, Lsn)>> {
    let sql = filed_sql(dead_letters);
    let (what, since) = (format!("reading {dead_letters}"), since.to_string());
    let rows = session.rows(&what, &sql, &[&system_id, &since]).await?;
    let mut filed = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, lsn): (String, &str) = (row.column(0)?, row.column(1)?);
        filed.extend(lsn.parse().ok().map(|lsn| (id, lsn)));
    }
    Ok(filed)
}

fn filed_sql(dead_letters: &TableName) -> String {
    format!(
        "SELECT outbox_id, commit_lsn::text FROM {table} \
          WHERE system_id = $1 AND commit_lsn >= $2::text::pg_lsn AND outbox_id IS NOT NULL",
        table = dead_letters.quoted()
    )
}

fn filed_recently_sql(dead_letters: &TableName) -> String {
    format!(
        "SELECT pg_catalog.count(*) FROM (SELECT filed_at, error_code FROM {table} \
                                           ORDER BY id DESC LIMIT {COUNT_MAX}) AS newest \
          WHERE filed_at > CURRENT_TIMESTAMP - interval '1 minute' \
            AND error_code <> 'KEY_PARKED'",
        table = dead_letters.quoted()
    )
}

/// `None` if attempts are not counted in the outbox.
fn count_sql(marking: &Marking) -> Option<String> {
    let counted = marking.counted("a.attempts").filter(|_| marking.writes())?;
    Some(format!(
        "UPDATE {table} AS t SET {counted} \
           FROM (SELECT a.id, pg_catalog.count(*)::integer AS attempts \
                   FROM pg_catalog.unnest($1::{kind}[]) AS a (id) GROUP BY a.id) AS a \
          WHERE {is_this} AND {candidates}",
        table = marking.table(),
        kind = marking.key().parameter(),
        is_this = marking.key().is("t", "a.id"),
        candidates = marking.candidates("t"),
    ))
}
