//! How many rows of the outbox are unpublished, and what they wait for: for status and people.
//! Nothing is decided by it.

use crate::config::Config;
use crate::error::Result;
use crate::outbox::DeadLetters;
use crate::outbox::marking::Marking;
use crate::outbox::table::count_sql;
use crate::postgres::{Session, TableShape};

/// Rows are counted up to this number: a count reads each of them.
const COUNT_MAX: i64 = 10_000;

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
    /// Counts the rows; `None` if rows are not marked as published.
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
        let Some(waiting) = dead_letters.waiting_rows(session).await? else {
            return Ok(None);
        };
        let sql = count_sql(&config.table.quoted(), &marking.unpublished("o"));
        let what = format!("counting unpublished rows of {}", config.table);
        let rows: i64 = session.row(&what, &sql, &[&(COUNT_MAX + 1)]).await?.get(0);
        Ok(Some(UnpublishedCount {
            rows: rows.min(COUNT_MAX),
            is_cut: rows > COUNT_MAX,
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
