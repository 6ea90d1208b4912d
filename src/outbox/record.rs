//! A record for Kafka, as the router puts it together: borrowed from the event and the router's
//! scratch memory.

use std::fmt;
use std::ops::Range;

use crate::outbox::{TopicName, TopicNameError};

/// The most headers that outboxd adds to a record.
pub(super) const OUR_HEADER_COUNT: usize = 6;

/// The memory of a record in flight beside its own bytes: librdkafka's message and the entry for
/// its delivery report.
const RECORD_OVERHEAD: usize = 512;

/// The memory of a header beside its own bytes: librdkafka allocates each one by itself.
const HEADER_OVERHEAD: usize = 64;

/// outboxd's own headers: names and values.
pub(super) type OurHeaders<'a> = [(&'static str, &'a [u8]); OUR_HEADER_COUNT];

/// A record for Kafka.
#[derive(Clone)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The key; records without one are spread over the partitions.
    pub key: Option<&'a [u8]>,
    /// The value; a record without one is a tombstone.
    pub value: Option<&'a [u8]>,
    pub(super) topic_error: Option<TopicNameError>,
    pub(super) ours: OurHeaders<'a>,
    pub(super) our_count: usize,
    pub(super) theirs: &'a [(Range<usize>, Range<usize>)],
    pub(super) text: &'a str,
}

impl<'a> Record<'a> {
    /// The topic's name, if Kafka accepts it. The router has checked it.
    pub(crate) fn topic_name(&self) -> Result<TopicName<'a>, TopicNameError> {
        TopicName::checked(self.topic, self.topic_error)
    }

    /// The headers: outboxd's, then the row's own, in the order in which Postgres prints them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + '_ {
        let text = self.text;
        let piece = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
        let theirs = self.theirs.iter();
        let theirs = theirs.map(move |(name, value)| (piece(name), piece(value).as_bytes()));
        self.ours.iter().take(self.our_count).copied().chain(theirs)
    }

    /// The bytes that count against the memory limit while the record is in flight: its own and the
    /// overhead of keeping it.
    pub fn size(&self) -> usize {
        footprint(self.key, self.value, self.headers())
    }
}

/// The memory that a record takes while it is in flight.
pub(crate) fn footprint<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> usize {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD)
        .sum();
    length(key) + length(value) + headers + RECORD_OVERHEAD
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
