//! The publisher's process in the simulated world: the engine, and a driver that carries its
//! outputs out as the real one does.

use std::time::Duration;

use fastrand::Rng;

use crate::engine::Engine;
use crate::engine::dispatch::Admission;
use crate::engine::exactly_once::limits::TransactionLimits;
use crate::engine::exactly_once::progress::{Phase, Progress, ProgressKey};
use crate::engine::exactly_once::start::{SlotFacts, Start, StartFacts, decide};
use crate::engine::exactly_once::transaction::{CommitOutcome, PROGRESS_TICKET};
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{
    DatabaseWork, DeliveryFailure, DeliveryResult, End, FailureKind, Intake, Limits, Output,
    PendingRequests, SessionOutput, SinkOutput,
};
use crate::engine::record_checks::RecordFacts;
use crate::engine::simulation;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::engine::tracker::{InFlight, Ticket, TransactionName};
use crate::engine::transaction_simulation::broker::{Answer, Broker, Request, Sent, log_of};
use crate::engine::transaction_simulation::healing::Healing;
use crate::engine::transaction_simulation::postgres::{Message, Postgres, SOURCE};
use crate::lsn::Lsn;
use crate::outbox::{Outcome, OwnedRecord, Rejection, RowName};

/// What a turn ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// The producer is given up.
    GaveUp,
    Stopped,
}

pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) epoch: u32,
    /// Records that were not put into a request yet, by log.
    queues: [Vec<Sent>; 3],
    pub(super) work: Option<(u64, DatabaseWork)>,
    /// The commit under way: the engine's generation.
    pub(super) commit: Option<u64>,
    pub(super) question: Option<Vec<String>>,
    /// Events that Kafka had already.
    pub(super) passed_over: u64,
    /// Requests for dead letters whose events Kafka had already.
    pub(super) recorded: u64,
    /// Dead letters that the last progress record named.
    named: Vec<i64>,
    /// Transactions with several retried events.
    pub(super) shared: u64,
    /// The slot is lost, and this makes another one.
    pub(super) healing: Option<Healing>,
}

pub(super) fn key() -> ProgressKey {
    ProgressKey {
        system_id: 7,
        slot: "s".to_owned(),
    }
}

/// The last committed progress.
pub(super) fn recorded(broker: &Broker) -> Option<Progress> {
    let decoded = Progress::decode(&key(), broker.progress()?.as_bytes());
    Some(decoded.expect("we have written it"))
}

/// What is known when a session begins.
pub(super) fn facts(
    progress: Option<Progress>,
    slot: SlotFacts,
    postgres: &Postgres,
) -> StartFacts {
    StartFacts {
        progress,
        slot,
        timeline: 1,
        wal_end: Lsn::new(postgres.wal_end),
        switched_at: None,
        publication: "p".to_owned(),
        answer: None,
        heals: true,
    }
}

fn rejection(code: &str) -> Rejection {
    Rejection {
        code: code.to_owned(),
        message: String::new(),
    }
}

/// Random limits.
pub(super) fn limits(rng: &mut Rng) -> Limits {
    let limits = simulation::limits(rng, 1_000..6_000);
    Limits {
        transactions: Some(TransactionLimits {
            commit_interval: Duration::from_millis(rng.u64(0..200)),
            idle_interval: Duration::from_millis(rng.u64(0..20_000)),
            open_max: Duration::from_millis(rng.u64(1_000..6_000)),
            events_max: rng.usize(1..10),
        }),
        ..limits
    }
}

impl Process {
    /// Begins as the driver does: shuts the producer before out, reads the progress record, decides
    /// with the slot, and streams. `engine` is that of the same process's session before.
    pub(super) fn start(
        mut engine: Engine,
        now: Duration,
        broker: &mut Broker,
        postgres: &mut Postgres,
    ) -> Process {
        if !postgres.has_slot {
            return Process::heal(engine, broker, postgres);
        }
        let epoch = broker.init();
        let progress = recorded(broker);
        let at = Lsn::new(postgres.confirmed);
        let slot = match &progress {
            None => SlotFacts::Created(at),
            Some(_) => SlotFacts::Confirmed(at),
        };
        let start = decide(&facts(progress, slot, postgres));
        let (mut progress, is_new) = match start.expect("nothing contradicts the record") {
            Start::Continue(progress) => (progress, false),
            Start::Begin(progress) => (progress, true),
            Start::CreateSlot => unreachable!("there is a slot"),
        };
        assert_eq!(progress.phase, Phase::Stream);
        let named = progress.dead_letters.clone();
        let rows = std::mem::take(&mut progress.rows);
        engine.reset(at);
        engine.transactions_begun(progress, at, is_new);
        for row in rows {
            engine.accept_recorded(now, InFlight::of_row(row.name(), row.xid, now));
        }
        engine.session_started(now);
        postgres.start(postgres.confirmed);
        Process {
            named,
            ..Process::new(engine, epoch)
        }
    }

    pub(super) fn new(engine: Engine, epoch: u32) -> Process {
        Process {
            engine,
            epoch,
            queues: Default::default(),
            work: None,
            commit: None,
            question: None,
            passed_over: 0,
            recorded: 0,
            named: Vec::new(),
            shared: 0,
            healing: None,
        }
    }

    /// Takes in the next message of the stream, if the engine reads.
    pub(super) fn read(&mut self, now: Duration, postgres: &mut Postgres, rng: &mut Rng) -> bool {
        let intake = self.engine.intake();
        if intake == Intake::Paused {
            return false;
        }
        let Some(message) = postgres.next(rng) else {
            return false;
        };
        self.engine.received(now);
        if intake == Intake::Discard && !matches!(message, Message::Keepalive(_)) {
            return true;
        }
        match message {
            Message::Begin(transaction) => {
                self.engine.begin(TransactionName {
                    commit_lsn: Lsn::new(transaction.commit),
                    xid: transaction.xid,
                    committed_micros: 1,
                });
            }
            Message::Row(row) => self.row(now, row, postgres),
            Message::Commit(transaction) => {
                let (commit, end) = (Lsn::new(transaction.commit), Lsn::new(transaction.end));
                self.engine.commit(commit, end);
            }
            Message::Keepalive(wal_end) => self.engine.keepalive(now, Lsn::new(wal_end), false),
        }
        true
    }

    fn row(&mut self, now: Duration, row: usize, postgres: &Postgres) {
        let index = self.engine.change();
        // The driver knows the dead letters that are filed.
        if index.is_none() || postgres.letters.contains(&row) {
            return;
        }
        self.offer(now, row, "", postgres);
    }

    /// Offers a row that was read from the stream, or from this source.
    pub(super) fn offer(&mut self, now: Duration, row: usize, source: &str, postgres: &Postgres) {
        let record = postgres.record(row, source);
        let offered = self.engine.offer(Offer {
            row: Some(RowName::of_id(row as i64)),
            xid: 1,
            bytes: 10,
            since_micros: 0,
            sent_micros: now.as_micros() as u64,
            from_table: !source.is_empty(),
            facts: RecordFacts::of_held(&record),
            signature: &|| None,
            rejection: None,
        });
        let Offered {
            ticket, admission, ..
        } = offered.expect("the stream is in order");
        match admission {
            Admission::Send => self.send(ticket, &record, postgres),
            Admission::Keep(reason) => {
                self.passed_over += u64::from(format!("{reason:?}") == "Published");
                self.engine.keep(now, ticket, Box::new(record), reason);
            }
        }
    }

    fn send(&mut self, ticket: Ticket, record: &OwnedRecord, postgres: &Postgres) {
        let value = std::str::from_utf8(record.value().unwrap_or_default());
        let value = value.expect("a number").to_owned();
        let row = postgres.rows[value.parse::<usize>().expect("a number")];
        self.queues[log_of(ticket, row.key)].push(Sent {
            ticket,
            value,
            is_poison: row.is_poison,
            is_streamed: record.header(SOURCE).is_none(),
        });
    }

    /// librdkafka puts the first records of a queue into a request.
    pub(super) fn flush(&mut self, log: usize, most: usize, broker: &mut Broker) -> bool {
        let queue = &mut self.queues[log];
        let count = most.min(queue.len());
        if count == 0 {
            return false;
        }
        broker.requests.push(Request::Produce {
            epoch: self.epoch,
            log,
            batch: queue.drain(..count).collect(),
        });
        true
    }

    /// Carries out what is due.
    pub(super) fn turn(
        &mut self,
        now: Duration,
        broker: &mut Broker,
        postgres: &mut Postgres,
    ) -> Fate {
        self.engine.check_session(now);
        self.engine.poll(now);
        while let Some(output) = self.engine.output() {
            match output {
                Output::Sink(SinkOutput::Send { ticket, record }) => {
                    self.send(ticket, &record, postgres);
                }
                Output::Sink(SinkOutput::RecordProgress(progress)) => {
                    let letters = &progress.dead_letters;
                    let new = letters.iter().filter(|id| !self.named.contains(id));
                    self.shared += u64::from(new.count() > 1);
                    self.named.clone_from(letters);
                    let value = String::from_utf8(progress.encode(&key())).expect("JSON");
                    self.queues[log_of(PROGRESS_TICKET, 0)].push(Sent {
                        ticket: PROGRESS_TICKET,
                        value,
                        is_poison: false,
                        is_streamed: false,
                    });
                }
                Output::Sink(SinkOutput::CommitTransaction { generation }) => {
                    assert!(
                        self.queues.iter().all(Vec::is_empty),
                        "a record is not sent"
                    );
                    assert!(self.commit.is_none(), "two commits at a time");
                    self.commit = Some(generation);
                    let (epoch, is_late) = (self.epoch, false);
                    broker.requests.push(Request::End { epoch, is_late });
                }
                Output::Sink(SinkOutput::QueryTopics(names)) => self.question = Some(names),
                Output::Sink(SinkOutput::Work { generation, work }) => {
                    self.work = Some((generation, work));
                }
                Output::Sink(
                    SinkOutput::Trust { .. }
                    | SinkOutput::ReplaceProducer(_)
                    | SinkOutput::ReadBack { .. },
                ) => {
                    panic!("not with transactions");
                }
                Output::Session(SessionOutput::Status { flush, .. }) => {
                    let confirmed = postgres.confirmed.max(flush.raw());
                    postgres.confirmed = confirmed;
                }
                Output::Session(SessionOutput::InspectWalsender) => {}
                Output::Session(SessionOutput::End(end)) => return ended(end),
            }
        }
        Fate::Lives
    }

    /// The broker has answered.
    pub(super) fn answered(&mut self, now: Duration, answer: Answer) {
        let report = |kind: Option<FailureKind>| {
            move |ticket: Ticket| DeliveryResult {
                ticket,
                failure: kind.map(|kind| DeliveryFailure {
                    kind,
                    rejection: rejection("REFUSED"),
                    number: 1,
                }),
                suspicion: 0,
                record: None,
            }
        };
        let (tickets, kind) = match answer {
            Answer::Appended(tickets) => (tickets, None),
            Answer::Refused(tickets) => (tickets, Some(FailureKind::Refused)),
            Answer::Fenced(tickets) => (tickets, Some(FailureKind::Producer)),
            Answer::Committed => return self.committed(now, CommitOutcome::Committed),
            Answer::NotCommitted => {
                let failed = CommitOutcome::Failed(rejection("STATE"));
                return self.committed(now, failed);
            }
        };
        for result in tickets.into_iter().map(report(kind)) {
            self.engine.delivery_finished(now, result, &mut Vec::new());
        }
    }

    /// A commit has ended, as far as librdkafka knows.
    pub(super) fn committed(&mut self, now: Duration, outcome: CommitOutcome) {
        if let Some(generation) = self.commit.take() {
            self.engine
                .commit_finished(now, generation, outcome, &mut Vec::new());
        }
    }

    /// Kafka tells of the topics.
    pub(super) fn topics_known(&mut self, now: Duration) -> bool {
        let Some(names) = self.question.take() else {
            return false;
        };
        let known = || MetadataAnswer::Known(TopicLimits::default());
        let answers = names.into_iter().map(|name| (name, known())).collect();
        self.engine.topics_answered(now, Some(answers));
        true
    }

    /// The database does its work, and the answer arrives if `is_known`.
    pub(super) fn work(&mut self, now: Duration, postgres: &mut Postgres, is_known: bool) -> bool {
        let Some((generation, mut work)) = self.work.take() else {
            return false;
        };
        carry_out(&mut work, postgres);
        if let DatabaseWork::Mark(marks) = &mut work
            && !is_known
        {
            marks
                .iter_mut()
                .for_each(|mark| mark.outcome = Outcome::Open);
        }
        let result = match (&work, is_known) {
            (_, false) => Err(()),
            (DatabaseWork::ReadRequests { .. }, true) => {
                let requests = postgres.requests();
                let recorded = requests.iter().map(|it| it.dead_letter);
                let recorded = recorded.filter(|it| self.engine.is_recorded(*it));
                self.recorded += recorded.count() as u64;
                Ok(Some(PendingRequests {
                    requests,
                    ..PendingRequests::default()
                }))
            }
            (_, true) => Ok(None),
        };
        self.engine
            .work_finished(now, generation, work, result, None);
        true
    }
}

/// What the statements do, whether their answer arrives or not.
pub(super) fn carry_out(work: &mut DatabaseWork, postgres: &mut Postgres) {
    match work {
        DatabaseWork::Mark(marks) => {
            for mark in marks {
                let row = mark.row.id.number().expect("ids are numbers") as usize;
                postgres.rows[row].is_marked = true;
                mark.outcome = Outcome::Settled;
            }
        }
        DatabaseWork::File(letters) => {
            for letter in letters {
                let row = letter.row.as_ref().and_then(|row| row.id.number());
                let row = row.expect("it has a row") as usize;
                postgres.letters.insert(row);
                postgres.requests.remove(&row);
            }
        }
        DatabaseWork::Close(closings) => {
            for closing in closings {
                let row = closing.dead_letter as usize;
                postgres.requests.remove(&row);
                postgres.rows[row].is_marked = true;
            }
        }
        _ => {}
    }
}

fn ended(end: End) -> Fate {
    match end {
        End::Stopped => Fate::Stopped,
        End::ProducerFailed(_) | End::Expired | End::ReceiveTimeout => Fate::GaveUp,
        other => panic!("a correct world was accused: {other:?}"),
    }
}
