//! How long the reader lets bytes gather. Owns a measure of the last moments' traffic, and the sleep.
//!
//! Under backlog a short sleep of the thread after a short read saves server and reader a wake-up for every message. Timers of the
//! runtime are too coarse for it (1 ms). Nothing sleeps while the stream is nearly idle, so latency at low load stays untouched.
//!
//! A Unix socket holds little, and a server that finds it full stops decoding until it is empty again. So while what was read is
//! handed on, the socket is looked after again and again. TCP holds more, and there looking costs more than it brings.

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

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Pace {
    look_after: usize,
    window_began: Instant,
    window_bytes: usize,
    backlog: bool,
    last_read: usize,
    fed_at: Option<Instant>,
}

impl Pace {
    /// The measured best differs by transport.
    pub(crate) fn new(transport: Transport) -> Self {
        let look_after = match transport {
            Transport::Tcp => usize::MAX,
            Transport::Unix => LOOK,
        };
        Pace {
            look_after,
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

    /// Whether bytes have come a moment ago.
    pub(crate) fn is_fed(&self) -> bool {
        self.fed_at.is_some_and(|at| at.elapsed() < QUIET)
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
