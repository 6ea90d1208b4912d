//! When a session sends a standby status update, and the signs that the server is silent or
//! shutting down. Pure.
//!
//! Owns the clock side of one replication session. An update goes out when the position has moved
//! or the server asks for a reply, at most one each 100 ms: a server that waits for a position it
//! cannot get asks some ten thousand times a second. An update that asks for a reply goes out each
//! third of `wal_sender_timeout`, however quiet the stream is: so the server never ends the session
//! for the client's silence, and its own silence is noticed. Silence counts only while the driver
//! reads: with the intake closed, nothing can be received.
//!
//! Protocol: <https://www.postgresql.org/docs/current/protocol-replication.html>.

use std::time::Duration;

use crate::lsn::Lsn;

const UPDATE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// This many requests for a reply at the same position, each after an update, show that the server
/// is shutting down.
const STOPPING_REQUESTS: u32 = 3;
const STOPPING_WINDOW: Duration = Duration::from_secs(3);

/// A standby status update to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusDue {
    /// Whether to ask the server for a keepalive in return.
    pub(crate) ask_reply: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Feedback {
    interval: Duration,
    receive_timeout: Duration,
    sent_at: Duration,
    sent_flush: Lsn,
    update_wanted: bool,
    received_at: Duration,
    reading: bool,
    timed_out: bool,
    requests: u32,
    requested_end: Lsn,
    requested_since: Duration,
    updates_at_request: u64,
    updates: u64,
}

impl Feedback {
    /// A session that begins at `now`; the first update is due at once.
    pub(crate) fn new(now: Duration, interval: Duration, receive_timeout: Duration) -> Self {
        Feedback {
            interval,
            receive_timeout,
            sent_at: now,
            sent_flush: Lsn::INVALID,
            update_wanted: true,
            received_at: now,
            reading: true,
            timed_out: false,
            requests: 0,
            requested_end: Lsn::INVALID,
            requested_since: now,
            updates_at_request: 0,
            updates: 0,
        }
    }

    /// Bytes came from the server.
    pub(crate) fn received(&mut self, now: Duration) {
        self.received_at = now;
        self.timed_out = false;
    }

    /// Whether the driver reads. Silence is counted from the moment reading begins.
    pub(crate) fn set_reading(&mut self, now: Duration, reading: bool) {
        if reading && !self.reading {
            self.received(now);
        }
        self.reading = reading;
    }

    /// A keepalive. True if it shows that the server is shutting down and waits for outboxd.
    pub(crate) fn keepalive(&mut self, now: Duration, wal_end: Lsn, reply_requested: bool) -> bool {
        if !reply_requested {
            self.requests = 0;
            return false;
        }
        self.update_wanted = true;
        let repeated = wal_end == self.requested_end
            && now < self.requested_since + STOPPING_WINDOW
            && self.requests > 0;
        if !repeated {
            self.requests = 0;
            self.requested_end = wal_end;
            self.requested_since = now;
        }
        if self.requests == 0 || self.updates > self.updates_at_request {
            self.requests += 1;
            self.updates_at_request = self.updates;
        }
        self.requests >= STOPPING_REQUESTS
    }

    /// Requests an update even if no position has moved.
    pub(crate) fn update_soon(&mut self) {
        self.update_wanted = true;
    }

    /// The update that is due, if any; the caller sends it now. The `last` one of a session does
    /// not rest.
    pub(crate) fn status_due(
        &mut self,
        now: Duration,
        flushed: Lsn,
        last: bool,
    ) -> Option<StatusDue> {
        let rested = last || now >= self.sent_at + UPDATE_INTERVAL_MIN || self.updates == 0;
        let wanted = rested && (self.update_wanted || flushed > self.sent_flush);
        let overdue = now >= self.sent_at + self.interval;
        if !wanted && !overdue {
            return None;
        }
        self.sent_at = now;
        self.sent_flush = flushed;
        self.update_wanted = false;
        self.updates += 1;
        Some(StatusDue { ask_reply: overdue })
    }

    /// True once when the server was silent for the whole time-out while the driver was reading.
    pub(crate) fn check_receive_timeout(&mut self, now: Duration) -> bool {
        let silent =
            self.reading && !self.timed_out && now >= self.received_at + self.receive_timeout;
        self.timed_out |= silent;
        silent
    }

    /// Whether the last update is so old that the server may have ended the session: one is due
    /// each interval, and the server waits for three.
    pub(crate) fn has_expired(&self, now: Duration) -> bool {
        now >= self.sent_at + self.interval * 2
    }

    /// When bytes last came from the server.
    pub(crate) fn received_at(&self) -> Duration {
        self.received_at
    }

    /// Whether the server has timed out and sent nothing since.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.timed_out
    }

    /// When the next update or the time-out is due even if nothing else happens.
    pub(crate) fn deadline(&self, flushed: Lsn) -> Duration {
        let mut deadline = self.sent_at + self.interval;
        if self.update_wanted || flushed > self.sent_flush {
            deadline = self.sent_at + UPDATE_INTERVAL_MIN;
        }
        if self.reading && !self.timed_out {
            deadline = deadline.min(self.received_at + self.receive_timeout);
        }
        deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn feedback() -> Feedback {
        let mut feedback = Feedback::new(Duration::ZERO, MS * 10_000, MS * 25_000);
        assert!(
            feedback
                .status_due(Duration::ZERO, Lsn::new(1), false)
                .is_some()
        );
        feedback
    }

    #[test]
    fn a_server_that_asks_without_end_gets_ten_reports_a_second() {
        let mut feedback = feedback();
        let mut reports = 0;
        for tick in 1..=10_000u32 {
            let now = MS * tick / 10;
            feedback.keepalive(now, Lsn::new(9), true);
            reports += u32::from(feedback.status_due(now, Lsn::new(1), false).is_some());
        }
        assert_eq!(reports, 10);
    }

    #[test]
    fn reports_go_out_when_the_position_moves_and_each_interval_with_a_reply_requested() {
        let mut feedback = feedback();
        assert_eq!(feedback.status_due(MS * 500, Lsn::new(1), false), None);
        assert_eq!(
            feedback.status_due(MS * 500, Lsn::new(2), false),
            Some(StatusDue { ask_reply: false })
        );
        assert_eq!(feedback.status_due(MS * 599, Lsn::new(3), false), None);
        assert_eq!(feedback.deadline(Lsn::new(3)), MS * 600);
        assert!(feedback.status_due(MS * 600, Lsn::new(3), false).is_some());
        assert_eq!(feedback.deadline(Lsn::new(3)), MS * 10_600);
        assert_eq!(
            feedback.status_due(MS * 10_600, Lsn::new(3), false),
            Some(StatusDue { ask_reply: true })
        );
    }

    #[test]
    fn silence_counts_only_while_we_read_and_is_reported_once() {
        let mut feedback = feedback();
        feedback.set_reading(MS, false);
        assert!(!feedback.check_receive_timeout(MS * 60_000));
        feedback.set_reading(MS * 60_000, true);
        assert!(!feedback.check_receive_timeout(MS * 84_999));
        assert!(feedback.check_receive_timeout(MS * 85_000));
        assert!(!feedback.check_receive_timeout(MS * 85_001));
        feedback.received(MS * 86_000);
        assert!(feedback.check_receive_timeout(MS * 111_000));
    }

    #[test]
    fn three_requests_for_the_same_position_after_our_reports_mean_that_the_server_is_stopping() {
        let mut feedback = feedback();
        let mut stopping = false;
        for tick in 0..4u32 {
            let now = MS * 100 * (tick + 1);
            stopping = feedback.keepalive(now, Lsn::new(9), true);
            feedback.status_due(now, Lsn::new(1), false);
        }
        assert!(stopping);
        let mut moving = self::feedback();
        for tick in 0..100u32 {
            let now = MS * 100 * (tick + 1);
            assert!(!moving.keepalive(now, Lsn::new(9 + u64::from(tick)), true));
            moving.status_due(now, Lsn::new(1), false);
        }
    }
}
