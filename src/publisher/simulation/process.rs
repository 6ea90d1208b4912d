//! A process in the simulation: the real decisions, behind a driver as thin as the real one.
//!
//! Here is what goes on in every state: the clock, delivery reports, metadata, database work, and
//! the engine's outputs for Kafka and the database. `attempt` has the states.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{
    DeliveryFailure, DeliveryResult, End, FailureKind, Limits, Output, SessionOutput, SinkOutput,
};
use crate::engine::record_checks::RecordFacts;
use crate::engine::row_ids::number;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::engine::tracker::{InFlight, Ticket};
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection, RowName, Signature, TableLocation};
use crate::publisher::clock::Moment;
use crate::publisher::monitor::audit::Audit;
use crate::publisher::monitor::problems::Problems;
use crate::publisher::resume_state::ResumeState;
use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::broker::{Outcome, Producer, Report};
use crate::publisher::simulation::server::Insert;
use crate::publisher::simulation::watch::Watch;
use crate::publisher::simulation::work::{Work, outage};
use crate::publisher::simulation::world::{World, event_of, read_back};
use crate::publisher::sink::lasting_errors::LastingErrors;
use crate::publisher::sink::returning_rows::ReturningRows;
use crate::publisher::source::poll_pass::SentRows;

/// After so much time a process has to know that its session has ended, before it sends anything.
const LOCK_LOSS_UNKNOWN: Duration = Duration::from_secs(30);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) resume: ResumeState,
    pub(super) audit: Audit,
    pub(super) problems: Problems,
    pub(super) sent_rows: SentRows,
    pub(super) watch: Watch,
    lasting_errors: LastingErrors,
    /// An error of database work that ends the session.
    pub(super) database_error: bool,
    pub(super) returning_rows: ReturningRows,
    pub(super) producer: Producer,
    pub(super) state: State,
    /// The session that holds the lock, or streams.
    pub(super) pid: Option<i32>,
    pub(super) place: Option<TableLocation>,
    pub(super) work: Option<Work>,
    /// The open session of the write-back while no work is under way.
    session: Option<TableLocation>,
    question: Option<Vec<String>>,
    /// The topics to read back, and the generation that has asked.
    reads_back: Option<(u64, Vec<String>)>,
    /// The producer is being replaced.
    replacing: bool,
    /// Its records are given up, with all memory.
    pub(super) producer_failed: bool,
    /// The producer takes no record.
    pub(super) is_full: bool,
    pub(super) skipped: bool,
    /// The next change cannot be decoded.
    pub(super) fails_to_decode: bool,
    /// A stop was requested.
    pub(super) is_stopping: bool,
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
    /// Grows whenever memory is dropped.
    pub(super) memory: u64,
    /// Why memory was dropped since it was used last, or has to be.
    pub(super) dropped: Option<&'static str>,
    /// Events that were passed on while a slot was being created, so that the stream leaves them
    /// out, up to this position.
    pub(super) handled: BTreeSet<usize>,
    /// The same by the ids of their rows.
    handled_rows: BTreeMap<i64, usize>,
    pub(super) handled_until: u64,
    /// A slot is being created.
    pub(super) creates: bool,
    /// The tenure of the lock that memory belongs to.
    pub(super) tenure: u64,
    /// The last position that was reported, and that memory belongs to.
    pub(super) reported: u64,
    pub(super) id: u64,
    /// The commit of the transaction that is open.
    pub(super) open: Option<Lsn>,
    /// While a pause is known: the transaction that was open then.
    paused_in: Option<Option<Lsn>>,
}

impl Process {
    pub(super) fn new(world: &mut World) -> Self {
        let mut limits = Limits::of(&world.config);
        limits.batch_size = world.rng.usize(1..8);
        limits.process_interval = Duration::from_millis(world.rng.u64(1..3_000));
        limits.memory_limit = world.rng.usize(500..4_000);
        limits.attempts = world.rng.u32(1..4);
        let id = world.rng.u64(..);
        Process {
            engine: Engine::new(limits),
            resume: ResumeState::new(),
            audit: Audit::new(&world.config),
            problems: Problems::default(),
            sent_rows: SentRows::default(),
            watch: Watch::default(),
            lasting_errors: LastingErrors::default(),
            database_error: false,
            returning_rows: ReturningRows::default(),
            producer: Producer::new(id),
            state: State::Pausing(Duration::ZERO),
            pid: None,
            place: None,
            work: None,
            session: None,
            question: None,
            reads_back: None,
            replacing: false,
            producer_failed: false,
            is_full: false,
            skipped: false,
            fails_to_decode: false,
            is_stopping: false,
            lock_asked: Moment::default(),
            is_frozen: false,
            lost_time: Duration::ZERO,
            clock_jumped: false,
            jumps: 0,
            now: Duration::ZERO,
            retry: 0,
            forwarded: 0,
            memory: 0,
            dropped: Some("the process is new"),
            handled: BTreeSet::new(),
            handled_rows: BTreeMap::new(),
            handled_until: 0,
            creates: false,
            tenure: 0,
            reported: 0,
            id,
            open: None,
            paused_in: None,
        }
    }

    /// This process takes the lock, perhaps behind another one.
    pub(super) fn takes_over(&self, world: &mut World) {
        if world
            .holder
            .replace(self.id)
            .is_some_and(|id| id != self.id)
        {
            world.tenure += 1;
            world.saw("taken over");
        }
    }

    /// The process goes on with what it has in memory.
    pub(super) fn uses_memory(&self, world: &World) {
        // A server that was restarted has to prove it first.
        if world.forgot_holder || !self.engine.is_proven() {
            return;
        }
        let dropped = self.dropped;
        assert_eq!(dropped, None, "memory is used, and has to be dropped");
        let message = "memory is used, and another process may have sent it since";
        assert_eq!(self.tenure, world.tenure, "{message}");
    }

    /// The object id of the table that the session is about.
    pub(super) fn table(&self) -> u32 {
        self.place.as_ref().map_or(0, |place| place.table)
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
    pub(super) fn clear(&mut self, world: &mut World, why: &'static str) {
        self.drops_memory(world, why);
        self.forget_handled();
        self.producer.withdraw(&mut world.broker, &mut world.rng);
        self.drop_work(world);
        self.returning_rows.clear();
        self.database_error = false;
        self.engine.reset(Lsn::INVALID);
        world.saw("memory cleared");
    }

    /// The stream does not leave out what was passed on before.
    pub(super) fn forget_handled(&mut self) {
        self.handled.clear();
        self.handled_rows.clear();
    }

    fn drops_memory(&mut self, world: &mut World, why: &'static str) {
        self.dropped = Some(why);
        self.memory += 1;
        self.watch.clear();
        for event in self.producer.in_flight() {
            world.broker.copies.left_in_flight(event);
        }
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
    pub(super) fn start_over(&mut self, world: &mut World, start: Lsn) -> Vec<(String, Lsn)> {
        if let Some(mut work) = self.work.take()
            && work.result.is_none()
        {
            let fails = world.rng.u8(0..4) == 0;
            world.perform(&mut work, fails);
            self.session = work.session;
        }
        let why = self.dropped.unwrap_or("nothing is in memory");
        assert!(
            self.dropped.is_some() || self.engine.is_drained(),
            "memory is dropped without a cause"
        );
        self.drops_memory(world, why);
        self.dropped = None;
        (self.tenure, self.reported) = (world.tenure, start.raw());
        let letters = &world.server.files.letters;
        let (filed, parked) = (letters.filed(start), letters.parked_keys(10));
        world.note(|| format!("memory dropped, since {why}: {start}, filed {filed:?}"));
        if start.is_invalid() {
            world.repeats_from_table();
        }
        world.may_repeat(start.raw(), why, |commit, Insert { event, row, .. }| {
            self.handled.contains(event) || filed.contains(&(row.id.to_string(), Lsn::new(commit)))
        });
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
        if let Some(open) = self.paused_in {
            let commit = place.map(|(commit, _)| commit);
            let is_of_it = commit.is_some() && commit == open;
            assert!(is_of_it, "event {event} is taken in while a pause lasts");
        }
        self.account_for(world, event);
        if self.creates {
            self.handled.insert(event);
            let id = row.as_ref().map_or(0, |row| number(&row.id));
            if let Some(earlier) = self
                .handled_rows
                .insert(id, event)
                .filter(|it| *it != event)
            {
                self.handled.remove(&earlier);
                let cause = "a later row has its id";
                world.broker.copies.may_repeat(earlier, cause);
            }
        }
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
            signature: &|| Signature::of(record.headers()),
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
                match reason {
                    Reason::Hold => world.saw("held"),
                    Reason::Published => world.saw("found in Kafka"),
                    _ => {}
                }
                self.engine.keep(self.now, ticket, Box::new(record), reason);
            }
        }
    }

    /// A process that does not know yet that its session has ended may pass an event on beside
    /// another one.
    fn account_for(&mut self, world: &mut World, event: usize) {
        let has_to_know = self.has_to_know(world);
        let copies = &mut world.broker.copies;
        self.watch.passed_on(self.now, event);
        if !has_to_know {
            copies.passed_on_late(event, self.id, self.memory);
            return;
        }
        copies.passed_on(event, self.id, self.memory);
    }

    /// Whether it has to know who holds the lock: not if its session has ended a short while ago.
    fn has_to_know(&self, world: &World) -> bool {
        let ended = self.pid.and_then(|pid| world.server.ended.get(&pid));
        ended.is_none_or(|at| world.now >= *at + LOCK_LOSS_UNKNOWN)
    }

    /// Another program is named only if there is one.
    pub(super) fn check_foreign_marks(&mut self, world: &mut World) {
        let Some(found) = self.engine.take_marked_by_other() else {
            return;
        };
        let id = found.example.as_ref().map(number);
        let is_foreign = id.is_some_and(|id| world.foreign_marks.contains(&id));
        assert!(is_foreign, "{found:?} is named, and outboxd has marked it");
        world.saw("somebody else publishes");
    }

    /// A row whose mark was removed again and again.
    pub(super) fn file_unreadable(&mut self, world: &mut World, row: RowName, xid: u32) {
        world.saw("filed for a removed mark");
        let unread = InFlight::of_row(row, xid, self.now);
        let rejection = rejection("MARK_REMOVED");
        self.engine.accept_unreadable(self.now, unread, rejection);
    }

    fn send(&mut self, world: &mut World, ticket: Ticket, record: Box<OwnedRecord>) {
        assert!(!self.replacing, "sent while the producer is replaced");
        let event = event_of(&record);
        let has_passed_on = world.broker.copies.has_passed_on(event, self.id);
        let is_due = has_passed_on || !self.has_to_know(world) || world.forgot_holder;
        assert!(
            is_due,
            "event {event} is sent, and another process has passed it on since"
        );
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
            Outcome::NoTopic => Some(FailureKind::NoTopic),
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
            self.producer.is_stuck = false;
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
            world.saw("producer given up");
            self.dropped = Some("the producer was given up");
        }
        given_up
    }

    /// Passes on the result of database work.
    pub(super) fn written(&mut self, world: &mut World) -> bool {
        self.tick(world);
        let is_done = |work: &mut Work| work.result.is_some();
        let Some(work) = self.work.take_if(is_done) else {
            return false;
        };
        self.session = work.session;
        let result = work.result.unwrap_or_else(|| Err(outage()));
        let position = result.as_ref().ok().and_then(|(_, position)| *position);
        let lasting = &mut self.lasting_errors;
        self.database_error |= lasting.ends(self.now, &work.work, result.as_ref().err());
        match &result {
            Ok(_) => self.watch.work_errors.succeeded(&work.work),
            Err(_) => self
                .watch
                .work_errors
                .failed(self.now, &work.work, String::new()),
        }
        let result = result.map(|(pending, _)| pending).map_err(drop);
        if let Ok(Some(pending)) = &result
            && self.pid.is_some()
        {
            let is_late = !self.has_to_know(world);
            let records = pending.requests.iter();
            for record in records.filter_map(|request| request.record.as_deref()) {
                let copies = &mut world.broker.copies;
                copies.requested(event_of(record), self.id, self.memory, is_late);
            }
        }
        self.engine
            .work_finished(self.now, work.generation, work.work, result, position);
        self.pause_is_known(world);
        true
    }

    /// A transaction begins.
    pub(super) fn opens(&mut self, commit: Lsn) {
        self.open = Some(commit);
        if self.paused_in.is_some() && !self.engine.is_proven() {
            // It proves the history, and goes on behind what was received of it before.
            self.paused_in = Some(self.open);
        }
    }

    pub(super) fn pause_is_known(&mut self, world: &mut World) {
        let open = self.open;
        self.paused_in = match self.engine.is_paused() {
            true => Some(self.paused_in.unwrap_or(open)),
            false => None,
        };
        if self.paused_in.is_some() {
            world.saw("pause known");
        }
    }

    /// Kafka answers the metadata query, or the ends of topics are read.
    pub(super) fn answered(&mut self, world: &mut World) -> bool {
        self.tick(world);
        let Some(names) = self.question.take() else {
            return self.ends_read(world);
        };
        let known = |name: String| {
            let answer = match world.broker.missing[topic_of(&name)] {
                true => MetadataAnswer::Missing,
                false => MetadataAnswer::Known(TopicLimits::default()),
            };
            (name, answer)
        };
        let answers = (!world.broker.is_away).then(|| names.into_iter().map(known).collect());
        self.engine.topics_answered(self.now, answers);
        true
    }

    fn ends_read(&mut self, world: &mut World) -> bool {
        let Some((generation, topics)) = self.reads_back.take() else {
            return false;
        };
        let is_away = world.broker.is_away;
        let topics = topics.into_iter().filter(|_| !is_away);
        let copies = topics.map(|name| {
            let of_topic = read_back(world, topic_of(&name));
            (name, of_topic)
        });
        let copies = copies.collect();
        world.saw("topics read back");
        let before = self.engine.stats().in_flight_count;
        self.engine.ends_read(self.now, generation, copies);
        if self.engine.stats().in_flight_count < before {
            world.saw("held and found in Kafka");
        }
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
                self.producer.trust(topic_of(&topic), failure);
            }
            SinkOutput::ReplaceProducer(_) => {
                self.producer.withdraw(&mut world.broker, &mut world.rng);
                self.replacing = true;
                self.tend_producer(world);
            }
            SinkOutput::RecordProgress(_) | SinkOutput::CommitTransaction { .. } => {
                panic!("a transaction at least once")
            }
            SinkOutput::QueryTopics(names) => self.question = Some(names),
            SinkOutput::ReadBack {
                generation, topics, ..
            } => self.reads_back = Some((generation, topics)),
            SinkOutput::Work { generation, work } => {
                assert!(self.work.is_none(), "two statements at a time");
                self.work = Some(Work {
                    needs_position: self.engine.needs_position(&work),
                    work,
                    generation,
                    place: self.place.clone(),
                    session: self.session.take(),
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

fn topic_of(name: &str) -> usize {
    name[1..].parse().expect("a name of ours")
}

pub(super) fn rejection(code: &str) -> Rejection {
    Rejection {
        code: code.to_owned(),
        message: String::new(),
    }
}
