//! The forwarder while this instance does not hold the lock: takes in reports, withdraws records
//! that may not stay in flight, and lets the board log a wait that lasts.
//!
//! The engine decides when (see `fencing`), and the supervisor replaces the producer.

use std::cell::Cell;
use std::time::Duration;

use crate::error::Result;
use crate::publisher::sink::forwarder::Forwarder;

/// How often an instance without the lock checks its records in flight.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Forwarder {
    /// A session that held the lock has ended.
    pub(in crate::publisher) fn lock_lost(&mut self) {
        let now = self.tick();
        self.engine.lock_lost(now);
    }

    /// Whether reports are still expected, of records that were not withdrawn.
    pub(crate) fn awaits_reports(&self) -> bool {
        let withdrawn = self.producer_failed || self.producer.in_flight() == 0;
        self.engine.unreported_count() > 0 && !withdrawn
    }

    /// A stop without a session: waits for the reports of records in flight, which the next start
    /// sends again.
    pub(in crate::publisher) async fn stop_without_session(&mut self) -> Result<()> {
        let stats = self.engine.stats();
        if stats.in_flight_count > 0 || stats.unmarked_count > 0 {
            tracing::warn!(
                in_flight = stats.in_flight_count,
                unmarked = stats.unmarked_count,
                "stopping without a session, the next start sends some events again"
            );
        }
        while self.awaits_reports() {
            self.progressed().await;
        }
        Ok(())
    }

    /// Takes in reports and results without the lock, until the records in flight have to be
    /// withdrawn; replacing the producer does that. `taken` tells whether another instance was seen
    /// with the lock. Cancel-safe.
    pub(crate) async fn run_without_lock(&mut self, taken: Option<&Cell<bool>>) {
        while !self.producer_failed {
            let now = self.tick();
            self.board.wait_goes_on();
            if taken.is_some_and(Cell::get) {
                self.engine.lock_taken();
            }
            if self.engine.should_withdraw(now) {
                let in_flight = self.engine.unreported_count();
                tracing::warn!(
                    in_flight,
                    "another instance may publish by now, withdrawing in-flight records"
                );
                self.producer_failed = true;
                return;
            }
            tokio::select! {
                biased;
                () = self.progressed() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
        }
    }
}
