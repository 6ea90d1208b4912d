//! Errors of a record that are known before it is sent, and that no attempt would fix. Pure.
//!
//! Kafka refuses a batch as a whole, and later records overtake it, so everything that the broker
//! could refuse for one record's sake is checked here first. Checks that depend on the topic use
//! its last metadata; what has changed since, the broker refuses, and the topic's queue settles.

use crate::engine::filing_limit::{DEAD_LETTER_FLOOD, MARKS_REFUSED};
use crate::engine::required_parts::RequiredParts;
use crate::engine::topics::placing::{Misplaced, Placing};
use crate::engine::topics::topic::TopicLimits;
use crate::error::{Code, Result};
use crate::outbox::{
    Event, EventSource, HeaderSums, OwnedRecord, Parts, Record, Rejection, Router, TopicName,
    TopicNameError,
};

/// Kafka's protocol has no limits for these; a record beyond them is a mistake in its writer.
const KEY_BYTES_MAX: usize = 1 << 20;
const HEADER_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 1_000;

/// The parts of a record that a topic's limits apply to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordFacts<'a> {
    /// `None` if Kafka does not accept the name; the record then has a rejection.
    pub(crate) topic: Option<TopicName<'a>>,
    pub(crate) key: Option<&'a [u8]>,
    /// The size as the only record of a batch, as the broker counts it.
    pub(crate) wire_bytes: usize,
    /// The place and the time that it has of its own.
    pub(crate) placing: Option<Placing>,
}

impl<'a> RecordFacts<'a> {
    /// The facts of a record that is about to be sent.
    pub(crate) fn of(record: &Record<'a>) -> Self {
        RecordFacts {
            topic: record.topic_name().ok(),
            key: record.key,
            wire_bytes: record.wire_size(),
            placing: Placing::of(record.partition, record.timestamp),
        }
    }

    /// The facts of a record that was kept.
    pub(crate) fn of_held(record: &'a OwnedRecord) -> Self {
        RecordFacts {
            topic: record.topic_name().ok(),
            key: record.key(),
            wire_bytes: record.wire_size(),
            placing: Placing::of(record.partition(), record.timestamp()),
        }
    }

    /// The topic's name; empty if Kafka does not accept it.
    pub(crate) fn topic(&self) -> &'a str {
        self.topic.map_or("", TopicName::as_str)
    }
}

fn rejection(code: &str, message: impl Into<String>) -> Rejection {
    Rejection {
        code: code.to_owned(),
        message: message.into(),
    }
}

/// Why a record is rejected whatever its topic's limits are.
pub(crate) fn own_rejection(record: &Record<'_>, required: &RequiredParts) -> Option<Rejection> {
    let (key, value) = (record.key, record.value);
    name_rejection(record.topic_name(), record.topic)
        .or_else(|| content_rejection(key, value, record.header_sums(), required))
}

/// The same for a record that was kept, or read from the table for a retry.
pub(crate) fn own_rejection_of_held(
    record: &OwnedRecord,
    required: &RequiredParts,
) -> Option<Rejection> {
    let (key, value) = (record.key(), record.value());
    name_rejection(record.topic_name(), record.topic())
        .or_else(|| content_rejection(key, value, &record.header_sums(), required))
}

fn content_rejection(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &HeaderSums,
    required: &RequiredParts,
) -> Option<Rejection> {
    let missing = match (key, value) {
        (_, None) if required.value.is_some() => required.value.as_ref(),
        (None, _) => required.key.as_ref(),
        _ => None,
    };
    if let Some(missing) = missing {
        return Some(rejection("COLUMN_NULL", missing));
    }
    let key_bytes = key.map_or(0, <[u8]>::len);
    if key_bytes > KEY_BYTES_MAX {
        let message = format!("the key has {key_bytes} bytes, the limit is {KEY_BYTES_MAX}");
        return Some(rejection("KEY_TOO_LARGE", message));
    }
    let HeaderSums { count, bytes, .. } = *headers;
    if count > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        let message = format!(
            "{count} headers with {bytes} bytes, the limits are {HEADERS_MAX} and \
             {HEADER_BYTES_MAX}"
        );
        return Some(rejection("HEADERS_TOO_LARGE", message));
    }
    None
}

/// The parts of an event's record. Those of a row that cannot become a record are bare, and its
/// rejection is beside them.
///
/// # Errors
/// When the columns do not fit the mapping.
pub(crate) fn prepare<'a>(
    router: &mut Router,
    event: &Event<'a>,
    origin: EventSource,
) -> Result<(Parts<'a>, Option<Rejection>)> {
    match router.prepare(event, origin) {
        Ok(parts) => Ok((parts, None)),
        Err(error) if error.code() == Code::Publish => {
            let malformed = rejection(event.rejection_code(&error), error.describe());
            Ok((router.bare(event), Some(malformed)))
        }
        Err(error) => Err(error),
    }
}

/// The rejection for an invalid topic name.
fn name_rejection(name: Result<TopicName<'_>, TopicNameError>, topic: &str) -> Option<Rejection> {
    let error = name.err()?;
    Some(rejection(
        "TOPIC_INVALID",
        format!("{error}: {:?}", abbreviated(topic)),
    ))
}

/// The rejection of a dead letter of which neither row nor copy can be read.
pub(crate) fn unreadable() -> Rejection {
    rejection("UNREADABLE", "neither the row nor its copy can be read")
}

/// The beginning of a name of any length.
fn abbreviated(name: &str) -> String {
    name.chars().take(60).collect()
}

/// Why a record is rejected for a topic with these limits. `wall` is what the wall clock shows, if
/// that is known.
pub(crate) fn rejection_by_topic(
    topic_limits: &TopicLimits,
    facts: &RecordFacts<'_>,
    compresses: bool,
    wall: Option<i64>,
) -> Option<Rejection> {
    let RecordFacts {
        key, wire_bytes, ..
    } = facts;
    if topic_limits.compacted && key.is_none() {
        let topic = facts.topic();
        let message = format!("topic {topic} is compacted and takes no record without a key");
        return Some(rejection("KEY_MISSING", message));
    }
    if facts.placing.is_some()
        && let Some(rejection) = placing_rejection(topic_limits, facts, wall)
    {
        return Some(rejection);
    }
    let limit = topic_limits.batch_bytes_max.filter(|_| !compresses)?;
    (*wire_bytes > limit).then(|| {
        let topic = facts.topic();
        let message = format!(
            "the record has {wire_bytes} bytes, topic {topic} takes at most {limit}: \
             raise its max.message.bytes"
        );
        rejection("RECORD_TOO_LARGE", message)
    })
}

/// Why a record with a place or a time of its own is rejected for a topic with these limits.
#[cold]
#[inline(never)]
pub(crate) fn placing_rejection(
    topic_limits: &TopicLimits,
    facts: &RecordFacts<'_>,
    wall: Option<i64>,
) -> Option<Rejection> {
    const TIME: &str = "TIMESTAMP_OUT_OF_RANGE";
    let topic = facts.topic();
    Some(
        match topic_limits.placing.check(facts.placing?, wall).err()? {
            Misplaced::Partition(count) => {
                let message = format!(
                    "the event names a partition that topic {topic} does not have: it has {count}, \
                 counted from 0"
                );
                rejection("PARTITION_UNKNOWN", message)
            }
            Misplaced::TooOld(limit) => {
                let message = format!(
                    "topic {topic} takes no record whose time is more than {limit:?} ago: \
                 raise its message.timestamp.before.max.ms"
                );
                rejection(TIME, message)
            }
            Misplaced::TooNew(limit) => {
                let message = format!(
                    "topic {topic} takes no record whose time is more than {limit:?} ahead: \
                 raise its message.timestamp.after.max.ms"
                );
                rejection(TIME, message)
            }
        },
    )
}

/// The rejection of an event whose topic does not exist.
pub(crate) fn unknown_topic(topic: &str) -> Rejection {
    let message =
        format!("Kafka has no topic {topic}: create it, or give this user DESCRIBE on it");
    rejection("TOPIC_UNKNOWN", message)
}

/// The rejection that stops the publisher after too many dead letters.
pub(crate) fn too_many_dead_letters(per_minute: u32) -> Rejection {
    let message = format!(
        "{per_minute} events became dead letters within a minute, and the next one was not filed \
         (OUTBOX_DEAD_LETTERS_PER_MINUTE is the limit): this points to a wrong setting or a \
         revoked right"
    );
    rejection(DEAD_LETTER_FLOOD, message)
}

/// The rejection that stops the publisher when the table refuses too many marks.
pub(crate) fn too_many_refused_marks(per_minute: u32) -> Rejection {
    let message = format!(
        "the table refused the marks of more than {per_minute} published rows within a minute \
         (OUTBOX_DEAD_LETTERS_PER_MINUTE is the limit), and each became a dead letter"
    );
    rejection(MARKS_REFUSED, message)
}
