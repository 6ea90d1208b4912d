//! A record in memory of its own, for events that are not sent at once.
//!
//! Nearly every record borrows from the bytes it was read from, and is gone once the producer has
//! it. One that waits (for its topic's metadata, for an attempt, to be filed as a dead letter) is
//! copied into an [`OwnedRecord`], whole: the record that is sent or filed later is the one that
//! was read.

use std::fmt;

use crate::lsn::Lsn;
use crate::outbox::record::footprint;
use crate::outbox::{Record, TopicName, TopicNameError};
use crate::topic_name;

/// A record that outlives the bytes it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    topic: Box<str>,
    topic_error: Option<TopicNameError>,
    key: Option<Box<[u8]>>,
    value: Option<Box<[u8]>>,
    headers: Vec<(Box<str>, Box<[u8]>)>,
}

impl OwnedRecord {
    /// A copy of these parts.
    pub fn new<'a>(
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let topic_error = topic_name::check(topic).err();
        OwnedRecord::with_checked_topic(topic, topic_error, key, value, headers)
    }

    fn with_checked_topic<'a>(
        topic: &str,
        topic_error: Option<TopicNameError>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        OwnedRecord {
            topic: topic.into(),
            topic_error,
            key: key.map(Box::from),
            value: value.map(Box::from),
            headers: headers
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
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

    /// The headers in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// The bytes that count against the memory limit; see [`Record::size`].
    pub fn size(&self) -> usize {
        footprint(self.key(), self.value(), self.headers())
    }

    /// The commit position of its transaction and its index there, if the event came from the
    /// stream.
    pub fn place(&self) -> Option<(Lsn, u32)> {
        let lsn = self.header("outbox_lsn")?.parse().ok()?;
        Some((lsn, self.header("outbox_index")?.parse().ok()?))
    }

    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(known, _)| *known == name)?;
        std::str::from_utf8(value).ok()
    }
}

impl From<&Record<'_>> for OwnedRecord {
    fn from(record: &Record<'_>) -> Self {
        let (key, value, headers) = (record.key, record.value, record.headers());
        let topic_error = record.topic_name().err();
        OwnedRecord::with_checked_topic(record.topic, topic_error, key, value, headers)
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
