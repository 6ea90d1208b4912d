//! The key of an event: columns, a value in the payload, or a member of the headers.

use crate::config::Mapping;
use crate::config::mapping::KeyRule;
use crate::error::Result;
use crate::outbox::Event;
use crate::outbox::json_pointer;
use crate::outbox::router::rejected::rejected;
use crate::outbox::router::scratch::{Part, Scratch};
use crate::outbox::router::template::FilledTemplate;

/// See the module's head.
#[derive(Debug)]
pub(super) enum KeyChoice {
    /// The column's value, which the event carries.
    Column,
    /// Null if one of its columns is.
    Template(FilledTemplate),
    /// The value in the payload at the pointer with these steps.
    Pointer(Vec<String>),
    /// The header of this name, which the headers' reader notes.
    Header(String),
    None,
}

/// What the headers have under the name of the key.
#[derive(Clone)]
pub(super) enum NamedHeader<'a> {
    Value(Part<'a>),
    /// An object or an array.
    Nested,
}

impl KeyChoice {
    pub(super) fn of(mapping: &Mapping, extras: &[&str]) -> Self {
        match &mapping.key {
            KeyRule::Column(_) => KeyChoice::Column,
            KeyRule::Template(template) => {
                KeyChoice::Template(FilledTemplate::of(template, extras))
            }
            KeyRule::Pointer(pointer) => KeyChoice::Pointer(json_pointer::steps(pointer)),
            KeyRule::Header(name) => KeyChoice::Header(name.clone()),
            KeyRule::None => KeyChoice::None,
        }
    }

    /// The header whose value is the key, if a header is.
    pub(super) fn header(&self) -> Option<&str> {
        match self {
            KeyChoice::Header(name) => Some(name),
            _ => None,
        }
    }

    /// The key. `payload` is the column of the payload, and `header` what the headers have.
    ///
    /// # Errors
    ///
    /// Of the row, if its payload is not JSON, or has no scalar where the key should be.
    pub(super) fn find<'a>(
        &self,
        event: &Event<'a>,
        payload: Option<&Part<'a>>,
        header: Option<NamedHeader<'a>>,
        scratch: &mut Scratch,
    ) -> Result<Option<Part<'a>>> {
        match self {
            KeyChoice::Column => {
                let key = event.key.map(|key| scratch.part(event, key));
                key.transpose()
            }
            KeyChoice::None => Ok(None),
            KeyChoice::Template(template) => {
                let start = scratch.text.len();
                let filled = template.append(event, &mut scratch.text);
                Ok(filled.ok().map(|()| Part::Text(start..scratch.text.len())))
            }
            KeyChoice::Pointer(steps) => pointed_at(event, steps, payload, scratch),
            KeyChoice::Header(name) => match header {
                None => Ok(None),
                Some(NamedHeader::Value(part)) => Ok(Some(part)),
                Some(NamedHeader::Nested) => {
                    let what = format!("has an object or an array as header {name}, the key");
                    Err(rejected(event, &what))
                }
            },
        }
    }
}

fn pointed_at<'a>(
    event: &Event<'a>,
    steps: &[String],
    payload: Option<&Part<'a>>,
    scratch: &mut Scratch,
) -> Result<Option<Part<'a>>> {
    let payload = match payload {
        Some(Part::Event(payload)) => payload,
        Some(Part::Bytes(range)) => scratch.bytes.get(range.clone()).unwrap_or_default(),
        _ => return Ok(None),
    };
    let not_json = |cause| {
        let what = "has a payload that is not JSON, which OUTBOX_KEY requires";
        rejected(event, what).with_source(cause)
    };
    let Some(found) = json_pointer::find(payload, steps).map_err(not_json)? else {
        return Ok(None);
    };
    match found.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') => Err(rejected(
            event,
            "has an object or an array at the pointer of OUTBOX_KEY",
        )),
        _ => {
            let start = scratch.text.len();
            json_pointer::append(found, &mut scratch.text).map_err(not_json)?;
            Ok(Some(Part::Text(start..scratch.text.len())))
        }
    }
}
