//! The engine's side towards one replication session: received bytes, silence, the walsender, the
//! lock.
//!
//! Owns nothing; `receive_timeout`, `fencing` and `failover_gate` decide.

use std::time::Duration;

use crate::engine::feedback::Feedback;
use crate::engine::output::{DatabaseWork, End, Output, SessionOutput, SinkOutput, Walsender};
use crate::engine::write_back_queue::foreign_marks::MarkedByOther;
use crate::engine::{Engine, Mode, WorkerState};
use crate::lsn::Lsn;
use crate::outbox::Rejection;

impl Engine {
    /// A session streams from now on.
    pub(crate) fn session_started(&mut self, now: Duration) {
        self.clear_session();
        self.clock_jumped = false;
        self.fencing.lock_held();
        let receive_timeout = self
            .receive_timeout
            .session_started(self.tracker.received());
        let interval = self.limits.status_interval;
        self.session = Some(Feedback::new(now, interval, receive_timeout));
        self.poll(now);
    }

    /// The server was restarted, perhaps on an older copy of its files: no row is marked and no
    /// position confirmed until the stream has proven that its history is still the same. Returns
    /// the position up to which the proof covers it.
    pub(crate) fn doubt(&mut self) -> Lsn {
        self.tracker.doubt()
    }

    /// Where the next session of this lineage starts: every transaction before it was received
    /// whole.
    pub(crate) fn resume_at(&self) -> Lsn {
        self.tracker.complete()
    }

    /// The last position reported to the server as flushed.
    pub(crate) fn reported(&self) -> Lsn {
        self.reported
    }

    /// Whether memory belongs to the server's history.
    pub(crate) fn is_proven(&self) -> bool {
        self.tracker.unproven().is_none()
    }

    /// Where the stream has to begin to prove memory, with a slot at `confirmed`. `None` if nothing
    /// can, so that a reset has to follow.
    pub(crate) fn expect_proof(&mut self, confirmed: Lsn) -> Option<Lsn> {
        self.tracker.expect(confirmed)
    }

    /// Whether work in the database may start.
    pub(super) fn can_work(&self) -> bool {
        self.worker == WorkerState::Idle && self.is_proven() && !self.forbids_marks()
    }

    /// Whether no row waits for its mark, and no statement that writes is under way.
    pub(super) fn is_written_back(&self) -> bool {
        self.write_back_queue.len() == 0 && self.worker != WorkerState::Writing
    }

    /// While stopping: the slot's confirmed position, or `None` if the server no longer reports it.
    pub(crate) fn slot_position(&mut self, position: Option<Lsn>) {
        let Mode::Stopping { final_keepalives } = self.mode else {
            return;
        };
        if !self.is_finished() {
            return;
        }
        let confirmed = match position {
            Some(position) => position >= self.recorded(self.tracker.flushed()),
            None => final_keepalives >= 2,
        };
        if confirmed {
            self.push(End::Stopped);
        } else if let Some(session) = &mut self.session {
            // The server's reply has the stream's position, which shows whether the standbys have
            // the marks.
            session.update_soon();
        }
    }

    /// The session has ended, for any reason. Delivery reports and write-backs of its events are
    /// still taken in.
    pub(crate) fn session_ended(&mut self) {
        if let Some(session) = self.session.take() {
            self.fencing.lock_lost(session.received_at());
        }
        let expired = std::mem::take(&mut self.session_expired);
        if std::mem::take(&mut self.clock_jumped) || expired {
            self.fencing.withdraw_now();
        }
        self.decoding = false;
        self.failover_gate.observe(false);
        self.receive_timeout.session_ended(self.tracker.received());
        self.tracker.interrupt();
        self.clear_session();
    }

    /// Outputs what is due for the session. At its `last` turn all that is settled is confirmed, so
    /// that the next start repeats none of it.
    pub(super) fn report(&mut self, now: Duration, reading: bool, asks: bool, last: bool) {
        let flush = self.flushed();
        let write = self.tracker.unproven().unwrap_or(self.tracker.received());
        let is_proven = self.is_proven();
        debug_assert!(
            !is_proven || flush >= self.reported,
            "the flush position never goes back"
        );
        debug_assert!(
            flush <= write,
            "no position is confirmed before it is received"
        );
        let Some(session) = &mut self.session else {
            return;
        };
        session.set_reading(now, reading);
        if let Some(due) = session.status_due(now, flush, last) {
            if is_proven {
                self.reported = flush;
            }
            let ask_reply = due.ask_reply || asks;
            let status = SessionOutput::Status {
                write,
                flush,
                ask_reply,
            };
            self.outputs.push_back(status.into());
        }
        if session.check_receive_timeout(now) {
            self.outputs
                .push_back(SessionOutput::InspectWalsender.into());
        }
    }

    /// [`End::Halted`], once, when the event that stops the publisher is the only one not settled.
    pub(super) fn halt_end(&mut self) -> Option<End> {
        let rejection = self.dispatch.halt_reason().filter(|_| !self.halted)?;
        let is_busy = self.dispatch.in_flight_count() > 0 || self.has_uncommitted();
        if is_busy || !self.is_written_back() || !self.dispatch.dead_letters.is_idle() {
            return None;
        }
        let end = End::Halted(Rejection::clone(rejection));
        self.halted = true;
        Some(end)
    }

    /// Drops the outputs about a session. Those for the database and Kafka stay due, as do the ends
    /// that are output only once.
    fn clear_session(&mut self) {
        self.outputs.retain(|output| {
            matches!(
                output,
                Output::Sink(
                    SinkOutput::Work { .. }
                        | SinkOutput::QueryTopics(_)
                        | SinkOutput::ReadBack { .. }
                        | SinkOutput::ReplaceProducer(_)
                ) | Output::Session(SessionOutput::End(End::ProducerFailed(_) | End::Halted(_)))
            )
        });
    }

    /// Bytes came from the server.
    pub(crate) fn received(&mut self, now: Duration) {
        self.decoding = false;
        if let Some(session) = &mut self.session {
            session.received(now);
        }
    }

    /// Whether the server has timed out and sent nothing since.
    fn has_timed_out(&self) -> bool {
        self.session.as_ref().is_some_and(Feedback::has_timed_out)
    }

    /// Takes in the state of the walsender.
    pub(crate) fn walsender(&mut self, now: Duration, walsender: Walsender) {
        match walsender {
            Walsender::Busy => {
                self.received(now);
                self.decoding = true;
            }
            Walsender::Standby => self.received(now),
            // The server sent something while its walsender was inspected.
            Walsender::Idle | Walsender::Gone if !self.has_timed_out() => {}
            Walsender::Idle | Walsender::Gone => {
                self.receive_timeout.timed_out = true;
                self.push(End::ReceiveTimeout);
            }
        }
    }

    /// The clock may have stood still for long. A session is over then, and without one another
    /// instance may publish already.
    pub(crate) fn clock_jumped(&mut self) {
        match self.session.is_some() {
            true => self.clock_jumped = true,
            false => self.fencing.clock_jumped(),
        }
    }

    /// Called at the beginning of each turn of the loop. A session that the server may have ended
    /// is no longer read from.
    pub(crate) fn check_session(&mut self, now: Duration) {
        let expired = |session: &Feedback| session.has_expired(now) || self.clock_jumped;
        if !self.session_expired && self.session.as_ref().is_some_and(expired) {
            self.session_expired = true;
            self.push(End::Expired);
        }
    }

    /// This instance holds the lock from now on, and held it at this position, if that is known.
    pub(crate) fn lock_held(&mut self, held_at: Option<Lsn>) {
        self.fencing.lock_held();
        self.foreign_marks.lock_held(held_at);
    }

    /// The position where this instance held the lock, if that is known.
    pub(crate) fn lock_held_at(&self) -> Option<Lsn> {
        self.foreign_marks.held_at()
    }

    /// The session has answered that it holds the lock. It was asked after its answer before.
    pub(crate) fn lock_proven(&mut self) {
        self.foreign_marks.lock_proven();
    }

    /// Polling has read every row that an instance before this one can have sent.
    pub(crate) fn table_was_read(&mut self) {
        self.foreign_marks.table_was_read();
    }

    /// The rows that another program has marked, since the last call.
    pub(crate) fn take_marked_by_other(&mut self) -> Option<MarkedByOther> {
        self.foreign_marks.take()
    }

    /// A session that did not stream has ended.
    pub(crate) fn lock_lost(&mut self, now: Duration) {
        if self.fencing.withdraw_at.is_none() {
            self.fencing.lock_lost(now);
        }
    }

    /// Another instance holds the lock.
    pub(crate) fn lock_taken(&mut self) {
        self.fencing.withdraw_now();
    }

    /// Without the lock: whether the records in flight have to be withdrawn now. True only once; a
    /// reset has to follow before anything is sent.
    pub(crate) fn should_withdraw(&mut self, now: Duration) -> bool {
        let is_due = self.session.is_none() && self.fencing.is_due(now);
        let should_withdraw = is_due && self.unreported_count() > 0 && !self.fencing.withdrawn;
        self.fencing.withdrawn |= should_withdraw;
        should_withdraw
    }

    /// Whether the slot is a failover slot.
    pub(crate) fn set_failover_slot(&mut self, kept: bool) {
        self.failover_gate.enabled = kept;
    }

    /// A session begins. What was written before this WAL position has to reach the standbys before
    /// more is confirmed: marks and dead letters of events that the stream does not deliver again,
    /// or that are left out of it. It replaces every earlier position: a server that runs on an
    /// older copy of its files may never reach those.
    pub(crate) fn hold_for_standbys(&mut self, written: Lsn) {
        if self.failover_gate.enabled {
            let confirmable = self.failover_gate.confirmable(self.tracker.flushed());
            self.failover_gate.clear();
            self.failover_gate.hold(confirmable, written);
        }
    }

    /// Whether the slot is a failover slot.
    pub(crate) fn is_failover_slot(&self) -> bool {
        self.failover_gate.enabled
    }

    /// Whether the inspected walsender waits until a standby has the WAL that it is about to send.
    pub(crate) fn set_waits_for_standby(&mut self, waits: bool) {
        self.failover_gate.observe(waits);
    }
}

impl Engine {
    /// The next step, if one is due: in its share of the time (`under_load`), or because nothing
    /// else is to do.
    pub(super) fn next_retention(
        &mut self,
        now: Duration,
        under_load: bool,
    ) -> Option<DatabaseWork> {
        let due_at = self.retention_due_at(under_load)?;
        if now < due_at {
            return None;
        }
        self.retention.begin(now);
        Some(DatabaseWork::Retain(None))
    }

    /// When a step is due even if nothing else happens.
    pub(super) fn retention_deadline(&self) -> Option<Duration> {
        let idle = self.retention_due_at(false);
        idle.or_else(|| self.retention_due_at(true))
    }

    fn retention_due_at(&self, under_load: bool) -> Option<Duration> {
        let ends = self.halted || self.is_stopping() || self.is_halting();
        let is_loaded = self.tracker.in_flight_count() > 0 || self.write_back_queue.len() > 0;
        if ends || self.fencing.is_lock_lost() || is_loaded && !under_load {
            return None;
        }
        self.retention.due_at(under_load)
    }
}
