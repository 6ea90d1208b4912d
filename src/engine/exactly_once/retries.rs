//! Dead letters that are retried or discarded on request, exactly once. Pure.
//!
//! A retried event is no change of the stream, so no position says that Kafka has it. The progress
//! record of its transaction names the dead letter instead. A request for a dead letter that is
//! named there closes it and sends nothing: its transaction was committed, and a crash came before
//! the database knew. The name stays in the progress records until the dead letter is closed.
//!
//! Those that wait hold up no transaction. `letters` says which transactions take them in.

use crate::engine::Engine;
use crate::engine::exactly_once::progress::Phase;
use crate::engine::exactly_once::suspects::{Place, Suspicion};
use crate::engine::exactly_once::transaction::{Content, Sent, Transactions};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{CloseDeadLetter, Rejection};

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
        let Some(transactions) = self.transactions() else {
            return true;
        };
        let is_empty = transactions.events().is_empty();
        if transactions.takes_events() {
            return is_empty || self.dispatch.dead_letters.resolving.is_empty();
        }
        // What is not a letter, or may be to blame, waits for the next transaction.
        transactions.takes_letters() && !transactions.is_held() && !self.has_suspect_letter()
    }

    fn has_suspect_letter(&self) -> bool {
        let suspects = self.exactly_once.as_ref().map(|it| &it.suspects);
        let Some(suspects) = suspects.filter(|it| !it.is_empty()) else {
            return false;
        };
        let mut letters = self.dispatch.dead_letters.resolving.values();
        letters.any(|it| {
            let place = Place::DeadLetter(it.dead_letter);
            suspects.suspicion(&place, self.limits.attempts) == Suspicion::Suspect
        })
    }

    /// Whether the stream lets the retried events go first.
    pub(super) fn retry_goes_first(&self) -> bool {
        let is_ready = !self.dispatch.ready.is_empty();
        let has_retries = is_ready && !self.dispatch.dead_letters.resolving.is_empty();
        has_retries
            && self
                .transactions()
                .is_some_and(Transactions::is_turn_of_letters)
    }

    /// The record of a retried event is sent.
    pub(super) fn retry_is_sent(&mut self, ticket: Ticket) {
        let event = Sent {
            ticket,
            commit_lsn: Lsn::INVALID,
            index: 0,
            is_row: false,
        };
        let content = self.content_with(&event, Content::Letters);
        let dead_letter = self.retried_by(ticket);
        if let (Some(dead_letter), Some(exactly_once)) = (dead_letter, &mut self.exactly_once) {
            let transactions = &mut exactly_once.transactions;
            transactions.letter_sent(self.now, event, dead_letter, content);
        }
    }

    /// How many retried events wait, so that no transaction waits for them.
    pub(super) fn waiting_letters(&self) -> u64 {
        let under_way = self.transactions().map_or(0, |it| it.letters.len());
        let retried = self.dispatch.dead_letters.resolving.keys();
        let in_flight = retried.filter(|ticket| self.tracker.is_in_flight(**ticket));
        (in_flight.count() as u64).saturating_sub(under_way as u64)
    }

    /// These dead letters are closed in the database.
    pub(in crate::engine) fn closed_in_database(&mut self, closed: &[CloseDeadLetter]) {
        if let Some(exactly_once) = &mut self.exactly_once {
            let is_closed = |id| closed.iter().any(|it| it.dead_letter == id);
            exactly_once.transactions.letters_closed(is_closed);
        }
    }

    /// The database has no request: whatever the progress record names is closed.
    pub(in crate::engine) fn nothing_is_requested(&mut self) {
        if let Some(exactly_once) = &mut self.exactly_once {
            exactly_once.transactions.letters_closed(|_| true);
        }
    }
}
