//! The words about events that could not be published, between the engine that decides and the table that keeps them.

use crate::outbox::OwnedRecord;

/// Why an event cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Stable, for filters and alerts: `TOPIC_UNKNOWN`, `RECORD_TOO_LARGE`, or a broker's own such as `INVALID_RECORD`.
    pub(crate) code: String,
    /// For a person: what, where, and what to do. Never a payload.
    pub(crate) message: String,
}

/// An event that becomes a dead letter, or becomes one again.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// Names the event for the publisher.
    pub(crate) ticket: u64,
    /// The row of the dead letters that it comes from, if it was retried.
    pub(crate) known: Option<i64>,
    /// The row of the outbox.
    pub(crate) row: Option<i64>,
    /// The whole event; `None` where it could not even be read, and only its row can be named.
    pub(crate) record: Option<Box<OwnedRecord>>,
    pub(crate) fault: Fault,
    /// How often it was sent since it was read.
    pub(crate) attempts: u32,
    /// Later events of its topic and key wait for it.
    pub(crate) parks_key: bool,
    /// It is not at fault itself: an earlier event of its key is.
    pub(crate) parked: bool,
}

/// A dead letter that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    /// Names the event for the publisher.
    pub(crate) ticket: u64,
    /// The row of the dead letters.
    pub(crate) letter: i64,
    /// The row of the outbox, which counts as published from now on.
    pub(crate) row: Option<i64>,
    /// Kafka has it; else a person has discarded it.
    pub(crate) published: bool,
}

/// What a person wants done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Retry,
    Discard,
}

/// A dead letter about which something is to be done, as it was read from the table.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The row of the dead letters.
    pub(crate) letter: i64,
    /// The row of the outbox.
    pub(crate) row: Option<i64>,
    pub(crate) wish: Wish,
    /// Later events of its topic and key wait for it.
    pub(crate) parks_key: bool,
    /// What is to be sent: the row of the outbox as it is now, and where it is gone, the copy that was kept. `None` where neither
    /// can be read.
    pub(crate) record: Option<Box<OwnedRecord>>,
}
