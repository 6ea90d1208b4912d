//! An event that a service writes, and why it is refused before the server sees it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::outbox::TopicName;

/// The most headers of a record, and the most bytes of their names and values.
const HEADERS_MAX: usize = 1_000;
const HEADER_BYTES_MAX: usize = 1 << 20;

/// The most bytes of a key.
const KEY_BYTES_MAX: usize = 1 << 20;

/// An event to be written.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct NewEvent<'a> {
    /// The kind of event; by default also the record's key.
    pub event_type: &'a str,
    /// The Kafka topic.
    pub topic: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
    /// The record's headers, a JSON object, for a table with a column `headers`.
    pub headers: Option<Payload<'a>>,
    /// The record's key, for a writer that knows its column.
    pub key: Option<&'a str>,
}

/// A payload, or headers, which Postgres stores as `jsonb`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// A JSON value.
    Json(&'a Value),
    /// JSON text, which the server parses.
    Text(&'a str),
}

impl<'a> NewEvent<'a> {
    /// An event of these three parts.
    pub fn new(event_type: &'a str, topic: &'a str, payload: impl Into<Payload<'a>>) -> Self {
        NewEvent {
            event_type,
            topic,
            payload: payload.into(),
            headers: None,
            key: None,
        }
    }

    /// The same event with headers: a JSON object, whose members become the record's headers. The
    /// table needs a column `headers` of type `jsonb`.
    pub fn with_headers(self, headers: impl Into<Payload<'a>>) -> Self {
        NewEvent {
            headers: Some(headers.into()),
            ..self
        }
    }

    /// The same event with a key, for the column that [`Writer::with_key_column`] names.
    ///
    /// [`Writer::with_key_column`]: crate::outbox::Writer::with_key_column
    pub fn with_key(self, key: &'a str) -> Self {
        NewEvent {
            key: Some(key),
            ..self
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.event_type.is_empty() {
            return Err(Error::fatal(Code::Write, "the event type is empty")
                .with_hint("name the kind of event, such as OrderCreated"));
        }
        let topic = TopicName::new(self.topic).map(|_| ());
        topic.map_err(|rejection| {
            let message = format!("an event of type {} names no topic", self.event_type);
            Error::fatal(Code::Write, message).with_source(rejection)
        })?;
        let key_bytes = self.key.map_or(0, str::len);
        if key_bytes > KEY_BYTES_MAX {
            let message = format!("the key has {key_bytes} bytes, of at most {KEY_BYTES_MAX}");
            return Err(self.refused(message, "let the key be an id"));
        }
        Ok(())
    }

    pub(super) fn refused(&self, what: impl std::fmt::Display, hint: &str) -> Error {
        let message = format!("an event of type {}: {what}", self.event_type);
        Error::fatal(Code::Write, message).with_hint(hint)
    }

    /// The headers as text.
    pub(super) fn headers_text(&self) -> Result<Option<Cow<'a, str>>> {
        let no_object = || {
            self.refused(
                "the headers are no JSON object",
                "pass an object such as {\"traceparent\": \"00-...\"}",
            )
        };
        let check = |headers: &Map<String, Value>| {
            let bytes: usize = headers
                .iter()
                .map(|(name, value)| name.len() + printed_bytes(value))
                .sum();
            let count = headers.len();
            match count > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
                true => Err(self.refused(
                    format!("{count} headers with {bytes} bytes"),
                    "pass at most 1000 headers with 1048576 bytes",
                )),
                false => Ok(()),
            }
        };
        match self.headers {
            None => Ok(None),
            Some(Payload::Json(value)) => {
                check(value.as_object().ok_or_else(no_object)?)?;
                Ok(Some(Cow::Owned(value.to_string())))
            }
            Some(Payload::Text(text)) => {
                let parsed = serde_json::from_str(text).map_err(|_| no_object())?;
                check(&parsed)?;
                Ok(Some(Cow::Borrowed(text)))
            }
        }
    }
}

/// The bytes of a header's value; text stands there without its quotes.
fn printed_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Null => 0,
        other => other.to_string().len(),
    }
}

impl<'a> From<&'a Value> for Payload<'a> {
    fn from(value: &'a Value) -> Self {
        Payload::Json(value)
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Payload::Text(text)
    }
}

// Payloads, headers and keys are the users' data: debug output in a log must not show them.
impl std::fmt::Debug for NewEvent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewEvent")
            .field("event_type", &self.event_type)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload")
    }
}
