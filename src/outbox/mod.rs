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
//! published becomes a [`Letter`], which [`DeadLetters`] keeps for a person ([`letters`]) to decide
//! about.

mod columns;
mod dead_letter;
mod event;
mod filing;
mod json;
mod letter;
mod letter_json;
pub mod letters;
mod missed;
mod owned;
mod place;
mod requests;
mod router;
mod slow;
mod table;
mod table_batch;
mod topic;
mod write_back;
mod writer;

#[cfg(test)]
mod columns_tests;
#[cfg(test)]
mod router_tests;

pub use columns::Columns;
pub use dead_letter::DeadLetters;
pub(crate) use dead_letter::known;
pub use event::{Event, Printed};
pub use letter::{Closing, Fault, Letter, ParkedKey, Request, Wish};
pub(crate) use missed::MissedRows;
pub use owned::OwnedRecord;
pub(crate) use place::Place;
pub use router::{Origin, Record, Router};
pub use slow::Slow;
pub use table::UnpublishedRows;
pub(crate) use table::{BATCH, TableRow};
pub(crate) use table_batch::{Batch, Read, SAVEPOINT};
pub use topic::{TopicFault, check_topic};
pub(crate) use write_back::{Mark, Outcome, WriteBack};
pub use writer::{NewEvent, PAYLOAD_BYTES_MAX, Payload, Writer};
