//! What is kept of rows and records while they wait to be compared: sums, entries, and buckets on
//! disk.

pub(super) mod ahead;
pub(super) mod digest;
pub(super) mod entry;
pub(super) mod spill;
