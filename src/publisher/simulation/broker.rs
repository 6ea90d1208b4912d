//! Kafka in the simulation: the logs of its partitions, and the producers of the processes.
//!
//! Topic `t0` has two partitions and `t1` one. A producer appends the records of a partition in
//! their order. From a partition's first failure on its reports bring their records back, until the
//! topic is trusted again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;

use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::publisher::simulation::copies::Copies;

/// The topic of each partition.
pub(super) const TOPICS: [usize; 3] = [0, 0, 1];

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Appended,
    Refused,
    Unavailable,
    NoTopic,
    Withdrawn,
}

/// A delivery report that the process has not taken in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub(super) ticket: Ticket,
    pub(super) event: usize,
    /// Where the event is in the WAL, if it came from there.
    pub(super) place: Option<(Lsn, u32)>,
    pub(super) outcome: Outcome,
    pub(super) failure: u64,
    pub(super) suspicion: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    ticket: Ticket,
    event: usize,
    place: Option<(Lsn, u32)>,
}

#[derive(Debug, Default)]
struct Lane {
    in_flight: VecDeque<Sent>,
    reports: VecDeque<Report>,
    is_suspect: bool,
    last_failure: u64,
}

/// The producer of one process.
#[derive(Debug)]
pub(super) struct Producer {
    /// The process.
    owner: u64,
    lanes: [Lane; 3],
    failures: u64,
    /// It neither delivers its records nor gives them back.
    pub(super) is_stuck: bool,
}

/// A record of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Appended {
    pub(super) event: usize,
    /// Where it says that its event is in the WAL, if it came from there.
    pub(super) place: Option<(Lsn, u32)>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) logs: [Vec<Appended>; 3],
    /// How many times each event was appended.
    pub(super) appended: Vec<u32>,
    /// How many more times an event is refused.
    pub(super) refuses: BTreeMap<usize, u32>,
    pub(super) is_away: bool,
    pub(super) trace: bool,
    /// Topics that do not exist.
    pub(super) missing: [bool; 2],
    pub(super) copies: Copies,
    /// Events that a process has appended after another one had passed them on.
    pub(super) late: BTreeSet<usize>,
}

impl Broker {
    pub(super) fn has(&self, event: usize) -> bool {
        self.appended.get(event).is_some_and(|times| *times > 0)
    }

    /// Another event exists.
    pub(super) fn add(&mut self) {
        self.appended.push(0);
        self.copies.add();
    }

    fn append(&mut self, partition: usize, sent: Sent, owner: u64) {
        let Sent { event, place, .. } = sent;
        self.logs[partition].push(Appended { event, place });
        self.appended[event] += 1;
        if self.trace {
            eprintln!("        append event {event} to {partition}");
        }
        self.copies.appended(event, self.appended[event]);
        if self.copies.passed_on_by(event) != Some(owner) {
            self.late.insert(event);
        }
    }
}

impl Producer {
    pub(super) fn new(owner: u64) -> Self {
        Producer {
            owner,
            lanes: Default::default(),
            failures: 0,
            is_stuck: false,
        }
    }

    /// The events of the records in flight.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let lanes = self.lanes.iter().flat_map(|lane| &lane.in_flight);
        lanes.map(|sent| sent.event)
    }

    pub(super) fn send(
        &mut self,
        partition: usize,
        ticket: Ticket,
        event: usize,
        place: Option<(Lsn, u32)>,
    ) {
        let sent = Sent {
            ticket,
            event,
            place,
        };
        self.lanes[partition].in_flight.push_back(sent);
    }

    pub(super) fn has_reported_all(&self) -> bool {
        let idle = |lane: &Lane| lane.in_flight.is_empty() && lane.reports.is_empty();
        self.lanes.iter().all(idle)
    }

    /// Whether it may still append a record.
    pub(super) fn may_append(&self) -> bool {
        !self.is_stuck && self.lanes.iter().any(|lane| !lane.in_flight.is_empty())
    }

    /// The broker takes the next record of a partition, or refuses it.
    pub(super) fn deliver(&mut self, broker: &mut Broker, partition: usize, rng: &mut Rng) -> bool {
        if self.is_stuck || (broker.is_away && rng.u8(0..4) > 0) {
            return false;
        }
        let Some(sent) = self.lanes[partition].in_flight.pop_front() else {
            return false;
        };
        let event = sent.event;
        let refusals = broker.refuses.get(&event).copied().unwrap_or(0);
        let outcome = match refusals {
            _ if broker.is_away => Outcome::Unavailable,
            _ if broker.missing[TOPICS[partition]] => Outcome::NoTopic,
            0 => Outcome::Appended,
            _ => Outcome::Refused,
        };
        match outcome {
            Outcome::Appended => broker.append(partition, sent, self.owner),
            Outcome::Refused => {
                broker.refuses.insert(event, refusals.saturating_sub(1));
            }
            Outcome::Unavailable | Outcome::NoTopic | Outcome::Withdrawn => {}
        }
        self.report(broker, partition, sent, outcome);
        true
    }

    fn report(&mut self, broker: &mut Broker, partition: usize, sent: Sent, outcome: Outcome) {
        let failed = outcome != Outcome::Appended;
        self.failures += u64::from(failed);
        let topic = TOPICS[partition];
        if failed {
            let lane = &mut self.lanes[partition];
            (lane.is_suspect, lane.last_failure) = (true, self.failures);
        }
        let last = self.last_failure(topic);
        let lane = &mut self.lanes[partition];
        if outcome == Outcome::Appended && lane.is_suspect {
            broker
                .copies
                .comes_back(sent.event, "a failure in its partition");
        }
        lane.reports.push_back(Report {
            ticket: sent.ticket,
            event: sent.event,
            place: sent.place,
            outcome,
            failure: if failed { last } else { 0 },
            suspicion: if lane.is_suspect { last } else { 0 },
        });
    }

    fn last_failure(&self, topic: usize) -> u64 {
        let lanes = self.lanes.iter().zip(TOPICS);
        let of_topic = lanes.filter(|(_, of)| *of == topic);
        of_topic
            .map(|(lane, _)| lane.last_failure)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn take_report(&mut self, partition: usize) -> Option<Report> {
        self.lanes[partition].reports.pop_front()
    }

    pub(super) fn trust(&mut self, topic: usize, failure: u64) {
        if self.last_failure(topic) > failure {
            return;
        }
        for (lane, of) in self.lanes.iter_mut().zip(TOPICS) {
            lane.is_suspect &= of != topic;
        }
    }

    /// Gives every record in flight back; the first of a partition may be appended.
    pub(super) fn withdraw(&mut self, broker: &mut Broker, rng: &mut Rng) {
        if self.is_stuck {
            return;
        }
        for (partition, topic) in TOPICS.into_iter().enumerate() {
            let in_flight = std::mem::take(&mut self.lanes[partition].in_flight);
            let mut appends = rng.bool() && !broker.is_away && !broker.missing[topic];
            for sent in in_flight {
                appends &= !broker.refuses.contains_key(&sent.event) && rng.bool();
                if appends {
                    broker.append(partition, sent, self.owner);
                    broker.copies.comes_back(sent.event, "it was withdrawn");
                }
                self.report(broker, partition, sent, Outcome::Withdrawn);
            }
        }
    }

    /// The producer ends without reports; the first records of a partition may be appended.
    pub(super) fn lose(&mut self, broker: &mut Broker, rng: &mut Rng) {
        self.withdraw(broker, rng);
        *self = Producer {
            failures: self.failures,
            ..Producer::new(self.owner)
        };
    }
}
