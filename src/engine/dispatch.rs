//! The way to Kafka: which record goes, which waits, and which never will. Pure.
//!
//! Owns the topics with their lanes, and the dead letters. Nearly every event passes with one look: its topic is known, nothing of it
//! waits, and it goes. Everything else is here.
//!
//! No topic holds up another: what waits, waits in the lane of its own topic, and only the bytes it holds count against the common
//! limit. Whoever waits is let go by an answer, a report or a time, and each of them wakes the lane that it concerns, so that a turn
//! costs nothing for those that sleep.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::dead_letters::{DeadLetterQueue, Parking};
use crate::engine::output::{Failure, FailureKind, Limits, Report};
use crate::engine::record_checks::{self as checks, Parcel};
use crate::engine::topic_queue::Kept;
use crate::engine::topics::{Access, Answer, Facts, TopicId, Topics};
use crate::engine::tracker::{Accepted, Ticket, Tracker};
use crate::lsn::Lsn;
use crate::outbox::{Fault, OwnedRecord};

/// What is to be done with an event that was just accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Give it to Kafka now.
    Send,
    /// Give a copy of it back, with the reason.
    Keep(Reason),
}

/// Why an event is not sent now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its topic is not known yet, or others of it wait.
    Hold,
    /// It is a dead letter that somebody wants sent, and stands there in the log.
    Retry(Option<(Lsn, u32)>),
    /// An earlier event of its key is a dead letter.
    Follow,
    /// It will never be published as it is.
    Condemn(Fault),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(super) limits: Limits,
    pub(crate) topics: Topics,
    pub(crate) letters: DeadLetterQueue,
    /// Lanes that may have something to send.
    pub(super) awake: VecDeque<TopicId>,
    /// Lanes that rest.
    pub(super) resting: Vec<TopicId>,
    /// Records that Kafka has by now, to be settled.
    pub(super) delivered: Vec<Ticket>,
    pub(super) trusted: VecDeque<(String, u64)>,
    pub(super) in_flight: u64,
    pub(super) rewinds: u64,
    pub(super) halt: Option<Fault>,
    pub(super) failed: Option<Fault>,
}

impl Dispatch {
    pub(crate) fn new(limits: &Limits) -> Self {
        Dispatch {
            limits: limits.clone(),
            topics: Topics::new(limits.makes_topics),
            letters: DeadLetterQueue::new(limits.on_poison, limits.dead_letters_per_minute),
            awake: VecDeque::new(),
            resting: Vec::new(),
            delivered: Vec::new(),
            trusted: VecDeque::new(),
            in_flight: 0,
            rewinds: 0,
            halt: None,
            failed: None,
        }
    }

    /// Everything on its way is forgotten; what is known of topics stays.
    pub(crate) fn reset(&mut self) {
        self.topics.forget_flights();
        self.letters.reset();
        self.awake.clear();
        self.resting.clear();
        self.delivered.clear();
        self.trusted.clear();
        self.in_flight = 0;
        (self.halt, self.failed) = (None, None);
    }

    /// What to do with a new event of this topic.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        parcel: &Parcel<'_>,
        accepted: &Accepted,
    ) -> Admission {
        let id = accepted.topic;
        // Behind all that waits, also where that is about to be refused or filed.
        let Some(topic) = self.topics.get(id).filter(|topic| topic.lane.is_none()) else {
            return Admission::Keep(Reason::Hold);
        };
        let in_flight = topic.in_flight;
        match self.letters.parking(None, parcel.topic, parcel.key) {
            Parking::Free => {}
            Parking::Follow => return Admission::Keep(Reason::Follow),
            Parking::Wait => return Admission::Keep(Reason::Hold),
        }
        let facts = match self.topics.access(id) {
            Access::Wait => return Admission::Keep(Reason::Hold),
            Access::Missing => {
                // What is under way comes back, and is filed before this one.
                let waits = in_flight > 0 || self.topics.is_stale(now, id);
                return Admission::Keep(match waits {
                    true => Reason::Hold,
                    false => Reason::Condemn(checks::unknown_topic(parcel.topic)),
                });
            }
            Access::Open(facts) => facts,
        };
        let narrow = narrow(facts, &self.limits);
        if let Some(fault) = checks::fault_with(facts, parcel, self.limits.compresses) {
            return Admission::Keep(match self.topics.is_stale(now, id) {
                true => Reason::Hold,
                false => Reason::Condemn(fault),
            });
        }
        if narrow.is_some_and(|limit| !self.fits(id, accepted, limit)) {
            return Admission::Keep(Reason::Hold);
        }
        self.sent(id, accepted);
        Admission::Send
    }

    /// A topic whose limit is below the producer's batches must never have more than one batch's worth under way.
    pub(super) fn fits(&self, id: TopicId, accepted: &Accepted, limit: usize) -> bool {
        self.topics.get(id).is_some_and(|topic| {
            topic.in_flight == 0 || topic.in_flight_bytes + accepted.bytes as usize <= limit
        })
    }

    pub(super) fn sent(&mut self, id: TopicId, accepted: &Accepted) {
        self.in_flight += 1;
        if let Some(topic) = self.topics.get_mut(id) {
            topic.in_flight += 1;
            topic.in_flight_bytes += accepted.bytes as usize;
        }
    }

    /// The copy of an event that [`admit`](Dispatch::admit) wanted kept.
    pub(crate) fn keep(&mut self, now: Duration, accepted: &Accepted, kept: Kept, reason: Reason) {
        match reason {
            Reason::Hold | Reason::Retry(_) => {
                if let Some(topic) = self.topics.get_mut(accepted.topic) {
                    let lane = topic.lane.get_or_insert_default();
                    match reason {
                        Reason::Retry(place) => {
                            lane.retry(kept, place, |ticket| self.letters.is_retried(ticket));
                        }
                        _ => lane.hold(kept),
                    }
                    self.awake(accepted.topic);
                }
            }
            Reason::Follow => self.letters.follow(kept.ticket, accepted.row, kept.record),
            Reason::Condemn(fault) => {
                self.condemn(now, kept.ticket, accepted.row, Some(kept.record), fault, 0);
            }
        }
    }

    /// This event will never be published as it is.
    pub(crate) fn condemn(
        &mut self,
        now: Duration,
        ticket: Ticket,
        row: i64,
        record: Option<Box<OwnedRecord>>,
        fault: Fault,
        attempts: u32,
    ) {
        match self
            .letters
            .condemn(now, ticket, row, record, fault, attempts)
        {
            Ok(None) => {}
            Ok(Some(flood)) => self.halt = Some(checks::flood(flood.per_minute)),
            Err(fault) => self.halt = Some(fault),
        }
    }

    /// Kafka's report on a record that is known. True when it is delivered and nothing is left to be looked at.
    pub(crate) fn reported(
        &mut self,
        now: Duration,
        accepted: &Accepted,
        report: Report,
        tracker: &Tracker,
    ) -> bool {
        let id = accepted.topic;
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(topic) = self.topics.get_mut(id) else {
            return report.failure.is_none();
        };
        topic.in_flight = topic.in_flight.saturating_sub(1);
        topic.in_flight_bytes = topic
            .in_flight_bytes
            .saturating_sub(accepted.bytes as usize);
        let Report {
            ticket,
            failure,
            record,
        } = report;
        if let Some(failure) = &failure {
            topic.last_failure = topic.last_failure.max(failure.number);
        }
        if failure.is_none() && topic.lane.is_none() {
            if record.is_some() {
                // Nobody settles a refusal here any more.
                let trust = (topic.name.to_string(), topic.last_failure);
                if self.trusted.back() != Some(&trust) {
                    self.trusted.push_back(trust);
                }
            }
            return true;
        }
        let rewinding = topic.lane.as_ref().is_some_and(|lane| lane.is_rewinding());
        let done = match (failure, record) {
            (None, Some(record)) if rewinding => {
                let lane = topic.lane.get_or_insert_default();
                lane.take_back(Kept { ticket, record }, None);
                false
            }
            (None, _) => true,
            (Some(failure), Some(record)) if failure.kind != FailureKind::Producer => {
                self.take_back(now, id, Kept { ticket, record }, failure);
                false
            }
            (Some(failure), _) => {
                self.failed = Some(failure.fault);
                return false;
            }
        };
        self.settle(now, id, tracker);
        done
    }

    fn take_back(&mut self, now: Duration, id: TopicId, kept: Kept, failure: Failure) {
        if failure.kind == FailureKind::NoTopic {
            self.topics.doubt(now, id);
        }
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let lane = topic.lane.get_or_insert_default();
        self.rewinds += u64::from(!lane.is_rewinding());
        lane.take_back(kept, Some(failure));
    }

    /// Kafka has answered, or has not.
    pub(crate) fn answered(&mut self, now: Duration, answers: Option<Vec<(String, Answer)>>) {
        for id in self.topics.answered(now, answers) {
            self.awake(id);
        }
    }

    /// When [`wake`](Dispatch::wake) or a question is due though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let rests = self.resting.iter().filter_map(|id| self.rest_of(*id));
        rests.chain(self.topics.deadline()).min()
    }

    /// Records that Kafka has by now though their reports alone did not say so.
    pub(crate) fn take_delivered(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.delivered)
    }

    /// Why the publisher has to stop, if it has to.
    pub(crate) fn halt(&self) -> Option<&Fault> {
        self.halt.as_ref()
    }

    /// Why the producer is of no more use, told once.
    pub(crate) fn take_failed(&mut self) -> Option<Fault> {
        self.failed.take()
    }

    /// Records that Kafka has been given and has not reported on.
    pub(crate) fn in_flight_count(&self) -> u64 {
        self.in_flight
    }

    /// Rewinds since the start.
    pub(crate) fn rewind_count(&self) -> u64 {
        self.rewinds
    }
}

/// The most that may be under way to a topic whose limit is below what the producer puts into a batch.
pub(super) fn narrow(facts: &Facts, limits: &Limits) -> Option<usize> {
    facts
        .batch_bytes_max
        .filter(|limit| *limit < limits.batch_bytes)
}
