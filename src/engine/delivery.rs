//! The engine's side towards Kafka and the database: how each event is acknowledged and settled.
//!
//! Owns nothing: it moves events between tracker, dispatch and write-back queue, all of which the
//! engine owns. An event is acknowledged when Kafka has it in order, or its dead letter is filed.
//! It is settled when its row is written back, or its dead letter is filed or closed.

use std::time::Duration;

use crate::config::AfterPublish;
use crate::engine::dispatch::Reason;
use crate::engine::output::{DatabaseWork, DeliveryResult, End, PendingRequests, SinkOutput};
use crate::engine::record_checks;
use crate::engine::topics::topic::MetadataAnswer;
use crate::engine::topics::{NO_TOPIC, TopicId};
use crate::engine::tracker::{InFlight, Ticket};
use crate::engine::{Engine, WorkerState};
use crate::lsn::Lsn;
use crate::outbox::{
    Mark, Marker, Outcome, ParkedKeyList, Resolution, ResolveRequest, RowName, RowSet, StreamedCopy,
};

impl Engine {
    /// Takes in Kafka's report on a record. Adds the events that are acknowledged by it, this one
    /// or others, to `done`. Ignores a report from before a reset.
    pub(crate) fn delivery_finished(
        &mut self,
        now: Duration,
        result: DeliveryResult,
        done: &mut Vec<InFlight>,
    ) {
        if self.exactly_once.is_some() {
            return self.delivered_in_transaction(now, result);
        }
        let ticket = result.ticket;
        let Some(event) = self.tracker.event(ticket) else {
            return;
        };
        if self
            .dispatch
            .delivery_finished(now, event, result, &self.tracker)
        {
            self.acknowledge(now, ticket, done);
        }
        for ticket in self.dispatch.take_delivered() {
            self.acknowledge(now, ticket, done);
        }
        if let Some(rejection) = self.dispatch.take_lost_record() {
            self.push(End::ProducerFailed(rejection));
        }
        if let Some(rejection) = self.dispatch.take_producer_failure() {
            self.replace_producer(now, &rejection.message);
        }
    }

    pub(super) fn acknowledge(&mut self, now: Duration, ticket: Ticket, done: &mut Vec<InFlight>) {
        let Some(event) = self.tracker.acknowledge(ticket) else {
            return;
        };
        let row = event.row.as_ref();
        let (has_row, is_closed) = (
            row.is_some(),
            self.dispatch.dead_letters.delivered(ticket, row),
        );
        done.push(event);
        if is_closed {
            return;
        }
        match self.limits.after_publish {
            AfterPublish::Mark | AfterPublish::Delete if has_row => {
                self.write_back_queue.push(now, ticket);
            }
            // Nothing to mark: by configuration, or because the event has no row.
            AfterPublish::Keep | AfterPublish::Mark | AfterPublish::Delete => {
                self.tracker.settle(ticket);
            }
        }
    }

    /// Outputs what Kafka is to be asked.
    #[inline(always)]
    pub(super) fn query_kafka(&mut self, now: Duration) {
        if let Some(names) = self.dispatch.topics.query(now) {
            self.push(SinkOutput::QueryTopics(names));
        }
        if self.dispatch.topics.read_back.is_open() {
            self.read_ends(now);
        }
    }

    #[cold]
    fn read_ends(&mut self, now: Duration) {
        for id in self.dispatch.topics.read_back.given_up(now) {
            self.dispatch.make_ready(id);
        }
        if let Some((topics, from)) = self.dispatch.topics.ends_to_read(now) {
            let generation = self.generation;
            self.push(SinkOutput::ReadBack {
                generation,
                topics,
                from,
            });
        }
    }

    /// The ends of topics were read, with these copies of events. Ignores a read from before a
    /// reset.
    pub(crate) fn ends_read(
        &mut self,
        now: Duration,
        generation: u64,
        copies: Vec<(String, Vec<StreamedCopy>)>,
    ) {
        if generation != self.generation {
            return;
        }
        for id in self.dispatch.topics.ends_read(copies) {
            for ticket in self.dispatch.topics.take_found(id) {
                self.pass_over(now, ticket);
            }
            self.dispatch.make_ready(id);
        }
    }

    /// Takes in Kafka's answer about topics, or `None` if there was none.
    pub(crate) fn topics_answered(
        &mut self,
        now: Duration,
        answers: Option<Vec<(String, MetadataAnswer)>>,
    ) {
        self.now = now;
        self.dispatch.answered(now, answers);
    }

    /// The database work has ended: with what it has read, if anything, or `Err` if it failed or
    /// its outcome is unknown. `position` is the WAL position after it, where
    /// [`needs_position`](Engine::needs_position) asks for it. Ignores work from before a reset.
    /// Returns how many dead letters were filed.
    pub(crate) fn work_finished(
        &mut self,
        now: Duration,
        generation: u64,
        mut work: DatabaseWork,
        result: Result<Option<PendingRequests>, ()>,
        position: Option<Lsn>,
    ) -> usize {
        if generation != self.generation {
            return 0;
        }
        let confirmable = self.tracker.flushed();
        let is_held_back = self.needs_position(&work);
        if is_held_back
            && position.is_none()
            && let DatabaseWork::Mark(marks) = &mut work
        {
            // The marks are committed but their LSN is unknown. Repeating the update is a no-op
            // that returns one.
            for mark in marks {
                (mark.outcome, mark.marker) = (Outcome::Open, Marker::Outboxd);
            }
        }
        let filed = self.finish_work(now, work, result);
        if let Some(position) = position.filter(|_| is_held_back) {
            self.failover_gate.hold(confirmable, position);
        }
        filed
    }

    fn finish_work(
        &mut self,
        now: Duration,
        work: DatabaseWork,
        result: Result<Option<PendingRequests>, ()>,
    ) -> usize {
        self.worker = WorkerState::Idle;
        // The instance that holds the lock carries the requests out.
        let is_read = matches!(
            work,
            DatabaseWork::ReadRequests { .. } | DatabaseWork::ReadPause { .. }
        );
        let is_late = is_read && self.fencing.is_lock_lost();
        let result = if is_late { Err(()) } else { result };
        let read = matches!(work, DatabaseWork::ReadRequests { with_keys: true });
        if read && self.dispatch.dead_letters.whole_topics() > 0 {
            self.dispatch.release_held();
        }
        let dead_letters = &mut self.dispatch.dead_letters;
        match (work, result) {
            (DatabaseWork::Mark(marks), result) => self.written_back(now, &marks, result.is_ok()),
            (DatabaseWork::ReadPause { .. }, result) => {
                // A read that failed says nothing: it is repeated, and all goes on as it is.
                let paused = result.ok().flatten().and_then(|read| read.paused);
                let paused = paused.unwrap_or(self.pause.is_on());
                self.pause.set(now, paused);
            }
            (DatabaseWork::Retain(step), result) => {
                self.retention.ended(now, step.filter(|_| result.is_ok()));
            }
            (work, Err(())) => dead_letters.work_failed(now, work),
            (DatabaseWork::File(filed), Ok(_)) => {
                dead_letters.work_succeeded();
                dead_letters.requests_settled(
                    filed
                        .iter()
                        .filter(|dead_letter| dead_letter.known.is_some())
                        .count(),
                );
                for dead_letter in &filed {
                    self.tracker.acknowledge(dead_letter.ticket);
                    self.tracker.settle(dead_letter.ticket);
                }
                return filed.len();
            }
            (DatabaseWork::Close(closed), Ok(_)) => {
                dead_letters.work_succeeded();
                self.dispatch.dead_letters_closed(&closed);
                self.closed_in_database(&closed);
                for closing in &closed {
                    self.tracker.settle(closing.ticket);
                }
            }
            (DatabaseWork::CountAttempts(_), Ok(_)) => dead_letters.work_succeeded(),
            (DatabaseWork::ReadRequests { .. }, Ok(pending)) => {
                dead_letters.work_succeeded();
                let pending = pending.unwrap_or_default();
                let is_empty = pending.requests.is_empty();
                for request in dead_letters.requests_read(pending) {
                    self.start_resolving(now, request);
                }
                if is_empty {
                    self.nothing_is_requested();
                }
            }
        }
        0
    }

    fn written_back(&mut self, now: Duration, marks: &[Mark], known: bool) {
        let is_settled = |outcome| matches!(outcome, Outcome::Settled | Outcome::Filed);
        let (settled, unsettled): (Vec<&Mark>, Vec<_>) =
            marks.iter().partition(|mark| is_settled(mark.outcome));
        let filed = settled.iter().filter(|it| it.outcome == Outcome::Filed);
        self.count_refused(now, filed.count());
        for mark in settled {
            if mark.marker == Marker::Other {
                self.foreign_marks.found(mark.row.id.clone());
            }
            self.tracker.settle(mark.ticket);
        }
        for mark in unsettled.iter().filter(|it| it.marker != Marker::Untried) {
            self.tracker.tried(mark.ticket);
        }
        let unsettled = unsettled.into_iter();
        let unsettled = unsettled.map(|mark| (mark.ticket, mark.outcome == Outcome::Hidden));
        self.write_back_queue.written(now, !known, unsettled);
    }

    /// The table has refused the marks of this many rows, which are filed. A table that refuses one
    /// after another stops the publisher, and every event that Kafka has is settled by then.
    fn count_refused(&mut self, now: Duration, count: usize) {
        let limit = &mut self.dispatch.dead_letters.filing_limit;
        let exceeds = (0..count).any(|_| !limit.admits(now));
        let per_minute = limit.per_minute();
        if exceeds && self.dispatch.halt_reason.is_none() {
            self.dispatch.halt_reason = Some(record_checks::too_many_refused_marks(per_minute));
        }
    }

    /// Carries out a request to retry or discard a dead letter.
    fn start_resolving(&mut self, now: Duration, request: ResolveRequest) {
        let topic = match &request.record {
            Some(record) if request.resolution == Resolution::Retry => {
                self.topic(record.topic_name().ok())
            }
            _ => NO_TOPIC,
        };
        let row = request.row.clone().map(RowName::of_id);
        let bytes = request.record.as_ref().map_or(0, |record| record.size());
        let event = InFlight {
            row: row.clone(),
            xid: 0,
            untried: false,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            topic,
            since_micros: 0,
            sent_micros: now.as_micros() as u64,
        };
        let ticket = self.tracker.accept_row(event);
        self.dispatch.dead_letters.start_resolving(&request, ticket);
        if self.is_recorded(request.dead_letter) {
            return self.pass_over(now, ticket);
        }
        if request.resolution == Resolution::Discard {
            self.tracker.acknowledge(ticket);
            let dead_letters = &mut self.dispatch.dead_letters;
            dead_letters.discarded(ticket, request.dead_letter, request.row);
            return;
        }
        let known = request
            .rejection
            .or_else(|| self.guilt_of(request.dead_letter));
        let (record, rejection) = match (request.record, known) {
            (Some(record), None) => {
                match record_checks::own_rejection_of_held(&record, &self.limits.required) {
                    None => {
                        self.dispatch.topics.refresh(now, topic);
                        return self.keep(now, ticket, record, Reason::Retry(request.place));
                    }
                    Some(rejection) => (Some(record), rejection),
                }
            }
            (record, rejection) => (record, rejection.unwrap_or_else(record_checks::unreadable)),
        };
        self.dispatch.reject(now, ticket, row, record, rejection, 0);
    }

    /// Why records of this topic are not acknowledged, if that is known. Queries the topic soon.
    pub(crate) fn kafka_problem(&mut self, topic: TopicId) -> Option<String> {
        self.dispatch.topics.query_soon(self.now, topic);
        let known = self.dispatch.topics.get(topic)?;
        if known.is_unknown() {
            let why = known
                .doubt()
                .map_or_else(String::new, |why| format!(": {why}"));
            let name = &known.name;
            return Some(format!(
                "Kafka has not confirmed that topic {name} exists{why}"
            ));
        }
        let problem = self.dispatch.topics.problem(topic);
        let refused = || {
            known
                .queue
                .as_ref()?
                .problem()
                .map(|rejection| rejection.message.clone())
        };
        let why = problem.map(str::to_owned).or_else(refused);
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Some(format!("no acknowledgement for topic {}{why}", known.name))
    }

    /// Records that were sent to Kafka and are not reported yet.
    pub(crate) fn unreported_count(&self) -> u64 {
        self.dispatch.in_flight_count()
    }

    /// How many topics are parked whole; the highest number if all are.
    pub(crate) fn whole_topics(&self) -> usize {
        self.dispatch.dead_letters.whole_topics()
    }

    /// The rows of all events that are not settled.
    pub(crate) fn unsettled_rows(&self) -> RowSet {
        self.tracker.unsettled_rows().collect()
    }

    /// Loads the parked keys, before the first event.
    pub(crate) fn load_parked(&mut self, keys: ParkedKeyList) {
        self.dispatch.dead_letters.load_parked(keys);
    }

    /// The table has this many dead letters of the last minute; to be called before the first
    /// event.
    pub(crate) fn filed_recently(&mut self, now: Duration, count: u32) {
        let limit = &mut self.dispatch.dead_letters.filing_limit;
        limit.table_has(now, count);
    }

    /// The position up to which everything is settled and, for a failover slot, marked on the
    /// standbys too. While memory is doubted, the slot's position.
    pub(super) fn flushed(&self) -> Lsn {
        let proven = || self.recorded(self.failover_gate.confirmable(self.tracker.flushed()));
        self.tracker.unproven().unwrap_or_else(proven)
    }

    /// The ticket that the next event gets.
    #[cfg(test)]
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.tracker.next_ticket()
    }

    /// The bytes that count against the memory limit.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.tracker.bytes()
    }
}
