//! The publisher's process in the simulation: a driver as thin as the real one, with checks at its
//! edges.
//!
//! It carries out outputs one by one, so that a schedule can interrupt between any two, and
//! compares every record that it sends with the model's WAL.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use crate::config::{AfterPublish, Mapping, OnPoison};
use crate::engine::Engine;
use crate::engine::dispatch::Admission;
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{
    DatabaseWork, DeliveryFailure, DeliveryResult, End, FailureKind, Intake, Limits, Output,
    SessionOutput, SinkOutput, Walsender,
};
use crate::engine::record_checks::RecordFacts;
use crate::engine::required_parts::RequiredParts;
use crate::engine::simulation::world::{Appended, Batch, Message, Reported, Status, World, index};
use crate::engine::tracker::{ENTRY_BYTES, Ticket};
use crate::lsn::Lsn;
use crate::outbox::{Rejection, RowName};

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) engine: Engine,
    limits: Limits,
    pub(crate) now: Duration,
    /// Grows with every reset: results of an earlier generation must change nothing.
    generation: u64,
    first_ticket: Ticket,
    /// Rows sent to Kafka in this generation.
    handed: BTreeSet<usize>,
    flush: u64,
    missed: VecDeque<usize>,
    pub(crate) stopping: bool,
    /// Whether the stop had a session to finish in, and a server that reported the slot's position.
    pub(crate) position_known: bool,
    /// The producer is being replaced.
    replacing: bool,
    /// The transaction that is open, by its number.
    open: Option<usize>,
    /// While a pause is known: the transaction that was open then.
    paused_in: Option<Option<usize>>,
}

/// How the process ended, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Stopped,
    Halted,
    /// Memory was dropped.
    Rewound,
}

/// Random limits, with this range for the memory.
pub(in crate::engine) fn limits(rng: &mut Rng, memory: Range<usize>) -> Limits {
    Limits {
        after_publish: AfterPublish::Mark,
        retain: None,
        retain_share: None,
        batch_size: rng.usize(1..8),
        process_interval: Duration::from_millis(rng.u64(0..3_000)),
        memory_limit: rng.usize(memory),
        spreads: false,
        required: RequiredParts {
            key: None,
            ..RequiredParts::of(&Mapping::default())
        },
        attempts: rng.u32(1..4),
        on_poison: OnPoison::DeadLetter,
        resolves: true,
        dead_letters_per_minute: 1_000_000,
        parked_keys_max: 1_000,
        auto_creates_topics: false,
        compresses: false,
        batch_bytes: 1_000_000,
        status_interval: Duration::from_secs(10),
        receive_timeout: Duration::from_secs(15),
        transactions: None,
    }
}

impl Process {
    pub(crate) fn new(world: &mut World) -> Self {
        let limits = Limits {
            after_publish: world.after_publish,
            retain: world.retain,
            on_poison: world.on_poison,
            parked_keys_max: world.parked_keys_max,
            ..limits(&mut world.rng, 500..4_000)
        };
        let mut process = Process {
            engine: Engine::new(limits.clone()),
            limits,
            now: Duration::ZERO,
            generation: 0,
            first_ticket: 0,
            handed: BTreeSet::new(),
            flush: 0,
            missed: VecDeque::new(),
            stopping: false,
            position_known: false,
            replacing: false,
            open: None,
            paused_in: None,
        };
        process.engine.set_failover_slot(world.is_failover);
        process.reset(world);
        process
    }

    /// Drops everything in memory; the stream starts again at the slot's position.
    pub(crate) fn reset(&mut self, world: &mut World) {
        assert!(world.link.is_none());
        self.engine.reset(Lsn::new(world.confirmed));
        self.generation += 1;
        self.first_ticket = self.engine.next_ticket();
        self.handed.clear();
        self.flush = world.confirmed;
        self.engine
            .load_parked(world.dead_letter_table.parked_keys(world.parked_keys_max));
        let missed = |row: &usize| {
            let known = &world.rows[*row];
            known.transaction.is_none() && !known.marked && !world.dead_letter_table.holds(*row)
        };
        self.missed = (0..world.rows.len()).filter(missed).collect();
    }

    /// The same without a session; a running statement is awaited, whatever its result.
    pub(crate) fn rewind(&mut self, world: &mut World) {
        while world.perform(false) {}
        self.reset(world);
    }

    pub(crate) fn connect(&mut self, now: Duration, world: &mut World) -> bool {
        if world.link.is_some() {
            return false;
        }
        let resume = self.engine.resume_at().raw();
        let reported = self.engine.reported().raw();
        assert!(
            world.confirmed <= reported,
            "the slot is ahead of the reported position"
        );
        assert!(reported <= resume, "confirmed WAL would be read again");
        world.start(resume);
        self.engine.set_paused(now, world.is_paused);
        self.pause_is_known(world);
        self.engine.session_started(now);
        true
    }

    fn pause_is_known(&mut self, world: &mut World) {
        let open = self.open;
        self.paused_in = match self.engine.is_paused() {
            true => Some(self.paused_in.unwrap_or(open)),
            false => None,
        };
        if self.paused_in.is_some() {
            world.saw("paused");
        }
    }

    /// Without a session, withdraws the records in flight once it is time. Each partition may still
    /// append the first few of them.
    pub(crate) fn give_up(&mut self, now: Duration, world: &mut World) -> bool {
        if world.link.is_some() || !self.engine.should_withdraw(now) {
            return false;
        }
        world.saw("withdrawn");
        world.lose_records();
        self.end_replacement(world);
        self.rewind(world);
        true
    }

    /// Ends the connection from the client's side.
    pub(crate) fn disconnect(&mut self, world: &mut World, clean: bool) {
        world.close(clean);
        self.engine.session_ended();
    }

    /// Takes one message from the server, as the engine's intake allows.
    pub(crate) fn read(&mut self, now: Duration, world: &mut World) -> bool {
        self.engine.check_session(now);
        let intake = self.engine.intake();
        let Some(link) = &mut world.link else {
            return false;
        };
        if intake == Intake::Paused {
            return false;
        }
        let Some(message) = link.to_client.pop_front() else {
            return false;
        };
        self.engine.received(now);
        if let Message::Keepalive { wal_end, reply } = message {
            self.engine.keepalive(now, Lsn::new(wal_end), reply);
        } else if intake == Intake::Open {
            self.take(message, world);
        }
        true
    }

    fn take(&mut self, message: Message, world: &mut World) {
        match message {
            Message::Begin(number) => {
                self.open = Some(number);
                self.engine.begin(Lsn::new(world.log[number].commit));
            }
            Message::Commit(number) => {
                let transaction = &world.log[number];
                let (commit, end) = (Lsn::new(transaction.commit), Lsn::new(transaction.end));
                self.engine.commit(commit, end);
                self.open = None;
            }
            Message::Change(number, index) => {
                let row = world.log[number].changes[index as usize];
                match (self.engine.change(), row) {
                    (None, Some(row)) => {
                        let left_out = world.dead_letter_table.was_dead(row);
                        let handed = self.handed.contains(&row);
                        assert!(handed || left_out, "row {row} is skipped");
                        world.saw("change skipped");
                    }
                    (Some(found), row) => {
                        assert_eq!(found, index, "index in the transaction");
                        match row {
                            // The driver skips rows that have a dead letter already. A standby may
                            // lack that letter: there the audit finds the row.
                            Some(row) if world.dead_letter_table.holds(row) => {
                                world.rows[row].settled_at = 0;
                            }
                            Some(row) => self.hand_over(row, number as u32, world, false),
                            None => {}
                        }
                    }
                    (None, None) => {}
                }
            }
            Message::Keepalive { .. } => {}
        }
    }

    fn hand_over(&mut self, row: usize, xid: u32, world: &mut World, from_table: bool) {
        assert!(self.handed.insert(row), "row {row} is sent twice");
        if let Some(open) = self.paused_in {
            let is_of_it = !from_table && open == Some(xid as usize);
            assert!(is_of_it, "row {row} is taken in while a pause lasts");
        }
        let bytes = world.rows[row].bytes;
        let record = world.record(row);
        let offered = self.engine.offer(Offer {
            row: Some(RowName::of_id(world.ids.id(row as i64))),
            xid,
            bytes,
            since_micros: 0,
            sent_micros: 0,
            from_table,
            facts: RecordFacts::of_held(&record),
            signature: &|| None,
            rejection: None,
        });
        let Offered {
            ticket, admission, ..
        } = offered.expect("inside a transaction");
        assert!(ticket >= self.first_ticket, "a ticket was reused");
        let held = self.engine.held_bytes();
        let allowed = self.limits.memory_limit + bytes as usize + ENTRY_BYTES + TRANSACTION_BYTES;
        assert!(held <= allowed, "{held} bytes in flight, {allowed} allowed");
        match admission {
            Admission::Send => {
                assert!(!self.replacing, "sent while the producer is replaced");
                world.produce(ticket, row);
            }
            Admission::Keep(reason) => {
                world.saw("kept");
                let now = self.now;
                self.engine.keep(now, ticket, Box::new(record), reason);
            }
        }
    }

    /// Publishes a row that the slot never delivers.
    pub(crate) fn publish_missed(&mut self, world: &mut World) -> bool {
        if !self.engine.takes_rows() || self.stopping {
            return false;
        }
        let known = |row: &usize| {
            world.rows[*row].transaction.is_none() && !world.dead_letter_table.holds(*row)
        };
        let next = self.missed.pop_front().or_else(|| {
            (0..world.rows.len())
                .find(|row| known(row) && !world.rows[*row].marked && !self.handed.contains(row))
        });
        let Some(row) = next else {
            return false;
        };
        if self.handed.contains(&row)
            || world.rows[row].marked
            || world.dead_letter_table.holds(row)
        {
            return false;
        }
        world.saw("row from the table");
        self.hand_over(row, 0, world, true);
        true
    }

    /// Passes on Kafka's next delivery report for a partition.
    pub(crate) fn report(&mut self, now: Duration, world: &mut World, number: usize) -> bool {
        let partition = &mut world.partitions[number];
        let Some(reported) = partition.reports.pop_front() else {
            return false;
        };
        let Reported {
            ticket,
            row,
            appended,
            failure,
            suspicion,
        } = reported;
        let suspect = suspicion > 0 || appended == Appended::Withdrawn;
        let current = ticket >= self.first_ticket;
        let kind = match appended {
            Appended::Yes => None,
            Appended::Refused => Some(FailureKind::Refused),
            Appended::Later => Some(FailureKind::Outage),
            Appended::NoTopic => Some(FailureKind::NoTopic),
            Appended::Withdrawn => Some(FailureKind::Producer),
        };
        let result = DeliveryResult {
            ticket,
            failure: kind.map(|kind| DeliveryFailure {
                kind,
                rejection: rejection(),
                number: failure,
            }),
            suspicion,
            record: suspect.then(|| Box::new(world.record(row))),
        };
        let mut done = Vec::new();
        self.engine.delivery_finished(now, result, &mut done);
        if !current {
            world.saw("report of before a reset");
            assert!(done.is_empty());
        }
        for accepted in done {
            let row = accepted.row.expect("each event has a row").id;
            let row = index(&row);
            assert!(
                world.rows[row].appended > 0,
                "row {row} was acknowledged and never appended"
            );
            world.saw(match suspect {
                true => "acknowledged by a rewind",
                false => "acknowledged",
            });
        }
        self.end_replacement(world);
        true
    }

    /// The new producer is in place once every report was taken in.
    fn end_replacement(&mut self, world: &World) {
        if self.replacing && world.has_reported_all() {
            self.replacing = false;
            self.engine.producer_replaced();
        }
    }

    /// Passes on the result of a statement.
    pub(crate) fn written(&mut self, now: Duration, world: &mut World) -> bool {
        if world
            .batches
            .front()
            .is_none_or(|batch| batch.result.is_none())
        {
            return false;
        }
        let batch = world.batches.pop_front().expect("seen above");
        if batch.generation != self.generation {
            world.saw("write-back of before a reset");
        }
        let result = batch.result.expect("seen above");
        // A statement that needs its position and does not get it has failed.
        let needed = result.is_ok() && self.engine.needs_position(&batch.work);
        let position = batch.position.filter(|_| needed);
        self.engine
            .work_finished(now, batch.generation, batch.work, result, position);
        self.pause_is_known(world);
        true
    }

    /// Passes on Kafka's metadata answer.
    pub(crate) fn answered(&mut self, now: Duration, world: &mut World, rejection: bool) -> bool {
        let Some(answers) = world.answer(rejection) else {
            return false;
        };
        self.engine.topics_answered(now, answers);
        true
    }

    /// Carries out one output.
    pub(crate) fn carry_out(&mut self, now: Duration, world: &mut World) -> Option<Fate> {
        match self.engine.output()? {
            Output::Session(SessionOutput::Status {
                write,
                flush,
                ask_reply,
            }) => self.status(world, write.raw(), flush.raw(), ask_reply),
            Output::Sink(SinkOutput::Send { ticket, record }) => {
                assert!(!self.replacing, "sent while the producer is replaced");
                let value = std::str::from_utf8(record.value().unwrap_or_default());
                let row: usize = value.expect("a number").parse().expect("a number");
                world.produce(ticket, row);
            }
            Output::Sink(SinkOutput::ReplaceProducer(_)) => {
                world.saw("producer replaced");
                world.withdraw();
                self.replacing = true;
                self.end_replacement(world);
            }
            Output::Sink(SinkOutput::Trust { topic, failure }) => {
                let number: usize = topic[1..].parse().expect("a name of ours");
                world.trust(number, failure);
            }
            Output::Sink(SinkOutput::RecordProgress(_) | SinkOutput::CommitTransaction { .. }) => {
                panic!("a transaction at least once")
            }
            Output::Sink(SinkOutput::ReadBack { .. }) => panic!("no window is open"),
            Output::Sink(SinkOutput::QueryTopics(names)) => {
                assert!(!names.is_empty(), "an empty metadata request");
                world.question = Some(names);
            }
            Output::Sink(SinkOutput::Work { generation, work }) => {
                assert_eq!(generation, self.generation);
                let mut batches = world.batches.iter();
                let out = batches.any(|batch| batch.generation == generation);
                assert!(!out, "two statements at a time");
                world.saw(match &work {
                    DatabaseWork::Mark(marks) => {
                        assert!(!marks.is_empty(), "an empty write-back");
                        "marked"
                    }
                    DatabaseWork::File(_) => "filed",
                    DatabaseWork::Close(_) => "closed",
                    DatabaseWork::CountAttempts(_) => "attempt counted",
                    DatabaseWork::ReadRequests { .. } => "looked",
                    DatabaseWork::ReadPause { .. } => "pause read",
                    DatabaseWork::Retain(_) => "deleted",
                });
                world.batches.push_back(Batch {
                    work,
                    generation,
                    result: None,
                    position: None,
                });
            }
            Output::Session(SessionOutput::InspectWalsender) => {
                let walsender = match world.walsender() {
                    None => Walsender::Gone,
                    Some(walsender) if walsender.busy => Walsender::Busy,
                    Some(_) => Walsender::Idle,
                };
                self.engine.walsender(now, walsender);
            }
            Output::Session(SessionOutput::End(end)) => return Some(self.end(world, end)),
        }
        Some(Fate::Lives)
    }

    fn status(&mut self, world: &mut World, write: u64, flush: u64, ask_reply: bool) {
        assert!(flush >= self.flush, "the confirmed position moved back");
        assert!(
            world.named.contains(&flush),
            "the server never sent {flush}"
        );
        assert!(flush <= write, "confirmed {flush}, received {write}");
        assert!(
            Some(&write) <= world.named.last(),
            "the server never sent {write}"
        );
        self.flush = flush;
        if let Some(link) = &mut world.link {
            link.to_server.push_back(Status { flush, ask_reply });
        }
    }

    fn end(&mut self, world: &mut World, end: End) -> Fate {
        match end {
            End::Stopped => {
                world.saw("stopped");
                if self.position_known {
                    self.check_stopped(world);
                }
                self.disconnect(world, true);
                return Fate::Stopped;
            }
            End::ServerStopping => {
                world.saw("let the server stop");
                self.disconnect(world, true);
            }
            End::ReceiveTimeout => {
                world.saw("silent");
                self.disconnect(world, false);
            }
            End::Expired => {
                world.saw("lapsed");
                self.disconnect(world, false);
            }
            End::Halted(_) => {
                world.saw("halted");
                self.disconnect(world, false);
                return Fate::Halted;
            }
            // The records did not come back in time, and are given up with all memory.
            End::ProducerFailed(_) => {
                world.saw("producer given up");
                self.disconnect(world, false);
                world.lose_records();
                self.end_replacement(world);
                self.rewind(world);
                return Fate::Rewound;
            }
            End::ProgressRefused(_) => panic!("a progress record at least once"),
            End::Violated(violation) => panic!("a correct server was accused: {violation}"),
        }
        Fate::Lives
    }

    /// After a complete stop the next start must send nothing again.
    fn check_stopped(&self, world: &World) {
        for row in &self.handed {
            if world.dead_letter_table.holds(*row) {
                continue;
            }
            let again = match world.rows[*row].transaction {
                Some(number) => world.log[number].commit >= world.confirmed,
                None => !world.rows[*row].marked,
            };
            assert!(
                !again,
                "row {row} would be sent again after a graceful stop"
            );
        }
    }

    pub(crate) fn has_handed_over(&self) -> bool {
        !self.handed.is_empty()
    }
}

/// The tracker's bytes per transaction, rounded up.
const TRANSACTION_BYTES: usize = 64;

fn rejection() -> Rejection {
    Rejection {
        code: "REFUSED".to_owned(),
        message: "refused".to_owned(),
    }
}
