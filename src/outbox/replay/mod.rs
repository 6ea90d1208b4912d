//! The rows that a replay sends once more: published ones, chosen by a filter that the server
//! decides.
//!
//! Rows are read in the order of every other read of the table, a batch at a time, by statements
//! that end at once. A row that is unpublished is left out, since the publisher sends it, and so is
//! one with an open dead letter. With `keep` nothing is marked, and every row counts as published.
//!
//! A replay ends where the table ended when it began, so that rows which are inserted meanwhile are
//! not sent by it: at the highest id of that moment where ids are numbers, and otherwise at that
//! moment's time of creation where the table has one with a time zone.

mod chosen;
mod filter;
mod resolve;
mod summary;

pub use chosen::ReplayRows;
pub use filter::{ReplayFilter, ReplayTime};
pub(crate) use resolve::position_of;
pub use resolve::resolve;
pub use summary::{ReplaySummary, RowAt};
