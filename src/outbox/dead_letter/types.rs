//! The types for events that could not be published, between the engine that decides and the table
//! that stores them.

use crate::lsn::Lsn;
use crate::outbox::{KeyHash, OwnedRecord, RowId, RowName};

/// The condition for an open dead letter, written as in the partial indexes.
pub(crate) const OPEN: &str = "state NOT IN ('retried', 'discarded')";

/// The condition for a closed one.
pub(crate) const CLOSED: &str = "state IN ('retried', 'discarded')";

/// Why an event cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Rejection {
    /// Stable, for filters and alerts: `TOPIC_UNKNOWN`, `RECORD_TOO_LARGE`, or a broker's own such
    /// as `INVALID_RECORD`.
    pub code: String,
    /// For a person: what, where, and what to do. Never a payload.
    pub message: String,
}

/// An event that becomes a dead letter, or becomes one again.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// Identifies the event for the publisher.
    pub ticket: u64,
    /// The row of the dead letters that it comes from, if it was retried.
    pub known: Option<i64>,
    /// The row of the outbox.
    pub row: Option<RowName>,
    /// The whole event; `None` if it could not be read, and only its row is known.
    pub record: Option<Box<OwnedRecord>>,
    /// Why it is a dead letter.
    pub rejection: Rejection,
    /// How many times it was sent since it was read.
    pub attempts: u32,
    /// Later events of its topic and key wait for it.
    pub parks_key: bool,
    /// It is filed only because an earlier event of its key is a dead letter.
    pub parked: bool,
}

/// A dead letter that is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseDeadLetter {
    /// Identifies the event for the publisher.
    pub ticket: u64,
    /// The row of the dead letters.
    pub dead_letter: i64,
    /// The row of the outbox, which counts as published from now on.
    pub row: Option<RowId>,
    /// Kafka has the event; otherwise it was discarded.
    pub published: bool,
}

/// What to do with a dead letter, on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Send it again.
    Retry,
    /// Give it up: its row counts as published from now on.
    Discard,
}

/// A request about a dead letter, as it was read from the table.
#[derive(Debug, Clone)]
pub struct ResolveRequest {
    /// The row of the dead letters.
    pub dead_letter: i64,
    /// The row of the outbox.
    pub row: Option<RowId>,
    /// What to do with it.
    pub resolution: Resolution,
    /// The commit position of its transaction and its index there, if the event came from the
    /// stream.
    pub place: Option<(Lsn, u32)>,
    /// The topic and the key whose later events wait for it, if any do.
    pub parked_key: Option<(Box<str>, KeyHash)>,
    /// The record to send: the row of the outbox as it is now or, if that is gone, the stored copy.
    /// `None` if neither can be read.
    pub record: Option<Box<OwnedRecord>>,
    /// Why the row as it is now cannot be published, if it cannot.
    pub rejection: Option<Rejection>,
}

/// Unpublished rows that open dead letters are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingRows {
    /// All of them.
    pub all: i64,
    /// Those that wait only for a dead letter of their key to be decided.
    pub parked: i64,
}
