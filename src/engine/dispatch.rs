//! The way to Kafka: which record is sent, which is held, and which is rejected. Pure.
//!
//! Owns the topics with their queues, and the dead letters. Nearly every event needs one look-up:
//! its topic is known, none of its records is held, and it is sent. Everything else is here.
//!
//! No topic holds up another: a record is held in the queue of its own topic, and only its bytes
//! count against the common limit. A metadata answer, a delivery result or a time releases held
//! records, and each makes the queue ready that it concerns, so that a turn costs nothing for the
//! others.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::dead_letters::{DeadLetterQueue, NotFiled};
use crate::engine::output::{DeliveryFailure, DeliveryResult, FailureKind, Limits};
use crate::engine::parked_keys::KeyState;
use crate::engine::producer::replacement::Replacement;
use crate::engine::record_checks::{self, RecordFacts, rejection_by_topic};
use crate::engine::topics::placing::WallClock;
use crate::engine::topics::stalled_topics::{StalledTopics, progress};
use crate::engine::topics::topic::{MetadataAnswer, TopicAccess};
use crate::engine::topics::topic_queue::HeldRecord;
use crate::engine::topics::{TopicId, Topics};
use crate::engine::tracker::{InFlight, Ticket, Tracker};
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection, RowName};

/// What to do with an event that was just accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Send it to Kafka now.
    Send,
    /// Give a copy of it to [`Dispatch::keep`], with this reason.
    Keep(Reason),
}

/// Why an event is not sent now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its topic is not known yet, or other records of the topic wait.
    Hold,
    /// It is a dead letter that is retried, and its event is at this place in the WAL.
    Retry(Option<(Lsn, u32)>),
    /// An earlier event of its key is a dead letter.
    KeyParked,
    /// It can never be published as it is.
    Reject(Rejection),
    /// Kafka has it already.
    Published,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(super) limits: Limits,
    pub(crate) topics: Topics,
    pub(crate) dead_letters: DeadLetterQueue,
    /// Topics whose queues may have something to send.
    pub(super) ready: VecDeque<TopicId>,
    /// Topics whose queues back off.
    pub(super) backing_off: Vec<TopicId>,
    /// Records that a finished round has shown to be acknowledged.
    pub(super) delivered: Vec<Ticket>,
    pub(super) trust_due: VecDeque<(String, u64)>,
    pub(super) in_flight: u64,
    pub(super) rewinds: u64,
    pub(super) halt_reason: Option<Rejection>,
    pub(super) producer_failure: Option<Rejection>,
    /// A failure that did not bring its record back.
    pub(super) lost_record: Option<Rejection>,
    pub(super) replacement: Replacement,
    pub(super) stalled_topics: StalledTopics,
    pub(super) wall_clock: WallClock,
}

impl Dispatch {
    pub(crate) fn new(limits: &Limits) -> Self {
        Dispatch {
            limits: limits.clone(),
            topics: Topics::new(limits.auto_creates_topics),
            dead_letters: DeadLetterQueue::new(
                limits.on_poison,
                limits.dead_letters_per_minute,
                limits.parked_keys_max,
            ),
            ready: VecDeque::new(),
            backing_off: Vec::new(),
            delivered: Vec::new(),
            trust_due: VecDeque::new(),
            in_flight: 0,
            rewinds: 0,
            halt_reason: None,
            producer_failure: None,
            lost_record: None,
            replacement: Replacement::default(),
            stalled_topics: StalledTopics::new(),
            wall_clock: WallClock::default(),
        }
    }

    /// Drops all events in flight, held or to be filed; the metadata of topics and the replacement
    /// of the producer stay.
    pub(crate) fn reset(&mut self) {
        self.topics.clear_in_flight();
        self.topics.read_back.close();
        self.dead_letters.reset();
        self.ready.clear();
        self.backing_off.clear();
        self.delivered.clear();
        self.trust_due.clear();
        self.in_flight = 0;
        (self.halt_reason, self.producer_failure, self.lost_record) = (None, None, None);
    }

    /// What to do with a new event of this topic.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        facts: &RecordFacts<'_>,
        id: TopicId,
        bytes: u32,
    ) -> Admission {
        // A new event goes behind all that wait, even if those are about to be rejected.
        let Some(topic) = self.topics.get(id).filter(|topic| topic.queue.is_none()) else {
            return Admission::Keep(Reason::Hold);
        };
        if self.replacement.is_running() {
            return Admission::Keep(Reason::Hold);
        }
        let in_flight = topic.in_flight;
        match self.dead_letters.key_state(None, facts.topic(), facts.key) {
            KeyState::Free => {}
            KeyState::Parked => return Admission::Keep(Reason::KeyParked),
            KeyState::Wait => return Admission::Keep(Reason::Hold),
        }
        let topic_limits = match self.topics.access(id) {
            TopicAccess::Wait => return Admission::Keep(Reason::Hold),
            TopicAccess::Missing => {
                // The records in flight come back first, and are filed before this one.
                let waits = in_flight > 0 || self.topics.is_stale(now, id);
                return Admission::Keep(match waits {
                    true => Reason::Hold,
                    false => Reason::Reject(record_checks::unknown_topic(facts.topic())),
                });
            }
            TopicAccess::Open(topic_limits) => topic_limits,
        };
        let batch_limit = topic_limits.in_flight_max(self.limits.batch_bytes);
        let compresses = self.limits.compresses;
        let wall = facts.placing.and_then(|_| self.wall_clock.at(now));
        if let Some(rejection) = rejection_by_topic(topic_limits, facts, compresses, wall) {
            return Admission::Keep(match self.topics.is_stale(now, id) {
                true => Reason::Hold,
                false => Reason::Reject(rejection),
            });
        }
        if batch_limit.is_some_and(|limit| !self.fits(id, bytes, limit)) {
            return Admission::Keep(Reason::Hold);
        }
        self.sent(id, bytes);
        Admission::Send
    }

    /// Whether the event fits into one batch with the topic's records in flight. A topic whose
    /// limit is below the producer's batches must never have more in flight.
    pub(super) fn fits(&self, id: TopicId, bytes: u32, limit: usize) -> bool {
        self.topics.get(id).is_some_and(|topic| {
            topic.in_flight == 0 || topic.in_flight_bytes + bytes as usize <= limit
        })
    }

    pub(super) fn sent(&mut self, id: TopicId, bytes: u32) {
        self.in_flight += 1;
        if let Some(topic) = self.topics.get_mut(id) {
            topic.in_flight += 1;
            topic.in_flight_bytes += bytes as usize;
        }
    }

    /// Takes the copy of an event that [`admit`](Dispatch::admit) did not send.
    pub(crate) fn keep(
        &mut self,
        now: Duration,
        event: &InFlight,
        held_record: HeldRecord,
        reason: Reason,
    ) {
        match reason {
            Reason::Hold | Reason::Retry(_) => {
                if let Some(topic) = self.topics.get_mut(event.topic) {
                    let queue = topic.queue.get_or_insert_default();
                    match reason {
                        Reason::Retry(place) => {
                            queue.retry(held_record, place, |ticket| {
                                self.dead_letters.is_resolving(ticket)
                            });
                        }
                        _ => queue.hold(held_record),
                    }
                    self.make_ready(event.topic);
                }
            }
            Reason::Published => {}
            Reason::KeyParked if self.halt_reason.is_some() => {}
            Reason::KeyParked => {
                let HeldRecord { ticket, record } = held_record;
                let row = event.row.clone();
                self.dead_letters.file_parked(ticket, row, record);
            }
            Reason::Reject(rejection) => {
                let HeldRecord { ticket, record } = held_record;
                let row = event.row.clone();
                self.reject(now, ticket, row, Some(record), rejection, 0);
            }
        }
    }

    /// Files an event that can never be published as it is, or stops the publisher because of it.
    /// A publisher that stops files nothing more: the other events stay unpublished.
    pub(crate) fn reject(
        &mut self,
        now: Duration,
        ticket: Ticket,
        row: Option<RowName>,
        record: Option<Box<OwnedRecord>>,
        rejection: Rejection,
        attempts: u32,
    ) {
        if self.halt_reason.is_some() {
            return;
        }
        let dead_letters = &mut self.dead_letters;
        let filed = dead_letters.reject(now, ticket, row, record, rejection, attempts);
        self.halt_reason = filed.err().map(|reason| match reason {
            NotFiled::ByPolicy(rejection) => rejection,
            NotFiled::TooMany { per_minute } => record_checks::too_many_dead_letters(per_minute),
        });
    }

    /// Takes in Kafka's report on a record. True if the record is acknowledged by it.
    pub(crate) fn delivery_finished(
        &mut self,
        now: Duration,
        event: &InFlight,
        result: DeliveryResult,
        tracker: &Tracker,
    ) -> bool {
        let id = event.topic;
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(topic) = self.topics.get_mut(id) else {
            return result.failure.is_none();
        };
        topic.in_flight = topic.in_flight.saturating_sub(1);
        topic.in_flight_bytes = topic.in_flight_bytes.saturating_sub(event.bytes as usize);
        let DeliveryResult {
            ticket,
            failure,
            suspicion,
            record,
        } = result;
        if let Some(failure) = &failure {
            topic.last_failure = topic.last_failure.max(failure.number);
        } else if topic.refusals.delivered() | self.topics.has_refused() {
            self.topics.delivered(now);
        }
        let Some(topic) = self.topics.get_mut(id) else {
            return false;
        };
        if failure.is_none() && topic.queue.is_none() {
            if record.is_some() {
                // The topic's queue is gone, so its delivered records need not come back.
                let trust = topic.trust();
                if self.trust_due.back() != Some(&trust) {
                    self.trust_due.push_back(trust);
                }
            }
            return true;
        }
        let rewinding = topic
            .queue
            .as_ref()
            .is_some_and(|queue| queue.is_rewinding());
        // A report that was made before the producer trusted the topic again is no sign of a
        // failure: later records of its partition come back without a record, and are not sent
        // again.
        let trusted = suspicion <= topic.trusted;
        let done = match (failure, record) {
            (None, Some(record)) if rewinding && !trusted => {
                let queue = topic.queue.get_or_insert_default();
                queue.return_record(HeldRecord { ticket, record }, None);
                false
            }
            (None, _) => true,
            (Some(failure), Some(record)) => {
                if failure.kind == FailureKind::Producer {
                    self.producer_failure = Some(failure.rejection.clone());
                }
                self.return_record(now, id, HeldRecord { ticket, record }, failure);
                false
            }
            (Some(failure), None) => {
                self.lost_record = Some(failure.rejection);
                return false;
            }
        };
        self.finish_round(now, id, tracker);
        done
    }

    fn return_record(
        &mut self,
        now: Duration,
        id: TopicId,
        held_record: HeldRecord,
        failure: DeliveryFailure,
    ) {
        if failure.kind == FailureKind::NoTopic {
            self.topics.verify(now, id);
        }
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let queue = topic.queue.get_or_insert_default();
        self.rewinds += u64::from(!queue.is_rewinding());
        queue.return_record(held_record, Some(failure));
    }

    /// Takes in Kafka's answer about topics, or that there was none.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        answers: Option<Vec<(String, MetadataAnswer)>>,
    ) {
        for id in self.topics.answered(now, answers) {
            let is_healthy = self.topics.is_healthy(id);
            self.stalled_topics.answered(now, id, is_healthy);
            self.make_ready(id);
        }
    }

    /// Looks for a topic that the producer delivers nothing to, and returns its name. Queries those
    /// that wait.
    pub(super) fn check_stalls(&mut self, now: Duration, tracker: &Tracker) -> Option<Box<str>> {
        let progress = progress(tracker, |id| self.topics.get(id)?.delivered_in_order());
        let stalled = self.stalled_topics.check(now, progress);
        for id in self.stalled_topics.waiting() {
            self.topics.query_soon(now, id);
        }
        Some(self.topics.get(stalled?)?.name.clone())
    }

    /// The producer was replaced: the queues are sent again.
    pub(super) fn producer_replaced(&mut self) {
        self.replacement.end();
        for id in self.topics.with_queues() {
            self.make_ready(id);
        }
    }

    /// When [`end_back_offs`](Dispatch::end_back_offs) or a query is due even if nothing else
    /// happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let back_offs = self
            .backing_off
            .iter()
            .filter_map(|id| self.back_off_until(*id));
        back_offs.chain(self.topics.deadline()).min()
    }

    /// Takes the records that a finished round has shown to be acknowledged.
    pub(crate) fn take_delivered(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.delivered)
    }

    /// Why the publisher has to stop, if it has to.
    pub(crate) fn halt_reason(&self) -> Option<&Rejection> {
        self.halt_reason.as_ref()
    }

    /// Why a record is lost to memory; taken once.
    pub(crate) fn take_lost_record(&mut self) -> Option<Rejection> {
        self.lost_record.take()
    }

    /// Why the producer has failed; taken once.
    pub(crate) fn take_producer_failure(&mut self) -> Option<Rejection> {
        self.producer_failure.take()
    }

    /// Records that were sent to Kafka and are not reported yet.
    pub(crate) fn in_flight_count(&self) -> u64 {
        self.in_flight
    }

    /// Rewinds since the start.
    pub(crate) fn rewind_count(&self) -> u64 {
        self.rewinds
    }
}
