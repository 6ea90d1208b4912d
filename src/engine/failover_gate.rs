//! Holds the confirmed position back until the standbys have the marks. Pure.
//!
//! A failover slot may be promoted with one of the standbys. The rows of all events that the slot
//! has confirmed must then be marked there as well, or they would never be: their events lie before
//! the slot's position, and their marks were lost with the old primary. The server streams nothing
//! from a failover slot that those standbys do not have (`synchronized_standby_slots`), keepalives
//! included. So a mark has arrived there when the stream has passed the WAL position after the
//! mark's commit.
//!
//! The gate holds two positions for each write-back, and a bounded number of these: the marked
//! events themselves are settled and take no memory and none of the limit. Otherwise the stream
//! could wait for marks that wait for the stream.
//! <https://www.postgresql.org/docs/current/logicaldecoding-explanation.html#LOGICALDECODING-REPLICATION-SLOTS-SYNCHRONIZATION>

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// The most write-backs that are held one by one. Beyond it, the newest entry stands for all later
/// ones.
const HELD_MAX: usize = 1_000;

/// A write-back that the standbys may not have yet.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The position that could be confirmed before it.
    limit: Lsn,
    /// The WAL position after it.
    marked: Lsn,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct FailoverGate {
    /// The slot is a failover slot.
    pub(super) enabled: bool,
    held: VecDeque<Held>,
    passed: Lsn,
    /// How many observations in a row found the walsender waiting for a standby.
    waiting_in_a_row: u32,
}

impl FailoverGate {
    /// Drops what it holds, for another history or a rewind.
    pub(crate) fn clear(&mut self) {
        let enabled = self.enabled;
        *self = FailoverGate {
            enabled,
            ..FailoverGate::default()
        };
    }

    /// A write-back has committed before `marked`; `limit` was confirmable without it.
    pub(crate) fn hold(&mut self, limit: Lsn, marked: Lsn) {
        if marked <= self.passed {
            return;
        }
        let is_full = self.held.len() >= HELD_MAX;
        match self.held.back_mut().filter(|_| is_full) {
            Some(last) => last.marked = last.marked.max(marked),
            None => self.held.push_back(Held { limit, marked }),
        }
    }

    /// The stream has reached this position.
    pub(crate) fn pass(&mut self, position: Lsn) {
        self.passed = self.passed.max(position);
        while self
            .held
            .front()
            .is_some_and(|held| held.marked <= self.passed)
        {
            self.held.pop_front();
        }
    }

    /// The position up to `flushed` that may be confirmed.
    pub(crate) fn confirmable(&self, flushed: Lsn) -> Lsn {
        match self.held.front() {
            Some(held) => flushed.min(held.limit),
            None => flushed,
        }
    }

    /// An inspection found the walsender waiting for a standby, or not.
    pub(crate) fn observe(&mut self, waits: bool) {
        self.waiting_in_a_row = if waits {
            self.waiting_in_a_row.saturating_add(1)
        } else {
            0
        };
    }

    /// Whether the stream waits for a standby. One observation is not enough: a healthy standby
    /// takes some time too.
    pub(crate) fn is_standby_late(&self) -> bool {
        self.waiting_in_a_row > 1
    }

    #[cfg(test)]
    fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Lsn {
        Lsn::new(position)
    }

    #[test]
    fn what_was_confirmable_stays_so_and_the_rest_waits_for_its_mark() {
        let mut failover_gate = FailoverGate::default();
        assert_eq!(failover_gate.confirmable(at(10)), at(10));
        failover_gate.hold(at(10), at(50));
        failover_gate.hold(at(20), at(60));
        assert_eq!(failover_gate.confirmable(at(30)), at(10));
        failover_gate.pass(at(49));
        assert_eq!(failover_gate.confirmable(at(30)), at(10));
        failover_gate.pass(at(50));
        assert_eq!(failover_gate.confirmable(at(30)), at(20));
        failover_gate.pass(at(70));
        assert_eq!(failover_gate.confirmable(at(30)), at(30));
        failover_gate.hold(at(30), at(65));
        assert!(
            !failover_gate.is_holding(),
            "the stream has passed it already"
        );
    }

    #[test]
    fn however_many_wait_the_oldest_limit_and_the_newest_mark_hold_for_all() {
        let mut failover_gate = FailoverGate::default();
        for n in 0..10_000 {
            failover_gate.hold(at(n), at(20_000 + n));
        }
        assert_eq!(failover_gate.held.len(), HELD_MAX);
        assert_eq!(failover_gate.confirmable(at(10_000)), at(0));
        failover_gate.pass(at(29_998));
        let limit = failover_gate.confirmable(at(10_000));
        assert!(limit < at(1_000), "{limit} is not marked on the standby");
        failover_gate.pass(at(29_999));
        assert_eq!(failover_gate.confirmable(at(10_000)), at(10_000));
    }
}
