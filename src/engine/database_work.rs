//! Which work the database worker gets next, and what it has to bring back.
//!
//! Owns nothing: the queues say what is due. One piece of work is under way at a time. Marks and
//! dead letters alternate, so neither starves the other, and old rows are deleted between them.

use std::time::Duration;

use crate::engine::output::{DatabaseWork, SinkOutput};
use crate::engine::{Engine, WorkerState};
use crate::outbox::{Mark, Marker, Outcome};

impl Engine {
    /// Starts the next work if the database worker is idle. `urgent` work does not wait for a full
    /// batch.
    pub(super) fn start_work(&mut self, now: Duration, urgent: bool) {
        if !self.can_work() {
            return;
        }
        let work = self
            .next_retention(now, true)
            .or_else(|| self.next_of_events(now, urgent))
            .or_else(|| self.next_retention(now, false));
        let Some(work) = work else { return };
        self.worker = match work {
            DatabaseWork::ReadRequests { .. } | DatabaseWork::ReadPause { .. } => {
                WorkerState::Reading
            }
            DatabaseWork::Retain(_) => WorkerState::Deleting,
            _ => WorkerState::Writing,
        };
        let generation = self.generation;
        self.push(SinkOutput::Work { generation, work });
    }

    /// The next work about events. Marks and dead letters alternate.
    fn next_of_events(&mut self, now: Duration, urgent: bool) -> Option<DatabaseWork> {
        let work = match self.marks_first {
            true => self
                .next_marks(now, urgent)
                .or_else(|| self.next_dead_letter_work(now)),
            false => self
                .next_dead_letter_work(now)
                .or_else(|| self.next_marks(now, urgent)),
        }?;
        self.marks_first = !matches!(work, DatabaseWork::Mark(_));
        Some(work)
    }

    pub(super) fn next_marks(&mut self, now: Duration, urgent: bool) -> Option<DatabaseWork> {
        let tickets = self.write_back_queue.take(now, urgent)?;
        let mark = |ticket| {
            let event = self.tracker.event(ticket)?;
            Some(Mark {
                ticket,
                row: event.row.clone()?,
                xid: event.xid,
                marker: Marker::of_event(event.untried),
                outcome: Outcome::Open,
            })
        };
        Some(DatabaseWork::Mark(tickets.filter_map(mark).collect()))
    }

    pub(super) fn next_dead_letter_work(&mut self, now: Duration) -> Option<DatabaseWork> {
        let open = self.allows_dead_letter_work();
        let complete = self.tracker.complete();
        let holds_lock = self.limits.resolves && !self.fencing.is_lock_lost();
        let stands_still = self.is_drained() && !self.is_in_transaction();
        let reads_pause = holds_lock && !self.is_stopping();
        if let Some(work) = self.pause.work(now, reads_pause, stands_still) {
            return Some(work);
        }
        // While a pause lasts, requests wait for its end.
        let reads = holds_lock && !self.pause.is_on() && self.may_resolve();
        open.then(|| self.dispatch.dead_letters.work(now, complete, reads))
            .flatten()
    }

    /// Whether dead-letter work may start. Requests are not read while stopping: they can wait for
    /// the next start.
    pub(super) fn allows_dead_letter_work(&self) -> bool {
        let ending = self.halted || self.is_stopping();
        !ending || !self.dispatch.dead_letters.is_idle()
    }

    /// Whether [`work_finished`](Engine::work_finished) needs the position of the WAL after this
    /// work.
    pub(crate) fn needs_position(&self, work: &DatabaseWork) -> bool {
        self.failover_gate.enabled && settles(work)
    }
}

/// Whether events are settled by this work, so that a promoted standby must have it too. Requests,
/// counts of attempts and deletions are not held back: reading writes nothing, a lost count does no
/// harm, and a row that is there again is deleted again.
fn settles(work: &DatabaseWork) -> bool {
    match work {
        DatabaseWork::Mark(_) | DatabaseWork::File(_) | DatabaseWork::Close(_) => true,
        DatabaseWork::CountAttempts(_)
        | DatabaseWork::ReadRequests { .. }
        | DatabaseWork::ReadPause { .. }
        | DatabaseWork::Retain(_) => false,
    }
}
