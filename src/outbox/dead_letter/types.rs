//! The words about events that could not be published, between the engine that decides and the table that keeps them.

use crate::lsn::Lsn;
use crate::outbox::OwnedRecord;

/// Why an event cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Rejection {
    /// Stable, for filters and alerts: `TOPIC_UNKNOWN`, `RECORD_TOO_LARGE`, or a broker's own such as `INVALID_RECORD`.
    pub code: String,
    /// For a person: what, where, and what to do. Never a payload.
    pub message: String,
}

/// An event that becomes a dead letter, or becomes one again.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// Names the event for the publisher.
    pub ticket: u64,
    /// The row of the dead letters that it comes from, if it was retried.
    pub known: Option<i64>,
    /// The row of the outbox.
    pub row: Option<i64>,
    /// The whole event; `None` where it could not even be read, and only its row can be named.
    pub record: Option<Box<OwnedRecord>>,
    /// Why it is here.
    pub rejection: Rejection,
    /// How often it was sent since it was read.
    pub attempts: u32,
    /// Later events of its topic and key wait for it.
    pub parks_key: bool,
    /// It is not at fault itself: an earlier event of its key is.
    pub parked: bool,
}

/// A dead letter that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseDeadLetter {
    /// Names the event for the publisher.
    pub ticket: u64,
    /// The row of the dead letters.
    pub dead_letter: i64,
    /// The row of the outbox, which counts as published from now on.
    pub row: Option<i64>,
    /// Kafka has it; else a person has discarded it.
    pub published: bool,
}

/// What a person wants done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is to be sent again.
    Retry,
    /// It is given up: its row counts as published from now on.
    Discard,
}

/// A dead letter about which something is to be done, as it was read from the table.
#[derive(Debug, Clone)]
pub struct ResolveRequest {
    /// The row of the dead letters.
    pub dead_letter: i64,
    /// The row of the outbox.
    pub row: Option<i64>,
    /// What is wanted.
    pub resolution: Resolution,
    /// The commit of its transaction and its place in it, where the event came from the stream.
    pub place: Option<(Lsn, u32)>,
    /// Later events of its topic and key wait for it.
    pub parks_key: bool,
    /// What is to be sent: the row of the outbox as it is now, and where it is gone, the copy that was kept. `None` where neither
    /// can be read.
    pub record: Option<Box<OwnedRecord>>,
    /// What is wrong with the row as it is now, so that it need not be sent to know that.
    pub rejection: Option<Rejection>,
}

/// A topic and key of which an event is a dead letter that the later ones wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// The topic.
    pub topic: String,
    /// The key; `None` stands for records without one.
    pub key: Option<Vec<u8>>,
    /// Rows of the dead letters that are not done with.
    pub rows: u64,
    /// One of them is dead, and nobody has asked for it.
    pub blocked: bool,
}
