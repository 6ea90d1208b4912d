//! Compares the outbox table with its topics: which events are missing, duplicate, altered, out of
//! order, or in Kafka without ever having been committed.
//!
//! Reads both sides and changes neither: no slot, mark, topic, group or offset. The rows come
//! first, and then a proof that they have been sent: their marks, or that the slot has passed them.
//! Only behind that proof the ends of the topics are taken, so that a running publisher and its
//! writers are no reason for an alarm. Both sides are put into buckets on disk, which are compared
//! one after another: the memory does not grow with the number of events.
//!
//! What retention, compaction, a deletion or a missing right keep from being known is unknown, and
//! never counted as missing.

mod by_value;
mod compare;
mod found;
mod join;
mod judge;
mod moment;
mod order;
mod progress;
mod records;
mod report;
mod request;
mod rows;
mod run;
mod schedule;
mod store;
mod strays;

pub use moment::{Moment, length};
pub use progress::{Progress, Steps};
pub use report::{Finding, Kind, Report};
pub use request::Request;
pub use run::verify;
pub use schedule::{Schedule, schedule};
