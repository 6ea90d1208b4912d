//! Pure decoder of the `pgoutput` plugin's messages, protocol version 1: bytes in, messages out.
//!
//! It owns the message formats and nothing else: no socket, no state between two messages, no
//! knowledge of an outbox. The caller keeps each [`Relation`] for the rows that follow.
//!
//! It refuses an unknown letter, a length past the end, and bytes left over. Each is an error that
//! must stop the stream, since a skipped message may be a lost event. The letters of later protocol
//! versions (streamed and prepared transactions) count as unknown: a server sends them only on
//! request.
//!
//! A message of changes that is too long to be kept is shortened while it arrives (`Abridger`).
//!
//! No input makes it panic. Begin, Commit and Insert, which make up most of the stream, allocate
//! nothing. The format:
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

#![warn(clippy::indexing_slicing)]

mod abridge;
mod message;
mod reader;
mod relation;
mod timestamp;
mod tuple;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod message_tests;

pub(crate) use abridge::Abridger;
pub use message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Truncate, TypeName,
    Update,
};
pub use relation::{Relation, RelationColumn, ReplicaIdentity};
pub use timestamp::Timestamp;
pub use tuple::{Column, Tuple, TupleColumns};

use crate::error::{Code, Error};

/// Why a message could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message had no bytes at all.
    #[error("the message is empty")]
    Empty,
    /// The first byte names no message of protocol version 1.
    #[error("`{}` is not a message of protocol version 1", .0.escape_ascii())]
    UnknownMessage(u8),
    /// The byte before a tuple is not the expected letter.
    #[error("`{}` does not introduce a tuple here", .0.escape_ascii())]
    UnknownTupleKind(u8),
    /// A column's kind is not null, unchanged, text or binary.
    #[error("`{}` is not a kind of column", .0.escape_ascii())]
    UnknownColumnKind(u8),
    /// A replica identity is not default, nothing, full or index.
    #[error("`{}` is not a replica identity", .0.escape_ascii())]
    UnknownReplicaIdentity(u8),
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// This many bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    /// A length or a count is negative.
    #[error("a length is negative")]
    NegativeLength,
    /// A name is not UTF-8, the client encoding.
    #[error("a name is not UTF-8")]
    NotUtf8,
}

impl From<DecodeError> for Error {
    fn from(cause: DecodeError) -> Self {
        Error::fatal(Code::Replication, "a pgoutput message cannot be decoded")
            .with_hint(
                "the server may be newer than this version of outboxd supports; \
                 no event was skipped",
            )
            .with_source(cause)
    }
}
