//! A record in memory of its own, for events that are not sent at once.
//!
//! Nearly every record borrows from the bytes it was read from, and is gone once the producer has
//! it. One that waits (for its topic's metadata, for an attempt, to be filed as a dead letter) is
//! copied into an [`OwnedRecord`], whole: the record that is sent or filed later is the one that
//! was read.

use std::fmt;

use crate::lsn::Lsn;
use crate::outbox::record::Record;
use crate::outbox::record::identity::OwnedIdentity;
use crate::outbox::record::size::{HeaderSums, footprint, wire_size};
use crate::outbox::{TopicName, TopicNameError};
use crate::topic_name;

/// A header's name and value; the value may be null.
type OwnedHeader = (Box<str>, Option<Box<[u8]>>);

/// A record that outlives the bytes it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    topic: Box<str>,
    topic_error: Option<TopicNameError>,
    key: Option<Box<[u8]>>,
    value: Option<Box<[u8]>>,
    headers: Vec<OwnedHeader>,
    partition: Option<i32>,
    timestamp: Option<i64>,
    /// `None` where the headers say it.
    identity: Option<OwnedIdentity>,
}

impl OwnedRecord {
    /// A copy of these parts.
    pub fn new<'a>(
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let headers = headers.map(|(name, value)| (name, Some(value)));
        OwnedRecord::with_nulls(topic, key, value, headers)
    }

    /// A copy of these parts, of which any header's value may be null.
    pub(crate) fn with_nulls<'a>(
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Self {
        OwnedRecord {
            topic: topic.into(),
            topic_error: topic_name::check(topic).err(),
            key: key.map(Box::from),
            value: value.map(Box::from),
            headers: headers
                .map(|(name, value)| (name.into(), value.map(Box::from)))
                .collect(),
            partition: None,
            timestamp: None,
            identity: None,
        }
    }

    /// The same record at this place of its topic and at this time.
    pub(crate) fn placed(mut self, partition: Option<i32>, timestamp: Option<i64>) -> Self {
        (self.partition, self.timestamp) = (partition, timestamp);
        self
    }

    /// The same record, of the event that this identifies.
    pub(crate) fn identified(mut self, identity: Option<OwnedIdentity>) -> Self {
        self.identity = identity;
        self
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The topic's name, if Kafka accepts it. It was checked when the record was made.
    pub(crate) fn topic_name(&self) -> Result<TopicName<'_>, TopicNameError> {
        TopicName::checked(&self.topic, self.topic_error)
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The partition; see [`Record::partition`].
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// Chooses the partition; without one the key decides.
    pub(crate) fn set_partition(&mut self, partition: Option<i32>) {
        self.partition = partition;
    }

    /// The time; see [`Record::timestamp`].
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// The headers in their order. A value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_deref()))
    }

    /// The sums of its headers.
    pub(crate) fn header_sums(&self) -> HeaderSums {
        HeaderSums::of(self.headers())
    }

    /// The bytes that a broker counts; see [`wire_size`].
    pub(crate) fn wire_size(&self) -> usize {
        wire_size(self.key(), self.value(), &self.header_sums())
    }

    /// The bytes that count against the memory limit; see [`Record::size`].
    pub fn size(&self) -> usize {
        let identity = self.identity.as_ref().map_or(0, OwnedIdentity::len);
        footprint(self.key(), self.value(), &self.header_sums()) + identity
    }

    /// What identifies the event, where the headers do not.
    pub(crate) fn identity(&self) -> Option<&OwnedIdentity> {
        self.identity.as_ref()
    }

    /// The id of the event's row.
    pub fn id(&self) -> Option<&str> {
        match &self.identity {
            Some(identity) => Some(identity.borrowed().id).filter(|id| !id.is_empty()),
            None => self.header("outbox_id"),
        }
    }

    /// When the writer says the event happened, as Postgres prints it.
    pub fn created_at(&self) -> Option<&str> {
        match &self.identity {
            Some(identity) => identity.borrowed().created_at,
            None => self.header("outbox_created_at"),
        }
    }

    /// The kind of event.
    pub fn event_type(&self) -> Option<&str> {
        match &self.identity {
            Some(identity) => identity.borrowed().event_type,
            None => self.header("outbox_event_type"),
        }
    }

    /// The commit position of its transaction and its index there, if the event came from the
    /// stream.
    pub fn place(&self) -> Option<(Lsn, u32)> {
        if let Some(identity) = &self.identity {
            return identity.borrowed().place;
        }
        let lsn = self.header("outbox_lsn")?.parse().ok()?;
        Some((lsn, self.header("outbox_index")?.parse().ok()?))
    }

    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(known, _)| *known == name)?;
        std::str::from_utf8(value?).ok()
    }
}

impl From<&Record<'_>> for OwnedRecord {
    fn from(record: &Record<'_>) -> Self {
        let (key, value, headers) = (record.key, record.value, record.headers());
        OwnedRecord::with_nulls(record.topic, key, value, headers)
            .placed(record.partition, record.timestamp)
            .identified(record.identity().map(OwnedIdentity::from))
    }
}

// Key, value and headers are the users' data: debug output in a log must not show them.
impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRecord")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}
