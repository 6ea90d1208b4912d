//! Makes Kafka records out of events: topic, key, value and headers.
//!
//! The value is the payload byte for byte, and with the default key rule the key is the event's
//! type. Headers are added, nothing else: `outbox_id` and `outbox_created_at`, which identify the
//! event for consumers that remove duplicates, `outbox_event_type`, the event's source, and the
//! members of the row's own `headers`.
//!
//! A record borrows from the event and from the router's scratch memory, so only one exists at a
//! time, and making one allocates nothing once the scratch memory has grown. Text that is the same
//! for all events of a transaction is printed once for it.
//!
//! A row that cannot become a record (it has no id, its `headers` are not an object, its payload is
//! not the JSON that the key rule needs, one of its values is too long or not UTF-8) is an
//! error of code [`Code::Publish`]. It does not affect the next row.

use std::fmt::{self, Write as _};
use std::ops::Range;

use crate::config::KeyRule;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::json_pointer;
use crate::outbox::record::{OUR_HEADER_COUNT, OurHeaders};
use crate::outbox::{Event, Record, TextValue};
use crate::pgoutput::Timestamp;
use crate::topic_name;

/// The prefix of outboxd's own headers. A row's headers with this prefix are dropped, so that none
/// can replace the event's identity.
const OUR_HEADERS: &str = "outbox_";

/// The scratch memory that is kept from one event to the next; more is freed.
const SCRATCH_KEPT: usize = 64 * 1024;

/// Where an event was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventSource {
    /// The replication slot. Commit position and index identify the event.
    Stream {
        /// The start of the transaction's commit record.
        commit_lsn: Lsn,
        /// The index of the change in its transaction.
        index: u32,
        /// When the transaction committed.
        committed_at: Timestamp,
    },
    /// The table.
    Table,
}

/// Makes records out of events.
pub struct Router {
    key: Key,
    /// The transaction that `lsn` and `committed_at` are printed for.
    printed: Option<(Lsn, Timestamp)>,
    lsn: String,
    committed_at: String,
    index: String,
    /// Names and values of the row's own headers, one after the other, and a key that was found by
    /// a pointer.
    text: String,
    headers: Vec<(Range<usize>, Range<usize>)>,
    /// Decoded `bytea` values.
    bytes: Vec<u8>,
}

enum Key {
    /// The column's value, which the event carries.
    Column,
    /// The value in the payload at the pointer with these steps.
    Pointer(Vec<String>),
    None,
}

/// A part of a record: the event's own bytes or a piece of scratch memory, which cannot be borrowed
/// while it still grows.
enum Part<'a> {
    Event(&'a [u8]),
    Text(Range<usize>),
    Bytes(Range<usize>),
}

/// Key and value of a record, before it is put together.
pub(crate) struct Parts<'a> {
    key: Option<Part<'a>>,
    value: Option<Part<'a>>,
}

impl Router {
    /// A router that takes keys by this rule.
    pub fn new(key: &KeyRule) -> Self {
        Router {
            key: match key {
                KeyRule::Column(_) => Key::Column,
                KeyRule::Pointer(pointer) => Key::Pointer(json_pointer::steps(pointer)),
                _ => Key::None,
            },
            printed: None,
            lsn: String::new(),
            committed_at: String::new(),
            index: String::new(),
            text: String::new(),
            headers: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Makes the record of an event, whose columns were found with the same key rule.
    ///
    /// # Errors
    ///
    /// [`Code::Publish`] when this row, and no other, cannot become a record.
    pub fn record<'a>(&'a mut self, event: &Event<'a>, origin: EventSource) -> Result<Record<'a>> {
        let parts = self.prepare(event, origin)?;
        Ok(self.assemble(&parts, event, origin))
    }

    /// The first half of [`record`](Router::record): everything that can fail.
    pub(crate) fn prepare<'a>(
        &mut self,
        event: &Event<'a>,
        origin: EventSource,
    ) -> Result<Parts<'a>> {
        self.text.clear();
        self.text.shrink_to(SCRATCH_KEPT);
        self.bytes.clear();
        self.bytes.shrink_to(SCRATCH_KEPT);
        self.headers.clear();
        self.print_origin(origin);
        check(event)?;
        self.read_headers(event)?;
        let value = match event.payload {
            Some(payload) => Some(self.part(event, payload)?),
            None => None,
        };
        let key = self.find_key(event, value.as_ref())?;
        Ok(Parts { key, value })
    }

    /// In place of [`prepare`](Router::prepare) for a row that cannot become a record: its payload
    /// as Postgres prints it and the key of its column, without headers of its own.
    pub(crate) fn bare<'a>(&mut self, event: &Event<'a>) -> Parts<'a> {
        self.headers.clear();
        let key = event.key.filter(|_| matches!(self.key, Key::Column));
        let key = key.and_then(|key| self.part(event, key).ok());
        let value = event.payload.map(|payload| match payload {
            TextValue::Verbatim(text) | TextValue::Hex(text) => Part::Event(text),
        });
        Parts { key, value }
    }

    /// The second half of [`record`](Router::record).
    pub(crate) fn assemble<'a>(
        &'a self,
        parts: &Parts<'a>,
        event: &Event<'a>,
        origin: EventSource,
    ) -> Record<'a> {
        let (ours, our_count) = self.our_headers(event, origin);
        Record {
            topic: event.topic,
            topic_error: topic_name::check(event.topic).err(),
            key: parts.key.as_ref().map(|part| self.resolve(part)),
            value: parts.value.as_ref().map(|part| self.resolve(part)),
            ours,
            our_count,
            theirs: &self.headers,
            text: &self.text,
        }
    }

    fn print_origin(&mut self, origin: EventSource) {
        let EventSource::Stream {
            commit_lsn,
            index,
            committed_at,
        } = origin
        else {
            return;
        };
        self.index.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.index, "{index}");
        if self.printed != Some((commit_lsn, committed_at)) {
            self.printed = Some((commit_lsn, committed_at));
            self.lsn.clear();
            self.committed_at.clear();
            let _ = write!(self.lsn, "{commit_lsn}");
            let _ = write!(self.committed_at, "{committed_at}");
        }
    }

    fn read_headers(&mut self, event: &Event<'_>) -> Result<()> {
        // A JSON null in the column counts as no value.
        let Some(object) = event.headers.filter(|text| *text != "null") else {
            return Ok(());
        };
        let (text, headers) = (&mut self.text, &mut self.headers);
        let mut error = None;
        let read = json_pointer::members(object, |name, value| {
            if name.starts_with(OUR_HEADERS) {
                return;
            }
            let start = text.len();
            text.push_str(name);
            let middle = text.len();
            error = error.take().or(json_pointer::append(value, text).err());
            headers.push((start..middle, middle..text.len()));
        });
        error.map_or(read, Err).map_err(|cause| {
            own_rejection(event, "has headers that are not a JSON object")
                .with_hint("headers must be an object such as {\"traceparent\": \"00-…\"}")
                .with_source(cause)
        })
    }

    fn find_key<'a>(
        &mut self,
        event: &Event<'a>,
        value: Option<&Part<'a>>,
    ) -> Result<Option<Part<'a>>> {
        let steps = match &self.key {
            Key::None => return Ok(None),
            Key::Column => {
                return event.key.map(|key| self.part(event, key)).transpose();
            }
            Key::Pointer(steps) => steps,
        };
        let payload = match value {
            Some(Part::Event(payload)) => payload,
            Some(Part::Bytes(range)) => self.bytes.get(range.clone()).unwrap_or_default(),
            Some(Part::Text(_)) | None => return Ok(None),
        };
        let not_json = |cause| {
            own_rejection(
                event,
                "has a payload that is not JSON, which OUTBOX_KEY requires",
            )
            .with_source(cause)
        };
        let Some(found) = json_pointer::find(payload, steps).map_err(not_json)? else {
            return Ok(None);
        };
        match found.get().as_bytes().first() {
            Some(b'n') => Ok(None),
            Some(b'{' | b'[') => Err(own_rejection(
                event,
                "has an object or an array at the pointer of OUTBOX_KEY",
            )),
            _ => {
                let start = self.text.len();
                json_pointer::append(found, &mut self.text).map_err(not_json)?;
                Ok(Some(Part::Text(start..self.text.len())))
            }
        }
    }

    fn part<'a>(&mut self, event: &Event<'_>, printed: TextValue<'a>) -> Result<Part<'a>> {
        let hex = match printed {
            TextValue::Verbatim(text) => return Ok(Part::Event(text)),
            TextValue::Hex(hex) => hex,
        };
        let start = self.bytes.len();
        decode_hex(hex, &mut self.bytes).ok_or_else(|| {
            own_rejection(event, "has a bytea that is not hexadecimal")
                .with_hint("the session must have bytea_output=hex")
        })?;
        Ok(Part::Bytes(start..self.bytes.len()))
    }

    fn resolve<'a>(&'a self, part: &Part<'a>) -> &'a [u8] {
        match part {
            Part::Event(bytes) => bytes,
            Part::Text(range) => self.text.as_bytes().get(range.clone()).unwrap_or_default(),
            Part::Bytes(range) => self.bytes.get(range.clone()).unwrap_or_default(),
        }
    }

    fn our_headers<'a>(
        &'a self,
        event: &Event<'a>,
        origin: EventSource,
    ) -> (OurHeaders<'a>, usize) {
        let mut own = [("", [].as_slice()); OUR_HEADER_COUNT];
        let mut slots = own.iter_mut();
        let mut count = 0;
        let mut add = |name, value: Option<&'a str>| {
            if let Some((value, slot)) = value.and_then(|value| Some((value, slots.next()?))) {
                *slot = (name, value.as_bytes());
                count += 1;
            }
        };
        add("outbox_id", Some(event.id).filter(|id| !id.is_empty()));
        add("outbox_created_at", event.created_at);
        add("outbox_event_type", event.event_type);
        match origin {
            EventSource::Stream { .. } => {
                add("outbox_lsn", Some(&self.lsn));
                add("outbox_index", Some(&self.index));
                add("outbox_committed_at", Some(&self.committed_at));
            }
            EventSource::Table => add("outbox_source", Some("table")),
        }
        (own, count)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

/// Whether the event was read whole.
fn check(event: &Event<'_>) -> Result<()> {
    if event.id.is_empty() {
        let error = Error::fatal(Code::Publish, "the event has no id");
        return Err(error.with_hint("make id the primary key: it identifies the event"));
    }
    if let Some(column) = event.left_out {
        let what = format!("has a longer value in {column} than a record can have");
        return Err(own_rejection(event, &what));
    }
    if let Some(column) = event.not_utf8 {
        let what = format!("has a value in {column} that is not UTF-8");
        return Err(own_rejection(event, &what));
    }
    Ok(())
}

fn own_rejection(event: &Event<'_>, what: &str) -> Error {
    Error::fatal(
        Code::Publish,
        format!("the event with id {} {what}", event.id),
    )
}

/// Decodes `\x` and pairs of digits, and appends the bytes.
fn decode_hex(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(b"\\x")?;
    let start = bytes.len();
    bytes.resize(start + digits.len() / 2, 0);
    hex::decode_to_slice(digits, &mut bytes[start..]).ok()
}
