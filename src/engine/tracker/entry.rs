//! What the tracker keeps of an event and of a transaction.

use std::collections::VecDeque;

use crate::lsn::Lsn;
use crate::outbox::RowName;

/// Identifies one event until it is settled. Grows by one, across sessions and lineages.
pub(crate) type Ticket = u64;

/// What each entry costs beyond the record that librdkafka holds, counted against the memory limit.
pub(crate) const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Ticket>();

/// What the tracker keeps of an event until it is settled.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    /// The row, if it has one.
    pub(crate) row: Option<RowName>,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// No outboxd can have marked the row.
    pub(crate) untried: bool,
    /// Bytes of the record, counted until the acknowledgement.
    pub(crate) bytes: u32,
    /// The number of its topic.
    pub(crate) topic: u32,
    /// Commit (or creation, for rows from the table), in microseconds since 1970.
    pub(crate) since_micros: i64,
    /// When it was handed to Kafka, in microseconds of the engine's clock.
    pub(crate) sent_micros: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum State {
    InFlight,
    Acknowledged,
    Settled,
}

#[derive(Debug, Clone)]
pub(in crate::engine) struct Entry {
    pub(in crate::engine) event: InFlight,
    pub(super) transaction: u64,
    pub(in crate::engine) state: State,
}

/// Rows read from the table belong to no transaction of the stream.
pub(super) const NO_TRANSACTION: u64 = u64::MAX;

/// The entry of this ticket, where `first` is that of the first entry.
pub(super) fn entry_mut(
    entries: &mut VecDeque<Entry>,
    first: Ticket,
    ticket: Ticket,
) -> Option<&mut Entry> {
    entries.get_mut(ticket.checked_sub(first)? as usize)
}

/// A transaction that is not settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    pub(super) commit_lsn: Lsn,
    /// The position to confirm once it is settled: its end, raised by later keepalives; invalid
    /// while it is open.
    pub(super) confirm: Lsn,
    pub(super) next_index: u32,
    pub(super) pending: u64,
}

/// Whether a transaction has begun and its Commit was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    No,
    Yes,
    /// The session ended in the middle of it; the next one sends it again from its Begin.
    Cut,
}
