//! How long the reader lets bytes gather, and how many. Pure: it owns a measure of recent traffic,
//! and the driver sleeps. `now` is the forwarder's clock.
//!
//! Under backlog the thread sleeps briefly after a short read, which saves server and reader a
//! wake-up for every message. Nothing sleeps while the stream is nearly idle, so latency at low
//! load is not affected.
//!
//! The longer a backlog lasts, the longer the sleep. Over TCP a server that is ahead of its reader
//! gathers messages in its socket, which is faster; otherwise it sends each in a packet of its own.
//! So the reader lets the server get ahead, and then catches up.
//!
//! A Unix socket holds little, and a server that finds it full stops decoding until it is empty
//! again. So the socket is read repeatedly while messages are being forwarded. TCP holds more, and
//! these reads would cost more than they save. Over a Unix socket forwarding less often pays: the
//! requests are larger, and server and broker may share a machine.

use std::mem;
use std::time::Duration;

use crate::replication::Transport;

/// More bytes than this within a window are a backlog.
const BACKLOG_BYTES: usize = 4 * 1024;
const WINDOW: Duration = Duration::from_millis(1);
/// A read of less than this has emptied the socket.
const SHORT_READ: usize = 16 * 1024;
/// The first sleep of a backlog; each is twice as long as the one before it, up to the longest.
const SLEEP: Duration = Duration::from_micros(200);
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// The longest sleep over a Unix socket, which is full soon after.
const SLEEP_MAX_UNIX: Duration = Duration::from_millis(1);
/// More bytes than this between two sleeps would soon fill the sockets: the next sleep is half as
/// long.
const EASE: usize = 512 * 1024;
/// After this time without bytes the stream is quiet.
const QUIET: Duration = Duration::from_millis(20);
/// A Unix socket is read after this many messages.
const READ_AFTER: usize = 64;
/// This many bytes are forwarded at once.
const GATHERED: usize = 256 * 1024;
/// How long bytes gather before they are forwarded.
const GATHER: Duration = Duration::from_millis(3);
/// The same over a Unix socket, while more keep coming.
const GATHER_UNIX: Duration = Duration::from_millis(16);

/// While this many records have no report, reading waits for one.
const HELD: u64 = 4;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ReadPacer {
    read_after: usize,
    gather: Duration,
    longest: Duration,
    sleep: Duration,
    /// Bytes since the last sleep.
    since_sleep: usize,
    window_began: Duration,
    window_bytes: usize,
    backlog: bool,
    last_read: usize,
    fed_at: Option<Duration>,
    /// Since when reading waits for the broker.
    held_since: Option<Duration>,
}

impl ReadPacer {
    /// The best measured values differ by transport.
    pub(crate) fn new(transport: Transport) -> Self {
        let (read_after, gather, longest) = match transport {
            Transport::Tcp => (usize::MAX, GATHER, SLEEP_MAX),
            Transport::Unix => (READ_AFTER, GATHER_UNIX, SLEEP_MAX_UNIX),
        };
        ReadPacer {
            read_after,
            gather,
            longest,
            sleep: SLEEP,
            since_sleep: 0,
            window_began: Duration::ZERO,
            window_bytes: 0,
            backlog: false,
            last_read: 0,
            fed_at: None,
            held_since: None,
        }
    }

    /// This many bytes were read at once.
    pub(crate) fn read(&mut self, now: Duration, bytes: usize) {
        self.last_read = bytes;
        self.window_bytes += bytes;
        self.since_sleep += bytes;
        self.fed_at = Some(now);
    }

    /// Whether bytes arrive too fast to take each message at once.
    pub(crate) fn backlog(&mut self, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.window_began);
        if elapsed >= WINDOW {
            let windows = (elapsed.as_micros() / WINDOW.as_micros()).max(1) as usize;
            self.backlog = self.window_bytes / windows > BACKLOG_BYTES;
            self.window_began = now;
            self.window_bytes = 0;
            if !self.backlog {
                self.sleep = SLEEP;
                self.since_sleep = 0;
            }
        }
        self.backlog
    }

    /// Whether so many bytes that have gathered since `began` are enough to forward. Without a
    /// backlog, or when nothing follows, latency counts.
    pub(crate) fn is_enough(&self, now: Duration, began: Duration, bytes: usize) -> bool {
        let more = self.backlog && self.has_come_within(now, WINDOW);
        let time = if more { self.gather } else { GATHER };
        bytes >= GATHERED || now.saturating_sub(began) >= time
    }

    /// How long reading waits for reports, while so many records have none: requests of single
    /// records use up the processors, which slows down the server, and the stream would never show
    /// a backlog. What comes meanwhile is one request. `None`: it goes on.
    pub(crate) fn hold(&mut self, now: Duration, unreported: u64) -> Option<Duration> {
        if unreported < HELD || !self.has_come_within(now, QUIET) {
            self.held_since = None;
            return None;
        }
        let since = *self.held_since.get_or_insert(now);
        let left = (since + GATHER).saturating_sub(now);
        if left.is_zero() {
            self.held_since = None;
            return None;
        }
        Some(left)
    }

    fn has_come_within(&self, now: Duration, time: Duration) -> bool {
        self.fed_at.is_some_and(|at| now.saturating_sub(at) < time)
    }

    /// Whether to read the socket, this many messages into the turn.
    pub(crate) fn should_read(&self, messages: usize) -> bool {
        messages.is_multiple_of(self.read_after)
    }

    /// How long to sleep. `None` after a full read: more bytes are ready.
    pub(crate) fn sleep(&mut self) -> Option<Duration> {
        if mem::take(&mut self.last_read) >= SHORT_READ {
            return None;
        }
        let sleep = self.sleep;
        let much = mem::take(&mut self.since_sleep) > EASE;
        self.sleep = if much {
            (sleep / 2).max(SLEEP)
        } else {
            (sleep * 2).min(self.longest)
        };
        Some(sleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Microseconds, each sleep after so many bytes, whose last read was short.
    fn sleeps(read_pacer: &mut ReadPacer, now: Duration, bytes: usize, count: usize) -> Vec<u128> {
        let mut sleep = || {
            read_pacer.read(now, bytes);
            read_pacer.read(now, 1);
            read_pacer.sleep().unwrap_or_default().as_micros()
        };
        (0..count).map(|_| sleep()).collect()
    }

    #[test]
    fn sleeps_grow_with_a_backlog_and_shrink_where_the_sockets_would_be_full() {
        let mut tcp = ReadPacer::new(Transport::Tcp);
        let growing = [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(sleeps(&mut tcp, MS, 100_000, 8), growing);
        assert_eq!(sleeps(&mut tcp, MS, EASE, 3), [10_000, 5_000, 2_500]);
        assert_eq!(sleeps(&mut tcp, MS, EASE, 5), [1_250, 625, 312, 200, 200]);
        let mut unix = ReadPacer::new(Transport::Unix);
        let growing = [200, 400, 800, 1_000, 1_000];
        assert_eq!(sleeps(&mut unix, MS, 50_000, 5), growing);
    }

    #[test]
    fn after_a_full_read_there_is_no_sleep() {
        let mut read_pacer = ReadPacer::new(Transport::Tcp);
        read_pacer.read(MS, SHORT_READ);
        assert_eq!(read_pacer.sleep(), None);
        assert_eq!(read_pacer.sleep(), Some(SLEEP));
    }

    #[test]
    fn after_a_backlog_the_next_one_begins_with_the_shortest_sleep() {
        let mut read_pacer = ReadPacer::new(Transport::Tcp);
        sleeps(&mut read_pacer, MS, 100_000, 5);
        assert!(read_pacer.backlog(MS * 3));
        assert_eq!(sleeps(&mut read_pacer, MS * 3, 0, 1), [6_400]);
        assert!(!read_pacer.backlog(MS * 5));
        assert_eq!(sleeps(&mut read_pacer, MS * 5, 0, 1), [200]);
    }

    #[test]
    fn forwarding_waits_for_many_bytes_or_for_a_while() {
        let mut unix = ReadPacer::new(Transport::Unix);
        unix.read(MS, 100_000);
        assert!(!unix.is_enough(MS * 2, MS, 1));
        assert!(unix.is_enough(MS * 2, MS, GATHERED));
        assert!(unix.is_enough(MS + GATHER, MS, 1), "no backlog");
        assert!(unix.backlog(MS * 2));
        unix.read(MS * 10, 1);
        assert!(!unix.is_enough(MS * 10, MS, 1));
        assert!(unix.is_enough(MS * 12, MS, 1), "nothing has followed");
        unix.read(MS + GATHER_UNIX, 1);
        assert!(unix.is_enough(MS + GATHER_UNIX, MS, 1));
    }

    #[test]
    fn reading_waits_for_reports_for_a_while_where_many_are_due() {
        let mut read_pacer = ReadPacer::new(Transport::Tcp);
        assert_eq!(read_pacer.hold(MS, HELD), None, "nothing has come");
        read_pacer.read(MS, 1);
        assert_eq!(read_pacer.hold(MS, HELD - 1), None);
        assert_eq!(read_pacer.hold(MS, HELD), Some(GATHER));
        assert_eq!(read_pacer.hold(MS * 2, HELD), Some(GATHER - MS));
        assert_eq!(read_pacer.hold(MS * 3, HELD - 1), None, "a report has come");
        assert_eq!(read_pacer.hold(MS * 4, HELD), Some(GATHER));
        assert_eq!(read_pacer.hold(MS * 4 + GATHER, HELD), None, "long enough");
        assert_eq!(read_pacer.hold(MS + QUIET, HELD), None, "nothing comes");
    }
}
