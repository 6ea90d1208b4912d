//! Every decision of the publisher: a pure state machine from what happened to what to do.
//!
//! Inputs are methods (a decoded change, a keepalive, a delivery result, a finished write-back, the
//! time, a stop); outputs are taken with [`Engine::output`]. The engine has no socket, clock, task
//! or log: the driver carries the outputs out and decides nothing, and a test can play any order of
//! events with a crash between any two.
//!
//! What always holds, and is asserted in debug builds here and in [`Tracker`]:
//!
//! - I1 the reported flush position never passes an event that Kafka has not acknowledged, or (with
//!   mark and delete) whose row is not written back: confirmed means marked;
//! - I2 it never goes back within a lineage, and never lies below the slot's position;
//! - I3 it is the slot's start, the end of a transaction that was received whole and settled, or a
//!   keepalive's position with nothing older pending;
//! - I4 flush ≤ write = received; apply = flush;
//! - I5 no position is computed; [`Lsn`] has no arithmetic;
//! - I6 an event is named by its commit position and its index in the transaction, and commit
//!   positions grow;
//! - I7 bytes in flight stay below the limit plus one event; at the limit the driver stops reading,
//!   never reporting;
//! - I8 only a Commit closes a transaction; the changes of one that was cut in two are skipped when
//!   they come again, as far as they were sent;
//! - I9 an event is settled by Kafka's acknowledgement and the write-back, or by a dead letter that
//!   is committed, and by nothing else: a log line settles nothing;
//! - I10 one task drives the engine, and the delivery reports end with it;
//! - I11 tracker, write-back and retries belong to one lineage: [`Engine::reset`] drops them
//!   together;
//! - I12 every wait has a name: [`Engine::stats`] shows what is not read, not acknowledged or not
//!   written back.

mod database_work;
pub(crate) mod dead_letters;
mod delivery;
pub(crate) mod dispatch;
pub(crate) mod exactly_once;
mod failover_gate;
mod feedback;
mod fencing;
mod filing_limit;
pub(crate) mod offer;
pub(crate) mod output;
mod parked_keys;
mod pause;
pub(crate) mod producer;
mod receive_timeout;
pub(crate) mod record_checks;
pub(crate) mod required_parts;
mod retention;
mod scheduler;
mod session;
pub(crate) mod topics;
pub(crate) mod tracker;
pub(crate) mod write_back_queue;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transaction_simulation;

#[cfg(test)]
pub(crate) use simulation::{row_ids, seeds};

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::dead_letters::DeadLetterQueue;
use crate::engine::dispatch::Dispatch;
use crate::engine::exactly_once::state::ExactlyOnce;
use crate::engine::failover_gate::FailoverGate;
use crate::engine::feedback::Feedback;
use crate::engine::fencing::Fencing;
use crate::engine::output::{End, EngineStats, Intake, Limits, Output, SinkOutput, WRITE_BACK_MAX};
use crate::engine::pause::Pause;
use crate::engine::receive_timeout::ReceiveTimeout;
use crate::engine::retention::Retention;
use crate::engine::topics::placing::WallClock;
use crate::engine::tracker::violation::Violation;
use crate::engine::tracker::{Tracker, TransactionName};
use crate::engine::write_back_queue::WriteBackQueue;
use crate::engine::write_back_queue::foreign_marks::ForeignMarks;
use crate::lsn::Lsn;

#[derive(Debug)]
enum Mode {
    Running,
    Stopping { final_keepalives: u32 },
}

/// What the database worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    Idle,
    Reading,
    Writing,
    /// It deletes old rows, which no stop waits for.
    Deleting,
}

/// See the module's head. `delivery` has the methods about Kafka and the dead letters.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) limits: Limits,
    pub(super) tracker: Tracker,
    pub(super) write_back_queue: WriteBackQueue,
    pub(super) foreign_marks: ForeignMarks,
    pub(super) dispatch: Dispatch,
    pub(super) retention: Retention,
    /// None at least once.
    pub(super) exactly_once: Option<Box<ExactlyOnce>>,
    pub(super) session: Option<Feedback>,
    /// The server may have ended the session: nothing more is read from it.
    pub(super) session_expired: bool,
    /// The clock has jumped during this session.
    pub(super) clock_jumped: bool,
    pub(super) fencing: Fencing,
    pub(super) receive_timeout: ReceiveTimeout,
    pub(super) failover_gate: FailoverGate,
    mode: Mode,
    pub(super) pause: Pause,
    pub(super) reported: Lsn,
    pub(super) decoding: bool,
    pub(super) worker: WorkerState,
    /// The next work is marks, not dead letters. They alternate, so neither starves the other.
    pub(super) marks_first: bool,
    /// Grows with each reset. Results of an earlier generation are ignored.
    pub(super) generation: u64,
    pub(super) halted: bool,
    pub(super) now: Duration,
    pub(super) outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine that has received nothing and has no session.
    pub(crate) fn new(limits: Limits) -> Self {
        let write_back_queue =
            WriteBackQueue::new(limits.batch_size, WRITE_BACK_MAX, limits.process_interval);
        Engine {
            tracker: Tracker::new(Lsn::INVALID),
            write_back_queue,
            foreign_marks: ForeignMarks::default(),
            dispatch: Dispatch::new(&limits),
            retention: Retention::new(limits.retain, limits.retain_share),
            exactly_once: limits.transactions.map(|it| Box::new(ExactlyOnce::new(it))),
            session: None,
            session_expired: false,
            clock_jumped: false,
            fencing: Fencing::new(limits.receive_timeout),
            receive_timeout: ReceiveTimeout::new(limits.receive_timeout),
            failover_gate: FailoverGate::default(),
            limits,
            mode: Mode::Running,
            pause: Pause::default(),
            reported: Lsn::INVALID,
            decoding: false,
            worker: WorkerState::Idle,
            marks_first: true,
            generation: 0,
            halted: false,
            now: Duration::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// For another lineage, or a rewind: drops all events in memory. The stream begins at `start`,
    /// the slot's position.
    pub(crate) fn reset(&mut self, start: Lsn) {
        self.tracker.reset(start);
        self.write_back_queue.clear();
        self.dispatch.reset();
        // These are output only once. What is known of topics survives a reset, and the producer is
        // replaced with or without records.
        self.outputs.retain(|output| {
            matches!(
                output,
                Output::Sink(SinkOutput::QueryTopics(_) | SinkOutput::ReplaceProducer(_))
            )
        });
        self.reported = start;
        (self.worker, self.halted) = (WorkerState::Idle, false);
        self.retention.reset();
        self.exactly_once.iter_mut().for_each(|it| it.reset());
        self.fencing.clear();
        self.failover_gate.clear();
        self.generation += 1;
    }

    /// The wall clock shows this, in milliseconds since 1970. Topics take only records of certain
    /// times; without a clock that is not checked beforehand.
    pub(crate) fn set_wall_clock(&mut self, now: Duration, millis: i64) {
        self.dispatch.wall_clock = WallClock::shows(now, millis);
    }

    /// Begin of a transaction.
    pub(crate) fn begin(&mut self, name: impl Into<TransactionName>) {
        let name = name.into();
        self.failover_gate.pass(name.commit_lsn);
        self.foreign_marks.begin(name.commit_lsn);
        self.dispatch.topics.read_back.passed(name.commit_lsn);
        self.pause.transaction_began(self.tracker.is_open());
        self.compare_history(name);
        let result = self.tracker.begin(name);
        self.end_if_violated(result);
    }

    /// Counts a decoded change of any kind. Returns its index in the transaction, or `None` if an
    /// earlier session handed it over.
    pub(crate) fn change(&mut self) -> Option<u32> {
        let result = self.tracker.change();
        self.end_if_violated(result).flatten()
    }

    /// Commit of the transaction.
    pub(crate) fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) {
        let result = self.tracker.commit(commit_lsn, end_lsn);
        self.end_if_violated(result);
    }

    pub(super) fn end_if_violated<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result
            .map_err(|violation| self.push(End::Violated(violation)))
            .ok()
    }

    /// A keepalive of the server.
    pub(crate) fn keepalive(&mut self, now: Duration, wal_end: Lsn, reply_requested: bool) {
        self.failover_gate.pass(wal_end);
        self.dispatch.topics.read_back.passed(wal_end);
        let is_reported = self.is_finished() && self.reported == self.flushed();
        let is_proven = self.is_proven();
        if let Mode::Stopping { final_keepalives } = &mut self.mode
            && is_proven
        {
            *final_keepalives += u32::from(is_reported);
        } else {
            let result = self.tracker.keepalive(wal_end);
            self.end_if_violated(result);
        }
        if let Some(session) = &mut self.session
            && session.keepalive(now, wal_end, reply_requested)
        {
            self.push(End::ServerStopping);
        }
    }

    /// Requests a stop: the engine takes in the rest of the open transaction, and nothing behind
    /// it. [`End::Stopped`] follows when everything is settled and confirmed.
    pub(crate) fn stop(&mut self) {
        if !self.is_stopping() {
            self.mode = Mode::Stopping {
                final_keepalives: 0,
            };
            if let Some(session) = &mut self.session {
                session.update_soon();
            }
        }
    }

    /// Adds the outputs that are due at `now`. To be called after inputs, and at the
    /// [`deadline`](Engine::deadline).
    pub(crate) fn poll(&mut self, now: Duration) {
        self.now = now;
        let reading = self.intake() != Intake::Paused;
        let stopping = self.is_stopping();
        let finished = self.is_finished();
        self.dispatch.end_back_offs(now);
        self.query_kafka(now);
        self.watch_producer(now);
        self.turn_transaction(now);
        let end = self.halt_end();
        self.start_work(now, stopping || !reading || self.session.is_none());
        self.report(now, reading, stopping && finished, end.is_some());
        if let Some(end) = end {
            self.push(end);
        }
    }

    /// Whether an event stops the publisher.
    fn is_halting(&self) -> bool {
        self.dispatch.halt_reason().is_some()
    }

    pub(super) fn push(&mut self, output: impl Into<Output>) {
        self.outputs.push_back(output.into());
    }

    /// The next output, if any.
    pub(crate) fn output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_some() || self.is_halting() || !self.is_proven() {
            return output;
        }
        if !self.sends_held() {
            return None;
        }
        let output = self.dispatch.output(self.now, &self.tracker);
        if let Some(SinkOutput::Send { ticket, .. }) = output {
            self.held_is_sent(ticket);
        }
        output.map(Output::Sink)
    }

    /// When [`poll`](Engine::poll) is due even if no input comes.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let session = self
            .session
            .as_ref()
            .map(|session| session.deadline(self.flushed()));
        let dead_letters = self
            .allows_dead_letter_work()
            .then_some(&self.dispatch.dead_letters);
        let dead_letters = dead_letters.and_then(DeadLetterQueue::deadline);
        let pause = self.pause.deadline().filter(|_| !self.is_stopping());
        let retention = self.retention_deadline();
        let marks = self.write_back_queue.deadline();
        let work = [marks, dead_letters, pause, retention];
        let work = work.into_iter().flatten().filter(|_| self.can_work());
        let work = work.chain(session).chain(self.transaction_deadline());
        work.chain(self.dispatch.deadline()).min()
    }

    /// What the driver does with messages from the server.
    pub(crate) fn intake(&self) -> Intake {
        match self.mode {
            _ if self.session_expired => Intake::Paused,
            // What proves the history takes no memory, and frees what waits for the proof.
            _ if !self.is_proven() => Intake::Open,
            _ if self.awaits_history() => Intake::Open,
            Mode::Stopping { .. } if !self.is_in_transaction() => Intake::Discard,
            _ if self.is_between_transactions() => Intake::Paused,
            _ if self.is_halting() || self.write_back_queue.is_full() => Intake::Paused,
            _ if self.pause.is_on() && !self.is_in_transaction() => Intake::Paused,
            _ if self.tracker.bytes() < self.limits.memory_limit => Intake::Open,
            _ => Intake::Paused,
        }
    }

    /// Whether nothing is in flight and nothing waits to be written to the database.
    pub(crate) fn is_drained(&self) -> bool {
        let written = self.is_written_back() && self.dispatch.dead_letters.is_idle();
        self.tracker.in_flight_count() == 0 && written && !self.has_uncommitted()
    }

    /// Whether a pause was requested: a session has read that when it began, or later.
    pub(crate) fn set_paused(&mut self, now: Duration, is_paused: bool) {
        self.pause.set(now, is_paused);
    }

    /// Whether a row of the table may be published beside the stream. A pause lets in the rest of
    /// an open transaction alone.
    pub(crate) fn takes_rows(&self) -> bool {
        self.intake() == Intake::Open && !self.pause.is_on() && self.takes_row_beside_stream()
    }

    /// Whether nothing is taken in because of a pause.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_on()
    }

    /// Whether a stop was requested.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.mode, Mode::Stopping { .. })
    }

    /// Whether a stop waits for the slot's position alone.
    fn is_finished(&self) -> bool {
        self.is_drained() && !self.is_in_transaction()
    }

    /// Whether this session is inside a transaction whose rest is taken in, at a stop as well: the
    /// next start would send its first events again otherwise.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.session.is_some() && self.tracker.is_open() && !self.pause.holds_transaction()
    }

    /// Figures for status and metrics.
    pub(crate) fn stats(&self) -> EngineStats {
        let (locked, hidden) = self.write_back_queue.stuck();
        let oldest = self.tracker.oldest_in_flight();
        let is_unfiled = |(ticket, _): &(_, _)| self.dispatch.dead_letters.is_unfiled(*ticket);
        EngineStats {
            received: self.tracker.received(),
            confirmed: self.flushed(),
            in_flight_count: self.tracker.in_flight_count(),
            in_flight_bytes: self.tracker.in_flight_bytes(),
            unmarked_count: self.write_back_queue.len(),
            locked,
            hidden,
            decoding: self.decoding,
            standby: self.failover_gate.is_standby_late(),
            rewind_count: self.dispatch.rewind_count(),
            is_oldest_unfiled: oldest.as_ref().is_some_and(is_unfiled),
            oldest: oldest.map(|(_, event)| event.clone()),
        }
    }
}
