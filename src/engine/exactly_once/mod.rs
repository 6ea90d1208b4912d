//! Exactly once: events reach Kafka in transactions, together with a record of the progress that
//! they make. Pure.
//!
//! What holds in addition to the engine's invariants, while `delivery = exactly-once`:
//!
//! - E1 the confirmed position never passes the position of the last committed progress record,
//!   not even while nothing is published;
//! - E2 an event that the progress record covers is never sent again: it is marked and confirmed as
//!   if it had been;
//! - E3 nothing is acknowledged before the commit of its transaction has succeeded;
//! - E4 at any trouble the producer is given up, and a new one begins at the progress record.
//!
//! `start` decides how a session begins, `transaction` what is in each transaction and when it is
//! committed, `suspects` what becomes of a refused event. Here the engine uses them. Nothing of it
//! is called at least once.

pub(crate) mod copies;
pub(crate) mod history;
mod letters;
pub(crate) mod limits;
mod pace;
pub(crate) mod progress;
mod reached;
pub(crate) mod recorded_replay;
pub(crate) mod recorded_row;
mod replayed;
mod retries;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod suspects;
mod table_rows;
pub(crate) mod timeline;
pub(crate) mod transaction;

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::exactly_once::history::HistoryCheck;
use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::engine::exactly_once::state::ExactlyOnce;
use crate::engine::exactly_once::suspects::{Place, Suspicion};
use crate::engine::exactly_once::transaction::{
    CommitOutcome, Content, Facts, PROGRESS_TICKET, Sent, Step, Transactions,
};
use crate::engine::output::{DeliveryResult, End, FailureKind, SinkOutput};
use crate::engine::record_checks::RecordFacts;
use crate::engine::topics::TopicId;
use crate::engine::tracker::{InFlight, Ticket, TransactionName};
use crate::lsn::Lsn;
use crate::outbox::Rejection;

/// What counts of an offered event.
pub(super) struct Entry<'a> {
    pub(super) from_table: bool,
    pub(super) facts: &'a RecordFacts<'a>,
    pub(super) bytes: u32,
    pub(super) rejection: Option<Rejection>,
}

impl Engine {
    /// A new producer has begun its first transaction. The stream begins at `slot`, which the
    /// progress is not before. `is_new`: Kafka has no record of this progress yet.
    pub(crate) fn transactions_begun(&mut self, progress: Progress, slot: Lsn, is_new: bool) {
        if let Some(exactly_once) = &mut self.exactly_once {
            if is_new {
                exactly_once.suspects.clear();
            }
            exactly_once.history = HistoryCheck::new(&progress, slot);
            exactly_once.transactions.begin(progress, is_new);
        }
    }

    fn transactions(&self) -> Option<&Transactions> {
        self.exactly_once.as_ref().map(|it| &it.transactions)
    }

    /// A position, or that of the progress record if it is before it (E1).
    pub(super) fn recorded(&self, position: Lsn) -> Lsn {
        match self.transactions().map(Transactions::committed) {
            Some(Some(committed)) => position.min(committed.position),
            Some(None) => self.reported,
            None => position,
        }
    }

    /// Whether a new event has to wait for the end of a transaction, or for an earlier event.
    pub(super) fn is_between_transactions(&self) -> bool {
        let has_begun = |it: &&Transactions| it.committed().is_some();
        let transactions = self.transactions().filter(has_begun);
        let waits =
            |it: &Transactions| !it.takes_events() || it.is_held() || self.retry_goes_first();
        transactions.is_some_and(waits)
    }

    /// Whether a transaction is not committed.
    pub(crate) fn has_uncommitted(&self) -> bool {
        self.transactions().is_some_and(|it| !it.is_empty())
    }

    /// Whether the stream still has to show that its history is the one of the progress record.
    pub(super) fn awaits_history(&self) -> bool {
        self.exactly_once
            .as_ref()
            .is_some_and(|it| it.history.is_awaited())
    }

    /// Whether no row may be marked, because the stream may be of another history.
    pub(super) fn forbids_marks(&self) -> bool {
        let forbids = |it: &ExactlyOnce| it.history.forbids_marks();
        self.exactly_once.as_deref().is_some_and(forbids)
    }

    /// A transaction of Postgres begins.
    pub(super) fn compare_history(&mut self, name: TransactionName) {
        let Some(exactly_once) = &mut self.exactly_once else {
            return;
        };
        if let Err(refusal) = exactly_once.history.begins(name) {
            exactly_once.transactions.close();
            self.push(End::ProgressRefused(Box::new(refusal)));
        }
    }

    /// Decides about an event that has its ticket.
    pub(super) fn admit_in_transaction(
        &mut self,
        ticket: Ticket,
        topic: TopicId,
        entry: Entry<'_>,
    ) -> Admission {
        let change = self.tracker.last_change().filter(|_| !entry.from_table);
        let (commit_lsn, index) = change.unwrap_or_default();
        let event = Sent {
            ticket,
            commit_lsn,
            index,
            is_row: entry.from_table,
        };
        let Some(exactly_once) = &mut self.exactly_once else {
            return Admission::Keep(Reason::Hold);
        };
        let covers = |it: &Progress| !entry.from_table && it.covers(commit_lsn, index);
        if exactly_once.transactions.committed().is_some_and(covers) {
            return Admission::Keep(Reason::Published);
        }
        if !exactly_once.transactions.takes_events() {
            return Admission::Keep(Reason::Hold);
        }
        let suspicion = self.suspicion(&event);
        let is_suspect = suspicion == Suspicion::Suspect;
        let rejection = match suspicion {
            Suspicion::Guilty(rejection) => Some(rejection),
            Suspicion::Suspect | Suspicion::None => entry.rejection,
        };
        let admission = match rejection {
            Some(rejection) => Admission::Keep(Reason::Reject(rejection)),
            None if is_suspect => Admission::Keep(Reason::Hold),
            None => self
                .dispatch
                .admit(self.now, entry.facts, topic, entry.bytes),
        };
        let Some(exactly_once) = &mut self.exactly_once else {
            return admission;
        };
        match admission {
            Admission::Send => {
                let transactions = &mut exactly_once.transactions;
                transactions.sent(self.now, event, Content::Events);
            }
            Admission::Keep(_) => exactly_once.transactions.hold(event),
        }
        admission
    }

    /// An event that Kafka has already: only its row may still have to be marked (E2).
    pub(super) fn pass_over(&mut self, now: Duration, ticket: Ticket) {
        self.acknowledge(now, ticket, &mut Vec::new());
    }

    /// A held record is sent.
    pub(super) fn held_is_sent(&mut self, ticket: Ticket) {
        let Some(exactly_once) = &self.exactly_once else {
            return;
        };
        let held = exactly_once.transactions.held();
        let Some(event) = held.filter(|held| held.ticket == ticket) else {
            return self.retry_is_sent(ticket);
        };
        let content = self.content_with(&event, Content::Events);
        if let Some(exactly_once) = &mut self.exactly_once {
            exactly_once.transactions.sent(self.now, event, content);
        }
    }

    /// Takes in a delivery report: of an event, or of a progress record.
    pub(super) fn delivered_in_transaction(&mut self, now: Duration, result: DeliveryResult) {
        if result.ticket == PROGRESS_TICKET {
            match (result.failure, &mut self.exactly_once) {
                (Some(failure), _) => self.give_up(failure.rejection),
                (None, Some(exactly_once)) => exactly_once.transactions.progress_acknowledged(),
                (None, None) => {}
            }
            return;
        }
        let Some(event) = self.tracker.event(result.ticket) else {
            return;
        };
        let Some(failure) = &result.failure else {
            self.dispatch
                .delivery_finished(now, event, result, &self.tracker);
            self.dispatch.take_delivered();
            return;
        };
        let (topic, rejection) = (event.topic, failure.rejection.clone());
        if failure.kind == FailureKind::NoTopic {
            self.dispatch.topics.verify(now, topic);
        }
        if failure.kind == FailureKind::Refused {
            self.suspect(result.ticket, rejection.clone());
        }
        self.give_up(rejection);
    }

    /// What names an event when it comes again; `None` for a row that is forgotten.
    fn place(&self, event: &Sent) -> Option<Place> {
        if let Some(dead_letter) = self.retried_by(event.ticket) {
            return Some(Place::DeadLetter(dead_letter));
        }
        match event.commit_lsn.is_invalid() {
            false => Some(Place::Change(event.commit_lsn, event.index)),
            true => {
                let row = self.tracker.event(event.ticket)?.row.as_ref()?;
                Some(Place::Row(row.id.clone()))
            }
        }
    }

    fn suspicion(&self, event: &Sent) -> Suspicion {
        let suspects = self.exactly_once.as_ref().map(|it| &it.suspects);
        let suspects = suspects.filter(|it| !it.is_empty());
        let place = suspects.and_then(|_| self.place(event));
        match (suspects, place) {
            (Some(suspects), Some(place)) => suspects.suspicion(&place, self.limits.attempts),
            _ => Suspicion::None,
        }
    }

    /// What a transaction has with this event: the event alone, if it may be to blame.
    fn content_with(&self, event: &Sent, otherwise: Content) -> Content {
        match self.suspicion(event) {
            Suspicion::Suspect => Content::Single,
            Suspicion::Guilty(_) | Suspicion::None => otherwise,
        }
    }

    fn suspect(&mut self, ticket: Ticket, rejection: Rejection) {
        let Some(exactly_once) = &self.exactly_once else {
            return;
        };
        let events = &exactly_once.refused_of;
        let current = exactly_once.transactions.events();
        let events = if current.is_empty() { events } else { current };
        let was_alone = events.len() == 1;
        let event = events.iter().find(|it| it.ticket == ticket);
        let place = event.and_then(|event| self.place(event));
        if let (Some(place), Some(exactly_once)) = (place, &mut self.exactly_once) {
            exactly_once.suspects.refused(place, rejection, was_alone);
        }
    }

    /// Gives the producer up (E4). Reports of the same transaction may follow.
    pub(super) fn give_up(&mut self, rejection: Rejection) {
        if let Some(exactly_once) = &mut self.exactly_once
            && !exactly_once.transactions.is_closed()
        {
            exactly_once.refused_of = exactly_once.transactions.events().to_vec();
            exactly_once.transactions.close();
            self.push(End::ProducerFailed(rejection));
        }
    }

    /// A commit has ended. Adds the events that are acknowledged by it to `done`. Ignores one from
    /// before a reset.
    pub(crate) fn commit_finished(
        &mut self,
        now: Duration,
        generation: u64,
        outcome: CommitOutcome,
        done: &mut Vec<InFlight>,
    ) {
        if generation != self.generation {
            return;
        }
        let Some(exactly_once) = &mut self.exactly_once else {
            return;
        };
        let (sent, failure) = exactly_once.transactions.committed_as(now, outcome);
        let has_suspects = !exactly_once.suspects.is_empty();
        for event in sent {
            let place = has_suspects.then(|| self.place(&event)).flatten();
            if let (Some(place), Some(exactly_once)) = (place, &mut self.exactly_once) {
                exactly_once.suspects.committed(&place);
            }
            self.acknowledge(now, event.ticket, done);
        }
        if let Some(rejection) = failure {
            self.push(End::ProducerFailed(rejection));
        }
    }

    /// Outputs the next step of the transaction.
    pub(super) fn turn_transaction(&mut self, now: Duration) {
        if self.exactly_once.is_none() {
            return;
        }
        let facts = self.transaction_facts();
        let generation = self.generation;
        let Some(exactly_once) = &mut self.exactly_once else {
            return;
        };
        if let Some(held) = exactly_once.transactions.held()
            && !self.tracker.is_in_flight(held.ticket)
        {
            exactly_once.transactions.release();
        }
        let step = exactly_once.transactions.step(now, &facts);
        match step {
            None => {}
            Some(Step::Record(mut progress)) => {
                match progress.phase {
                    Phase::Replay => self.name_last_row(&mut progress),
                    Phase::Table | Phase::Copying | Phase::Stream => {
                        progress.rows = self.rows_to_record();
                    }
                }
                self.push(SinkOutput::RecordProgress(Box::new(progress)));
            }
            Some(Step::Commit) => self.push(SinkOutput::CommitTransaction { generation }),
            Some(Step::GiveUp(rejection)) => self.push(End::ProducerFailed(rejection)),
        }
    }

    fn transaction_facts(&self) -> Facts {
        Facts {
            in_flight: self.tracker.in_flight_count() - self.waiting_letters(),
            unreported: self.dispatch.in_flight_count(),
            complete: self.tracker.complete(),
            last: self.tracker.last_transaction(),
            settled: self.tracker.flushed(),
            open: self.tracker.open_transaction(),
            is_marked: self.is_written_back(),
            is_full: self.tracker.bytes() >= self.limits.memory_limit,
            is_stopping: self.is_stopping() || self.pause.is_on() || self.is_halting(),
        }
    }

    /// When a step may be due without an input.
    pub(super) fn transaction_deadline(&self) -> Option<Duration> {
        let transactions = self.transactions()?;
        transactions.deadline(&self.transaction_facts())
    }
}
