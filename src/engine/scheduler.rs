//! Which held record is sent next, and how the round of a topic's queue ends. The other half of
//! [`Dispatch`].
//!
//! Only queues that are ready are visited; a metadata answer, a dead letter that is closed, or the
//! end of its back-off makes a queue ready.

use std::time::Duration;

use crate::engine::dispatch::Dispatch;
use crate::engine::output::SinkOutput;
use crate::engine::parked_keys::KeyState;
use crate::engine::record_checks::{self, RecordFacts};
use crate::engine::topics::TopicId;
use crate::engine::topics::topic::{TopicAccess, TopicLimits};
use crate::engine::topics::topic_queue::{HeldRecord, Stage, TopicQueue};
use crate::engine::tracker::{InFlight, Tracker};
use crate::outbox::{CloseDeadLetter, KeyHash, OwnedRecord, Rejection};

/// What to do with the next record of a queue.
enum NextStep {
    Send,
    /// Leave it at the front; the queue waits.
    Wait,
    /// Put it behind the dead letters of its key that were filed since.
    Requeue,
    /// An earlier event of its key is a dead letter.
    FileParked,
    /// It can never be published as it is.
    Reject(Rejection),
}

impl Dispatch {
    /// Ends the round of the topic's queue if it is over.
    pub(super) fn finish_round(&mut self, now: Duration, id: TopicId, tracker: &Tracker) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let in_flight = topic.in_flight;
        if topic.queue.is_none() {
            return;
        }
        self.make_ready(id);
        let Some(queue) = self
            .topics
            .get_mut(id)
            .and_then(|topic| topic.queue.as_mut())
        else {
            return;
        };
        if in_flight > 0 || !queue.is_round_over() {
            return;
        }
        let counts = match queue.is_denied() {
            true => self.topics.is_at_fault(now, id),
            false => true,
        };
        let Some(queue) = self.topics.get_mut(id).and_then(|it| it.queue.as_mut()) else {
            return;
        };
        let result = queue.finish_round(now, self.limits.attempts, counts);
        if queue.back_off_until().is_some() {
            self.back_off(id);
        }
        let row = |ticket| tracker.event(ticket).and_then(|event| event.row.clone());
        self.delivered.extend(result.delivered);
        if let Some(ticket) = result.attempted {
            self.dead_letters.attempted(row(ticket));
        }
        if let Some((held_record, rejection, attempts)) = result.rejected {
            let row = row(held_record.ticket);
            self.reject(
                now,
                held_record.ticket,
                row,
                Some(held_record.record),
                rejection,
                attempts,
            );
        }
    }

    /// The next output of the queues that are ready.
    pub(crate) fn output(&mut self, now: Duration, tracker: &Tracker) -> Option<SinkOutput> {
        if self.replacement.is_running() {
            return None;
        }
        while let Some(id) = self.ready.front().copied() {
            if let Some(held_record) = self.next_record(now, id, tracker) {
                let HeldRecord { ticket, record } = held_record;
                return Some(SinkOutput::Send { ticket, record });
            }
            self.ready.pop_front();
        }
        let (topic, failure) = self.trust_due.pop_front()?;
        Some(SinkOutput::Trust { topic, failure })
    }

    /// The next record of a topic's queue that may be sent now. An empty queue is dropped.
    pub(super) fn next_record(
        &mut self,
        now: Duration,
        id: TopicId,
        tracker: &Tracker,
    ) -> Option<HeldRecord> {
        loop {
            // An event that stops the publisher must not be overtaken.
            if self.halt_reason.is_some() {
                return None;
            }
            let topic_limits = self.limits_if_open(now, id, tracker)?;
            let topic = self.topics.get_mut(id)?;
            let queue = topic.queue.as_mut()?;
            let Some((held_record, stage)) = queue.next() else {
                if queue.is_round_over() && topic.in_flight == 0 {
                    self.finish_round(now, id, tracker);
                    continue;
                }
                self.drop_if_empty(id);
                return None;
            };
            let Some(event) = tracker.event(held_record.ticket) else {
                continue;
            };
            match self.next_step(now, event, &held_record, stage, &topic_limits) {
                NextStep::Send => {
                    self.sent(id, event.bytes);
                    return Some(held_record);
                }
                NextStep::Wait => {
                    self.put_back(id, held_record, stage);
                    return None;
                }
                NextStep::Requeue => self.requeue_behind(id, held_record),
                NextStep::FileParked => {
                    let HeldRecord { ticket, record } = held_record;
                    self.dead_letters
                        .file_parked(ticket, event.row.clone(), record);
                }
                NextStep::Reject(rejection) => {
                    let HeldRecord { ticket, record } = held_record;
                    self.reject(now, ticket, event.row.clone(), Some(record), rejection, 0);
                }
            }
        }
    }

    /// The topic's limits, if records may be sent to it now. Rejects all that wait for a topic that
    /// does not exist.
    fn limits_if_open(
        &mut self,
        now: Duration,
        id: TopicId,
        tracker: &Tracker,
    ) -> Option<TopicLimits> {
        let topic = self.topics.get_mut(id)?;
        let in_flight = topic.in_flight;
        if topic.queue.as_mut()?.is_backing_off(now) {
            self.back_off(id);
            return None;
        }
        match self.topics.access(id) {
            TopicAccess::Open(topic_limits) => return Some(topic_limits.clone()),
            TopicAccess::Wait => {}
            TopicAccess::Missing => {
                if in_flight == 0 && !self.topics.is_stale(now, id) {
                    self.reject_all(now, id, tracker);
                }
            }
        }
        None
    }

    /// What to do with the next record of a queue.
    fn next_step(
        &mut self,
        now: Duration,
        event: &InFlight,
        held_record: &HeldRecord,
        stage: Stage,
        topic_limits: &TopicLimits,
    ) -> NextStep {
        let record = &held_record.record;
        let ticket = Some(held_record.ticket);
        match self
            .dead_letters
            .key_state(ticket, record.topic(), record.key())
        {
            KeyState::Free => {}
            KeyState::Parked => return NextStep::FileParked,
            KeyState::Wait
                if stage == Stage::Held && self.precedes_retries(event.topic, record) => {}
            KeyState::Wait if stage == Stage::Replay => return NextStep::Requeue,
            KeyState::Wait => return NextStep::Wait,
        }
        let facts = RecordFacts::of_held(record);
        let (compresses, wall) = (self.limits.compresses, self.wall_clock.at(now));
        // Kafka has had a record of the replay. What its topic lacks for it, no attempt finds.
        let rejection = match stage {
            Stage::Replay => record_checks::placing_rejection(topic_limits, &facts, wall),
            Stage::Held => {
                record_checks::rejection_by_topic(topic_limits, &facts, compresses, wall)
            }
        };
        if let Some(rejection) = rejection {
            return match self.topics.is_stale(now, event.topic) {
                true => NextStep::Wait,
                false => NextStep::Reject(rejection),
            };
        }
        if stage == Stage::Replay {
            return NextStep::Send;
        }
        let batch_limit = topic_limits.in_flight_max(self.limits.batch_bytes);
        match batch_limit.is_some_and(|limit| !self.fits(event.topic, event.bytes, limit)) {
            true => NextStep::Wait,
            false => NextStep::Send,
        }
    }

    /// Whether the first held record of the topic is older than every dead letter of its key that
    /// is retried: they all wait behind it.
    fn precedes_retries(&self, id: TopicId, record: &OwnedRecord) -> bool {
        let Some(hash) = KeyHash::of_record(record) else {
            return false;
        };
        let is_retry = |held: &HeldRecord| {
            let is_of_key = KeyHash::of_record(&held.record) == Some(hash);
            is_of_key && self.dead_letters.is_resolving(held.ticket)
        };
        let queue = self.topics.get(id).and_then(|topic| topic.queue.as_ref());
        let behind = queue.map_or(0, |queue| queue.held_count(is_retry));
        behind > 0 && behind as u64 == self.dead_letters.resolving_of(hash)
    }

    /// Drops an empty queue.
    fn drop_if_empty(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let is_empty = |queue: &&mut Box<TopicQueue>| queue.is_empty() && !queue.is_rewinding();
        let Some(queue) = topic.queue.as_mut().filter(is_empty) else {
            return;
        };
        if queue.needs_trust() {
            self.trust_due.push_back(topic.trust());
        }
        topic.queue = None;
    }

    fn requeue_behind(&mut self, id: TopicId, held_record: HeldRecord) {
        if let Some(queue) = self
            .topics
            .get_mut(id)
            .and_then(|topic| topic.queue.as_mut())
        {
            queue.requeue_behind(held_record, |ticket| self.dead_letters.is_resolving(ticket));
        }
    }

    pub(super) fn put_back(&mut self, id: TopicId, held_record: HeldRecord, stage: Stage) {
        if let Some(queue) = self
            .topics
            .get_mut(id)
            .and_then(|topic| topic.queue.as_mut())
        {
            queue.put_back(held_record, stage);
        }
    }

    /// These dead letters are closed: the queues of their topics are ready.
    pub(crate) fn dead_letters_closed(&mut self, closings: &[CloseDeadLetter]) {
        for topic in self.dead_letters.closed(closings) {
            if let Some(id) = self.topics.find(&topic) {
                self.make_ready(id);
            }
        }
    }

    /// The parked keys were read, or could not be: the queues that were held meanwhile are ready.
    pub(crate) fn release_held(&mut self) {
        for id in self.topics.with_queues() {
            self.make_ready(id);
        }
    }

    /// The topic does not exist: rejects all records that wait for it.
    pub(super) fn reject_all(&mut self, now: Duration, id: TopicId, tracker: &Tracker) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let Some(mut queue) = topic.queue.take() else {
            return;
        };
        if queue.needs_trust() {
            self.trust_due.push_back(topic.trust());
        }
        let rejection = record_checks::unknown_topic(&topic.name);
        for held_record in queue.drain() {
            let row = tracker
                .event(held_record.ticket)
                .and_then(|event| event.row.clone());
            self.reject(
                now,
                held_record.ticket,
                row,
                Some(held_record.record),
                rejection.clone(),
                0,
            );
        }
        self.topics.evict_missing();
    }

    pub(super) fn back_off(&mut self, id: TopicId) {
        if !self.backing_off.contains(&id) {
            self.backing_off.push(id);
        }
    }

    pub(super) fn make_ready(&mut self, id: TopicId) {
        if self.ready.back() != Some(&id) {
            self.ready.push_back(id);
        }
    }

    /// Time has passed: makes the queues ready whose back-off is over.
    pub(crate) fn end_back_offs(&mut self, now: Duration) {
        let backing_off = std::mem::take(&mut self.backing_off);
        for id in backing_off {
            match self.back_off_until(id) {
                Some(until) if now < until => self.backing_off.push(id),
                Some(_) => self.make_ready(id),
                None => {}
            }
        }
    }

    pub(super) fn back_off_until(&self, id: TopicId) -> Option<Duration> {
        self.topics.get(id)?.queue.as_ref()?.back_off_until()
    }
}
