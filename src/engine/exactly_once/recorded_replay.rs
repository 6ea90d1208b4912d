//! A replay, as the progress records of its transactions describe it: enough for another process to
//! go on with it. Pure.

use serde::{Deserialize, Serialize};

use crate::outbox::replay::ReplayFilter;

/// The most bytes of a description. Each transaction has a record with it.
pub(crate) const DESCRIPTION_MAX: usize = 100_000;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedReplay {
    /// The table: ids mean nothing in another.
    pub(crate) table: String,
    /// Which rows, with moments and an end.
    pub(crate) filter: ReplayFilter,
    /// When it began. Every record that it sends has this in a header.
    pub(crate) started: String,
    /// The process that sends it: 64 random bits.
    pub(crate) run: String,
    /// How many events are in Kafka by this record and the earlier ones.
    pub(crate) sent: u64,
    /// All rows are done.
    pub(crate) complete: bool,
}

impl RecordedReplay {
    /// How many bytes its description takes.
    pub(crate) fn size(&self) -> usize {
        // Texts alone: it cannot fail.
        serde_json::to_vec(self).map_or(0, |value| value.len())
    }

    /// Whether this is the same replay, by whichever process.
    pub(crate) fn is_same(&self, other: &RecordedReplay) -> bool {
        self.table == other.table && self.started == other.started && self.filter == other.filter
    }
}
