//! The health of slot, publication and table.

use serde::Serialize;

/// A problem, present or imminent, that a person has to fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The same word for the same kind of problem, such as `not-published` or `slot-nearly-lost`.
    pub name: &'static str,
    /// What it is.
    pub detail: String,
    /// What to do about it.
    #[serde(rename = "remedy")]
    pub hint: String,
    /// Whether the slot does not deliver events that are committed meanwhile, or has missed some.
    pub loses_events: bool,
}

/// The slot as the server sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SlotHealth {
    /// Bytes of WAL between the slot's confirmed position and the server's.
    pub lag_bytes: i64,
    /// Bytes of WAL that the server keeps for the slot.
    pub retained_bytes: i64,
    /// Bytes of WAL that may still be written before the slot is lost; absent without
    /// `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that the server writes a second; absent until two minutes of it are known.
    pub wal_bytes_per_second: Option<f64>,
    /// Seconds until the slot is lost if it goes on as in the last two minutes; absent without
    /// `max_slot_wal_keep_size`, and while the slot keeps up.
    pub seconds_until_lost: Option<f64>,
    /// Whether a session streams from it.
    pub active: bool,
}
