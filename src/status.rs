//! The publisher's status: a snapshot for `/status`, health checks and people.
//!
//! Owns the board that the engine's task writes and all others read. Readers never hold up the
//! writer: each takes the lock of the status once, for some assignments or a copy. The locks of
//! waits, backlog and recent problems are taken after it, and none before it. The board also logs
//! the waits and the backlog that it shows (`board_log`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::status::backlog::BacklogLog;
use crate::status::wait_log::WaitLog;

mod backlog;
mod board_log;
mod dead_letters;
mod flow;
pub(crate) mod headline;
mod health;
pub(crate) mod history;
mod instance;
mod latency;
mod names;
pub(crate) mod pause;
mod phase;
pub(crate) mod readiness;
mod recent_problems;
mod retention;
pub(crate) mod summary;
mod wait_log;

pub use backlog::{BacklogProgress, BacklogUnit};
pub(crate) use board_log::{ShownWait, Turn};
pub use dead_letters::{DeadLetterGroup, OpenDeadLetters};
pub(crate) use flow::FlowMeter;
pub use flow::{Flow, TopicFlow};
pub use health::{Problem, SlotHealth};
use history::History;
pub(crate) use history::Sample;
pub use instance::Instance;
pub(crate) use names::{PARTITIONS, PROBLEMS, SOMEBODY_ELSE_PUBLISHES, WAITS, WAL_STATUSES};
pub use pause::Pause;
use pause::PauseLog;
pub use phase::Phase;
pub use recent_problems::RecentProblem;
use recent_problems::RecentProblems;
pub use retention::RetentionStatus;
pub(crate) use wait_log::{FOREIGN_LOCK, LOCK};

/// A wait that lasts longer matters: the publisher is not ready.
pub(crate) const WAIT_MATTERS: Duration = Duration::from_secs(60);

/// A shorter wait is part of normal work.
pub(crate) const WAIT_SHOWS: Duration = Duration::from_secs(5);

/// Something the publisher waits for, by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Waiting {
    /// `kafka`, `lock`, `foreign-lock`, `snapshot`, `decoding`, `write-back`, `standby` or
    /// `postgres`.
    pub on: &'static str,
    /// Which topic, which other instance, which transaction.
    pub detail: String,
    /// For how long.
    pub seconds: f64,
}

impl Waiting {
    /// Whether it has lasted so long that it matters.
    pub(crate) fn is_long(&self) -> bool {
        self.seconds > WAIT_MATTERS.as_secs_f64()
    }
}

/// A snapshot of the publisher.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Which process this is.
    pub instance: Instance,
    /// Where it is in its life.
    pub phase: Phase,
    /// What it waits for, if anything.
    pub waiting: Option<Waiting>,
    /// The pause that a person has requested, if there is one.
    pub paused: Option<Pause>,
    /// The replication slot; absent where the table is polled.
    pub slot: Option<String>,
    /// The publication; absent where the table is polled.
    pub publication: Option<String>,
    /// The outbox table.
    pub table: String,
    /// The server's system identifier, once connected.
    pub system_id: Option<String>,
    /// The server's timeline, once connected.
    pub timeline: Option<u32>,
    /// Highest position received.
    pub received_lsn: Option<String>,
    /// Highest position that may be confirmed.
    pub confirmed_lsn: Option<String>,
    /// Whether a broker has answered since the start.
    pub kafka_has_answered: bool,
    /// Events acknowledged by Kafka since the start.
    pub published_total: u64,
    /// What flowed in the last minute.
    pub flow: Flow,
    /// Records handed to Kafka and not acknowledged.
    pub in_flight_records: u64,
    /// Bytes of those records.
    pub in_flight_bytes: u64,
    /// Events that are in Kafka and whose rows are not written back yet.
    pub unmarked_records: u64,
    /// Unpublished rows in the table, those with a dead letter included, as last counted, up to
    /// 1,000,000; absent while they cannot be counted, and where rows are not marked as published.
    pub unpublished_rows: Option<u64>,
    /// Whether there are more.
    pub unpublished_more: bool,
    /// Unpublished rows that wait for the decision about their dead letters, up to 10,000.
    pub dead_letter_rows: u64,
    /// The open dead letters, as last counted.
    pub dead_letters: OpenDeadLetters,
    /// Age of the oldest record that Kafka has not acknowledged.
    pub oldest_unacknowledged_seconds: f64,
    /// What was deleted of the published rows; absent where they are kept.
    pub retention: Option<RetentionStatus>,
    /// The slot, as last read from the server.
    pub slot_health: Option<SlotHealth>,
    /// The backlog that is being sent, if there is one.
    pub backlog: Option<BacklogProgress>,
    /// The problems of slot, publication and table.
    #[serde(rename = "troubles")]
    pub problems: Vec<Problem>,
    #[serde(skip)]
    pub(crate) partition_problem: Option<Problem>,
    /// Events that the slot missed and that are not published yet.
    pub missed_events: u64,
    /// Events that the slot missed, since the start.
    pub missed_events_total: u64,
    /// Completed audits of the slot against the table, since the start.
    pub audits_total: u64,
    /// Sessions that were lost.
    pub reconnects: u64,
    /// The last error, with its causes.
    pub last_error: Option<String>,
    /// The last errors, problems and waits, the newest first; at most 10.
    pub recent_problems: Vec<RecentProblem>,
    #[serde(skip)]
    pub(crate) history: History,
    /// How long ago the engine's loop last turned.
    pub loop_age_seconds: f64,
}

impl Status {
    /// Before anything has happened. `slot`: the names of the slot and its publication, if there
    /// is a slot.
    pub(crate) fn new(database: String, slot: Option<(String, String)>, table: &str) -> Self {
        let (slot, publication) = slot.unzip();
        Status {
            instance: Instance::new(database),
            phase: Phase::Connecting,
            waiting: None,
            paused: None,
            slot,
            publication,
            table: table.to_owned(),
            system_id: None,
            timeline: None,
            received_lsn: None,
            confirmed_lsn: None,
            kafka_has_answered: false,
            published_total: 0,
            flow: Flow::default(),
            in_flight_records: 0,
            in_flight_bytes: 0,
            unmarked_records: 0,
            unpublished_rows: None,
            unpublished_more: false,
            dead_letter_rows: 0,
            dead_letters: OpenDeadLetters::default(),
            oldest_unacknowledged_seconds: 0.0,
            retention: None,
            slot_health: None,
            backlog: None,
            problems: Vec::new(),
            partition_problem: None,
            missed_events: 0,
            missed_events_total: 0,
            audits_total: 0,
            reconnects: 0,
            last_error: None,
            recent_problems: Vec::new(),
            history: History::default(),
            loop_age_seconds: 0.0,
        }
    }

    /// Sets the problems, and adds that of the partitions, which is found by itself.
    pub(crate) fn set_problems(&mut self, problems: Vec<Problem>) {
        self.problems = problems;
        self.problems.extend(self.partition_problem.clone());
    }

    /// What a stop still waits for, in words.
    pub(crate) fn rest(&self) -> String {
        let (records, rows) = (self.in_flight_records, self.unmarked_records);
        let mut rest = format!("{records} unacknowledged records, {rows} rows not written back");
        if let Some(position) = &self.confirmed_lsn {
            let lag = self.slot_health.as_ref().map(|slot| slot.lag_bytes);
            let lag = lag.map_or_else(String::new, |lag| format!(", {lag} bytes behind the WAL"));
            rest += &format!(", {position} not confirmed by the slot{lag}");
        }
        if let Some(waiting) = &self.waiting {
            rest += &format!(", waiting for {}: {}", waiting.on, waiting.detail);
        }
        rest
    }
}

/// The board: written by the engine's task, read by all others.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    status: Mutex<Status>,
    born: Instant,
    turned_millis: AtomicU64,
    waits: Mutex<WaitLog>,
    backlog: Mutex<BacklogLog>,
    recent_problems: Mutex<RecentProblems>,
    pause: Mutex<PauseLog>,
}

impl StatusBoard {
    /// The board of a publisher that has not started.
    pub(crate) fn new(status: Status) -> Self {
        StatusBoard {
            status: Mutex::new(status),
            born: Instant::now(),
            turned_millis: AtomicU64::new(0),
            waits: Mutex::default(),
            backlog: Mutex::default(),
            recent_problems: Mutex::default(),
            pause: Mutex::default(),
        }
    }

    /// Records that the loop has turned.
    pub(crate) fn turn(&self) {
        self.turned_millis
            .store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.turn();
        self.lock().phase = phase;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.turn();
        self.change(&mut self.lock(), change);
    }

    fn change(&self, status: &mut Status, change: impl FnOnce(&mut Status)) {
        change(status);
        for problem in &status.problems {
            self.note(problem.name, &problem.detail, Some(&problem.hint));
        }
    }

    /// Adds a sample to the history, with the present time and lag.
    fn sample(&self, status: &mut Status, sample: Sample) {
        let lag_bytes = status.slot_health.as_ref().map(|slot| slot.lag_bytes);
        status.history.push(Sample {
            at: self.born.elapsed(),
            lag_bytes,
            ..sample
        });
    }

    /// Sets the phase and the last error: its code, and its text with causes and hint.
    pub(crate) fn failed(&self, phase: Phase, code: &str, report: String) {
        self.turn();
        self.note(code, &report, None);
        let mut status = self.lock();
        status.phase = phase;
        status.last_error = Some(report);
    }

    fn note(&self, name: &str, detail: &str, hint: Option<&str>) {
        self.recent_problems()
            .note(self.born.elapsed(), name, detail, hint);
    }

    fn recent_problems(&self) -> MutexGuard<'_, RecentProblems> {
        self.recent_problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Status {
        // The lock ends with this line.
        let mut status = self.lock().clone();
        if status.slot.is_none() {
            // LSNs mean nothing where the table is polled.
            status.received_lsn = None;
            status.confirmed_lsn = None;
        }
        let turned = self.turned_millis.load(Ordering::Relaxed);
        let age = (self.born.elapsed().as_millis() as u64).saturating_sub(turned);
        status.loop_age_seconds = age as f64 / 1000.0;
        if matches!(status.phase, Phase::Stopped | Phase::Failed) {
            status.loop_age_seconds = 0.0;
        }
        let began = self.waits().began();
        if let (Some(waiting), Some(began)) = (&mut status.waiting, began) {
            waiting.seconds = began.elapsed().as_secs_f64();
        }
        if status.phase == Phase::Standby {
            // Read when this instance published last.
            status.paused = None;
        }
        if let (Some(pause), Some(lasted)) = (&mut status.paused, self.pause_lasts()) {
            pause.seconds = lasted.as_secs_f64();
        }
        let age = self.born.elapsed();
        status.instance.uptime_seconds = age.as_secs_f64();
        status.recent_problems = self.recent_problems().list(age);
        status
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_keeps_its_start_until_its_name_changes_or_it_says_how_long_it_lasts() {
        let board = StatusBoard::new(Status::new(String::new(), None, "outbox.outbox"));
        let seconds = || board.read().waiting.map(|waiting| waiting.seconds);
        let wait_for = |on, detail: &str, seconds| {
            let turn = Turn {
                published: 0,
                sample: None,
                wait: ShownWait::Lasted(on, detail.to_owned(), Duration::from_secs(seconds)),
            };
            board.show(turn, |_| {});
        };
        wait_for("write-back", "1 row", 90);
        assert!(seconds() >= Some(90.0));
        assert!(
            board
                .read()
                .waiting
                .is_some_and(|waiting| waiting.is_long())
        );
        board.wait(Some(("write-back", "2 rows".to_owned())));
        assert!(seconds() >= Some(90.0));
        board.wait(Some(("kafka", "x".to_owned())));
        assert!(seconds() < Some(10.0));
        wait_for("write-back", "1 row", 95);
        assert!(seconds() >= Some(95.0));
        board.wait(None);
        assert_eq!(seconds(), None);
    }
}
