//! The publisher's process in the simulation: a driver as thin as the real one, and the checks at its edges.
//!
//! It carries out outputs one by one, so that a schedule can cut in between any two, and holds every record that is handed over
//! against what the model log says must come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::config::AfterPublish;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::publisher::decision::{End, Intake, Limits, Output, Walsender};
use crate::publisher::engine::Engine;
use crate::publisher::simulation_world::{Batch, Message, Status, World};
use crate::publisher::tracker::{Accepted, ENTRY_BYTES, Ticket};

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) engine: Engine,
    limits: Limits,
    /// Grows with every reset: what of an earlier one comes in must change nothing.
    generation: u64,
    first_ticket: Ticket,
    /// Rows handed to Kafka in this generation.
    handed: BTreeSet<usize>,
    unsettled: BTreeSet<Ticket>,
    flush: u64,
    missed: VecDeque<usize>,
    pub(crate) stopping: bool,
    /// Whether there was a session to finish in, and a server that told its position.
    pub(crate) position_known: bool,
    pub(crate) refused: bool,
    refusals: BTreeMap<usize, u32>,
}

/// What became of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Stopped,
    GaveUp,
}

impl Process {
    pub(crate) fn new(world: &mut World) -> Self {
        let limits = Limits {
            after_publish: world.after_publish,
            batch_size: world.rng.usize(1..8),
            process_interval: Duration::from_millis(world.rng.u64(0..3_000)),
            memory_limit: world.rng.usize(500..4_000),
            attempts: world.rng.u32(1..4),
            status_interval: Duration::from_secs(10),
            silence: Duration::from_secs(25),
        };
        let mut process = Process {
            engine: Engine::new(limits.clone()),
            limits,
            generation: 0,
            first_ticket: 0,
            handed: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            flush: 0,
            missed: VecDeque::new(),
            stopping: false,
            position_known: false,
            refused: false,
            refusals: BTreeMap::new(),
        };
        process.reset(world);
        process
    }

    /// Everything in memory is dropped; the stream begins again where the slot stands.
    pub(crate) fn reset(&mut self, world: &mut World) {
        assert!(world.link.is_none());
        self.engine.reset(Lsn::new(world.confirmed));
        self.generation += 1;
        self.first_ticket = self
            .unsettled
            .last()
            .map_or(self.first_ticket, |last| last + 1);
        self.handed.clear();
        self.unsettled.clear();
        self.flush = world.confirmed;
        self.refused = false;
        let missed =
            |row: &usize| world.rows[*row].transaction.is_none() && !world.rows[*row].marked;
        self.missed = (0..world.rows.len()).filter(missed).collect();
    }

    pub(crate) fn connect(&mut self, now: Duration, world: &mut World) -> bool {
        if world.link.is_some() {
            return false;
        }
        let resume = self.engine.resume_at().raw();
        let reported = self.engine.reported().raw();
        assert!(
            world.confirmed <= reported,
            "the slot is ahead of what was reported"
        );
        assert!(reported <= resume, "what was confirmed would be read again");
        world.start(resume);
        self.engine.session_started(now);
        true
    }

    /// The connection is over, seen from here.
    pub(crate) fn disconnect(&mut self, world: &mut World, clean: bool) {
        world.close(clean);
        self.engine.session_ended();
    }

    /// Takes one message from the server as far as the engine lets it.
    pub(crate) fn read(&mut self, now: Duration, world: &mut World) -> bool {
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
        self.engine.heard(now);
        if let Message::Keepalive { wal_end, reply } = message {
            self.engine.keepalive(now, Lsn::new(wal_end), reply);
        } else if intake == Intake::Open {
            self.take(message, world);
        }
        true
    }

    fn take(&mut self, message: Message, world: &mut World) {
        match message {
            Message::Begin(number) => self.engine.begin(Lsn::new(world.log[number].commit)),
            Message::Commit(number) => {
                let transaction = &world.log[number];
                let (commit, end) = (Lsn::new(transaction.commit), Lsn::new(transaction.end));
                self.engine.commit(commit, end);
            }
            Message::Change(number, index) => {
                let row = world.log[number].changes[index as usize];
                match (self.engine.change(), row) {
                    (None, Some(row)) => {
                        assert!(self.handed.contains(&row), "row {row} is passed over");
                        world.saw("change skipped");
                    }
                    (Some(found), row) => {
                        assert_eq!(found, index, "index in the transaction");
                        if let Some(row) = row {
                            self.hand_over(row, number as u32, world, false);
                        }
                    }
                    (None, None) => {}
                }
            }
            Message::Keepalive { .. } => {}
        }
    }

    fn hand_over(&mut self, row: usize, xid: u32, world: &mut World, from_table: bool) {
        assert!(self.handed.insert(row), "row {row} is handed over twice");
        let bytes = world.rows[row].bytes;
        let accepted = Accepted {
            row: row as i64,
            xid,
            bytes,
            topic: 0,
            since_micros: 0,
            sent_micros: 0,
        };
        let ticket = if from_table {
            self.engine.accept_row(accepted)
        } else {
            self.engine.accept(accepted).expect("inside a transaction")
        };
        assert!(ticket >= self.first_ticket, "tickets are never given again");
        assert!(self.unsettled.insert(ticket));
        let entries = self.unsettled.last().map_or(0, |last| last + 1)
            - self.unsettled.first().copied().unwrap_or(0);
        let held = self.engine.snapshot().in_flight_bytes + entries as usize * ENTRY_BYTES;
        let allowed = self.limits.memory_limit + bytes as usize + ENTRY_BYTES;
        assert!(held <= allowed, "{held} bytes in flight, {allowed} allowed");
        world.produce(ticket, row);
    }

    /// Publishes a row that the slot never delivers.
    pub(crate) fn publish_missed(&mut self, world: &mut World) -> bool {
        if self.engine.intake() != Intake::Open || self.stopping {
            return false;
        }
        let known = |row: &usize| world.rows[*row].transaction.is_none();
        let next = self.missed.pop_front().or_else(|| {
            (0..world.rows.len())
                .find(|row| known(row) && !world.rows[*row].marked && !self.handed.contains(row))
        });
        let Some(row) = next else {
            return false;
        };
        if self.handed.contains(&row) || world.rows[row].marked {
            return false;
        }
        world.saw("row from the table");
        self.hand_over(row, 0, world, true);
        true
    }

    /// Kafka's next report for a partition.
    pub(crate) fn report(&mut self, now: Duration, world: &mut World, number: usize) -> bool {
        let Some((ticket, row, delivered)) = world.partitions[number].reports.pop_front() else {
            return false;
        };
        let current = ticket >= self.first_ticket;
        let outcome = if delivered {
            Ok(())
        } else {
            Err(Error::fatal(Code::Publish, "refused"))
        };
        let known = self.engine.delivered(now, ticket, outcome);
        if current && !delivered {
            world.saw("refusal");
            self.refused = true;
            *self.refusals.entry(row).or_default() += 1;
        } else if current {
            assert_eq!(known.map(|accepted| accepted.row), Some(row as i64));
            if self.limits.after_publish == AfterPublish::Keep {
                self.unsettled.remove(&ticket);
            }
        } else {
            world.saw("report of before a reset");
            assert!(known.is_none());
        }
        true
    }

    /// The result of a statement comes back.
    pub(crate) fn written(&mut self, now: Duration, world: &mut World) -> bool {
        if !world.batches.front().is_some_and(|batch| batch.performed) {
            return false;
        }
        let batch = world.batches.pop_front().expect("seen above");
        if batch.generation == self.generation {
            for mark in batch.marks.iter().filter(|mark| mark.settled) {
                assert!(self.unsettled.remove(&mark.ticket), "settled twice");
            }
        } else {
            world.saw("write-back of before a reset");
        }
        self.engine.written_back(now, &batch.marks);
        true
    }

    /// Carries out one output.
    pub(crate) fn carry_out(&mut self, now: Duration, world: &mut World) -> Option<Fate> {
        match self.engine.output()? {
            Output::Status {
                write,
                flush,
                ask_reply,
            } => self.status(world, write.raw(), flush.raw(), ask_reply),
            Output::WriteBack(marks) => {
                assert!(!marks.is_empty(), "an empty write-back");
                let out = world
                    .batches
                    .iter()
                    .any(|batch| batch.generation == self.generation);
                assert!(!out, "two write-backs at a time");
                world.batches.push_back(Batch {
                    marks,
                    generation: self.generation,
                    performed: false,
                });
            }
            Output::LookAtWalsender => {
                let walsender = match world.walsender() {
                    None => Walsender::Gone,
                    Some(walsender) if walsender.busy => Walsender::Busy,
                    Some(_) => Walsender::Idle,
                };
                self.engine.walsender(now, walsender);
            }
            Output::End(end) => return Some(self.end(world, end)),
        }
        Some(Fate::Lives)
    }

    fn status(&mut self, world: &mut World, write: u64, flush: u64, ask_reply: bool) {
        assert!(flush >= self.flush, "the confirmed position went back");
        assert!(world.named.contains(&flush), "{flush} was never named");
        assert!(flush <= write, "confirmed {flush}, received {write}");
        assert!(Some(&write) <= world.named.last(), "{write} was never sent");
        self.flush = flush;
        if let Some(link) = &mut world.link {
            link.to_server.push_back(Status { flush, ask_reply });
        }
    }

    fn end(&mut self, world: &mut World, end: End) -> Fate {
        match end {
            End::Stopped => {
                world.saw("stopped");
                if self.position_known && !self.refused {
                    self.check_stopped(world);
                }
                self.disconnect(world, true);
                return Fate::Stopped;
            }
            End::ServerStopping => {
                world.saw("let the server stop");
                self.disconnect(world, true);
            }
            End::Silent => {
                world.saw("silent");
                self.disconnect(world, false);
            }
            End::Refused(_) => {
                world.saw("rewound for a refusal");
                assert!(self.refused, "nothing was refused");
                assert!(self.engine.is_drained(), "rewound under what was in flight");
                self.disconnect(world, false);
                self.reset(world);
            }
            End::GaveUp(_) => {
                world.saw("gave up");
                let most = self.refusals.values().max();
                assert!(most >= Some(&self.limits.attempts), "gave up too early");
                self.disconnect(world, false);
                return Fate::GaveUp;
            }
            End::Violated(violation) => panic!("a lawful server was accused: {violation}"),
        }
        Fate::Lives
    }

    /// A stop that was waited for leaves nothing that the next start would send again.
    fn check_stopped(&self, world: &World) {
        for row in &self.handed {
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
