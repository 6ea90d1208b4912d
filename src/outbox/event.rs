//! One committed insert into the outbox, borrowed from wherever it was read.

use std::fmt;

use crate::outbox::{CreatedAt, RowId, RowName};

/// A committed row of the outbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The row's `id` as Postgres prints it; empty if the column is null.
    pub id: &'a str,
    /// The same, as statements identify the row; `None` if the column is null or no id.
    pub row_id: Option<RowId>,
    /// The Kafka topic. Empty if the column is null; no topic has an empty name.
    pub topic: &'a str,
    /// The kind of event.
    pub event_type: Option<&'a str>,
    /// The column that the key rule names, if it names one.
    pub key: Option<TextValue<'a>>,
    /// The payload; without one the record is a tombstone.
    pub payload: Option<TextValue<'a>>,
    /// When the writer says the event happened, as Postgres prints it.
    pub created_at: Option<&'a str>,
    /// The JSON object of the column `headers`, where the table has one.
    pub headers: Option<&'a str>,
    /// Whether `published_at` is set already: another publisher has sent it, or a row has moved
    /// between partitions.
    pub published: bool,
    /// The first column whose value is longer than a record can be, and was not read.
    pub left_out: Option<&'static str>,
    /// The first column whose value has to be text and is not UTF-8, and counts as null.
    pub not_utf8: Option<&'static str>,
}

impl Event<'_> {
    /// The name of the row, if it has an id.
    pub(crate) fn row_name(&self) -> Option<RowName> {
        Some(RowName {
            id: self.row_id.clone()?,
            created: self
                .created_at
                .map_or(CreatedAt::UNKNOWN, CreatedAt::of_text),
        })
    }
}

/// A value as Postgres prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TextValue<'a> {
    /// The text is the value.
    Verbatim(&'a [u8]),
    /// A `bytea`: `\x` and two digits a byte
    /// (<https://www.postgresql.org/docs/current/datatype-binary.html>).
    Hex(&'a [u8]),
}

impl TextValue<'_> {
    fn len(&self) -> usize {
        match self {
            TextValue::Verbatim(text) | TextValue::Hex(text) => text.len(),
        }
    }
}

// Payloads and keys are the users' data: debug output in a log must not show them.
impl fmt::Debug for TextValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("event_type", &self.event_type)
            .field("payload", &self.payload)
            .field("created_at", &self.created_at)
            .field("published", &self.published)
            .field("left_out", &self.left_out)
            .field("not_utf8", &self.not_utf8)
            .finish_non_exhaustive()
    }
}
