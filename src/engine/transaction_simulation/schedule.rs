//! Runs the engine with exactly once in thousands of seeded worlds, with kills between any two
//! steps, requests that arrive after their producer, commits whose outcome is not known, refused
//! batches, and crashes of Postgres.
//!
//! After every step a reader of committed records must have no row twice and none out of order, and
//! the slot must not be past the progress record. At the end all faults are lifted: then each row
//! must be there once, and be marked and confirmed.

use std::time::Duration;

use fastrand::Rng;

use crate::engine::Engine;
use crate::engine::exactly_once::transaction::CommitOutcome;
use crate::engine::output::Limits;
use crate::engine::seeds::{self, Seen};
use crate::engine::transaction_simulation::broker::{Answer, Broker, Request};
use crate::engine::transaction_simulation::oracle;
use crate::engine::transaction_simulation::postgres::{Postgres, Row};
use crate::engine::transaction_simulation::process::{Fate, Process, carry_out, limits};
use crate::outbox::{Rejection, RowName};

const MS: Duration = Duration::from_millis(1);
const KEYS: usize = 5;
/// Far more than any schedule needs once all faults are lifted.
const STEPS_TO_HEAL: u32 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Idle,
    Read,
    Send,
    Arrive,
    Ask,
    Retry,
    Work,
    Audit,
    Time,
    // Faults.
    LoseSlot,
    Kill,
    LoseAnswer,
    RepeatEnd,
    Crash,
    FailWork,
    LongTime,
}

const EVERYDAY: [(Step, u32); 10] = [
    (Step::Write, 6),
    (Step::Idle, 1),
    (Step::Read, 40),
    (Step::Send, 16),
    (Step::Arrive, 24),
    (Step::Ask, 6),
    (Step::Retry, 3),
    (Step::Work, 10),
    (Step::Audit, 3),
    (Step::Time, 12),
];

const FAULTS: [(Step, u32); 7] = [
    (Step::Kill, 3),
    (Step::LoseAnswer, 4),
    (Step::RepeatEnd, 4),
    (Step::Crash, 2),
    (Step::FailWork, 2),
    (Step::LongTime, 1),
    (Step::LoseSlot, 1),
];

struct Schedule {
    rng: Rng,
    broker: Broker,
    postgres: Postgres,
    limits: Limits,
    process: Option<Process>,
    now: Duration,
    /// The commits that the oracle has seen, and the position that they have recorded.
    checked_commits: u64,
    recorded: u64,
    steps: Vec<(Step, u32)>,
    poison: f64,
    /// By how many milliseconds the time goes on at most.
    time: u32,
    trace: bool,
    seen: Seen,
}

impl Schedule {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut steps = EVERYDAY.to_vec();
        // Each schedule has a few kinds of faults of its own, so that none hides behind the others.
        for fault in FAULTS {
            if rng.bool() {
                steps.push(fault);
            }
        }
        let limits = limits(&mut rng);
        // Requests about dead letters are read each second.
        let (poison, time) = match rng.u8(0..3) {
            0 => (0.05, 500),
            _ => (0.0, 80),
        };
        Schedule {
            broker: Broker::default(),
            postgres: Postgres::new(),
            limits,
            process: None,
            now: MS,
            checked_commits: 0,
            recorded: oracle::FIRST,
            steps,
            poison,
            time,
            trace,
            seen: Seen::new(),
            rng,
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn run(mut self) -> Seen {
        let count = self.rng.u32(50..400) * if self.poison > 0.0 { 3 } else { 1 };
        for _ in 0..count {
            let step = seeds::choose(&self.steps, &mut self.rng);
            self.take(step);
        }
        self.heal();
        oracle::check_all(&self.broker, &self.postgres);
        if self.broker.aborted() > 0 {
            self.saw("records of an aborted transaction");
        }
        if self.broker.late_ends > 0 {
            self.saw("a late request ended a transaction");
        }
        self.seen
    }

    fn take(&mut self, step: Step) {
        if self.trace {
            eprintln!("{:?} {step:?} slot {}", self.now, self.postgres.confirmed);
        }
        match step {
            Step::Write => self.write(),
            Step::Idle => self.postgres.wal_end += self.rng.u64(1..50),
            Step::Kill => self.kill(),
            Step::Crash => self.crash(),
            Step::Time => self.now += MS * self.rng.u32(1..self.time),
            Step::LongTime => self.now += MS * self.rng.u32(1_000..9_000),
            Step::LoseSlot => self.lose_slot(),
            Step::Arrive => self.arrive(),
            Step::Retry => self.retry(),
            _ => self.step_of_process(step),
        }
        self.turn();
        if self.checked_commits != self.broker.commits {
            self.checked_commits = self.broker.commits;
            self.recorded = oracle::check_progress(&self.broker);
            oracle::check_so_far(&self.broker, &self.postgres);
        }
        oracle::check_slot(self.recorded, &self.postgres);
    }

    fn write(&mut self) {
        let many = if self.rng.u8(0..10) == 0 { 25 } else { 4 };
        let count = self.rng.usize(1..many);
        let (rng, poison) = (&mut self.rng, self.poison);
        let keys: Vec<_> = (0..count)
            .map(|_| (rng.usize(0..KEYS), rng.f64() < poison))
            .collect();
        let gap = self.rng.u64(0..5);
        let is_missed = self.rng.u8(0..6) == 0;
        self.postgres.commit(&keys, gap, is_missed);
    }

    /// The slot is dropped, or its WAL removed.
    fn lose_slot(&mut self) {
        // A first start is not complete before its slot is recorded.
        if self.broker.commits > 0 && self.postgres.has_slot {
            self.postgres.has_slot = false;
            self.saw("a slot was lost");
            self.end_session();
        }
    }

    /// A person retries a dead letter, whose cause is mended or not.
    fn retry(&mut self) {
        if let Some(row) = self.rng.choice(self.postgres.open()) {
            let is_mended = self.rng.u8(0..3) > 0;
            self.postgres.retry(row, is_mended);
            self.saw("a dead letter is retried");
        }
    }

    /// The process ends between any two steps; what it has sent may still arrive.
    fn kill(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        self.saw("killed");
        if process.commit.is_some() {
            self.saw("killed in a commit");
        }
        self.leave(&mut process);
    }

    /// A statement under way may have its effect. The answers of the brokers find no producer.
    fn leave(&mut self, process: &mut Process) {
        if let Some((_, mut work)) = process.work.take()
            && self.rng.bool()
        {
            carry_out(&mut work, &mut self.postgres);
        }
        for request in &mut self.broker.requests {
            if let Request::End { is_late, .. } = request {
                *is_late = true;
            }
        }
        if self.rng.bool() {
            self.broker.requests.clear();
        }
    }

    fn crash(&mut self) {
        match self.rng.bool() {
            true => self.postgres.durable = self.postgres.confirmed,
            false => {
                self.saw("Postgres has crashed");
                self.postgres.crash();
                self.end_session();
            }
        }
    }

    /// The session is over: the same process begins another.
    fn end_session(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        self.leave(&mut process);
        process.engine.session_ended();
        let question = process.question.take();
        self.begin(process.engine);
        // A question outlives the session: it belongs to the process.
        if let Some(process) = &mut self.process {
            process.question = question;
        }
    }

    fn begin(&mut self, engine: Engine) {
        let (broker, postgres) = (&mut self.broker, &mut self.postgres);
        self.process = Some(Process::start(engine, self.now, broker, postgres));
    }

    fn step_of_process(&mut self, step: Step) {
        if self.process.is_none() {
            let engine = Engine::new(self.limits.clone());
            return self.begin(engine);
        }
        let Some(process) = &mut self.process else {
            return;
        };
        let (rng, now) = (&mut self.rng, self.now);
        match step {
            Step::Read if process.healing.is_some() => self.heal_on(),
            Step::Audit if process.healing.is_none() => self.audit(),
            Step::Read => {
                let before = process.passed_over;
                process.read(now, &mut self.postgres, rng);
                let passed_over = process.passed_over > before;
                if passed_over {
                    self.saw("passed over what is there");
                }
            }
            Step::Send => {
                let (log, most) = (rng.usize(0..3), rng.usize(1..5));
                process.flush(log, most, &mut self.broker);
            }
            Step::Ask => {
                process.topics_known(now);
            }
            Step::Work => {
                let before = process.recorded;
                process.work(now, &mut self.postgres, true);
                if process.recorded > before {
                    self.saw("a dead letter was published already");
                }
            }
            Step::FailWork => {
                process.work(now, &mut self.postgres, false);
            }
            Step::LoseAnswer => self.lose_answer(),
            Step::RepeatEnd => self.repeat_end(),
            _ => {}
        }
    }

    fn heal_on(&mut self) {
        let (broker, postgres) = (&self.broker, &mut self.postgres);
        let Some(process) = &mut self.process else {
            return;
        };
        let is_made = process.heal_on(self.now, broker, postgres);
        if process.healing.as_ref().is_some_and(|it| it.found > 0) {
            self.saw("a row that is not marked was in Kafka");
        }
        if is_made {
            self.saw("a slot was healed");
            self.end_session();
        }
    }

    /// A row that no slot has brought is sent from the table.
    fn audit(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let (postgres, unsettled) = (&self.postgres, process.engine.unsettled_rows());
        let is_due = |row: &usize| {
            let of = postgres.rows[*row];
            let is_known = unsettled.contains(&RowName::of_id(*row as i64));
            of.is_missed
                && !of.is_marked
                && !is_known
                && !postgres.letters.contains(row)
                && postgres.commit_of(*row) < postgres.confirmed
        };
        let missed = (0..postgres.rows.len()).find(is_due);
        if let Some(row) = missed.filter(|_| process.engine.takes_rows()) {
            process.offer(self.now, row, "table", postgres);
            self.saw("a missed row is sent");
        }
    }

    /// A request arrives, and its answer.
    fn arrive(&mut self) {
        let next = self.broker.next();
        let Some(at) = self.rng.choice(next) else {
            return;
        };
        let epoch = self.broker.requests[at].epoch();
        let answer = self.broker.receive(at);
        let now = self.now;
        // The answer to a producer that is gone has no receiver.
        let process = self.process.as_mut().filter(|it| it.epoch == epoch);
        if let (Some(answer), Some(process)) = (answer, process) {
            process.answered(now, answer);
        }
    }

    /// The commit has no answer, whether its request arrives or not, now or later.
    fn lose_answer(&mut self) {
        let Some(process) = self.process.as_mut().filter(|it| it.commit.is_some()) else {
            return;
        };
        let failed = CommitOutcome::Failed(Rejection {
            code: "_TIMED_OUT".to_owned(),
            message: String::new(),
        });
        process.committed(self.now, failed);
        for request in &mut self.broker.requests {
            if let Request::End { is_late, .. } = request {
                *is_late = true;
            }
        }
        if self.rng.bool() {
            self.arrive();
        }
        self.saw("a commit without an answer");
    }

    /// The connection is lost, and librdkafka sends the request again over another one. The first
    /// stays under way.
    fn repeat_end(&mut self) {
        let Some(process) = self.process.as_mut().filter(|it| it.commit.is_some()) else {
            return;
        };
        let is_end = |it: &Request| matches!(it, Request::End { is_late: false, .. });
        let Some(at) = self.broker.requests.iter().position(is_end) else {
            return;
        };
        let Request::End { epoch, .. } = self.broker.requests[at] else {
            return;
        };
        self.broker.requests[at] = Request::End {
            epoch,
            is_late: true,
        };
        let is_late = false;
        self.broker.requests.push(Request::End { epoch, is_late });
        let at = self.broker.requests.len() - 1;
        let outcome = match self.broker.receive(at) {
            Some(Answer::Committed) => CommitOutcome::CommittedInDoubt,
            _ => return,
        };
        process.committed(self.now, outcome);
        self.saw("a commit in doubt");
    }

    fn turn(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let before = process.shared;
        let fate = process.turn(self.now, &mut self.broker, &mut self.postgres);
        if process.shared > before {
            self.saw("dead letters shared a transaction");
        }
        match fate {
            Fate::Lives => {}
            Fate::GaveUp => {
                self.saw("gave the producer up");
                self.end_session();
            }
            Fate::Stopped => {
                self.saw("stopped");
                self.process = None;
            }
        }
    }

    /// Lifts all faults, and runs until everything is settled.
    fn heal(&mut self) {
        self.steps = EVERYDAY.to_vec();
        self.steps
            .retain(|(step, _)| !matches!(step, Step::Write | Step::Idle | Step::Retry));
        for _ in 0..STEPS_TO_HEAL {
            if self.is_settled() {
                return;
            }
            let step = seeds::choose(&self.steps, &mut self.rng);
            self.take(step);
        }
        panic!(
            "not settled: slot {} of {}, rows {:?}, {:#?}",
            self.postgres.confirmed,
            self.postgres.wal_end,
            self.postgres.rows,
            self.process.as_ref().map(|it| &it.engine)
        );
    }

    fn is_settled(&self) -> bool {
        let postgres = &self.postgres;
        let rows = postgres.rows.iter().enumerate();
        let is_done =
            |(number, row): (usize, &Row)| row.is_marked || postgres.letters.contains(&number);
        let all_is_sent = postgres.confirmed == postgres.wal_end && rows.into_iter().all(is_done);
        all_is_sent && postgres.requests.is_empty() && postgres.has_slot
    }
}

/// What the schedules have to see.
const EXPECTED: [&str; 16] = [
    "a commit in doubt",
    "a commit without an answer",
    "a dead letter is retried",
    "a dead letter was published already",
    "a late request ended a transaction",
    "a missed row is sent",
    "a row that is not marked was in Kafka",
    "a slot was healed",
    "a slot was lost",
    "dead letters shared a transaction",
    "gave the producer up",
    "killed",
    "killed in a commit",
    "passed over what is there",
    "Postgres has crashed",
    "records of an aborted transaction",
];

#[test]
fn whatever_happens_a_reader_of_committed_records_gets_each_event_once_and_in_order() {
    seeds::run(
        "engine::transaction_simulation",
        &EXPECTED,
        |seed, trace| Schedule::new(seed, trace).run(),
    );
}
