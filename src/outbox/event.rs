//! One committed insert into the outbox, borrowed from wherever it was read.

use std::borrow::Cow;
use std::fmt;

use crate::error::Error;
use crate::outbox::{CreatedAt, Extras, RowId, RowName, TextValue};

/// A committed row of the outbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The row's id as Postgres prints it; empty if the column is null. A composite id is a JSON
    /// array of what its columns print; it is empty if one of them is null.
    pub id: Cow<'a, str>,
    /// The same, as statements identify the row; `None` if the column is null or no id.
    pub row_id: Option<RowId>,
    /// The column that the topic rule names. Empty if it is null, or if the rule names none; no
    /// topic has an empty name.
    pub topic: &'a str,
    /// The kind of event.
    pub event_type: Option<&'a str>,
    /// The column that the key rule names, if it names one.
    pub key: Option<TextValue<'a>>,
    /// The payload; without one the record is a tombstone.
    pub payload: Option<TextValue<'a>>,
    /// When the writer says the event happened, as Postgres prints it.
    pub created_at: Option<&'a str>,
    /// The column of the row's own headers: JSON, where the table has one.
    pub headers: Option<&'a str>,
    /// The other columns that the mapping names, in its order; empty if it names none.
    pub extras: Extras<'a>,
    /// Whether the row is marked already: another publisher has sent it, or a row has moved between
    /// partitions.
    pub published: bool,
    /// Whether the row passes the filter. Another row is no message, and is not sent.
    pub is_message: bool,
    /// The first column whose value is longer than a record can be, and was not read.
    pub left_out: Option<&'a str>,
    /// The first column whose value has to be text and is not UTF-8, and counts as null.
    pub not_utf8: Option<&'a str>,
}

impl Event<'_> {
    /// The event of a row in which every column is null.
    #[inline(always)]
    pub(crate) fn of_nulls() -> Event<'static> {
        Event {
            id: Cow::Borrowed(""),
            row_id: None,
            topic: "",
            event_type: None,
            key: None,
            payload: None,
            created_at: None,
            headers: None,
            extras: Extras::nulls(0),
            published: false,
            is_message: true,
            left_out: None,
            not_utf8: None,
        }
    }

    /// The name of the row, if it has an id.
    pub(crate) fn row_name(&self) -> Option<RowName> {
        Some(RowName {
            id: self.row_id.clone()?,
            created: self
                .created_at
                .map_or(CreatedAt::UNKNOWN, CreatedAt::of_text),
        })
    }

    /// The code of the dead letter that this error of the row makes.
    pub(crate) fn rejection_code(&self, error: &Error) -> &'static str {
        error.rejection_code().unwrap_or(match self.left_out {
            Some(_) => "RECORD_TOO_LARGE",
            None => "ROW_MALFORMED",
        })
    }
}

// Payloads and keys are the users' data: debug output in a log must not show them.
impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("event_type", &self.event_type)
            .field("payload", &self.payload)
            .field("created_at", &self.created_at)
            .field("published", &self.published)
            .field("is_message", &self.is_message)
            .field("left_out", &self.left_out)
            .field("not_utf8", &self.not_utf8)
            .finish_non_exhaustive()
    }
}
