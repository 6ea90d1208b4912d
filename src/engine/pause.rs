//! A pause that a person has requested in the database. Pure.
//!
//! Owns whether there is one, and when that is read next. While it lasts nothing new is taken in:
//! neither from the stream nor from the table, and no request about dead letters. The open
//! transaction is taken in whole first, as at a stop: the next start would send its first events
//! again otherwise. What is in flight is awaited, marked and confirmed, and the session goes on.
//!
//! After a restart of the server the stream is read in spite of a pause, up to the Begin that
//! proves its history. Nothing of that transaction is taken in before the pause ends.
//!
//! Nothing is read before [`set`](Pause::set) was called once, with what the session has read when
//! it began.

use std::time::Duration;

use crate::engine::output::DatabaseWork;

/// How often the request is read.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    is_on: bool,
    /// The last transaction began while it lasted.
    holds_transaction: bool,
    /// When the request is read next.
    read_at: Option<Duration>,
}

impl Pause {
    /// Whether a pause lasts.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether nothing of the transaction that began last is taken in.
    pub(crate) fn holds_transaction(&self) -> bool {
        self.holds_transaction
    }

    /// A transaction begins. `is_cut`: an earlier session has taken in the first part of it.
    pub(crate) fn transaction_began(&mut self, is_cut: bool) {
        self.holds_transaction = self.is_on && !is_cut;
    }

    /// The request was read at `now`.
    pub(crate) fn set(&mut self, now: Duration, is_on: bool) {
        self.is_on = is_on;
        self.holds_transaction &= is_on;
        self.read_at = Some(now + READ_INTERVAL);
    }

    /// The read that is due, if it is. `reads`: it may be read; `stands_still`: nothing is in
    /// flight.
    pub(crate) fn work(
        &mut self,
        now: Duration,
        reads: bool,
        stands_still: bool,
    ) -> Option<DatabaseWork> {
        self.read_at.filter(|at| now >= *at)?;
        self.read_at = Some(now + READ_INTERVAL);
        if !reads {
            return None;
        }
        let stands_still = stands_still && self.is_on;
        Some(DatabaseWork::ReadPause { stands_still })
    }

    /// When [`work`](Pause::work) is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.read_at
    }
}
