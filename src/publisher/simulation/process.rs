//! A process in the simulation: the real decisions, behind a driver as thin as the real one.
//!
//! Here is what goes on in every state: the clock, delivery reports, metadata, database work, and
//! the engine's outputs for Kafka and the database. `attempt` has the states.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{
    DeliveryFailure, DeliveryResult, End, FailureKind, Limits, Output, SessionOutput, SinkOutput,
};
use crate::engine::record_checks::RecordFacts;
use crate::engine::topics::NO_TOPIC;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::engine::tracker::{InFlight, Ticket};
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection, RowName, TableLocation};
use crate::publisher::clock::Moment;
use crate::publisher::monitor::audit::Audit;
use crate::publisher::resume_state::ResumeState;
use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::broker::{Outcome, Producer, Report};
use crate::publisher::simulation::work::Work;
use crate::publisher::simulation::world::{World, event_of};
use crate::publisher::sink::returning_rows::ReturningRows;
use crate::publisher::source::poll::SentRows;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) resume: ResumeState,
    pub(super) audit: Audit,
    pub(super) sent_rows: SentRows,
    pub(super) returning_rows: ReturningRows,
    pub(super) producer: Producer,
    pub(super) state: State,
    /// The session that holds the lock, or streams.
    pub(super) pid: Option<i32>,
    pub(super) place: Option<TableLocation>,
    pub(super) work: Option<Work>,
    question: Option<Vec<String>>,
    /// The producer is being replaced.
    replacing: bool,
    /// Its records are given up, with all memory.
    pub(super) producer_failed: bool,
    /// The producer takes no record.
    pub(super) is_full: bool,
    pub(super) skipped: bool,
    pub(super) lock_asked: Moment,
    /// No step of it runs.
    pub(super) is_frozen: bool,
    /// How long its steady clock stood still.
    pub(super) lost_time: Duration,
    pub(super) clock_jumped: bool,
    jumps: u64,
    pub(super) now: Duration,
    pub(super) retry: u32,
    /// How many events were passed to the engine.
    pub(super) forwarded: u64,
    /// Some were passed to it since memory was dropped.
    has_memory: bool,
    /// Another process has held the lock since memory was dropped.
    is_stale: bool,
    id: u64,
}

impl Process {
    pub(super) fn new(world: &mut World) -> Self {
        let mut limits = Limits::of(&world.config);
        limits.batch_size = world.rng.usize(1..8);
        limits.process_interval = Duration::from_millis(world.rng.u64(1..3_000));
        limits.memory_limit = world.rng.usize(500..4_000);
        limits.attempts = world.rng.u32(1..4);
        Process {
            engine: Engine::new(limits),
            resume: ResumeState::new(),
            audit: Audit::new(&world.config),
            sent_rows: SentRows::default(),
            returning_rows: ReturningRows::default(),
            producer: Producer::default(),
            state: State::Pausing(Duration::ZERO),
            pid: None,
            place: None,
            work: None,
            question: None,
            replacing: false,
            producer_failed: false,
            is_full: false,
            skipped: false,
            lock_asked: Moment::default(),
            is_frozen: false,
            lost_time: Duration::ZERO,
            clock_jumped: false,
            jumps: 0,
            now: Duration::ZERO,
            retry: 0,
            forwarded: 0,
            has_memory: false,
            is_stale: false,
            id: world.rng.u64(..),
        }
    }

    /// This process takes the lock, perhaps behind another one.
    pub(super) fn takes_over(&mut self, world: &mut World) {
        let before = world.holder.replace(self.id);
        if before.is_some_and(|id| id != self.id) {
            self.is_stale = true;
            world.excuse("taken over", 1);
        }
    }

    /// What this process has in memory as sent is not sent again.
    pub(super) fn uses_memory(&self) {
        assert!(!self.is_stale, "another process may have sent it since");
    }

    /// Reads the clock.
    pub(super) fn tick(&mut self, world: &World) -> Moment {
        self.now = world.now.saturating_sub(self.lost_time);
        if std::mem::take(&mut self.clock_jumped) {
            self.jumps += 1;
            self.engine.clock_jumped();
        }
        Moment {
            at: self.now,
            jumps: self.jumps,
        }
    }

    /// Drops everything that belongs to another history; see `Forwarder::clear`.
    pub(super) fn clear(&mut self, world: &mut World) {
        self.producer.withdraw(&mut world.broker, &mut world.rng);
        self.drop_work(world);
        self.returning_rows.clear();
        self.engine.reset(Lsn::INVALID);
        world.excuse("memory cleared", 1);
    }

    /// Cancels the work under way, which may have taken effect.
    fn drop_work(&mut self, world: &mut World) {
        if let Some(mut work) = self.work.take()
            && work.result.is_none()
            && world.rng.bool()
        {
            world.perform(&mut work, true);
        }
    }

    /// Drops everything in memory; see `Forwarder::start_over`. Returns the rows that are filed.
    pub(super) fn start_over(&mut self, world: &mut World, start: Lsn) -> Vec<(i64, Lsn)> {
        if let Some(mut work) = self.work.take()
            && work.result.is_none()
        {
            let fails = world.rng.u8(0..4) == 0;
            world.perform(&mut work, fails);
        }
        if std::mem::take(&mut self.has_memory) {
            world.excuses += 1;
        }
        self.is_stale = false;
        let letters = &world.server.files.letters;
        let (filed, parked) = (letters.filed(start), letters.parked_keys(10));
        self.engine.reset(start);
        self.returning_rows.clear();
        self.engine.load_parked(parked);
        if start.is_invalid() {
            Vec::new()
        } else {
            filed
        }
    }

    /// Passes an event of the stream or the table to the engine, and on to Kafka.
    pub(super) fn forward(
        &mut self,
        world: &mut World,
        event: usize,
        row: Option<RowName>,
        xid: u32,
        place: Option<(Lsn, u32)>,
    ) {
        self.forwarded += 1;
        self.has_memory = true;
        world.note(|| format!("forward event {event} from {place:?}"));
        let record = world.record(event, place);
        let offered = self.engine.offer(Offer {
            row,
            xid,
            bytes: 50 + event as u32 % 100,
            since_micros: 0,
            sent_micros: self.now.as_micros() as u64,
            from_table: place.is_none(),
            facts: RecordFacts::of_held(&record),
            rejection: None,
        });
        let Some(Offered {
            ticket, admission, ..
        }) = offered
        else {
            return;
        };
        match admission {
            Admission::Send => self.send(world, ticket, Box::new(record)),
            Admission::Keep(reason) => {
                if reason == Reason::Hold {
                    world.saw("held");
                }
                self.engine.keep(self.now, ticket, Box::new(record), reason);
            }
        }
    }

    /// A row whose mark was removed again and again.
    pub(super) fn file_unreadable(&mut self, world: &mut World, row: RowName, xid: u32) {
        world.saw("filed for a removed mark");
        let unread = InFlight {
            row: Some(row),
            xid,
            bytes: 0,
            topic: NO_TOPIC,
            since_micros: 0,
            sent_micros: self.now.as_micros() as u64,
        };
        let rejection = rejection("MARK_REMOVED");
        self.engine.accept_unreadable(self.now, unread, rejection);
    }

    fn send(&mut self, world: &mut World, ticket: Ticket, record: Box<OwnedRecord>) {
        assert!(!self.replacing, "sent while the producer is replaced");
        let event = event_of(&record);
        if self.is_full {
            world.saw("a full producer");
            let failure = DeliveryFailure {
                kind: FailureKind::Outage,
                rejection: rejection("QUEUE_FULL"),
                number: 0,
            };
            let result = DeliveryResult {
                ticket,
                failure: Some(failure),
                suspicion: 0,
                record: Some(record),
            };
            self.delivery_finished(result);
            return;
        }
        let partition = world.events[event].partition;
        self.producer.send(partition, ticket, event, record.place());
    }

    fn delivery_finished(&mut self, result: DeliveryResult) {
        let mut done = Vec::new();
        self.engine.delivery_finished(self.now, result, &mut done);
    }

    /// Takes in a delivery report.
    pub(super) fn report(&mut self, world: &mut World, partition: usize) -> bool {
        let Some(report) = self.producer.take_report(partition) else {
            return false;
        };
        let Report {
            ticket,
            event,
            place,
            outcome,
            failure,
            suspicion,
        } = report;
        let kind = match outcome {
            Outcome::Appended => None,
            Outcome::Refused => Some(FailureKind::Refused),
            Outcome::Unavailable => Some(FailureKind::Outage),
            Outcome::Withdrawn => Some(FailureKind::Producer),
        };
        let comes_back = kind.is_some() || suspicion > 0;
        let result = DeliveryResult {
            ticket,
            failure: kind.map(|kind| DeliveryFailure {
                kind,
                rejection: rejection("REFUSED"),
                number: failure,
            }),
            suspicion,
            record: comes_back.then(|| Box::new(world.record(event, place))),
        };
        self.delivery_finished(result);
        self.tend_producer(world);
        true
    }

    /// The new producer is in place once every record of the old one has come back.
    pub(super) fn tend_producer(&mut self, world: &mut World) {
        if self.replacing && self.producer.has_reported_all() {
            self.replacing = false;
            self.engine.producer_replaced();
            world.saw("producer replaced");
        }
    }

    /// Replaces the producer if its records are given up; see `Forwarder::replace_producer`.
    pub(super) fn replace_producer(&mut self, world: &mut World) -> bool {
        let given_up = std::mem::take(&mut self.producer_failed);
        if given_up {
            self.producer.lose(&mut world.broker, &mut world.rng);
            self.replacing = false;
            self.engine.producer_replaced();
            world.excuse("producer given up", 1);
        }
        given_up
    }

    /// Passes on the result of database work.
    pub(super) fn written(&mut self, world: &World) -> bool {
        self.tick(world);
        let is_done = |work: &mut Work| work.result.is_some();
        let Some(work) = self.work.take_if(is_done) else {
            return false;
        };
        let result = work.result.unwrap_or(Err(()));
        self.engine
            .work_finished(self.now, work.generation, work.work, result, None);
        true
    }

    /// Kafka answers the metadata query.
    pub(super) fn answered(&mut self, world: &World) -> bool {
        self.tick(world);
        let Some(names) = self.question.take() else {
            return false;
        };
        let known = |name| (name, MetadataAnswer::Known(TopicLimits::default()));
        let answers = (!world.broker.is_away).then(|| names.into_iter().map(known).collect());
        self.engine.topics_answered(self.now, answers);
        true
    }

    /// Carries out the next output for Kafka or the database; returns one for the session. `None`:
    /// there is no output.
    pub(super) fn output(&mut self, world: &mut World) -> Option<Option<SessionOutput>> {
        match self.engine.output()? {
            Output::Sink(output) => {
                self.carry_out(world, output);
                Some(None)
            }
            Output::Session(output) => {
                let failed = matches!(output, SessionOutput::End(End::ProducerFailed(_)));
                self.producer_failed |= failed;
                Some(Some(output))
            }
        }
    }

    fn carry_out(&mut self, world: &mut World, output: SinkOutput) {
        match output {
            SinkOutput::Send { ticket, record } => self.send(world, ticket, record),
            SinkOutput::Trust { topic, failure } => {
                let topic = topic[1..].parse().expect("a name of ours");
                self.producer.trust(topic, failure);
            }
            SinkOutput::ReplaceProducer(_) => {
                self.producer.withdraw(&mut world.broker, &mut world.rng);
                world.excuses += 1;
                self.replacing = true;
                self.tend_producer(world);
            }
            SinkOutput::QueryTopics(names) => self.question = Some(names),
            SinkOutput::Work { generation, work } => {
                assert!(self.work.is_none(), "two statements at a time");
                self.work = Some(Work {
                    work,
                    generation,
                    place: self.place.clone(),
                    result: None,
                });
            }
        }
    }

    /// The process ends at once, and its producer with it.
    pub(super) fn kill(&mut self, world: &mut World) {
        self.drop_work(world);
        self.producer.lose(&mut world.broker, &mut world.rng);
    }
}

pub(super) fn rejection(code: &str) -> Rejection {
    Rejection {
        code: code.to_owned(),
        message: String::new(),
    }
}
