//! The forwarder's clock, which is the engine's.

use std::time::Duration;

use crate::publisher::clock::Moment;
use crate::publisher::sink::forwarder::Forwarder;

impl Forwarder {
    /// Reads the clock. The engine uses this time until the next call.
    pub(crate) fn tick(&mut self) -> Duration {
        let (now, jumped) = self.clock.tick();
        if jumped {
            tracing::warn!("the clock has jumped: the machine may have been paused");
            self.engine.clock_jumped();
        }
        self.now = now;
        self.engine.set_wall_clock(now, self.clock.unix_millis());
        now
    }

    /// Now, for what an answer of the server proves about the lock.
    pub(crate) fn moment(&mut self) -> Moment {
        let at = self.tick();
        let jumps = self.clock.jumps();
        Moment { at, jumps }
    }

    /// The time until the engine's next deadline, at most `limit`.
    pub(crate) fn rest(&self, limit: Duration) -> Duration {
        let deadline = self.engine.deadline().unwrap_or(Duration::MAX);
        deadline.saturating_sub(self.clock.elapsed()).min(limit)
    }
}
