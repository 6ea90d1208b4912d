//! How long the reader lets bytes gather, and how many. Owns a measure of recent traffic, and the
//! sleep.
//!
//! Under backlog the thread sleeps briefly after a short read, which saves server and reader a
//! wake-up for every message. Timers of the runtime are too coarse for it (1 ms). Nothing sleeps
//! while the stream is nearly idle, so latency at low load is not affected.
//!
//! The longer a backlog lasts, the longer the sleep. Over TCP a server that is ahead of its reader
//! gathers messages in its socket, which is faster; otherwise it sends each in a packet of its own.
//! So the reader lets the server get ahead, and then catches up.
//!
//! A Unix socket holds little, and a server that finds it full stops decoding until it is empty
//! again. So the socket is read repeatedly while messages are being forwarded. TCP holds more, and
//! these reads would cost more than they save. Over a Unix socket forwarding less often pays: the
//! requests are larger, and server and broker may share a machine.

use std::time::{Duration, Instant};

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

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ReadPacer {
    read_after: usize,
    gather: Duration,
    longest: Duration,
    sleep: Duration,
    /// Bytes since the last sleep.
    since_sleep: usize,
    window_began: Instant,
    window_bytes: usize,
    backlog: bool,
    last_read: usize,
    fed_at: Option<Instant>,
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
            window_began: Instant::now(),
            window_bytes: 0,
            backlog: false,
            last_read: 0,
            fed_at: None,
        }
    }

    /// This many bytes were read at once.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.last_read = bytes;
        self.window_bytes += bytes;
        self.since_sleep += bytes;
        self.fed_at = Some(Instant::now());
    }

    /// Whether bytes arrive too fast to take each message at once.
    pub(crate) fn backlog(&mut self) -> bool {
        let elapsed = self.window_began.elapsed();
        if elapsed >= WINDOW {
            let windows = (elapsed.as_micros() / WINDOW.as_micros()).max(1) as usize;
            self.backlog = self.window_bytes / windows > BACKLOG_BYTES;
            self.window_began = Instant::now();
            self.window_bytes = 0;
            if !self.backlog {
                self.sleep = SLEEP;
                self.since_sleep = 0;
            }
        }
        self.backlog
    }

    /// Whether this many bytes after this time are enough to forward. Without a backlog, or when
    /// nothing follows, latency counts.
    pub(crate) fn is_enough(&self, bytes: usize, gathering: Duration) -> bool {
        let more = self.backlog && self.has_come_within(WINDOW);
        let time = if more { self.gather } else { GATHER };
        bytes >= GATHERED || gathering >= time
    }

    /// Whether bytes came a moment ago.
    pub(crate) fn is_fed(&self) -> bool {
        self.has_come_within(QUIET)
    }

    fn has_come_within(&self, time: Duration) -> bool {
        self.fed_at.is_some_and(|at| at.elapsed() < time)
    }

    /// Whether to read the socket, this many messages into the turn.
    pub(crate) fn should_read(&self, messages: usize) -> bool {
        messages.is_multiple_of(self.read_after)
    }

    /// Sleeps, if the last read was short; after a full one more bytes are ready.
    pub(crate) fn sleep(&mut self) {
        if std::mem::take(&mut self.last_read) < SHORT_READ {
            std::thread::sleep(self.next_sleep());
        }
    }

    fn next_sleep(&mut self) -> Duration {
        let sleep = self.sleep;
        let much = std::mem::take(&mut self.since_sleep) > EASE;
        self.sleep = if much {
            (sleep / 2).max(SLEEP)
        } else {
            (sleep * 2).min(self.longest)
        };
        sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeps(read_pacer: &mut ReadPacer, bytes: usize, count: usize) -> Vec<u64> {
        let mut sleep = || {
            read_pacer.read(bytes);
            read_pacer.next_sleep().as_micros() as u64
        };
        (0..count).map(|_| sleep()).collect()
    }

    #[test]
    fn sleeps_grow_with_a_backlog_and_shrink_where_the_sockets_would_be_full() {
        let mut tcp = ReadPacer::new(Transport::Tcp);
        let growing = [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(sleeps(&mut tcp, 100_000, 8), growing);
        assert_eq!(sleeps(&mut tcp, EASE + 1, 3), [10_000, 5_000, 2_500]);
        assert_eq!(sleeps(&mut tcp, EASE + 1, 5), [1_250, 625, 312, 200, 200]);
        let mut unix = ReadPacer::new(Transport::Unix);
        assert_eq!(sleeps(&mut unix, 50_000, 5), [200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn after_a_backlog_the_next_one_begins_with_the_shortest_sleep() {
        let mut read_pacer = ReadPacer::new(Transport::Tcp);
        sleeps(&mut read_pacer, 100_000, 5);
        std::thread::sleep(2 * WINDOW);
        assert!(read_pacer.backlog());
        assert_eq!(sleeps(&mut read_pacer, 0, 1), [6_400]);
        std::thread::sleep(2 * WINDOW);
        assert!(!read_pacer.backlog());
        assert_eq!(sleeps(&mut read_pacer, 0, 1), [200]);
    }
}
