//! How long the next session waits for a server that sends nothing. Pure.
//!
//! A server may be silent for long and alive: one that restores, or one that decodes a large
//! transaction where its walsender cannot be inspected. When a session ends, the server starts
//! over, and the same silence follows, for as long as the time-out is too short for it. So after
//! each session that ended by a time-out and had received nothing, the next waits twice as long; a
//! session that received something resets it.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::lsn::Lsn;

/// The longest time-out.
const MAX: Duration = Duration::from_secs(600);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ReceiveTimeout {
    current: Backoff,
    /// What had been received when the session began.
    received_at_start: Lsn,
    /// The session ends because of a time-out.
    pub(super) timed_out: bool,
}

impl ReceiveTimeout {
    /// `min` is the time-out of the first session, and the shortest of any.
    pub(crate) fn new(min: Duration) -> Self {
        ReceiveTimeout {
            current: Backoff::new(min, MAX.max(min)),
            received_at_start: Lsn::INVALID,
            timed_out: false,
        }
    }

    /// The time-out of a session that begins with this position received.
    pub(crate) fn session_started(&mut self, received: Lsn) -> Duration {
        (self.received_at_start, self.timed_out) = (received, false);
        self.current.delay()
    }

    /// The session has ended, with this position received.
    pub(crate) fn session_ended(&mut self, received: Lsn) {
        if received > self.received_at_start {
            self.current.reset();
        } else if std::mem::take(&mut self.timed_out) {
            self.current.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence(receive_timeout: &mut ReceiveTimeout, received: Lsn) {
        receive_timeout.timed_out = true;
        receive_timeout.session_ended(received);
    }

    #[test]
    fn each_silence_without_progress_doubles_the_wait_up_to_a_limit() {
        let mut receive_timeout = ReceiveTimeout::new(SECOND * 25);
        let at = Lsn::new(7);
        for seconds in [25, 50, 100, 200, 400, 600, 600] {
            assert_eq!(receive_timeout.session_started(at), SECOND * seconds);
            silence(&mut receive_timeout, at);
        }
        // An end for another reason changes nothing.
        assert_eq!(receive_timeout.session_started(at), SECOND * 600);
        receive_timeout.session_ended(at);
        assert_eq!(receive_timeout.session_started(at), SECOND * 600);
    }

    #[test]
    fn progress_ends_the_doubling_and_a_long_wait_stays_as_it_is() {
        let mut receive_timeout = ReceiveTimeout::new(SECOND * 25);
        receive_timeout.session_started(Lsn::new(7));
        silence(&mut receive_timeout, Lsn::new(7));
        assert_eq!(receive_timeout.session_started(Lsn::new(7)), SECOND * 50);
        silence(&mut receive_timeout, Lsn::new(8));
        assert_eq!(receive_timeout.session_started(Lsn::new(8)), SECOND * 25);
        let mut long = ReceiveTimeout::new(SECOND * 900);
        for _ in 0..3 {
            assert_eq!(long.session_started(Lsn::new(7)), SECOND * 900);
            silence(&mut long, Lsn::new(7));
        }
    }
}
