//! The phases of a publisher's life.

use serde::Serialize;

/// Where the publisher is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Phase {
    /// Connecting to Postgres for the first time.
    Connecting,
    /// Another instance publishes; this one waits to take over.
    Standby,
    /// Publishing rows from the table, before the stream begins.
    Backlog,
    /// Streaming from the slot.
    Streaming,
    /// Reading the table at intervals, without a slot.
    Polling,
    /// The session was lost; connecting again.
    Reconnecting,
    /// Finishing the work in flight.
    Stopping,
    /// Stopped on request.
    Stopped,
    /// Ended by an error that needs a person.
    Failed,
}
