//! Whether records that Kafka has not acknowledged may stay in flight. Pure.
//!
//! The lock belongs to the session, and the server gives it to another instance when it receives
//! nothing from this one for `wal_sender_timeout`. Records still in flight here would then land
//! behind those that the other publishes: old events as the last word on their keys. So they are
//! withdrawn before that can happen: half of the time-out after the last byte from the server, and
//! at once when another instance is seen to hold the lock, or when so much time has passed between
//! two turns of the loop (a suspended process) that it may, or when the clock has jumped. The
//! holder of the slot sends withdrawn events again.
//!
//! It is not exact. A process that is suspended as a whole sends its records in flight as soon as
//! it resumes, before it can check anything.

use std::time::Duration;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Fencing {
    limit: Duration,
    pub(super) withdraw_at: Option<Duration>,
    /// The records in flight were withdrawn, and no reset has followed yet.
    pub(super) withdrawn: bool,
}

impl Fencing {
    /// `limit` is the time from the server's last byte to the withdrawal.
    pub(crate) fn new(limit: Duration) -> Self {
        Fencing {
            limit,
            withdraw_at: None,
            withdrawn: false,
        }
    }

    /// A reset: nothing is in flight any more.
    pub(crate) fn clear(&mut self) {
        self.withdrawn = false;
    }

    /// A session ended that received its last byte at this time.
    pub(crate) fn lock_lost(&mut self, at: Duration) {
        self.withdraw_at = Some(at + self.limit);
    }

    /// Another instance may publish already.
    pub(crate) fn withdraw_now(&mut self) {
        self.withdraw_at = Some(Duration::ZERO);
    }

    /// The clock may have stood still, so the time since the lock was lost is unknown.
    pub(crate) fn clock_jumped(&mut self) {
        if self.withdraw_at.is_some() {
            self.withdraw_now();
        }
    }

    /// The lock is held.
    pub(crate) fn lock_held(&mut self) {
        self.withdraw_at = None;
    }

    /// The lock was held, and is not.
    pub(super) fn is_lock_lost(&self) -> bool {
        self.withdraw_at.is_some()
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.withdraw_at.is_some_and(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_the_last_word_and_not_from_the_end_of_the_session() {
        let second = Duration::from_secs(1);
        let mut fencing = Fencing::new(second * 15);
        assert!(!fencing.is_due(second * 1_000));
        fencing.lock_lost(second * 10);
        assert!(!fencing.is_due(second * 24));
        assert!(fencing.is_due(second * 25));
        fencing.lock_held();
        assert!(!fencing.is_due(second * 25));
        fencing.withdraw_now();
        assert!(fencing.is_due(Duration::ZERO));
    }

    #[test]
    fn a_jump_of_the_clock_counts_only_without_the_lock() {
        let second = Duration::from_secs(1);
        let mut fencing = Fencing::new(second * 15);
        fencing.clock_jumped();
        assert!(!fencing.is_due(second));
        fencing.lock_lost(second * 10);
        fencing.clock_jumped();
        assert!(fencing.is_due(second * 11));
    }
}
