//! Dead letters that are retried or discarded on request, exactly once. Pure.
//!
//! A retried event is no change of the stream, so no position says that Kafka has it. The progress
//! record of its transaction names the dead letter instead. A request for a dead letter that is
//! named there closes it and sends nothing: its transaction was committed, and a crash came before
//! the database knew. The name stays in the progress records until the dead letter is closed.
//!
//! Each retried event has a transaction of its own, so one that Kafka refuses again takes no other
//! with it. Those that wait hold up no transaction.

use crate::engine::Engine;
use crate::engine::exactly_once::progress::Phase;
use crate::engine::exactly_once::suspects::{Place, Suspicion};
use crate::engine::exactly_once::transaction::{Sent, Transactions};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{CloseDeadLetter, Rejection};

/// The retried events that are in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    /// The dead letter whose event is in the current transaction.
    pub(super) under_way: Option<i64>,
    /// How many others wait, so that no transaction waits for them.
    pub(super) waiting: u64,
}

impl Engine {
    /// Whether requests may be read: exactly once, while the stream is sent.
    pub(in crate::engine) fn may_resolve(&self) -> bool {
        let Some(transactions) = self.transactions() else {
            return true;
        };
        let committed = transactions.committed();
        committed.is_some_and(|it| it.phase == Phase::Stream)
    }

    /// Whether the progress record says that the event of this dead letter is in Kafka.
    pub(in crate::engine) fn is_recorded(&self, dead_letter: i64) -> bool {
        let committed = self.transactions().and_then(|it| it.committed());
        committed.is_some_and(|it| it.dead_letters.contains(&dead_letter))
    }

    /// Why Kafka has refused the event of this dead letter, as often as it may be sent.
    pub(in crate::engine) fn guilt_of(&self, dead_letter: i64) -> Option<Rejection> {
        let suspects = &self.exactly_once.as_ref()?.suspects;
        let place = Place::DeadLetter(dead_letter);
        match suspects.suspicion(&place, self.limits.attempts) {
            Suspicion::Guilty(rejection) => Some(rejection),
            Suspicion::None | Suspicion::Suspect => None,
        }
    }

    /// The dead letter that this ticket retries.
    pub(super) fn retried_by(&self, ticket: Ticket) -> Option<i64> {
        let resolving = &self.dispatch.dead_letters.resolving;
        resolving.get(&ticket).map(|it| it.dead_letter)
    }

    /// Whether a held record may be sent.
    pub(in crate::engine) fn sends_held(&self) -> bool {
        let has_retries = || !self.dispatch.dead_letters.resolving.is_empty();
        self.transactions()
            .is_none_or(|it| it.takes_events() && (it.events().is_empty() || !has_retries()))
    }

    /// Whether the stream lets a retried event go first. Their transactions take turns with the
    /// stream's, so neither keeps the other out.
    pub(super) fn retry_goes_first(&self) -> bool {
        let is_ready = !self.dispatch.ready.is_empty();
        let has_retries = is_ready && !self.dispatch.dead_letters.resolving.is_empty();
        has_retries
            && self
                .transactions()
                .is_some_and(Transactions::is_turn_of_single)
    }

    /// The record of a retried event is sent, alone.
    pub(super) fn retry_is_sent(&mut self, ticket: Ticket) {
        let is_retry = self.retried_by(ticket).is_some();
        if let (true, Some(exactly_once)) = (is_retry, &mut self.exactly_once) {
            let event = Sent {
                ticket,
                commit_lsn: Lsn::INVALID,
                index: 0,
            };
            exactly_once.transactions.sent(self.now, event, true);
        }
    }

    /// The retried events that are in flight.
    pub(super) fn retries(&self) -> Retries {
        let first = self.transactions().and_then(|it| it.events().first());
        let under_way = first.and_then(|first| self.retried_by(first.ticket));
        let retried = self.dispatch.dead_letters.resolving.keys();
        let in_flight = retried.filter(|ticket| self.tracker.is_in_flight(**ticket));
        let in_flight = in_flight.count() as u64;
        Retries {
            waiting: in_flight.saturating_sub(u64::from(under_way.is_some())),
            under_way,
        }
    }

    /// These dead letters are closed in the database.
    pub(in crate::engine) fn closed_in_database(&mut self, closed: &[CloseDeadLetter]) {
        if let Some(exactly_once) = &mut self.exactly_once {
            let is_closed = |id| closed.iter().any(|it| it.dead_letter == id);
            exactly_once.transactions.dead_letters_closed(is_closed);
        }
    }

    /// The database has no request: whatever the progress record names is closed.
    pub(in crate::engine) fn nothing_is_requested(&mut self) {
        if let Some(exactly_once) = &mut self.exactly_once {
            exactly_once.transactions.dead_letters_closed(|_| true);
        }
    }
}
