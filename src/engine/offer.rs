//! How an event enters the engine: [`Engine::offer`] for an event to send, and two methods for rows
//! that are not sent.
//!
//! Owns nothing: an offered event gets its ticket from the tracker, and dispatch decides whether it
//! is sent at once.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::exactly_once::Entry;
use crate::engine::record_checks::RecordFacts;
use crate::engine::topics::topic_queue::HeldRecord;
use crate::engine::topics::{NO_TOPIC, TopicId};
use crate::engine::tracker::{InFlight, Ticket};
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection, RowName, Signature, TopicName};

/// An event that a source offers to the engine.
pub(crate) struct Offer<'a> {
    /// See [`InFlight::row`].
    pub(crate) row: Option<RowName>,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// Bytes of the record, counted until the acknowledgement.
    pub(crate) bytes: u32,
    /// See [`InFlight::since_micros`].
    pub(crate) since_micros: i64,
    /// See [`InFlight::sent_micros`].
    pub(crate) sent_micros: u64,
    /// The row was read from the table; otherwise the event is the stream's change that was counted
    /// last.
    pub(crate) from_table: bool,
    pub(crate) facts: RecordFacts<'a>,
    /// The signature of its record.
    pub(crate) signature: &'a dyn Fn() -> Option<Signature>,
    /// Why the event can never be published, if its record alone shows that.
    pub(crate) rejection: Option<Rejection>,
}

/// The engine's answer to an [`Offer`].
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) ticket: Ticket,
    pub(crate) topic: TopicId,
    pub(crate) admission: Admission,
}

impl InFlight {
    /// A row that is taken in without being sent.
    pub(crate) fn of_row(row: RowName, xid: u32, now: Duration) -> Self {
        InFlight {
            row: Some(row),
            xid,
            untried: false,
            bytes: 0,
            topic: NO_TOPIC,
            since_micros: 0,
            sent_micros: now.as_micros() as u64,
        }
    }
}

impl Engine {
    /// Takes in an event that a source has read. Returns its ticket, its topic's number, and
    /// whether to send it now or to give a copy of it to [`keep`](Engine::keep). `None` outside a
    /// transaction: the stream contradicts what was received before, and
    /// [`End::Violated`](crate::engine::output::End::Violated) follows.
    pub(crate) fn offer(&mut self, offer: Offer<'_>) -> Option<Offered> {
        let topic = self.topic(offer.facts.topic);
        let event = InFlight {
            row: offer.row,
            xid: offer.xid,
            untried: self.foreign_marks.counts(offer.from_table),
            bytes: offer.bytes,
            topic,
            since_micros: offer.since_micros,
            sent_micros: offer.sent_micros,
        };
        let ticket = if offer.from_table {
            self.tracker.accept_row(event)
        } else {
            let result = self.tracker.accept(event);
            self.end_if_violated(result)?
        };
        let (facts, bytes) = (&offer.facts, offer.bytes);
        let admission = match offer.rejection {
            rejection if self.exactly_once.is_some() => {
                let from_table = offer.from_table;
                let entry = Entry {
                    from_table,
                    facts,
                    bytes,
                    rejection,
                };
                self.admit_in_transaction(ticket, topic, entry)
            }
            Some(rejection) => Admission::Keep(Reason::Reject(rejection)),
            None if self.dispatch.topics.read_back.is_open()
                && !offer.from_table
                && self.kafka_has(topic, facts.key, offer.signature) =>
            {
                Admission::Keep(Reason::Published)
            }
            None => self.dispatch.admit(self.now, facts, topic, bytes),
        };
        Some(Offered {
            ticket,
            topic,
            admission,
        })
    }

    /// The stream begins at `from` with no memory, and the WAL ended at `to` when this session held
    /// the lock: events between the two that are in Kafka already are not sent again.
    pub(crate) fn read_back(&mut self, from: Lsn, to: Lsn) {
        self.dispatch.topics.read_back.open(from, to);
    }

    /// Whether Kafka has the stream's change that was counted last, which has this key.
    #[cold]
    fn kafka_has(
        &mut self,
        topic: TopicId,
        key: Option<&[u8]>,
        signature: &dyn Fn() -> Option<Signature>,
    ) -> bool {
        let read_back = &mut self.dispatch.topics.read_back;
        let place = self.tracker.last_change();
        place.is_some_and(|place| read_back.has(topic, place, key, signature))
    }

    /// The number of a topic; [`NO_TOPIC`] if Kafka does not accept the name.
    pub(crate) fn topic(&mut self, name: Option<TopicName<'_>>) -> TopicId {
        name.map_or(NO_TOPIC, |name| self.dispatch.topics.id(name))
    }

    /// Where the next record of this topic goes, where records are spread over all partitions;
    /// `None` while their number is not known, when Kafka's partitioner chooses. To be called for
    /// each record that is sent, whether it is sent for the first time or again.
    pub(crate) fn next_partition(&mut self, topic: TopicId) -> Option<i32> {
        match self.limits.spreads {
            true => self.dispatch.topics.next_partition(self.now, topic),
            false => None,
        }
    }

    /// Takes the copy of an event that is not sent now.
    pub(crate) fn keep(
        &mut self,
        now: Duration,
        ticket: Ticket,
        record: Box<OwnedRecord>,
        reason: Reason,
    ) {
        if reason == Reason::Published {
            return self.pass_over(now, ticket);
        }
        if let Some(event) = self.tracker.event(ticket) {
            let held_record = HeldRecord { ticket, record };
            self.dispatch.keep(now, event, held_record, reason);
        }
    }

    /// Takes in a row that is to be marked as published without being sent.
    pub(crate) fn accept_unsent(&mut self, now: Duration, row: InFlight) -> Ticket {
        let ticket = self.tracker.accept_row(row);
        self.tracker.acknowledge(ticket);
        self.write_back_queue.push(now, ticket);
        ticket
    }

    /// Takes in a row of which only the id could be read.
    pub(crate) fn accept_unreadable(&mut self, now: Duration, row: InFlight, rejection: Rejection) {
        let name = row.row.clone();
        let ticket = self.tracker.accept_row(row);
        self.dispatch.reject(now, ticket, name, None, rejection, 0);
    }
}
