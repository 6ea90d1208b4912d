//! How a replay ended, and how it goes on if that was early.

use std::time::Duration;

use crate::error::Error;
use crate::publisher::replay::watch::ReplayWatch;

/// How a replay ended.
#[derive(Debug)]
pub struct Replayed {
    /// Events that Kafka has acknowledged; exactly once, those that are committed.
    pub sent: u64,
    /// Events that were filed as dead letters.
    pub refused: u64,
    /// Events that may be in Kafka and were not acknowledged in time.
    pub unsettled: u64,
    /// The time that it took.
    pub took: Duration,
    /// The last row before which every row is done; `None` if there is none.
    pub after: Option<String>,
    /// How it goes on if it ended early.
    pub continuation: Continuation,
    /// Why it ended.
    pub end: ReplayEnd,
}

/// How a replay that ended early goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuation {
    /// Behind [`Replayed::after`], with the same filter.
    Behind,
    /// By its progress record.
    Recorded,
    /// Another process goes on with it, or it is complete.
    Elsewhere,
}

/// Why a replay ended.
#[derive(Debug)]
pub enum ReplayEnd {
    /// All rows are done.
    Complete,
    /// A stop was requested.
    Stopped,
    /// An error ended it.
    Failed(Error),
}

impl Replayed {
    /// With the figures of its watch.
    pub(super) fn of(watch: &ReplayWatch, end: ReplayEnd, continuation: Continuation) -> Self {
        Replayed {
            sent: watch.sent(),
            refused: watch.refused(),
            unsettled: 0,
            took: Duration::ZERO,
            after: None,
            continuation,
            end,
        }
    }
}
