//! Where the parts of a record come from.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::mapping::template::Template;

/// Where a record's topic comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicRule {
    /// The value of a column.
    Column(String),
    /// A text, with or without columns in it.
    Template(Template),
}

impl fmt::Display for TopicRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicRule::Column(name) => write!(f, "column:{name}"),
            TopicRule::Template(template) => write!(f, "{template}"),
        }
    }
}

/// Topics by the value that a [`TopicRule`] gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicMap {
    /// The topics by value. Empty: the value is the topic.
    pub entries: BTreeMap<String, String>,
    /// The topic of a value that is not among them; `None` makes its event a dead letter.
    pub other: Option<Template>,
}

/// Where a record's key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRule {
    /// The value of a column, as Postgres prints it.
    Column(String),
    /// A text with columns in it.
    Template(Template),
    /// The value at a JSON pointer (RFC 6901) in the payload's column.
    Pointer(String),
    /// The member of this name of the row's own headers.
    Header(String),
    /// Records have no key.
    None,
}

impl fmt::Display for KeyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRule::Column(name) => write!(f, "column:{name}"),
            KeyRule::Template(template) => write!(f, "{template}"),
            KeyRule::Pointer(pointer) => write!(f, "payload:{pointer}"),
            KeyRule::Header(name) => write!(f, "header:{name}"),
            KeyRule::None => f.write_str("none"),
        }
    }
}

/// Where a record's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueRule {
    /// The payload as it is.
    Payload,
    /// The JSON at this pointer (RFC 6901) in the payload, as it is written there. Null, or nothing
    /// there, is a null payload.
    Pointer(String),
    /// The payload, of which a string that holds a JSON object or array is sent as that JSON.
    Expanded,
}

impl fmt::Display for ValueRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueRule::Payload => f.write_str("payload"),
            ValueRule::Pointer(pointer) => write!(f, "payload:{pointer}"),
            ValueRule::Expanded => f.write_str("expanded"),
        }
    }
}

/// What becomes of an event without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NullPayload {
    /// It is a dead letter.
    DeadLetter,
    /// It is sent without a value: a tombstone.
    Tombstone,
    /// It is sent with an empty value.
    Empty,
}

/// How a record's partition is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionRule {
    /// By the key, as Kafka's Java client does.
    Key,
    /// By the number in a column.
    Column(String),
    /// Records are spread over all partitions, whatever their keys are.
    Spread,
}

impl fmt::Display for PartitionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionRule::Key => f.write_str("key"),
            PartitionRule::Column(name) => write!(f, "column:{name}"),
            PartitionRule::Spread => f.write_str("spread"),
        }
    }
}

/// Where a record's timestamp comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimestampRule {
    /// The time of sending.
    Now,
    /// A column: a time, or a whole number of milliseconds since 1970.
    Column(String),
    /// The commit of the event's transaction; where the event was read from the table, the time of
    /// its row's creation.
    Commit,
}

impl fmt::Display for TimestampRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimestampRule::Now => f.write_str("now"),
            TimestampRule::Column(name) => write!(f, "column:{name}"),
            TimestampRule::Commit => f.write_str("commit"),
        }
    }
}

/// The headers that outboxd adds to those of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `outbox_id` and the others with this prefix.
    Outboxd,
    /// None.
    None,
    /// `id`, as Debezium's Outbox Event Router.
    Debezium,
    /// CloudEvents 1.0, binary mode: `ce_id`, `ce_source`, `ce_type`, `ce_time`, `content-type`.
    CloudEvents,
    /// CloudEvents 1.0, structured mode: the value is the event as JSON.
    CloudEventsStructured,
}

impl fmt::Display for HeaderStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeaderStyle::Outboxd => "outboxd",
            HeaderStyle::None => "none",
            HeaderStyle::Debezium => "debezium",
            HeaderStyle::CloudEvents => "cloudevents",
            HeaderStyle::CloudEventsStructured => "cloudevents-structured",
        })
    }
}
