//! A record for Kafka, as the router puts it together: borrowed from the event and the router's
//! scratch memory.

mod identity;
mod owned;
mod row_copy;
mod size;
mod streamed_copy;

use std::fmt;
use std::ops::Range;

use crate::outbox::record::size::{footprint, wire_size};
use crate::outbox::{TopicName, TopicNameError};

pub(crate) use identity::{Identity, OwnedIdentity};
pub use owned::OwnedRecord;
pub(crate) use row_copy::RowCopy;
pub(crate) use size::HeaderSums;
pub(crate) use streamed_copy::{KeyDigest, Signature, StreamedCopy, stated_place};

/// The most headers that outboxd adds to a record.
const OUR_HEADER_COUNT: usize = 7;

/// outboxd's own headers: names and values, and how many of them there are.
#[derive(Clone)]
pub(super) struct OurHeaders<'a> {
    list: [(&'static str, &'a [u8]); OUR_HEADER_COUNT],
    count: usize,
}

impl<'a> OurHeaders<'a> {
    /// No header yet.
    #[inline(always)]
    pub(super) fn none() -> Self {
        OurHeaders {
            list: [("", &[]); OUR_HEADER_COUNT],
            count: 0,
        }
    }

    /// Adds a header, unless it has no value.
    #[inline(always)]
    pub(super) fn add(&mut self, name: &'static str, value: Option<&'a str>) {
        if let Some(value) = value
            && let Some(slot) = self.list.get_mut(self.count)
        {
            *slot = (name, value.as_bytes());
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &(&'static str, &'a [u8])> {
        self.list.iter().take(self.count)
    }
}

/// Another header: the places of its name and of its value in the router's scratch memory.
#[derive(Debug, Clone)]
pub(super) struct ScratchHeader {
    pub(super) name: Range<usize>,
    pub(super) value: ScratchValue,
}

/// Where the value of a header is.
#[derive(Debug, Clone)]
pub(super) enum ScratchValue {
    Text(Range<usize>),
    Bytes(Range<usize>),
    Null,
}

/// A record for Kafka.
#[derive(Clone)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The key; records without one are spread over the partitions.
    pub key: Option<&'a [u8]>,
    /// The value; a record without one is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The partition; without one the key decides.
    pub partition: Option<i32>,
    /// The time in milliseconds since 1970; without one it is that of sending.
    pub timestamp: Option<i64>,
    pub(super) topic_error: Option<TopicNameError>,
    pub(super) ours: OurHeaders<'a>,
    pub(super) theirs: &'a [ScratchHeader],
    pub(super) text: &'a str,
    pub(super) bytes: &'a [u8],
    pub(super) sums: HeaderSums,
    /// What identifies the event, where outboxd's headers do not.
    pub(super) identity: Option<Identity<'a>>,
}

impl<'a> Record<'a> {
    /// The topic's name, if Kafka accepts it. The router has checked it.
    pub(crate) fn topic_name(&self) -> Result<TopicName<'a>, TopicNameError> {
        TopicName::checked(self.topic, self.topic_error)
    }

    /// The headers: outboxd's, then those of columns, then the row's own, in the order in which
    /// Postgres prints them. A value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + '_ {
        let theirs = self.theirs.iter();
        let theirs = theirs.map(|header| (self.piece(&header.name), self.value_of(header)));
        let ours = self.ours.iter();
        ours.map(|(name, value)| (*name, Some(*value)))
            .chain(theirs)
    }

    /// What identifies the event, where the headers do not.
    pub(crate) fn identity(&self) -> Option<Identity<'a>> {
        self.identity
    }

    /// Adds its headers up, once it has them all.
    pub(super) fn add_up(&mut self) {
        let mut sums = HeaderSums::default();
        for (name, value) in self.ours.iter() {
            sums.add(name, Some(value));
        }
        for header in self.theirs {
            sums.add(self.piece(&header.name), self.value_of(header));
        }
        self.sums = sums;
    }

    #[inline(always)]
    fn piece(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    #[inline(always)]
    fn value_of(&self, header: &ScratchHeader) -> Option<&'a [u8]> {
        match &header.value {
            ScratchValue::Text(range) => Some(self.piece(range).as_bytes()),
            ScratchValue::Bytes(range) => Some(self.bytes.get(range.clone()).unwrap_or_default()),
            ScratchValue::Null => None,
        }
    }

    /// The sums of its headers.
    pub(crate) fn header_sums(&self) -> &HeaderSums {
        &self.sums
    }

    /// The bytes that a broker counts; see [`wire_size`].
    pub(crate) fn wire_size(&self) -> usize {
        wire_size(self.key, self.value, &self.sums)
    }

    /// The bytes that count against the memory limit while the record is in flight: its own and the
    /// overhead of keeping it.
    pub fn size(&self) -> usize {
        let identity = self.identity.map_or(0, |identity| identity.len());
        footprint(self.key, self.value, &self.sums) + identity
    }
}

// Key, value and headers are the users' data: debug output in a log must not show them.
impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}
