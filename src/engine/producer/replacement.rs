//! The replacement of the producer that is under way. Pure.

use std::time::Duration;

/// Records that have not come back after this time are given up with the session's memory.
const LIMIT: Duration = Duration::from_secs(60);

/// The replacement under way, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Replacement {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    reason: String,
    since: Duration,
    given_up: bool,
}

impl Replacement {
    /// False if one is under way.
    pub(crate) fn begin(&mut self, now: Duration, reason: &str) -> bool {
        if self.running.is_some() {
            return false;
        }
        self.running = Some(Running {
            reason: reason.to_owned(),
            since: now,
            given_up: false,
        });
        true
    }

    pub(crate) fn end(&mut self) {
        self.running = None;
    }

    /// Whether nothing may be sent.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Why the producer is replaced.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.reason.as_str())
    }

    /// The reason of a replacement that takes too long, once.
    pub(crate) fn overdue(&mut self, now: Duration) -> Option<String> {
        let running = self.running.as_mut()?;
        if running.given_up || now < running.since + LIMIT {
            return None;
        }
        running.given_up = true;
        Some(running.reason.clone())
    }
}
