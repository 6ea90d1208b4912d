//! How many rows of the outbox are unpublished, and what they wait for: for status, metrics and
//! people. Nothing is decided by it.
//!
//! Owns the only statement that counts them. A count reads each row that it counts, so it has a
//! limit of rows and one of time, which the server keeps: a count that takes longer is given up,
//! and the session stays as it was.

use std::time::Duration;

use crate::config::{Config, TableName};
use crate::error::{Error, Result};
use crate::outbox::DeadLetters;
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::postgres::{ServerError, Session, TableShape, sql_error};

/// For a command that a person waits for: rows are counted up to this number.
const COMMAND_MAX: i64 = 10_000;

/// How long a command or a line of the log waits for a count.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts the rows of one table that a condition is true of.
#[derive(Debug, Clone)]
pub(crate) struct RowCount {
    what: String,
    sql: String,
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) rows: i64,
    /// Whether there are more.
    pub(crate) is_cut: bool,
}

impl RowCount {
    /// The condition is about a row `o`.
    pub(in crate::outbox) fn new(table: &TableName, condition: &str) -> Self {
        RowCount {
            what: format!("counting unpublished rows of {table}"),
            sql: format!(
                "SELECT pg_catalog.count(*) \
                 FROM (SELECT FROM {} AS o WHERE {condition} LIMIT $1::bigint) AS counted",
                table.quoted()
            ),
        }
    }

    /// All unpublished rows, with and without a dead letter; `None` if rows are not marked as
    /// published.
    pub(in crate::outbox) fn of_unpublished(marking: &Marking, shape: &TableShape) -> Option<Self> {
        let condition = marking.unpublished("o") + &and_is_message(shape, "o");
        let counts = || RowCount::new(&shape.name, &condition);
        marking.writes().then(counts)
    }

    pub(in crate::outbox) fn statement(&self) -> &str {
        &self.sql
    }

    /// As [`within`](RowCount::within), for one that waits for it.
    pub(crate) async fn up_to(&self, session: &Session, most: i64) -> Result<Option<Counted>> {
        self.within(session, most, PATIENCE).await
    }

    /// Counts up to `most` rows; `None` if that takes longer than `limit`, or a lock is in the way.
    /// The session must not be in a transaction, and is in none afterwards.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn within(
        &self,
        session: &Session,
        most: i64,
        limit: Duration,
    ) -> Result<Option<Counted>> {
        // The session's own timer would end the session.
        let limit = limit.min(session.operation_timeout() / 2);
        // In force to the end of the transaction only: others set the time limit of a session.
        let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", limit.as_millis());
        session.run(&self.what, &begin).await?;
        let counted = session.row(&self.what, &self.sql, &[&(most + 1)]).await;
        let ended = session.run(&self.what, "ROLLBACK").await;
        let counted = match counted {
            Ok(row) => Some(row.try_get::<_, i64>(0)),
            Err(error) if was_held_up(&error) => None,
            Err(error) => return Err(error),
        };
        ended?;
        let counted = counted.transpose();
        let counted = counted.map_err(|error| sql_error(&self.what, error))?;
        Ok(counted.map(|rows| Counted {
            rows: rows.min(most),
            is_cut: rows > most,
        }))
    }
}

/// Whether the server ended a count for its time or a lock.
pub(in crate::outbox) fn was_held_up(error: &Error) -> bool {
    let server = ServerError::of(error);
    server.is_some_and(|server| server.is_cancelled() || server.is_of_a_lock())
}

/// The unpublished rows of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpublishedCount {
    /// All of them, up to 10,000.
    pub rows: i64,
    /// Whether there are more.
    pub is_cut: bool,
    /// Those that wait behind a dead letter of their key (`park-key`).
    pub held: i64,
    /// Those that have a dead letter of their own.
    pub dead: i64,
}

impl UnpublishedCount {
    /// Counts the rows; `None` if rows are not marked as published, or counting takes longer than
    /// five seconds.
    ///
    /// # Errors
    /// Of the tables or the server.
    pub async fn read(
        session: &Session,
        config: &Config,
        shape: &TableShape,
    ) -> Result<Option<Self>> {
        let marking = Marking::new(config.after_publish, shape);
        let dead_letters = DeadLetters::new(config, shape);
        let Some(count) = RowCount::of_unpublished(&marking, shape) else {
            return Ok(None);
        };
        let Some(waiting) = dead_letters.waiting_rows(session).await? else {
            return Ok(None);
        };
        let counted = count.up_to(session, COMMAND_MAX).await?;
        Ok(counted.map(|counted| UnpublishedCount {
            rows: counted.rows,
            is_cut: counted.is_cut,
            held: waiting.parked,
            dead: waiting.all - waiting.parked,
        }))
    }

    /// Those that no dead letter is about, which the publisher will send. The two counts are not of
    /// one moment.
    pub fn waiting(&self) -> i64 {
        (self.rows - self.held - self.dead).max(0)
    }
}
