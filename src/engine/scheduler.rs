//! What waits in lanes: which of it is sent when, and what becomes of a topic's lane when its round is over. The other half of
//! [`Dispatch`].
//!
//! Only lanes that may have something to send are looked at; one that rests, or waits for Kafka's answer or for a letter to be closed, is
//! woken by that.

use std::time::Duration;

use crate::engine::dead_letters::Parking;
use crate::engine::dispatch::{Dispatch, narrow};
use crate::engine::output::Output;
use crate::engine::record_checks::{self as checks, Parcel};
use crate::engine::topic_queue::{Kept, Queue};
use crate::engine::topics::{Access, TopicId};
use crate::engine::tracker::Tracker;
use crate::outbox::Closing;

impl Dispatch {
    /// Judges the lane's round if that is over.
    pub(super) fn settle(&mut self, now: Duration, id: TopicId, tracker: &Tracker) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let in_flight = topic.in_flight;
        if topic.lane.is_none() {
            return;
        }
        self.awake(id);
        let Some(lane) = self
            .topics
            .get_mut(id)
            .and_then(|topic| topic.lane.as_mut())
        else {
            return;
        };
        if in_flight > 0 || !lane.awaits_judgement() {
            return;
        }
        let verdict = lane.judge(now, self.limits.attempts);
        if lane.rest_until().is_some() {
            self.rest(id);
        }
        let row = |ticket| tracker.accepted(ticket).map_or(0, |accepted| accepted.row);
        self.delivered.extend(verdict.delivered);
        if let Some(ticket) = verdict.attempted {
            self.letters.attempted(row(ticket));
        }
        if let Some((kept, fault, attempts)) = verdict.condemned {
            let row = row(kept.ticket);
            self.condemn(now, kept.ticket, row, Some(kept.record), fault, attempts);
        }
    }

    /// The next thing to do for the lanes that are awake.
    pub(crate) fn output(&mut self, now: Duration, tracker: &Tracker) -> Option<Output> {
        while let Some(id) = self.awake.front().copied() {
            if let Some(kept) = self.next_of(now, id, tracker) {
                let Kept { ticket, record } = kept;
                return Some(Output::Send { ticket, record });
            }
            self.awake.pop_front();
        }
        let (topic, failure) = self.trusted.pop_front()?;
        Some(Output::Trust { topic, failure })
    }

    /// The next record of a topic's lane that may be sent now. The lane goes when nothing is left in it.
    pub(super) fn next_of(
        &mut self,
        now: Duration,
        id: TopicId,
        tracker: &Tracker,
    ) -> Option<Kept> {
        loop {
            let topic = self.topics.get_mut(id)?;
            let in_flight = topic.in_flight;
            let lane = topic.lane.as_mut()?;
            if lane.rests(now) {
                self.rest(id);
                return None;
            }
            let (narrow, facts) = match self.topics.access(id) {
                Access::Wait => return None,
                Access::Missing => {
                    if in_flight == 0 && !self.topics.is_stale(now, id) {
                        self.refuse_all(now, id, tracker);
                    }
                    return None;
                }
                Access::Open(facts) => (narrow(facts, &self.limits), facts.clone()),
            };
            let topic = self.topics.get_mut(id)?;
            let lane = topic.lane.as_mut()?;
            let Some((kept, queue)) = lane.next() else {
                if lane.awaits_judgement() && topic.in_flight == 0 {
                    self.settle(now, id, tracker);
                    continue;
                }
                if lane.is_empty() && !lane.is_rewinding() {
                    if lane.is_distrusted() {
                        let trust = (topic.name.to_string(), topic.last_failure);
                        self.trusted.push_back(trust);
                    }
                    topic.lane = None;
                }
                return None;
            };
            let Some(accepted) = tracker.accepted(kept.ticket) else {
                continue;
            };
            let record = &kept.record;
            let ticket = Some(kept.ticket);
            match self.letters.parking(ticket, record.topic(), record.key()) {
                Parking::Free => {}
                Parking::Follow => {
                    self.letters.follow(kept.ticket, accepted.row, kept.record);
                    continue;
                }
                Parking::Wait if queue == Queue::Replay => {
                    if let Some(lane) = self
                        .topics
                        .get_mut(id)
                        .and_then(|topic| topic.lane.as_mut())
                    {
                        lane.give_way(kept, |ticket| self.letters.is_retried(ticket));
                    }
                    continue;
                }
                Parking::Wait => {
                    self.put_back(id, kept, queue);
                    return None;
                }
            }
            if queue != Queue::Replay {
                let parcel = Parcel::of_kept(record);
                let fault = checks::fault_with(&facts, &parcel, self.limits.compresses);
                if fault.is_some() && self.topics.is_stale(now, id) {
                    self.put_back(id, kept, queue);
                    return None;
                }
                if let Some(fault) = fault {
                    let record = Some(kept.record);
                    self.condemn(now, kept.ticket, accepted.row, record, fault, 0);
                    continue;
                }
                if narrow.is_some_and(|limit| !self.fits(id, &accepted, limit)) {
                    self.put_back(id, kept, queue);
                    return None;
                }
            }
            self.sent(id, &accepted);
            return Some(kept);
        }
    }

    pub(super) fn put_back(&mut self, id: TopicId, kept: Kept, queue: Queue) {
        if let Some(lane) = self
            .topics
            .get_mut(id)
            .and_then(|topic| topic.lane.as_mut())
        {
            lane.put_back(kept, queue);
        }
    }

    /// DeadLetterQueue are closed: what waited for them may go.
    pub(crate) fn closed(&mut self, closings: &[Closing]) {
        for topic in self.letters.closed(closings) {
            if let Some(id) = self.topics.known(&topic) {
                self.awake(id);
            }
        }
    }

    /// The topic is not there: neither is a place for what waits for it.
    pub(super) fn refuse_all(&mut self, now: Duration, id: TopicId, tracker: &Tracker) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let Some(mut lane) = topic.lane.take() else {
            return;
        };
        if lane.is_distrusted() {
            let trust = (topic.name.to_string(), topic.last_failure);
            self.trusted.push_back(trust);
        }
        let fault = checks::unknown_topic(&topic.name);
        for kept in lane.empty() {
            let row = tracker
                .accepted(kept.ticket)
                .map_or(0, |accepted| accepted.row);
            self.condemn(now, kept.ticket, row, Some(kept.record), fault.clone(), 0);
        }
        self.topics.forget_missing();
    }

    pub(super) fn rest(&mut self, id: TopicId) {
        if !self.resting.contains(&id) {
            self.resting.push(id);
        }
    }

    pub(super) fn awake(&mut self, id: TopicId) {
        if self.awake.back() != Some(&id) {
            self.awake.push_back(id);
        }
    }

    /// Time has passed: wakes the lanes whose rest is over.
    pub(crate) fn wake(&mut self, now: Duration) {
        let resting = std::mem::take(&mut self.resting);
        for id in resting {
            match self.rest_of(id) {
                Some(until) if now < until => self.resting.push(id),
                Some(_) => self.awake(id),
                None => {}
            }
        }
    }

    pub(super) fn rest_of(&self, id: TopicId) -> Option<Duration> {
        self.topics.get(id)?.lane.as_ref()?.rest_until()
    }
}
