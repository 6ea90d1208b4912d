//! Where an event was read, and the texts that say so. Text that is the same for all events of a
//! transaction is printed once for it.

use std::fmt::Write as _;

use crate::lsn::Lsn;
use crate::pgoutput::Timestamp;

/// Where an event was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventSource {
    /// The replication slot. Commit position and index identify the event.
    Stream {
        /// The start of the transaction's commit record.
        commit_lsn: Lsn,
        /// The index of the change in its transaction.
        index: u32,
        /// When the transaction committed.
        committed_at: Timestamp,
    },
    /// The table.
    Table,
}

impl EventSource {
    /// The commit position and the index of an event of the stream.
    pub(super) fn place(self) -> Option<(Lsn, u32)> {
        match self {
            EventSource::Stream {
                commit_lsn, index, ..
            } => Some((commit_lsn, index)),
            EventSource::Table => None,
        }
    }
}

/// The printed origin of the last event of the stream.
#[derive(Debug, Default)]
pub(super) struct OriginText {
    /// The transaction that `lsn` and `committed_at` are printed for.
    printed: Option<(Lsn, Timestamp)>,
    pub(super) lsn: String,
    pub(super) committed_at: String,
    pub(super) index: String,
}

impl OriginText {
    pub(super) fn print(&mut self, origin: EventSource) {
        let EventSource::Stream {
            commit_lsn,
            index,
            committed_at,
        } = origin
        else {
            return;
        };
        self.index.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.index, "{index}");
        if self.printed != Some((commit_lsn, committed_at)) {
            self.printed = Some((commit_lsn, committed_at));
            self.lsn.clear();
            self.committed_at.clear();
            let _ = write!(self.lsn, "{commit_lsn}");
            let _ = write!(self.committed_at, "{committed_at}");
        }
    }
}
