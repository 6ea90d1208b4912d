//! What goes on while nobody holds the lock for us: reports come in, and what may not stay in flight is withdrawn.
//!
//! Decides nothing: the engine says when (see `tenure`), and the supervisor makes the new producer.

use std::cell::Cell;
use std::time::Duration;

use crate::publisher::sink::forwarder::Forwarder;

/// How often somebody without the lock thinks about what is in flight.
const APART_LOOK: Duration = Duration::from_millis(100);

impl Forwarder {
    /// A session with the lock is over.
    pub(in crate::publisher) fn lock_lost(&mut self) {
        let now = self.tick();
        self.engine.lock_lost(now);
    }

    /// Whether reports are still to come, of records that were not withdrawn.
    pub(crate) fn awaits_reports(&self) -> bool {
        let withdrawn = self.producer_failed || self.producer.in_flight() == 0;
        self.engine.unreported_count() > 0 && !withdrawn
    }

    /// Without the lock: takes in what comes, until what is in flight has to be withdrawn, which a new producer does. `taken` says whether
    /// another instance was seen with the lock. Cancel-safe.
    pub(crate) async fn apart(&mut self, taken: Option<&Cell<bool>>) {
        while !self.producer_failed {
            let now = self.tick();
            if taken.is_some_and(Cell::get) {
                self.engine.lock_taken();
            }
            if self.engine.should_withdraw(now) {
                let in_flight = self.engine.unreported_count();
                tracing::warn!(
                    in_flight,
                    "another instance may publish by now, withdrawing what is in flight"
                );
                self.producer_failed = true;
                return;
            }
            tokio::select! {
                biased;
                // A producer that fails shows here as well.
                _ = self.progressed() => {}
                () = tokio::time::sleep(APART_LOOK) => {}
            }
        }
    }
}
