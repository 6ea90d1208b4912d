//! How long the reader lets bytes gather, and how many. Owns a measure of the last moments' traffic, and the sleep.
//!
//! Under backlog a short sleep of the thread after a short read saves server and reader a wake-up for every message. Timers of the
//! runtime are too coarse for it (1 ms). Nothing sleeps while the stream is nearly idle, so latency at low load stays untouched.
//!
//! A Unix socket holds little, and a server that finds it full stops decoding until it is empty again. So while what was read is
//! handed on, the socket is looked after again and again. TCP holds more, and there looking costs more than it brings. Over a Unix
//! socket handing on less often is worth more: the requests are larger, and the broker's time is the server's where they share it.

use std::time::{Duration, Instant};

use crate::replication::Transport;

/// More than this within a window is a backlog.
const BACKLOG_BYTES: usize = 4 * 1024;
const WINDOW: Duration = Duration::from_millis(1);
/// A read of less than this has emptied the socket.
const SHORT_READ: usize = 32 * 1024;
const SLEEP: Duration = Duration::from_micros(200);
/// Bytes that are older than this have no others on their heels.
const QUIET: Duration = Duration::from_millis(20);
/// Messages after which a Unix socket is looked after.
const LOOK: usize = 64;
/// So many bytes are handed on before their time has come.
const GATHERED: usize = 256 * 1024;
/// For how long bytes gather before they are handed on.
const GATHER: Duration = Duration::from_millis(3);
/// The same over a Unix socket, while more keep coming.
const GATHER_UNIX: Duration = Duration::from_millis(16);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Pace {
    look_after: usize,
    gather: Duration,
    window_began: Instant,
    window_bytes: usize,
    backlog: bool,
    last_read: usize,
    fed_at: Option<Instant>,
}

impl Pace {
    /// The measured best differs by transport.
    pub(crate) fn new(transport: Transport) -> Self {
        let (look_after, gather) = match transport {
            Transport::Tcp => (usize::MAX, GATHER),
            Transport::Unix => (LOOK, GATHER_UNIX),
        };
        Pace {
            look_after,
            gather,
            window_began: Instant::now(),
            window_bytes: 0,
            backlog: false,
            last_read: 0,
            fed_at: None,
        }
    }

    /// So many bytes were read at once.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.last_read = bytes;
        self.window_bytes += bytes;
        self.fed_at = Some(Instant::now());
    }

    /// Whether bytes come faster than it is worth taking them singly.
    pub(crate) fn backlog(&mut self) -> bool {
        let elapsed = self.window_began.elapsed();
        if elapsed >= WINDOW {
            let windows = (elapsed.as_micros() / WINDOW.as_micros()).max(1) as usize;
            self.backlog = self.window_bytes / windows > BACKLOG_BYTES;
            self.window_began = Instant::now();
            self.window_bytes = 0;
        }
        self.backlog
    }

    /// Whether so many bytes, for so long, have gathered enough. Where no backlog shows, or nothing follows, somebody waits for each
    /// event.
    pub(crate) fn is_enough(&self, bytes: usize, gathering: Duration) -> bool {
        let more = self.backlog && self.has_come_within(WINDOW);
        let patience = if more { self.gather } else { GATHER };
        bytes >= GATHERED || gathering >= patience
    }

    /// Whether bytes have come a moment ago.
    pub(crate) fn is_fed(&self) -> bool {
        self.has_come_within(QUIET)
    }

    fn has_come_within(&self, time: Duration) -> bool {
        self.fed_at.is_some_and(|at| at.elapsed() < time)
    }

    /// Whether to look at the socket, so many messages after the last turn.
    pub(crate) fn is_time_to_look(&self, messages: usize) -> bool {
        messages.is_multiple_of(self.look_after)
    }

    /// Sleeps, if the last read was short; after a full one there is more to take at once.
    pub(crate) fn sleep(&mut self) {
        if self.last_read < SHORT_READ {
            std::thread::sleep(SLEEP);
        }
        self.last_read = 0;
    }
}
