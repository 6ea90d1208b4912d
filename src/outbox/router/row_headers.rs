//! The headers that come from the row: named columns, and the members of its own headers.
//!
//! No row can replace what outboxd adds: a member with a name that could be taken for one of
//! outboxd's headers is dropped.

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
    /// Names of headers, and the columns that have their values.
    columns: Vec<(String, Extra)>,
    /// Where the object is in the column of the row's own headers.
    pointer: Vec<String>,
    style: HeaderStyle,
}

impl RowHeaders {
    pub(super) fn of(mapping: &Mapping, extras: &[&str]) -> Self {
        let columns = mapping.columns.header_columns.iter();
        let pointer = mapping.columns.headers.pointer.as_deref();
        RowHeaders {
            columns: columns
                .map(|it| (it.name.clone(), Extra::of(&it.column, extras)))
                .collect(),
            pointer: pointer.map(json_pointer::steps).unwrap_or_default(),
            style: mapping.headers,
        }
    }

    /// Whether columns have headers.
    pub(super) fn has_columns(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Reads the headers into the scratch memory. Returns what they have under the name `wanted`.
    ///
    /// # Errors
    ///
    /// Of the row, if its own headers are no JSON object, or a `bytea` is malformed.
    pub(super) fn read<'a>(
        &self,
        event: &Event<'a>,
        wanted: Option<&str>,
        scratch: &mut Scratch,
    ) -> Result<Option<NamedHeader<'a>>> {
        let mut found = None;
        for (name, column) in &self.columns {
            let value = self.value(event, column, scratch)?;
            if wanted == Some(name.as_str()) {
                found = found.or(match value.clone() {
                    ScratchValue::Text(range) => Some(NamedHeader::Value(Part::Text(range))),
                    ScratchValue::Bytes(range) => Some(NamedHeader::Value(Part::Bytes(range))),
                    ScratchValue::Null => None,
                });
            }
            // Debezium sends a header without a value.
            let is_sent = self.style == HeaderStyle::Debezium;
            if is_sent || !matches!(value, ScratchValue::Null) {
                let name = scratch.push(name);
                scratch.headers.push(ScratchHeader { name, value });
            }
        }
        match event.headers {
            None => Ok(found),
            Some(own) => self
                .read_own(event, own, wanted.filter(|_| found.is_none()), scratch)
                .map(|own| found.or(own)),
        }
    }

    fn value(
        &self,
        event: &Event<'_>,
        column: &Extra,
        scratch: &mut Scratch,
    ) -> Result<ScratchValue> {
        let Some(value) = column.value(event) else {
            return Ok(ScratchValue::Null);
        };
        let text = match (value, self.style) {
            (TextValue::Boolean(b"t"), HeaderStyle::Debezium) => "true",
            (TextValue::Boolean(_), HeaderStyle::Debezium) => "false",
            (TextValue::Hex(_), _) => {
                return Ok(match scratch.part(event, value)? {
                    Part::Bytes(range) => ScratchValue::Bytes(range),
                    _ => ScratchValue::Null,
                });
            }
            _ => column.text(event).unwrap_or_default(),
        };
        Ok(ScratchValue::Text(scratch.push(text)))
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
