//! What a server sends without being asked: its warnings are logged, once a minute for each
//! SQLSTATE, and a flood ends the session.

use std::time::{Duration, Instant};

use crate::line_limit::LineLimit;
use crate::replication::error_fields::error_of_fields;

/// The most bytes within [`SPAN`]. A log-in has some hundred.
const BYTES_MAX: usize = 4 << 20;
const SPAN: Duration = Duration::from_secs(60);

/// More than [`BYTES_MAX`] arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {BYTES_MAX} bytes of notices and parameters within {SPAN:?}")]
pub(crate) struct Flood;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    lines: LineLimit,
    counted: usize,
    since: Option<Instant>,
}

impl Notices {
    /// Counts a message that no command has asked for.
    ///
    /// # Errors
    /// Too much of it within a minute.
    pub(crate) fn count(&mut self, bytes: usize, now: Instant) -> Result<(), Flood> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) > SPAN {
            (self.counted, self.since) = (0, Some(now));
        }
        self.counted = self.counted.saturating_add(bytes);
        match self.counted > BYTES_MAX {
            true => Err(Flood),
            false => Ok(()),
        }
    }

    /// The body of a NoticeResponse from this server.
    pub(crate) fn log(&mut self, server: &str, body: &[u8]) {
        let notice = error_of_fields(body);
        if notice.severity != "WARNING" {
            return;
        }
        if let Some(suppressed) = self.lines.admit(&notice.code, Instant::now()) {
            let (code, notice) = (notice.code, notice.message);
            tracing::warn!(%server, %code, %notice, suppressed, "postgres sent a warning");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_the_session_and_a_warning_now_and_then_does_not() {
        let (mut notices, start) = (Notices::default(), Instant::now());
        for minute in 0..100 {
            let now = start + SPAN * 2 * minute;
            assert_eq!(notices.count(BYTES_MAX, now), Ok(()));
        }
        let now = start + SPAN * 200;
        assert_eq!(notices.count(BYTES_MAX, now), Ok(()));
        assert_eq!(notices.count(1, now + SPAN / 2), Err(Flood));
    }
}
