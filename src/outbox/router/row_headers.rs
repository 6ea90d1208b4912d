//! The headers that come from the row: named columns, and the members of its own headers.
//!
//! No row can replace what outboxd adds: a member with a name that could be taken for one of
//! outboxd's headers is dropped.

use std::ops::Range;

use crate::config::Mapping;
use crate::config::mapping::HeaderStyle;
use crate::error::Result;
use crate::outbox::json_pointer;
use crate::outbox::record::{ScratchHeader, ScratchValue};
use crate::outbox::router::key_choice::NamedHeader;
use crate::outbox::router::rejected::rejected;
use crate::outbox::router::scratch::{Part, Scratch};
use crate::outbox::router::template::Extra;
use crate::outbox::{Event, TextValue};

/// The prefix of outboxd's own headers.
const OUR_PREFIX: &str = "outbox_";

/// The prefix of the headers of CloudEvents.
const CLOUD_EVENTS_PREFIX: &str = "ce_";

/// See the module's head.
#[derive(Debug)]
pub(super) struct RowHeaders {
    columns: Vec<HeaderColumn>,
    /// The header that has the key, if one has.
    wanted: Option<String>,
    /// Where the object is in the column of the row's own headers.
    pointer: Vec<String>,
    style: HeaderStyle,
}

/// A header whose value a column has.
#[derive(Debug)]
struct HeaderColumn {
    /// The place of the name in the scratch memory.
    name: Range<usize>,
    column: Extra,
    /// Its value is the key as well.
    is_key: bool,
}

impl RowHeaders {
    /// The headers of this mapping, whose names the scratch memory keeps. `wanted` is the header
    /// that has the key.
    pub(super) fn of(
        mapping: &Mapping,
        extras: &[&str],
        wanted: Option<&str>,
        scratch: &mut Scratch,
    ) -> Self {
        let columns = mapping.columns.header_columns.iter();
        let pointer = mapping.columns.headers.pointer.as_deref();
        RowHeaders {
            columns: columns
                .map(|it| HeaderColumn {
                    name: scratch.keep(&it.name),
                    column: Extra::of(&it.column, extras),
                    is_key: wanted == Some(it.name.as_str()),
                })
                .collect(),
            wanted: wanted.map(str::to_owned),
            pointer: pointer.map(json_pointer::steps).unwrap_or_default(),
            style: mapping.headers,
        }
    }

    /// Whether columns have headers.
    pub(super) fn has_columns(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Reads the headers into the scratch memory. Returns what they have under the name of the key.
    ///
    /// # Errors
    ///
    /// Of the row, if its own headers are no JSON object, or a `bytea` is malformed.
    pub(super) fn read<'a>(
        &self,
        event: &Event<'a>,
        scratch: &mut Scratch,
    ) -> Result<Option<NamedHeader<'a>>> {
        for header in &self.columns {
            match header.column.value(event) {
                Some(TextValue::Text(text)) => {
                    let (name, value) =
                        (header.name.clone(), ScratchValue::Text(scratch.push(text)));
                    scratch.headers.push(ScratchHeader { name, value });
                }
                value => self.add(event, header, value, scratch)?,
            }
        }
        if self.wanted.is_none() && event.headers.is_none() {
            return Ok(None);
        }
        let found = self.key(scratch);
        match event.headers {
            None => Ok(found),
            Some(own) => {
                let wanted = self.wanted.as_deref().filter(|_| found.is_none());
                let of_own = self.read_own(event, own, wanted, scratch)?;
                Ok(found.or(of_own))
            }
        }
    }

    /// Adds a header whose value is not just a text.
    fn add(
        &self,
        event: &Event<'_>,
        header: &HeaderColumn,
        value: Option<TextValue<'_>>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let is_debeziums = self.style == HeaderStyle::Debezium;
        let text = match value {
            Some(TextValue::Boolean(b"t")) if is_debeziums => Some("true"),
            Some(TextValue::Boolean(_)) if is_debeziums => Some("false"),
            Some(TextValue::Hex(_)) | None => None,
            Some(value) => Some(value.as_str().unwrap_or_default()),
        };
        let value = match (text, value) {
            (Some(text), _) => ScratchValue::Text(scratch.push(text)),
            (None, Some(value)) => match scratch.part(event, value)? {
                Part::Bytes(range) => ScratchValue::Bytes(range),
                _ => ScratchValue::Null,
            },
            (None, None) => ScratchValue::Null,
        };
        // Debezium sends a header without a value.
        if is_debeziums || !matches!(value, ScratchValue::Null) {
            let name = header.name.clone();
            scratch.headers.push(ScratchHeader { name, value });
        }
        Ok(())
    }

    /// The key, if the header of a column has it.
    fn key<'a>(&self, scratch: &Scratch) -> Option<NamedHeader<'a>> {
        let columns = self.columns.iter().filter(|header| header.is_key);
        let mut parts = columns.filter_map(|header| {
            let mut read = scratch.headers.iter();
            let read = read.find(|read| read.name == header.name)?;
            match &read.value {
                ScratchValue::Text(range) => Some(Part::Text(range.clone())),
                ScratchValue::Bytes(range) => Some(Part::Bytes(range.clone())),
                ScratchValue::Null => None,
            }
        });
        parts.next().map(NamedHeader::Value)
    }

    fn read_own<'a>(
        &self,
        event: &Event<'_>,
        column: &str,
        wanted: Option<&str>,
        scratch: &mut Scratch,
    ) -> Result<Option<NamedHeader<'a>>> {
        let malformed = |cause| {
            rejected(event, "has headers that are not a JSON object")
                .with_hint("headers must be an object such as {\"traceparent\": \"00-…\"}")
                .with_source(cause)
        };
        let object = match self.pointer.is_empty() {
            true => column,
            false => {
                let found = json_pointer::find(column.as_bytes(), &self.pointer);
                found
                    .map_err(malformed)?
                    .map_or("null", |found| found.get())
            }
        };
        // A JSON null counts as no value.
        if object == "null" {
            return Ok(None);
        }
        let (text, headers) = (&mut scratch.text, &mut scratch.headers);
        let (mut error, mut found) = (None, None);
        let read = json_pointer::members(object, |name, value| {
            let is_wanted = wanted == Some(name) && found.is_none();
            let is_dropped = self.is_ours(name);
            if is_dropped && !is_wanted {
                return;
            }
            let start = text.len();
            text.push_str(name);
            let middle = text.len();
            error = error.take().or(json_pointer::append(value, text).err());
            let value_at = middle..text.len();
            if is_wanted {
                found = Some(match value.get().as_bytes().first() {
                    Some(b'n') => None,
                    Some(b'{' | b'[') => Some(NamedHeader::Nested),
                    _ => Some(NamedHeader::Value(Part::Text(value_at.clone()))),
                });
            }
            if !is_dropped {
                headers.push(ScratchHeader {
                    name: start..middle,
                    value: ScratchValue::Text(value_at),
                });
            }
        });
        error.map_or(read, Err).map_err(malformed)?;
        Ok(found.flatten())
    }

    /// Whether a header of this name could be taken for one of outboxd's.
    fn is_ours(&self, name: &str) -> bool {
        let is_content_type = || name.eq_ignore_ascii_case("content-type");
        name.starts_with(OUR_PREFIX)
            || match self.style {
                HeaderStyle::Outboxd | HeaderStyle::None => false,
                HeaderStyle::Debezium => name == "id",
                HeaderStyle::CloudEvents => {
                    name.starts_with(CLOUD_EVENTS_PREFIX) || is_content_type()
                }
                HeaderStyle::CloudEventsStructured => is_content_type(),
            }
    }
}
