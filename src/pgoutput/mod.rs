//! Pure decoder of the `pgoutput` plugin's messages, protocol version 1: bytes in, messages out.
//!
//! It owns the shape of the messages and nothing else: no socket, no state between two messages, no
//! idea of an outbox. What a [`Relation`] means for the rows that follow is the caller's to
//! remember.
//!
//! It refuses what it does not understand: an unknown letter, a length past the end, bytes left
//! over. Each is an error that must stop the stream, since a message that is passed over may be an
//! event that is lost. The letters of later protocol versions (streamed and prepared transactions)
//! count as unknown, because a server sends them only when asked to.
//!
//! No input makes it panic, and Begin, Commit and Insert, one of which comes with every event,
//! allocate nothing. The format:
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

#![warn(clippy::indexing_slicing)]

mod message;
mod reader;
mod relation;
mod timestamp;
mod tuple;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod message_tests;

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
    /// The first byte is not a message of protocol version 1.
    #[error("`{}` is not a message of protocol version 1", .0.escape_ascii())]
    UnknownMessage(u8),
    /// A tuple is not introduced by the letter that belongs here.
    #[error("`{}` does not introduce a tuple here", .0.escape_ascii())]
    UnknownTupleKind(u8),
    /// A column is not one of null, unchanged, text, binary.
    #[error("`{}` is not a kind of column", .0.escape_ascii())]
    UnknownColumnKind(u8),
    /// A replica identity is not one of default, nothing, full, index.
    #[error("`{}` is not a replica identity", .0.escape_ascii())]
    UnknownReplicaIdentity(u8),
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// So many bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    /// A length or a count is below zero.
    #[error("a length is negative")]
    NegativeLength,
    /// A name is not UTF-8, although the connection asked for it.
    #[error("a name is not UTF-8")]
    NotUtf8,
}

impl From<DecodeError> for Error {
    fn from(cause: DecodeError) -> Self {
        Error::fatal(Code::Replication, "a pgoutput message cannot be decoded")
            .with_hint("the server may be newer than this version of outboxd knows; nothing was passed over")
            .source(cause)
    }
}
