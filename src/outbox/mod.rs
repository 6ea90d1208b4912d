//! What a row of the outbox means: [`Event`] is what was committed, [`Record`] is what Kafka gets.
//!
//! Events come from the slot and from the table, and look the same from here on: both are read
//! through [`Columns`], which finds the columns by name, and both give the same bytes for the same
//! row. [`Router`] alone decides topic, key, value and headers. [`Writer`] is the other end: a
//! service in Rust writes events into the table with it.
//!
//! Everything borrows. An event lives as long as the bytes it was read from, a record as long as
//! the event and the router's scratch memory; with the default key rule an event passes through
//! without an allocation.
//!
//! This module knows neither slots nor brokers. An error of a single row, and of no other, has the
//! code [`Code::Publish`](crate::error::Code::Publish). An event that cannot be published becomes a
//! [`NewDeadLetter`]; [`DeadLetters`] keeps it until it is retried or discarded
//! ([`dead_letter::admin`]).

mod new_event;
mod writer;

#[cfg(feature = "publisher")]
mod columns;
#[cfg(feature = "publisher")]
pub mod dead_letter;
#[cfg(feature = "publisher")]
mod event;
#[cfg(feature = "publisher")]
mod extras;
#[cfg(feature = "publisher")]
mod json_pointer;
#[cfg(feature = "publisher")]
mod marking;
#[cfg(feature = "publisher")]
pub mod pause;
#[cfg(feature = "publisher")]
mod record;
#[cfg(feature = "publisher")]
mod refusal;
#[cfg(feature = "publisher")]
pub mod replay;
#[cfg(feature = "publisher")]
mod retention;
#[cfg(feature = "publisher")]
mod router;
#[cfg(feature = "publisher")]
mod row_filter;
#[cfg(feature = "publisher")]
mod row_id;
#[cfg(feature = "publisher")]
mod row_key;
#[cfg(feature = "publisher")]
mod row_name;
#[cfg(feature = "publisher")]
mod sample;
#[cfg(feature = "publisher")]
mod select_list;
#[cfg(feature = "publisher")]
mod statement_check;
#[cfg(feature = "publisher")]
mod table;
#[cfg(feature = "publisher")]
mod text_value;
#[cfg(feature = "publisher")]
mod unpublished_count;
#[cfg(feature = "publisher")]
mod write_back;

#[cfg(feature = "publisher")]
#[cfg(test)]
mod tests;

pub use new_event::{NewEvent, Payload};
pub use writer::{PAYLOAD_BYTES_MAX, PreparedWriter, Writer};

pub use crate::topic_name::{TopicName, TopicNameError};

#[cfg(all(test, feature = "publisher"))]
pub(crate) use self::write_back::{Changed, MarkedTable, PartTable, RefusedMark, settle, write};
#[cfg(feature = "publisher")]
pub use self::{
    columns::Columns,
    dead_letter::{
        CloseDeadLetter, DeadLetters, KeyHash, NewDeadLetter, ParkedKey, ParkedKeyList, Rejection,
        Resolution, ResolveRequest, WaitingRows,
    },
    event::Event,
    extras::Extras,
    record::{OwnedRecord, Record},
    router::{EventSource, Router},
    row_id::{IdKind, IdText, RowId},
    row_name::{CreatedAt, RowName},
    statement_check::{preflight, readiness},
    table::{SlowRows, UnpublishedRows},
    text_value::TextValue,
    unpublished_count::UnpublishedCount,
};
#[cfg(feature = "publisher")]
pub(crate) use self::{
    dead_letter::{HolderNumber, LetterList, PARKED_KEYS_MAX, beginning, known},
    record::{
        HeaderSums, KeyDigest, OwnedIdentity, RowCopy, Signature, StreamedCopy, stated_place,
    },
    retention::{RetentionStatements, RetentionStep, Upkeep, pass_interval, upkeep},
    router::Parts,
    row_name::RowSet,
    sample::{Sample, TopicSample, sample},
    statement_check::check_statements,
    table::{
        BATCH, Batch, MissedRows, Read, ReadPosition, RowWindow, SAVEPOINT, Stretch, Survey,
        TableGone, TableLocation, TableRow, TableState, WindowRow, WindowRows, time_and_estimate,
    },
    unpublished_count::Counted,
    write_back::{Mark, Marker, Outcome, WriteBack},
};
