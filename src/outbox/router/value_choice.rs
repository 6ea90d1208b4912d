//! The value of an event: the payload, a part of it, or a JSON object that has it.
//!
//! The payload is sent byte for byte. Only where other values join it is it written as JSON.

use crate::config::Mapping;
use crate::config::mapping::{HeaderStyle, NullPayload, ValueRule};
use crate::error::{Error, Result};
use crate::outbox::json_pointer;
use crate::outbox::router::json_text;
use crate::outbox::router::rejected::rejected;
use crate::outbox::router::scratch::{Part, Scratch};
use crate::outbox::router::template::Extra;
use crate::outbox::{Event, TextValue};

/// See the module's head.
#[derive(Debug)]
pub(super) struct ValueChoice {
    rule: Rule,
    null_payload: NullPayload,
    /// Members of the envelope, and the columns that have their values; empty without an envelope.
    envelope: Vec<(String, Extra)>,
    /// Debezium's form: only an expanded payload joins the envelope as JSON, and other JSON as a
    /// string.
    quotes_json: bool,
    /// What the payload is has to be known: it is written as JSON, or a header says it.
    needs_content: bool,
}

#[derive(Debug)]
enum Rule {
    Payload,
    Pointer(Vec<String>),
    Expanded,
}

/// What the bytes of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    Text,
    Bytes,
    /// There is no payload, and the value is empty.
    Nothing,
}

/// The payload as the rule gives it.
#[derive(Clone)]
pub(super) struct Chosen<'a> {
    pub(super) part: Part<'a>,
    pub(super) content: Content,
}

impl ValueChoice {
    pub(super) fn of(mapping: &Mapping, extras: &[&str]) -> Self {
        let envelope = mapping.columns.envelope.iter();
        let envelope: Vec<_> = envelope
            .map(|it| (it.name.clone(), Extra::of(&it.column, extras)))
            .collect();
        let says_content = matches!(
            mapping.headers,
            HeaderStyle::CloudEvents | HeaderStyle::CloudEventsStructured
        );
        ValueChoice {
            rule: match &mapping.value {
                ValueRule::Payload => Rule::Payload,
                ValueRule::Pointer(pointer) => Rule::Pointer(json_pointer::steps(pointer)),
                ValueRule::Expanded => Rule::Expanded,
            },
            null_payload: mapping.null_payload,
            quotes_json: mapping.headers == HeaderStyle::Debezium,
            needs_content: says_content || !envelope.is_empty(),
            envelope,
        }
    }

    /// Whether the value is the payload as it is, and nothing without it.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.rule, Rule::Payload)
            && self.envelope.is_empty()
            && self.null_payload != NullPayload::Empty
    }

    /// What the rule takes out of the payload's column, `payload`; `None` is a null payload.
    ///
    /// # Errors
    ///
    /// Of the row, if the rule needs JSON and the payload is none.
    pub(super) fn choose<'a>(
        &self,
        event: &Event<'a>,
        payload: Option<Part<'a>>,
        scratch: &mut Scratch,
    ) -> Result<Option<Chosen<'a>>> {
        let (Some(part), Some(column)) = (payload, event.payload) else {
            return Ok(None);
        };
        let content = match column {
            TextValue::Hex(_) => Content::Bytes,
            TextValue::Json(_) => Content::Json,
            _ => Content::Text,
        };
        match &self.rule {
            Rule::Pointer(steps) => pointed_at(event, steps, &part, scratch),
            Rule::Expanded if content != Content::Bytes => {
                Ok(Some(self.expanded(Chosen { part, content }, scratch)))
            }
            Rule::Payload | Rule::Expanded => Ok(Some(Chosen { part, content })),
        }
    }

    /// A string that holds an object or an array becomes it.
    fn expanded<'a>(&self, whole: Chosen<'a>, scratch: &mut Scratch) -> Chosen<'a> {
        let bytes = scratch.resolve(&whole.part);
        if bytes.trim_ascii_start().first() == Some(&b'"')
            && let Ok(inner) = serde_json::from_slice::<String>(bytes)
            && json_text::container(inner.as_bytes()).is_some()
        {
            return Chosen {
                part: Part::Text(scratch.push(&inner)),
                content: Content::Json,
            };
        }
        let is_json = || json_text::container(bytes).is_some();
        let content = match whole.content {
            Content::Text if self.needs_content && is_json() => Content::Json,
            content => content,
        };
        Chosen { content, ..whole }
    }

    /// The value of a record, and what its bytes are; `None` is a record without a value.
    ///
    /// # Errors
    ///
    /// Of the row, if a value for the envelope is not UTF-8.
    pub(super) fn value<'a>(
        &self,
        event: &Event<'a>,
        chosen: Option<Chosen<'a>>,
        scratch: &mut Scratch,
    ) -> Result<Option<Chosen<'a>>> {
        match (&chosen, self.null_payload) {
            (None, NullPayload::DeadLetter | NullPayload::Tombstone) => return Ok(None),
            (None, NullPayload::Empty) if self.envelope.is_empty() => {
                return Ok(Some(Chosen {
                    part: Part::Event(b""),
                    content: Content::Nothing,
                }));
            }
            _ if self.envelope.is_empty() => return Ok(chosen),
            _ => {}
        }
        // The envelope grows while other scratch memory is read.
        let mut envelope = std::mem::take(&mut scratch.envelope);
        let written = self.write_envelope(event, chosen.as_ref(), scratch, &mut envelope);
        scratch.envelope = envelope;
        written.map(|()| {
            Some(Chosen {
                part: Part::Envelope,
                content: Content::Json,
            })
        })
    }

    /// Whether the payload is JSON that joins the envelope as a string.
    fn quotes(&self, chosen: Option<&Chosen<'_>>) -> bool {
        let is_json = chosen.is_some_and(|chosen| chosen.content == Content::Json);
        self.quotes_json && is_json && !matches!(self.rule, Rule::Expanded)
    }

    fn write_envelope(
        &self,
        event: &Event<'_>,
        chosen: Option<&Chosen<'_>>,
        scratch: &mut Scratch,
        into: &mut Vec<u8>,
    ) -> Result<()> {
        into.extend_from_slice(b"{\"payload\":");
        match chosen {
            Some(Chosen { part, .. }) if self.quotes(chosen) => {
                let (part, content) = (part.clone(), Content::Text);
                write_json(event, &Chosen { part, content }, scratch, into)?;
            }
            Some(chosen) => write_json(event, chosen, scratch, into)?,
            None => into.extend_from_slice(b"null"),
        }
        for (name, column) in &self.envelope {
            into.push(b',');
            json_text::string(name, into);
            into.push(b':');
            match column.value(event) {
                None => into.extend_from_slice(b"null"),
                Some(value @ TextValue::Hex(_)) => {
                    let part = scratch.part(event, value)?;
                    let content = Content::Bytes;
                    write_json(event, &Chosen { part, content }, scratch, into)?;
                }
                Some(TextValue::Json(json)) if self.quotes_json => {
                    json_text::scalar(TextValue::Verbatim(json), into)
                        .ok_or_else(|| not_utf8(event, &column.name))?;
                }
                Some(value) => {
                    json_text::scalar(value, into).ok_or_else(|| not_utf8(event, &column.name))?;
                }
            }
        }
        into.push(b'}');
        Ok(())
    }
}

/// Appends a value as JSON: text as a string, and bytes as one in base64.
///
/// # Errors
///
/// Of the row, if text is not UTF-8.
pub(super) fn write_json(
    event: &Event<'_>,
    value: &Chosen<'_>,
    scratch: &Scratch,
    into: &mut Vec<u8>,
) -> Result<()> {
    let bytes = scratch.resolve(&value.part);
    match value.content {
        Content::Json => into.extend_from_slice(bytes),
        Content::Bytes => json_text::base64(bytes, into),
        Content::Nothing => {}
        Content::Text => json_text::scalar(TextValue::Verbatim(bytes), into)
            .ok_or_else(|| not_utf8(event, "the payload"))?,
    }
    Ok(())
}

fn not_utf8(event: &Event<'_>, what: &str) -> Error {
    rejected(event, &format!("has a value in {what} that is not UTF-8"))
}

/// The JSON at a pointer in the payload, as it is written there. Null is nothing.
fn pointed_at<'a>(
    event: &Event<'a>,
    steps: &[String],
    payload: &Part<'a>,
    scratch: &mut Scratch,
) -> Result<Option<Chosen<'a>>> {
    let not_json = |cause| {
        let what = "has a payload that is not JSON, which OUTBOX_VALUE requires";
        rejected(event, what).with_source(cause)
    };
    let content = Content::Json;
    if let Part::Event(payload) = payload {
        let found = json_pointer::find(payload, steps).map_err(not_json)?;
        let found = found
            .map(|found| found.get())
            .filter(|json| *json != "null");
        return Ok(found.map(|json| Chosen {
            part: Part::Event(json.as_bytes()),
            content,
        }));
    }
    let bytes = scratch.resolve(payload);
    let found = json_pointer::find(bytes, steps).map_err(not_json)?;
    let found = found
        .map(|found| found.get())
        .filter(|json| *json != "null");
    let found = found.map(str::to_owned);
    Ok(found.map(|json| Chosen {
        part: Part::Text(scratch.push(&json)),
        content,
    }))
}
