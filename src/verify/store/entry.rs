//! The entries that are compared, and their bytes on disk. Pure.

use crate::verify::store::digest::IdDigest;

/// The most bytes of an id that are kept: no index takes a longer one.
const NAME_MAX: usize = 3_000;

/// Stands for a moment that is not known.
const NO_TIME: i64 = i64::MIN;

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct RowEntry {
    pub(in crate::verify) id: IdDigest,
    /// Of the time of creation; 0 without one.
    pub(in crate::verify) created: u64,
    /// Of topic and key.
    pub(in crate::verify) place: u64,
    pub(in crate::verify) value: u64,
    /// The earlier one of creation and mark, in microseconds since 1970.
    pub(in crate::verify) time: Option<i64>,
    pub(in crate::verify) topic: u32,
    pub(in crate::verify) facts: RowFacts,
    pub(in crate::verify) name: Box<str>,
}

/// What is known of a row beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::verify) struct RowFacts {
    /// It is marked as published.
    pub(in crate::verify) marked: bool,
    /// No record can be made of it, so there is nothing to compare with.
    pub(in crate::verify) unreadable: bool,
    /// It counts no attempt to send.
    pub(in crate::verify) unattempted: bool,
    /// Its value depends on where it was read.
    pub(in crate::verify) any_value: bool,
    /// A record with its id is there.
    pub(in crate::verify) matched: bool,
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct RecordEntry {
    /// All zero in a record without an id.
    pub(in crate::verify) id: IdDigest,
    pub(in crate::verify) created: u64,
    /// The time of creation in microseconds since 1970.
    pub(in crate::verify) created_at: Option<i64>,
    pub(in crate::verify) place: u64,
    pub(in crate::verify) value: u64,
    pub(in crate::verify) at: Position,
    pub(in crate::verify) is_replayed: bool,
    /// Its header names this outbox as its source.
    pub(in crate::verify) is_ours: bool,
    pub(in crate::verify) name: Box<str>,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::verify) struct Position {
    pub(in crate::verify) topic: u32,
    pub(in crate::verify) partition: i32,
    pub(in crate::verify) offset: i64,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct LetterEntry {
    pub(in crate::verify) id: IdDigest,
    pub(in crate::verify) created: u64,
    pub(in crate::verify) is_sent: bool,
    pub(in crate::verify) is_retried: bool,
}

/// A record that came behind a later one of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct SuspectEntry {
    pub(in crate::verify) id: IdDigest,
    pub(in crate::verify) at: Position,
    /// It may be the copy of a record that is no longer there, or of another server's time.
    pub(in crate::verify) is_doubtful: bool,
}

/// What the order of a record's key is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct OrderEntry {
    pub(in crate::verify) id: IdDigest,
    pub(in crate::verify) place: u64,
    pub(in crate::verify) at: Position,
    pub(in crate::verify) lsn: u64,
    pub(in crate::verify) index: u32,
    /// In microseconds since 1970.
    pub(in crate::verify) committed: Option<i64>,
    /// Its first copy may have been before the records that were read.
    pub(in crate::verify) is_early: bool,
}

/// An entry with its bytes.
pub(in crate::verify) trait Entry: Sized {
    /// Appends the bytes.
    fn write(&self, into: &mut Vec<u8>);

    /// Takes the bytes of one entry from the front; `None` at the end.
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// All entries of a bucket.
    fn all(mut bytes: &[u8]) -> Vec<Self> {
        std::iter::from_fn(|| Self::take(&mut bytes)).collect()
    }
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn put_time(into: &mut Vec<u8>, time: Option<i64>) {
    into.extend_from_slice(&time.unwrap_or(NO_TIME).to_le_bytes());
}

fn take_time(bytes: &mut &[u8]) -> Option<Option<i64>> {
    let time = i64::from_le_bytes(array(bytes)?);
    Some(Some(time).filter(|time| *time != NO_TIME))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    array(bytes).map(u64::from_le_bytes)
}

fn put_flags<const N: usize>(into: &mut Vec<u8>, flags: [bool; N]) {
    let bits = flags.iter().rev();
    into.push(bits.fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
}

fn take_flags<const N: usize>(bytes: &mut &[u8]) -> Option<[bool; N]> {
    let [bits] = array(bytes)?;
    Some(std::array::from_fn(|at| bits >> at & 1 == 1))
}

fn put_name(into: &mut Vec<u8>, name: &str) {
    let end = name.floor_char_boundary(NAME_MAX);
    let name = name.get(..end).unwrap_or_default();
    into.extend_from_slice(&(name.len() as u16).to_le_bytes());
    into.extend_from_slice(name.as_bytes());
}

fn take_name(bytes: &mut &[u8]) -> Option<Box<str>> {
    let length = u16::from_le_bytes(array(bytes)?);
    let (name, rest) = bytes.split_at_checked(usize::from(length))?;
    *bytes = rest;
    Some(String::from_utf8_lossy(name).into())
}

impl Position {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.topic.to_le_bytes());
        into.extend_from_slice(&self.partition.to_le_bytes());
        into.extend_from_slice(&self.offset.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Position {
            topic: u32::from_le_bytes(array(bytes)?),
            partition: i32::from_le_bytes(array(bytes)?),
            offset: i64::from_le_bytes(array(bytes)?),
        })
    }
}

impl Entry for RowEntry {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id);
        for sum in [self.created, self.place, self.value] {
            into.extend_from_slice(&sum.to_le_bytes());
        }
        put_time(into, self.time);
        into.extend_from_slice(&self.topic.to_le_bytes());
        let facts = self.facts;
        put_flags(
            into,
            [
                facts.marked,
                facts.unreadable,
                facts.unattempted,
                facts.any_value,
                facts.matched,
            ],
        );
        put_name(into, &self.name);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let id = array(bytes)?;
        let (created, place, value) = (take_u64(bytes)?, take_u64(bytes)?, take_u64(bytes)?);
        let (time, topic) = (take_time(bytes)?, u32::from_le_bytes(array(bytes)?));
        let [marked, unreadable, unattempted, any_value, matched] = take_flags(bytes)?;
        Some(RowEntry {
            id,
            created,
            place,
            value,
            time,
            topic,
            facts: RowFacts {
                marked,
                unreadable,
                unattempted,
                any_value,
                matched,
            },
            name: take_name(bytes)?,
        })
    }
}

impl Entry for RecordEntry {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id);
        for sum in [self.created, self.place, self.value] {
            into.extend_from_slice(&sum.to_le_bytes());
        }
        put_time(into, self.created_at);
        self.at.write(into);
        put_flags(into, [self.is_replayed, self.is_ours]);
        put_name(into, &self.name);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let id = array(bytes)?;
        let (created, place, value) = (take_u64(bytes)?, take_u64(bytes)?, take_u64(bytes)?);
        let (created_at, at) = (take_time(bytes)?, Position::take(bytes)?);
        let [is_replayed, is_ours] = take_flags(bytes)?;
        Some(RecordEntry {
            id,
            created,
            created_at,
            place,
            value,
            at,
            is_replayed,
            is_ours,
            name: take_name(bytes)?,
        })
    }
}

impl Entry for LetterEntry {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id);
        into.extend_from_slice(&self.created.to_le_bytes());
        put_flags(into, [self.is_sent, self.is_retried]);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (id, created) = (array(bytes)?, take_u64(bytes)?);
        let [is_sent, is_retried] = take_flags(bytes)?;
        Some(LetterEntry {
            id,
            created,
            is_sent,
            is_retried,
        })
    }
}

impl Entry for SuspectEntry {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id);
        self.at.write(into);
        put_flags(into, [self.is_doubtful]);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (id, at) = (array(bytes)?, Position::take(bytes)?);
        let [is_doubtful] = take_flags(bytes)?;
        Some(SuspectEntry {
            id,
            at,
            is_doubtful,
        })
    }
}

impl Entry for OrderEntry {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id);
        into.extend_from_slice(&self.place.to_le_bytes());
        self.at.write(into);
        into.extend_from_slice(&self.lsn.to_le_bytes());
        into.extend_from_slice(&self.index.to_le_bytes());
        put_time(into, self.committed);
        put_flags(into, [self.is_early]);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (id, place, at) = (array(bytes)?, take_u64(bytes)?, Position::take(bytes)?);
        let (lsn, index) = (take_u64(bytes)?, u32::from_le_bytes(array(bytes)?));
        let committed = take_time(bytes)?;
        let [is_early] = take_flags(bytes)?;
        Some(OrderEntry {
            id,
            place,
            at,
            lsn,
            index,
            committed,
            is_early,
        })
    }
}
