//! What waits in lanes: which of it is sent when, and what becomes of a topic's lane when its round is over. The other half of
//! [`Dispatch`].
//!
//! Only lanes that may have something to send are looked at; one that rests, or waits for Kafka's answer or for a letter to be closed, is
//! woken by that.

use std::time::Duration;

use crate::engine::dead_letters::KeyState;
use crate::engine::dispatch::{Dispatch, small_batch_limit};
use crate::engine::output::SinkOutput;
use crate::engine::record_checks::{self, RecordFacts};
use crate::engine::topic_queue::{HeldRecord, Stage};
use crate::engine::topics::{TopicAccess, TopicId};
use crate::engine::tracker::Tracker;
use crate::outbox::CloseDeadLetter;

impl Dispatch {
    /// Judges the lane's round if that is over.
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
        let result = queue.finish_round(now, self.limits.attempts);
        if queue.back_off_until().is_some() {
            self.back_off(id);
        }
        let row = |ticket| tracker.event(ticket).map_or(0, |event| event.row);
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

    /// The next thing to do for the lanes that are awake.
    pub(crate) fn output(&mut self, now: Duration, tracker: &Tracker) -> Option<SinkOutput> {
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

    /// The next record of a topic's lane that may be sent now. The lane goes when nothing is left in it.
    pub(super) fn next_record(
        &mut self,
        now: Duration,
        id: TopicId,
        tracker: &Tracker,
    ) -> Option<HeldRecord> {
        loop {
            let topic = self.topics.get_mut(id)?;
            let in_flight = topic.in_flight;
            let queue = topic.queue.as_mut()?;
            if queue.is_backing_off(now) {
                self.back_off(id);
                return None;
            }
            let (batch_limit, topic_limits) = match self.topics.access(id) {
                TopicAccess::Wait => return None,
                TopicAccess::Missing => {
                    if in_flight == 0 && !self.topics.is_stale(now, id) {
                        self.reject_all(now, id, tracker);
                    }
                    return None;
                }
                TopicAccess::Open(topic_limits) => (
                    small_batch_limit(topic_limits, &self.limits),
                    topic_limits.clone(),
                ),
            };
            let topic = self.topics.get_mut(id)?;
            let queue = topic.queue.as_mut()?;
            let Some((held_record, stage)) = queue.next() else {
                if queue.is_round_over() && topic.in_flight == 0 {
                    self.finish_round(now, id, tracker);
                    continue;
                }
                if queue.is_empty() && !queue.is_rewinding() {
                    if queue.needs_trust() {
                        let trust = (topic.name.to_string(), topic.last_failure);
                        self.trust_due.push_back(trust);
                    }
                    topic.queue = None;
                }
                return None;
            };
            let Some(event) = tracker.event(held_record.ticket) else {
                continue;
            };
            let record = &held_record.record;
            let ticket = Some(held_record.ticket);
            match self
                .dead_letters
                .key_state(ticket, record.topic(), record.key())
            {
                KeyState::Free => {}
                KeyState::Parked => {
                    self.dead_letters.file_parked(
                        held_record.ticket,
                        event.row,
                        held_record.record,
                    );
                    continue;
                }
                KeyState::Wait if stage == Stage::Replay => {
                    if let Some(queue) = self
                        .topics
                        .get_mut(id)
                        .and_then(|topic| topic.queue.as_mut())
                    {
                        queue.requeue_behind(held_record, |ticket| {
                            self.dead_letters.is_resolving(ticket)
                        });
                    }
                    continue;
                }
                KeyState::Wait => {
                    self.put_back(id, held_record, stage);
                    return None;
                }
            }
            if stage != Stage::Replay {
                let facts = RecordFacts::of_held(record);
                let rejection = record_checks::rejection_by_topic(
                    &topic_limits,
                    &facts,
                    self.limits.compresses,
                );
                if rejection.is_some() && self.topics.is_stale(now, id) {
                    self.put_back(id, held_record, stage);
                    return None;
                }
                if let Some(rejection) = rejection {
                    let record = Some(held_record.record);
                    self.reject(now, held_record.ticket, event.row, record, rejection, 0);
                    continue;
                }
                if batch_limit.is_some_and(|limit| !self.fits(id, &event, limit)) {
                    self.put_back(id, held_record, stage);
                    return None;
                }
            }
            self.sent(id, &event);
            return Some(held_record);
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

    /// DeadLetterQueue are closed: what waited for them may go.
    pub(crate) fn dead_letters_closed(&mut self, closings: &[CloseDeadLetter]) {
        for topic in self.dead_letters.closed(closings) {
            if let Some(id) = self.topics.find(&topic) {
                self.make_ready(id);
            }
        }
    }

    /// The topic is not there: neither is a place for what waits for it.
    pub(super) fn reject_all(&mut self, now: Duration, id: TopicId, tracker: &Tracker) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let Some(mut queue) = topic.queue.take() else {
            return;
        };
        if queue.needs_trust() {
            let trust = (topic.name.to_string(), topic.last_failure);
            self.trust_due.push_back(trust);
        }
        let rejection = record_checks::unknown_topic(&topic.name);
        for held_record in queue.drain() {
            let row = tracker
                .event(held_record.ticket)
                .map_or(0, |event| event.row);
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

    /// Time has passed: wakes the lanes whose rest is over.
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
