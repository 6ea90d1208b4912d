//! The engine's side towards Kafka and the dead letters: what becomes of each accepted event until it is settled.
//!
//! Owns nothing: it moves events between tracker, dispatch and the queue of the write-back, all of which the engine owns. An event is
//! acknowledged when Kafka has it in its place, and settled when its row is written back, its letter is filed, or its letter is closed.

use std::collections::HashSet;
use std::time::Duration;

use crate::config::AfterPublish;
use crate::engine::dead_letters::Sight;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::output::{End, Output, Report, Work};
use crate::engine::record_checks::{self as checks, Parcel};
use crate::engine::topic_queue::Kept;
use crate::engine::topics::{Answer, NO_TOPIC, TopicId};
use crate::engine::tracker::{Accepted, Ticket};
use crate::engine::{Busy, Engine};
use crate::lsn::Lsn;
use crate::outbox::{Fault, Mark, Outcome, OwnedRecord, ParkedKey, Request, Wish, check_topic};

impl Engine {
    /// The number of a topic, for [`Accepted`]; none for a name that no topic can have.
    pub(crate) fn topic(&mut self, name: &str) -> TopicId {
        if check_topic(name).is_ok() {
            self.dispatch.topics.id(name)
        } else {
            NO_TOPIC
        }
    }

    /// What to do with the event that was just accepted: send it now, or give a copy to [`keep`](Engine::keep).
    pub(crate) fn admit(&mut self, accepted: &Accepted, parcel: &Parcel<'_>) -> Admission {
        self.dispatch.admit(self.now, parcel, accepted)
    }

    /// The copy of an event that is not sent now.
    pub(crate) fn keep(
        &mut self,
        now: Duration,
        ticket: Ticket,
        record: Box<OwnedRecord>,
        reason: Reason,
    ) {
        if let Some(accepted) = self.tracker.accepted(ticket) {
            let kept = Kept { ticket, record };
            self.dispatch.keep(now, &accepted, kept, reason);
        }
    }

    /// A row that is to be marked and was not sent.
    pub(crate) fn accept_unsent(&mut self, now: Duration, row: Accepted) {
        let ticket = self.tracker.accept_row(row);
        self.tracker.acknowledge(ticket);
        self.queue.push(now, ticket);
    }

    /// A row of which nothing but its id could be read.
    pub(crate) fn accept_unreadable(&mut self, now: Duration, row: Accepted, fault: Fault) {
        let ticket = self.tracker.accept_row(row);
        self.dispatch.condemn(now, ticket, row.row, None, fault, 0);
    }

    /// Kafka's report on a record. What is acknowledged by it, this record or others, is added to `done`. Ignores a report of before
    /// a reset.
    pub(crate) fn delivered(&mut self, now: Duration, report: Report, done: &mut Vec<Accepted>) {
        let ticket = report.ticket;
        let Some(accepted) = self.tracker.accepted(ticket) else {
            return;
        };
        if self
            .dispatch
            .reported(now, &accepted, report, &self.tracker)
        {
            self.acknowledge(now, ticket, done);
        }
        for ticket in self.dispatch.take_delivered() {
            self.acknowledge(now, ticket, done);
        }
        if let Some(fault) = self.dispatch.take_failed() {
            let end = End::ProducerFailed(fault);
            self.outputs.push_back(Output::End(end));
        }
    }

    fn acknowledge(&mut self, now: Duration, ticket: Ticket, done: &mut Vec<Accepted>) {
        let Some(accepted) = self.tracker.acknowledge(ticket) else {
            return;
        };
        done.push(accepted);
        if self.dispatch.letters.delivered(ticket, accepted.row) {
            return;
        }
        match self.limits.after_publish {
            AfterPublish::Keep => self.tracker.settle(ticket),
            AfterPublish::Mark | AfterPublish::Delete => self.queue.push(now, ticket),
        }
    }

    /// Kafka's answer to a question about topics, or `None` where it gave none.
    pub(crate) fn answered(&mut self, now: Duration, answers: Option<Vec<(String, Answer)>>) {
        self.now = now;
        self.dispatch.answered(now, answers);
    }

    /// Work came back from the database: what it has shown, if anything, or `Err` where it was not done or nobody knows. Ignores work
    /// of before a reset. How many dead letters it has filed.
    pub(crate) fn worked(
        &mut self,
        now: Duration,
        generation: u64,
        work: Work,
        result: Result<Option<Sight>, ()>,
    ) -> usize {
        if generation != self.generation {
            return 0;
        }
        self.busy = Busy::No;
        let letters = &mut self.dispatch.letters;
        match (work, result) {
            (Work::Mark(marks), result) => self.written_back(now, &marks, result.is_ok()),
            (work, Err(())) => letters.again(now, work),
            (Work::File(filed), Ok(_)) => {
                letters.succeeded();
                letters.settled(filed.iter().filter(|letter| letter.known.is_some()).count());
                for letter in &filed {
                    self.tracker.acknowledge(letter.ticket);
                    self.tracker.settle(letter.ticket);
                }
                return filed.len();
            }
            (Work::Close(closed), Ok(_)) => {
                letters.succeeded();
                self.dispatch.closed(&closed);
                for closing in &closed {
                    self.tracker.settle(closing.ticket);
                }
            }
            (Work::Count(_), Ok(_)) => letters.succeeded(),
            (Work::Look { .. }, Ok(sight)) => {
                letters.succeeded();
                for request in letters.looked(sight.unwrap_or_default()) {
                    self.take_up(now, request);
                }
            }
        }
        0
    }

    fn written_back(&mut self, now: Duration, marks: &[Mark], known: bool) {
        let (settled, unsettled): (Vec<&Mark>, Vec<_>) = marks
            .iter()
            .partition(|mark| mark.outcome == Outcome::Settled);
        for mark in settled {
            self.tracker.settle(mark.ticket);
        }
        let unsettled = unsettled.into_iter();
        let unsettled = unsettled.map(|mark| (mark.ticket, mark.outcome == Outcome::Hidden));
        self.queue.written(now, !known, unsettled);
    }

    /// Does what a person wants done with a dead letter.
    fn take_up(&mut self, now: Duration, request: Request) {
        let topic = match &request.record {
            Some(record) if request.wish == Wish::Retry => self.topic(record.topic()),
            _ => NO_TOPIC,
        };
        let row = request.row.unwrap_or(0);
        let bytes = request.record.as_ref().map_or(0, |record| record.size());
        let accepted = Accepted {
            row,
            xid: 0,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            topic,
            since_micros: 0,
            sent_micros: now.as_micros() as u64,
        };
        let ticket = self.tracker.accept_row(accepted);
        self.dispatch.letters.hand_out(&request, ticket);
        if request.wish == Wish::Discard {
            self.tracker.acknowledge(ticket);
            let letters = &mut self.dispatch.letters;
            letters.discarded(ticket, request.letter, row);
            return;
        }
        let (record, fault) = match (request.record, request.fault) {
            (Some(record), None) => match checks::own_fault_of_kept(&record, self.limits.needs_key)
            {
                None => {
                    self.dispatch.topics.renew(now, topic);
                    return self.keep(now, ticket, record, Reason::Retry(request.place));
                }
                Some(fault) => (Some(record), fault),
            },
            (record, fault) => (record, fault.unwrap_or_else(checks::unreadable)),
        };
        self.dispatch.condemn(now, ticket, row, record, fault, 0);
    }

    /// What of Kafka is waited for, if it is known: the topic, and what is in its way. Asks about it as well.
    pub(crate) fn kafka_trouble(&mut self, topic: TopicId) -> Option<String> {
        self.dispatch.topics.look_into(self.now, topic);
        let known = self.dispatch.topics.get(topic)?;
        if known.is_unknown() {
            return Some(format!(
                "Kafka has not said whether there is a topic {}",
                known.name
            ));
        }
        let trouble = self.dispatch.topics.trouble(topic);
        let refused = || {
            known
                .lane
                .as_ref()?
                .trouble()
                .map(|fault| fault.message.clone())
        };
        let why = trouble.map(str::to_owned).or_else(refused);
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Some(format!("no acknowledgement for topic {}{why}", known.name))
    }

    /// Records that Kafka has been given and has not reported on.
    pub(crate) fn kafka_count(&self) -> u64 {
        self.dispatch.in_flight_count()
    }

    /// The rows of all events that are on their way: to Kafka, to their mark, or among the dead letters.
    pub(crate) fn rows_in_hand(&self) -> HashSet<i64> {
        self.tracker.unsettled_rows().collect()
    }

    /// Which keys are parked, before the first event.
    pub(crate) fn load_parked(&mut self, keys: Vec<ParkedKey>) {
        self.dispatch.letters.load_parked(keys);
    }

    /// Gives the connection for writing something to do, if it is free. `urgent` does not wait for a batch to gather.
    pub(super) fn work(&mut self, now: Duration, urgent: bool) {
        if self.busy != Busy::No {
            return;
        }
        let work = if self.marks_first {
            self.marks(now, urgent).or_else(|| self.letters(now))
        } else {
            self.letters(now).or_else(|| self.marks(now, urgent))
        };
        let Some(work) = work else { return };
        self.marks_first = !matches!(work, Work::Mark(_));
        self.busy = match work {
            Work::Look { .. } => Busy::Reading,
            _ => Busy::Writing,
        };
        let generation = self.generation;
        self.outputs.push_back(Output::Work { generation, work });
    }

    pub(super) fn marks(&mut self, now: Duration, urgent: bool) -> Option<Work> {
        let tickets = self.queue.take(now, urgent)?;
        let mark = |ticket| {
            let Accepted { row, xid, .. } = self.tracker.accepted(ticket)?;
            Some(Mark {
                ticket,
                row,
                xid,
                outcome: Outcome::Open,
            })
        };
        Some(Work::Mark(tickets.filter_map(mark).collect()))
    }

    pub(super) fn letters(&mut self, now: Duration) -> Option<Work> {
        let open = self.letters_are_open();
        let complete = self.tracker.complete();
        open.then(|| self.dispatch.letters.work(now, complete))
            .flatten()
    }

    /// What people want has time until the next start.
    pub(super) fn letters_are_open(&self) -> bool {
        let ending = self.halted || self.is_stopping();
        !ending || !self.dispatch.letters.is_idle()
    }

    /// Whether the driver has to say where the log stood after this work, in [`worked_at`](Engine::worked_at).
    pub(crate) fn asks_position(&self, work: &Work) -> bool {
        self.gate.on && settles(work)
    }

    /// How far everything is settled and, where standbys keep the slot, marked there too.
    pub(super) fn flushed(&self) -> Lsn {
        self.gate.confirmable(self.tracker.flushed())
    }

    /// As [`worked`](Engine::worked), with the position of the log after the work, where it was asked for.
    pub(crate) fn worked_at(
        &mut self,
        now: Duration,
        generation: u64,
        mut work: Work,
        result: Result<Option<Sight>, ()>,
        position: Option<Lsn>,
    ) -> usize {
        let limit = self.tracker.flushed();
        let held = self.asks_position(&work) && generation == self.generation;
        if held && position.is_none() {
            // What is marked is marked, but nobody knows where: it is written once more, which changes nothing and tells.
            if let Work::Mark(marks) = &mut work {
                marks
                    .iter_mut()
                    .for_each(|mark| mark.outcome = Outcome::Open);
            }
        }
        let filed = self.worked(now, generation, work, result);
        if let Some(position) = position.filter(|_| held) {
            self.gate.hold(limit, position);
        }
        filed
    }

    /// The ticket that the next event gets.
    #[cfg(test)]
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.tracker.next_ticket()
    }

    /// All that counts against the memory limit.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.tracker.bytes()
    }
}

/// Whether events count as done because of it, so that a promoted standby must have it as well. Reading what people want writes nothing,
/// and an attempt more or less is no loss; held for either, a position would not move until a server that catches up has caught up.
fn settles(work: &Work) -> bool {
    match work {
        Work::Mark(_) | Work::File(_) | Work::Close(_) => true,
        Work::Count(_) | Work::Look { .. } => false,
    }
}
