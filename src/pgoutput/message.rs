//! The messages, and the choice of decoder by the first letter.

use crate::lsn::Lsn;
use crate::pgoutput::reader::Reader;
use crate::pgoutput::{DecodeError, Relation, Timestamp, Tuple};

/// A message of protocol version 1, borrowing from the bytes it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins: `B`.
    Begin(Begin),
    /// A transaction ends: `C`.
    Commit(Commit),
    /// The transaction came from another server: `O`.
    Origin(Origin<'a>),
    /// A table's description: `R`.
    Relation(Relation),
    /// A type's description: `Y`.
    Type(TypeName<'a>),
    /// A row was inserted: `I`.
    Insert(Insert<'a>),
    /// A row was updated: `U`.
    Update(Update<'a>),
    /// A row was deleted: `D`.
    Delete(Delete<'a>),
    /// Tables were emptied: `T`.
    Truncate(Truncate<'a>),
    /// A message from `pg_logical_emit_message`: `M`.
    Message(LogicalMessage<'a>),
}

/// The start of a transaction that has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The start of the commit record: equal to [`Commit::commit_lsn`].
    pub final_lsn: Lsn,
    /// When it committed, by the clock of the server where it did.
    pub committed_at: Timestamp,
    /// The transaction ID, without the epoch.
    pub xid: u32,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The start of the commit record.
    pub commit_lsn: Lsn,
    /// The end of the commit record: the only position that confirms this transaction and nothing
    /// after it.
    pub end_lsn: Lsn,
    /// When it committed, by the clock of the server where it did.
    pub committed_at: Timestamp,
}

/// Where a replicated transaction came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its commit position on that server.
    pub commit_lsn: Lsn,
    /// The replication origin's name.
    pub name: &'a str,
}

/// A type that is not built in, sent before the first [`Relation`] that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeName<'a> {
    /// The type's oid.
    pub id: u32,
    /// The schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// The type's name; for a domain, the name of its base type.
    pub name: &'a str,
}

/// A row that was inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The table's oid, as in its [`Relation`].
    pub relation_id: u32,
    /// The row.
    pub new: Tuple<'a>,
}

/// A row that was updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// The table's oid, as in its [`Relation`].
    pub relation_id: u32,
    /// The old row as far as the WAL contains it; `None` when the replica identity did not change.
    pub old: Option<OldTuple<'a>>,
    /// The new row.
    pub new: Tuple<'a>,
}

/// A row that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The table's oid, as in its [`Relation`].
    pub relation_id: u32,
    /// The deleted row as far as the WAL contains it.
    pub old: OldTuple<'a>,
}

/// A row before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The columns of the replica identity; the others are null.
    Key(Tuple<'a>),
    /// All columns: the table's replica identity is `FULL`.
    Full(Tuple<'a>),
}

/// Tables that were emptied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// Whether `CASCADE` was given.
    pub cascade: bool,
    /// Whether `RESTART IDENTITY` was given.
    pub restart_identity: bool,
    relation_ids: &'a [u8],
}

impl Truncate<'_> {
    /// The tables' oids.
    pub fn relation_ids(&self) -> impl ExactSizeIterator<Item = u32> {
        let (ids, _) = self.relation_ids.as_chunks::<4>();
        ids.iter().map(|id| u32::from_be_bytes(*id))
    }
}

/// A message written to the WAL by a function rather than a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Whether it belongs to the transaction around it; otherwise it is sent even if its
    /// transaction rolls back.
    pub transactional: bool,
    /// The end of its WAL record.
    pub lsn: Lsn,
    /// The prefix that its sender chose.
    pub prefix: &'a str,
    /// The content.
    pub content: &'a [u8],
}

// The content may be an event's payload: a debug print must not show it, since it may end up in a
// log.
impl std::fmt::Debug for LogicalMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogicalMessage")
            .field("transactional", &self.transactional)
            .field("lsn", &self.lsn)
            .field("prefix", &self.prefix)
            .field("content", &format_args!("{} bytes", self.content.len()))
            .finish()
    }
}

impl<'a> Message<'a> {
    /// Decodes one message, the payload of an `XLogData`, which must fill `bytes` to the end.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly one message of protocol version 1. The stream must then stop.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let letter = reader.u8().map_err(|_| DecodeError::Empty)?;
        let message = match letter {
            b'I' => Message::Insert(insert(&mut reader)?),
            b'B' => Message::Begin(Begin {
                final_lsn: lsn(&mut reader)?,
                committed_at: timestamp(&mut reader)?,
                xid: reader.u32()?,
            }),
            b'C' => Message::Commit(commit(&mut reader)?),
            b'O' => Message::Origin(Origin {
                commit_lsn: lsn(&mut reader)?,
                name: reader.string()?,
            }),
            b'R' => Message::Relation(Relation::decode(&mut reader)?),
            b'Y' => Message::Type(TypeName {
                id: reader.u32()?,
                namespace: reader.string()?,
                name: reader.string()?,
            }),
            b'U' => Message::Update(update(&mut reader)?),
            b'D' => Message::Delete(delete(&mut reader)?),
            b'T' => Message::Truncate(truncate(&mut reader)?),
            b'M' => Message::Message(logical_message(&mut reader)?),
            unknown => return Err(DecodeError::UnknownMessage(unknown)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn lsn(reader: &mut Reader<'_>) -> Result<Lsn, DecodeError> {
    reader.u64().map(Lsn::new)
}

fn timestamp(reader: &mut Reader<'_>) -> Result<Timestamp, DecodeError> {
    reader.i64().map(Timestamp::from_postgres_micros)
}

fn commit(reader: &mut Reader<'_>) -> Result<Commit, DecodeError> {
    // Flags, "currently unused".
    reader.u8()?;
    Ok(Commit {
        commit_lsn: lsn(reader)?,
        end_lsn: lsn(reader)?,
        committed_at: timestamp(reader)?,
    })
}

fn insert<'a>(reader: &mut Reader<'a>) -> Result<Insert<'a>, DecodeError> {
    Ok(Insert {
        relation_id: reader.u32()?,
        new: new_tuple(reader.u8()?, reader)?,
    })
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Update<'a>, DecodeError> {
    let relation_id = reader.u32()?;
    let (old, letter) = match reader.u8()? {
        letter @ (b'K' | b'O') => (Some(old_tuple(letter, reader)?), reader.u8()?),
        letter => (None, letter),
    };
    Ok(Update {
        relation_id,
        old,
        new: new_tuple(letter, reader)?,
    })
}

fn delete<'a>(reader: &mut Reader<'a>) -> Result<Delete<'a>, DecodeError> {
    Ok(Delete {
        relation_id: reader.u32()?,
        old: old_tuple(reader.u8()?, reader)?,
    })
}

fn new_tuple<'a>(letter: u8, reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    match letter {
        b'N' => Tuple::decode(reader),
        unknown => Err(DecodeError::UnknownTupleKind(unknown)),
    }
}

fn old_tuple<'a>(letter: u8, reader: &mut Reader<'a>) -> Result<OldTuple<'a>, DecodeError> {
    match letter {
        b'K' => Tuple::decode(reader).map(OldTuple::Key),
        b'O' => Tuple::decode(reader).map(OldTuple::Full),
        unknown => Err(DecodeError::UnknownTupleKind(unknown)),
    }
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Truncate<'a>, DecodeError> {
    let count = reader.length()?;
    let options = reader.u8()?;
    let bytes = count.checked_mul(4).ok_or(DecodeError::Truncated)?;
    Ok(Truncate {
        cascade: options & 1 != 0,
        restart_identity: options & 2 != 0,
        relation_ids: reader.bytes(bytes)?,
    })
}

fn logical_message<'a>(reader: &mut Reader<'a>) -> Result<LogicalMessage<'a>, DecodeError> {
    let flags = reader.u8()?;
    let lsn = lsn(reader)?;
    let prefix = reader.string()?;
    let length = reader.length()?;
    Ok(LogicalMessage {
        transactional: flags & 1 != 0,
        lsn,
        prefix,
        content: reader.bytes(length)?,
    })
}
