//! What a row of the outbox means: [`Event`] is what was committed, [`Record`] is what Kafka gets.
//!
//! Events come from the slot and from the table, and from here on nobody can tell which: both are
//! read through [`Columns`], which finds the columns by name, and both give the same bytes for the
//! same row. [`Router`] alone decides topic, key, value and headers. [`Writer`] is the other end:
//! how a service in Rust puts an event into the table.
//!
//! Everything borrows. An event lives as long as the bytes it was read from, a record as long as
//! the event and the router's scratch memory; with the default key rule an event passes through
//! without an allocation.
//!
//! This room knows neither slots nor brokers. What is wrong with a single row, and only with that
//! row, is an error of code [`Code::Publish`](crate::error::Code::Publish). An event that cannot be
//! published becomes a [`NewDeadLetter`], which [`DeadLetters`] keeps for a person ([`dead_letter::admin`]) to decide
//! about.

mod columns;
pub mod dead_letter;
mod event;
mod json_pointer;
mod owned_record;
mod record_size;
mod router;
mod table;
mod topic_name;
mod write_back;
mod writer;

#[cfg(test)]
mod tests;

pub use columns::Columns;
pub(crate) use dead_letter::known;
pub use dead_letter::{
    CloseDeadLetter, DeadLetters, NewDeadLetter, ParkedKey, Rejection, Resolution, ResolveRequest,
};
pub use event::{Event, TextValue};
pub use owned_record::OwnedRecord;
pub(crate) use record_size::wire_size;
pub use router::{EventSource, Record, Router};
pub(crate) use table::{BATCH, Batch, MissedRows, Read, SAVEPOINT, TableLocation, TableRow};
pub use table::{SlowRows, UnpublishedRows};
pub use topic_name::{TopicName, TopicNameError};
pub(crate) use write_back::{Mark, Outcome, WriteBack};
pub use writer::{NewEvent, PAYLOAD_BYTES_MAX, Payload, Writer};
