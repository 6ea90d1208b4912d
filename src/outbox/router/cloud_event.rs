//! The attributes of an event in CloudEvents 1.0, and the event as one JSON object.
//!
//! Binary mode has the attributes as headers; structured mode has them beside the data, in the
//! record's value. No attribute may be an empty text: it is left out.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

use crate::error::Result;
use crate::outbox::Event;
use crate::outbox::router::json_text;
use crate::outbox::router::scratch::Scratch;
use crate::outbox::router::value_choice::{Chosen, Content, write_json};
use crate::pgoutput::Timestamp;

/// The version of the specification.
pub(super) const SPEC_VERSION: &str = "1.0";

/// The content type of an event in structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";

/// The attributes that depend on the event.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) id: &'a str,
    pub(super) source: &'a str,
    pub(super) kind: &'a str,
    pub(super) time: Option<&'a str>,
    pub(super) partition_key: Option<&'a str>,
}

/// The end of the years that RFC 3339 can write.
const YEAR_10000: Timestamp = Timestamp::from_postgres_micros(20 * 146_097 * 86_400_000_000);

/// Whether a moment can be the attribute `time`.
pub(super) fn has_time(moment: Timestamp) -> bool {
    moment < YEAR_10000
}

/// The content type of a value; none if there is no data in it.
pub(super) fn content_type(content: Content) -> Option<&'static str> {
    match content {
        Content::Json => Some("application/json"),
        Content::Text => Some("text/plain; charset=utf-8"),
        Content::Bytes => Some("application/octet-stream"),
        Content::Nothing => None,
    }
}

/// The attribute `source` of this name: a reference by the rules of URIs, in which every other
/// character is escaped.
pub(super) fn source(id: &str) -> String {
    let mut source = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() => source.push(char::from(byte)),
            byte if b"-._~:/?#@!$&'()*+,;=%".contains(&byte) => source.push(char::from(byte)),
            byte => source.push_str(&format!("%{byte:02X}")),
        }
    }
    source
}

/// Appends the event in structured mode; `data` is its value.
///
/// # Errors
///
/// Of the row, if its value is text and not UTF-8.
pub(super) fn write(
    event: &Event<'_>,
    attributes: &Attributes<'_>,
    data: &Chosen<'_>,
    scratch: &Scratch,
    into: &mut Vec<u8>,
) -> Result<()> {
    into.extend_from_slice(b"{\"specversion\":\"1.0\"");
    for (name, value) in [
        ("id", Some(attributes.id)),
        ("source", Some(attributes.source)),
        ("type", Some(attributes.kind)),
        ("time", attributes.time),
        ("partitionkey", attributes.partition_key),
        ("datacontenttype", content_type(data.content)),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            member(name, into);
            json_text::string(value, into);
        }
    }
    let name = match data.content {
        Content::Json | Content::Text => Some("data"),
        Content::Bytes => Some("data_base64"),
        Content::Nothing => None,
    };
    if let Some(name) = name {
        member(name, into);
        write_json(event, data, scratch, into)?;
    }
    into.push(b'}');
    Ok(())
}

fn member(name: &str, into: &mut Vec<u8>) {
    into.push(b',');
    json_text::string(name, into);
    into.push(b':');
}
