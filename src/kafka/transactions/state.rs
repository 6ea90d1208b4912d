//! What a producer with transactions keeps of them. Pure.

use std::time::{Duration, Instant};

/// How a commit has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitResult {
    Committed,
    /// It is committed. Meanwhile a connection was lost, so a request may still be under way, or
    /// the next transaction could not begin.
    CommittedInDoubt,
    /// Its code, and why it failed. It may be committed or not.
    Failed(String, String),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// The broker ends a transaction that is older.
    timeout: Duration,
    first: Option<FirstRecord>,
}

/// The first record of a transaction was sent.
#[derive(Debug, Clone, Copy)]
struct FirstRecord {
    at: Instant,
    /// librdkafka's errors until then.
    errors: u64,
}

impl Transactions {
    pub(super) fn new(timeout: Duration) -> Self {
        Transactions {
            timeout,
            first: None,
        }
    }

    /// No record of the transaction was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The first record is sent at `now`, and librdkafka has met this many errors.
    pub(crate) fn sends(&mut self, now: Instant, errors: u64) {
        self.first = Some(FirstRecord { at: now, errors });
    }

    /// The transaction is to be committed. Returns the errors before its first record.
    pub(super) fn ends(&mut self) -> Option<u64> {
        self.first.take().map(|first| first.errors)
    }

    /// Whether to abort the transaction at `now`, which takes so long at most. The broker has ended
    /// an older one by itself.
    ///
    /// A record that is as old has timed out, and then librdkafka asks the coordinator for a new
    /// epoch. Behind a suspension that request comes from a producer that is shut out, and the
    /// coordinator shuts out the one at work for it before it compares their epochs.
    pub(super) fn may_abort(&self, now: Instant, limit: Duration) -> bool {
        let ends_at = self.first.map(|first| first.at + self.timeout);
        ends_at.is_none_or(|at| now + limit < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_the_broker_has_ended_is_not_aborted() {
        const SECOND: Duration = Duration::from_secs(1);
        let began = Instant::now();
        let mut transactions = Transactions::new(30 * SECOND);
        assert!(transactions.may_abort(began + 60 * SECOND, 3 * SECOND));
        transactions.sends(began, 0);
        assert!(transactions.may_abort(began + 26 * SECOND, 3 * SECOND));
        assert!(!transactions.may_abort(began + 27 * SECOND, 3 * SECOND));
        assert_eq!(transactions.ends(), Some(0));
        assert!(transactions.may_abort(began + 60 * SECOND, 3 * SECOND));
    }
}
