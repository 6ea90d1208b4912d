//! How long the reader lets bytes gather. Owns a measure of the last moments' traffic, and the sleep.
//!
//! Under backlog a short sleep of the thread after a short read saves server and reader a wake-up for every message. Timers of the
//! runtime are too coarse for it (1 ms). Nothing sleeps while the stream is nearly idle, so latency at low load stays untouched.

use std::time::{Duration, Instant};

use crate::replication::Transport;

/// More than this within a window is a backlog.
const BACKLOG_BYTES: usize = 16 * 1024;
const WINDOW: Duration = Duration::from_millis(1);
/// A read of less than this has emptied the socket.
const SHORT_READ: usize = 32 * 1024;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Pace {
    sleep: Duration,
    window_began: Instant,
    window_bytes: usize,
    backlog: bool,
    last_read: usize,
}

impl Pace {
    /// The measured best differs by transport.
    pub(crate) fn new(transport: Transport) -> Self {
        let micros = match transport {
            Transport::Tcp => 200,
            Transport::Unix => 100,
        };
        Pace {
            sleep: Duration::from_micros(micros),
            window_began: Instant::now(),
            window_bytes: 0,
            backlog: false,
            last_read: 0,
        }
    }

    /// So many bytes were read at once.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.last_read = bytes;
        self.window_bytes += bytes;
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

    /// Whether anything has come since the last sleep.
    pub(crate) fn has_read(&self) -> bool {
        self.last_read > 0
    }

    /// Sleeps, if the last read was short; after a full one there is more to take at once.
    pub(crate) fn sleep(&mut self) {
        if self.last_read < SHORT_READ {
            std::thread::sleep(self.sleep);
        }
        self.last_read = 0;
    }
}
