//! How far a replay has come, for other parts of the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::publisher::sink::forwarder::Forwarder;
use crate::status::StatusBoard;

/// See the module's head.
pub struct ReplayWatch {
    pub(super) board: Arc<StatusBoard>,
    sent: AtomicU64,
    refused: AtomicU64,
}

impl ReplayWatch {
    pub(super) fn new(board: StatusBoard) -> Self {
        ReplayWatch {
            board: Arc::new(board),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Events that Kafka has acknowledged.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Events that were filed as dead letters.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What the replay waits for, if it waits.
    pub fn waiting(&self) -> Option<String> {
        let waiting = self.board.read().waiting;
        waiting.map(|it| format!("{}: {}", it.on, it.detail))
    }

    /// Takes the figures over.
    pub(super) fn follow(&self, forwarder: &Forwarder) {
        self.sent.store(forwarder.published, Ordering::Relaxed);
        self.refused.store(forwarder.filed, Ordering::Relaxed);
    }
}

impl fmt::Debug for ReplayWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWatch")
            .field("sent", &self.sent)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}
