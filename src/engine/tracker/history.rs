//! Whether the server's history is the one that memory belongs to. Pure.
//!
//! A server that was restarted may run on an older copy of its files: system id and timeline are
//! the same then, positions and row ids come again with another meaning, and its WAL may have grown
//! past every position that was received. So after a restart memory is doubted. No row is marked
//! and no position is confirmed until the stream has repeated what was received last: the last
//! whole transaction, nothing behind it up to the position that was complete, and then the
//! transaction that the session's end has cut in two, if there is one.
//!
//! Why that proves it: a commit position, a transaction id and the time of the commit together name
//! a transaction in one history only. Everything before a transaction is the same wherever the
//! transaction is the same, because the WAL is one sequence. A memory without such a transaction
//! cannot be proven. Nothing of the stream is unsettled in it, and it is dropped.

use crate::engine::tracker::violation::Violation;
use crate::lsn::Lsn;

/// What names a transaction in one history of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TransactionName {
    /// The start of its commit record.
    pub(crate) commit_lsn: Lsn,
    pub(crate) xid: u32,
    /// When it was committed, in microseconds since 1970.
    pub(crate) committed_micros: i64,
}

const NO_TRANSACTION: TransactionName = TransactionName {
    commit_lsn: Lsn::INVALID,
    xid: 0,
    committed_micros: 0,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Given,
    /// It is needed, and no stream has begun that could give it.
    Needed,
    /// The stream begins with the last transaction.
    Expected,
    /// Inside the last transaction, which is sent again.
    Repeating,
    /// Between the last transaction and the position that was complete.
    Passing,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct History {
    /// The last whole transaction.
    last: TransactionName,
    /// The transaction that began last.
    current: TransactionName,
    proof: Proof,
    /// The slot's position, while a proof is awaited.
    confirmed: Lsn,
}

impl History {
    pub(super) fn new() -> Self {
        History {
            last: NO_TRANSACTION,
            current: NO_TRANSACTION,
            proof: Proof::Given,
            confirmed: Lsn::INVALID,
        }
    }

    /// The server was restarted. Returns the position up to which a proof covers the history.
    pub(super) fn doubt(&mut self) -> Lsn {
        (self.proof, self.confirmed) = (Proof::Needed, Lsn::INVALID);
        self.last.commit_lsn
    }

    /// Where the stream has to begin to prove memory, with a slot at `confirmed`; `None` if nothing
    /// can. `is_cut`: a transaction was cut in two.
    pub(super) fn expect(&mut self, confirmed: Lsn, is_cut: bool) -> Option<Lsn> {
        let last = self.last.commit_lsn;
        let (proof, from) = if !last.is_invalid() && confirmed <= last {
            (Proof::Expected, last)
        } else if is_cut {
            (Proof::Passing, confirmed)
        } else {
            return None;
        };
        (self.proof, self.confirmed) = (proof, confirmed);
        Some(from)
    }

    /// The slot's position, as long as memory is not proven.
    pub(super) fn unproven(&self) -> Option<Lsn> {
        (self.proof != Proof::Given).then_some(self.confirmed)
    }

    /// The session has ended.
    pub(super) fn interrupt(&mut self) {
        if self.proof != Proof::Given {
            self.doubt();
        }
    }

    /// A Begin; `complete` is the position up to which everything was received. True if the
    /// transaction is the last one again, which counts for nothing.
    pub(super) fn begin(
        &mut self,
        found: TransactionName,
        is_cut: bool,
        complete: Lsn,
    ) -> Result<bool, Violation> {
        match self.proof {
            Proof::Expected if found == self.last => {
                self.proof = Proof::Repeating;
                return Ok(true);
            }
            Proof::Needed | Proof::Expected => return Err(self.other(self.last, found.commit_lsn)),
            Proof::Repeating => return Err(Violation::Nested(found.commit_lsn)),
            Proof::Passing if !is_cut && found.commit_lsn < complete => {
                return Err(self.other(self.last, found.commit_lsn));
            }
            Proof::Passing | Proof::Given => {}
        }
        if is_cut && found != self.current {
            return Err(self.other(self.current, found.commit_lsn));
        }
        (self.proof, self.current) = (Proof::Given, found);
        Ok(false)
    }

    /// The start of the last commit record; invalid if there was none.
    pub(super) fn last_commit(&self) -> Lsn {
        self.last.commit_lsn
    }

    /// The last whole transaction; its position is invalid if there was none.
    pub(super) fn last(&self) -> TransactionName {
        self.last
    }

    /// The transaction that began last.
    pub(super) fn current(&self) -> TransactionName {
        self.current
    }

    /// The current transaction is received whole.
    pub(super) fn commit(&mut self) {
        self.last = self.current;
    }

    /// The Commit of the last transaction, which was sent again.
    pub(super) fn repeated(
        &mut self,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        is_cut: bool,
        complete: Lsn,
    ) -> Result<(), Violation> {
        if commit_lsn != self.last.commit_lsn || end_lsn > complete {
            return Err(self.other(self.last, commit_lsn));
        }
        // A transaction that was cut in two has to follow too.
        self.proof = match end_lsn == complete && !is_cut {
            true => Proof::Given,
            false => Proof::Passing,
        };
        Ok(())
    }

    /// Whether the last transaction is being sent again.
    pub(super) fn is_repeating(&self) -> bool {
        self.proof == Proof::Repeating
    }

    /// A keepalive. False if it tells nothing that was not received before.
    pub(super) fn keepalive(
        &mut self,
        wal_end: Lsn,
        is_cut: bool,
        complete: Lsn,
    ) -> Result<bool, Violation> {
        match self.proof {
            Proof::Given => {}
            Proof::Expected if wal_end > self.last.commit_lsn => {
                return Err(self.other(self.last, wal_end));
            }
            Proof::Passing if is_cut && wal_end > self.current.commit_lsn => {
                return Err(self.other(self.current, wal_end));
            }
            Proof::Passing if wal_end >= complete && !is_cut => self.proof = Proof::Given,
            Proof::Needed | Proof::Expected | Proof::Repeating | Proof::Passing => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn other(&self, expected: TransactionName, found: Lsn) -> Violation {
        let expected = expected.commit_lsn;
        match self.proof {
            Proof::Given => Violation::NotResumed { expected, found },
            _ => Violation::OtherHistory { expected, found },
        }
    }
}

/// Most tests are about one history, in which the commit position names a transaction.
#[cfg(test)]
impl From<Lsn> for TransactionName {
    fn from(commit_lsn: Lsn) -> Self {
        TransactionName {
            commit_lsn,
            xid: 1,
            committed_micros: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::new(position)
    }

    /// Has received the transaction at 20, and everything up to 50; the server was restarted.
    fn doubted() -> History {
        let mut history = History::new();
        assert_eq!(history.begin(lsn(20).into(), false, lsn(10)), Ok(false));
        history.commit();
        history.doubt();
        history
    }

    fn other(expected: u64, found: u64) -> Violation {
        let (expected, found) = (lsn(expected), lsn(found));
        Violation::OtherHistory { expected, found }
    }

    #[test]
    fn the_last_transaction_and_nothing_behind_it_prove_the_history() {
        let mut history = doubted();
        assert_eq!(history.expect(lsn(15), false), Some(lsn(20)));
        assert_eq!(history.unproven(), Some(lsn(15)));
        assert_eq!(history.keepalive(lsn(20), false, lsn(50)), Ok(false));
        assert_eq!(history.begin(lsn(20).into(), false, lsn(50)), Ok(true));
        assert!(history.is_repeating());
        assert_eq!(history.repeated(lsn(20), lsn(30), false, lsn(50)), Ok(()));
        assert_eq!(history.keepalive(lsn(49), false, lsn(50)), Ok(false));
        assert_eq!(history.unproven(), Some(lsn(15)));
        assert_eq!(history.keepalive(lsn(50), false, lsn(50)), Ok(true));
        assert_eq!(history.unproven(), None);
    }

    #[test]
    fn a_transaction_at_the_same_position_is_another_by_its_id_or_its_time() {
        let same = TransactionName::from(lsn(20));
        let by_id = TransactionName { xid: 2, ..same };
        let by_time = TransactionName {
            committed_micros: 1,
            ..same
        };
        for another in [by_id, by_time, lsn(21).into()] {
            let mut history = doubted();
            history.expect(lsn(15), false);
            let found = another.commit_lsn.raw();
            let begun = history.begin(another, false, lsn(50));
            assert_eq!(begun, Err(other(20, found)));
        }
    }

    #[test]
    fn a_server_that_passes_the_transaction_or_sends_another_behind_it_has_another_history() {
        let mut history = doubted();
        history.expect(lsn(15), false);
        let passed = history.keepalive(lsn(21), false, lsn(50));
        assert_eq!(passed, Err(other(20, 21)));
        let mut history = doubted();
        history.expect(lsn(15), false);
        history.begin(lsn(20).into(), false, lsn(50)).unwrap();
        history.repeated(lsn(20), lsn(30), false, lsn(50)).unwrap();
        let between = history.begin(lsn(40).into(), false, lsn(50));
        assert_eq!(between, Err(other(20, 40)));
    }

    #[test]
    fn the_last_transaction_ends_where_it_did_and_not_behind_all_that_was_received() {
        let mut history = doubted();
        history.expect(lsn(15), false);
        history.begin(lsn(20).into(), false, lsn(50)).unwrap();
        let longer = history.repeated(lsn(20), lsn(51), false, lsn(50));
        assert_eq!(longer, Err(other(20, 20)));
        assert_eq!(history.unproven(), Some(lsn(15)));
    }

    #[test]
    fn a_transaction_that_was_cut_in_two_has_to_come_again() {
        let mut history = doubted();
        history.begin(lsn(60).into(), false, lsn(30)).unwrap_err();
        let mut history = History::new();
        history.begin(lsn(20).into(), false, lsn(10)).unwrap();
        history.commit();
        history.begin(lsn(30).into(), false, lsn(30)).unwrap();
        history.doubt();
        assert_eq!(history.expect(lsn(15), true), Some(lsn(20)));
        history.begin(lsn(20).into(), true, lsn(30)).unwrap();
        history.repeated(lsn(20), lsn(30), true, lsn(30)).unwrap();
        assert_eq!(history.unproven(), Some(lsn(15)));
        assert_eq!(
            history.keepalive(lsn(31), true, lsn(30)),
            Err(other(30, 31))
        );
        assert_eq!(history.begin(lsn(30).into(), true, lsn(30)), Ok(false));
        assert_eq!(history.unproven(), None);
        // With the slot past the last whole transaction it is the only proof.
        history.doubt();
        assert_eq!(history.expect(lsn(25), true), Some(lsn(25)));
        let another = history.begin(lsn(28).into(), true, lsn(30));
        assert_eq!(another, Err(other(30, 28)));
    }

    #[test]
    fn without_such_a_transaction_nothing_is_proven() {
        assert_eq!(History::new().expect(lsn(15), false), None);
        let mut history = doubted();
        assert_eq!(history.expect(lsn(21), false), None);
        assert_eq!(history.unproven(), Some(Lsn::INVALID));
    }

    #[test]
    fn a_session_that_ends_before_the_proof_leaves_memory_doubted() {
        let mut history = doubted();
        history.expect(lsn(15), false);
        history.begin(lsn(20).into(), false, lsn(50)).unwrap();
        history.interrupt();
        assert!(!history.is_repeating());
        assert_eq!(history.unproven(), Some(Lsn::INVALID));
        assert_eq!(history.expect(lsn(15), false), Some(lsn(20)));
    }
}
