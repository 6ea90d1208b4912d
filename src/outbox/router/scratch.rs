//! The memory that a router keeps from one event to the next. It grows to what events need, and
//! then making a record allocates nothing; what one large event has added is freed.

use std::ops::Range;

use crate::error::Result;
use crate::outbox::record::{ScratchHeader, ScratchValue};
use crate::outbox::router::rejected::rejected;
use crate::outbox::{Event, TextValue};

/// The memory that is kept; more is freed.
const KEPT: usize = 64 * 1024;

/// See the module's head.
#[derive(Default)]
pub(super) struct Scratch {
    /// Topics, keys, and names and values of headers, one after the other.
    pub(super) text: String,
    /// The length of the text that is the same for every event, at the beginning.
    kept: usize,
    /// Decoded `bytea` values.
    pub(super) bytes: Vec<u8>,
    /// A value that is made of several columns.
    pub(super) envelope: Vec<u8>,
    /// A value with the attributes of its event.
    pub(super) cloud_event: Vec<u8>,
    pub(super) headers: Vec<ScratchHeader>,
}

/// A part of a record: the event's own bytes or a piece of scratch memory, which cannot be borrowed
/// while it still grows.
#[derive(Clone)]
pub(super) enum Part<'a> {
    Event(&'a [u8]),
    Text(Range<usize>),
    Bytes(Range<usize>),
    Envelope,
    CloudEvent,
}

impl Scratch {
    /// Forgets the last event.
    pub(super) fn clear(&mut self) {
        self.text.truncate(self.kept);
        self.text.shrink_to(KEPT);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.headers.clear();
    }

    /// Forgets what was made of the last event's value.
    pub(super) fn clear_values(&mut self) {
        for value in [&mut self.envelope, &mut self.cloud_event] {
            value.clear();
            value.shrink_to(KEPT);
        }
    }

    /// Keeps a text for all events, and returns its place. There is no event yet.
    pub(super) fn keep(&mut self, text: &str) -> Range<usize> {
        let range = self.push(text);
        self.kept = range.end;
        range
    }

    /// Begins a text with `lead`, the text that was kept last, and returns where: if nothing was
    /// appended since, it stands there.
    #[inline(always)]
    pub(super) fn begin_with(&mut self, lead: &str) -> usize {
        if self.text.len() > self.kept {
            self.text.push_str(lead);
        }
        self.text.len() - lead.len()
    }

    /// Appends a text, and returns its place.
    #[inline(always)]
    pub(super) fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// Appends a header.
    pub(super) fn header(&mut self, name: &str, value: &str) {
        let header = ScratchHeader {
            name: self.push(name),
            value: ScratchValue::Text(self.push(value)),
        };
        self.headers.push(header);
    }

    /// The value of a column: a `bytea` is decoded.
    pub(super) fn part<'a>(
        &mut self,
        event: &Event<'_>,
        printed: TextValue<'a>,
    ) -> Result<Part<'a>> {
        let TextValue::Hex(hex) = printed else {
            return Ok(Part::Event(printed.text()));
        };
        let start = self.bytes.len();
        decode_hex(hex, &mut self.bytes).ok_or_else(|| {
            rejected(event, "has a bytea that is not hexadecimal")
                .with_hint("the session must have bytea_output=hex")
        })?;
        Ok(Part::Bytes(start..self.bytes.len()))
    }

    /// The bytes of a part.
    pub(super) fn resolve<'a>(&'a self, part: &Part<'a>) -> &'a [u8] {
        match part {
            Part::Event(bytes) => bytes,
            Part::Text(range) => self.text.as_bytes().get(range.clone()).unwrap_or_default(),
            Part::Bytes(range) => self.bytes.get(range.clone()).unwrap_or_default(),
            Part::Envelope => &self.envelope,
            Part::CloudEvent => &self.cloud_event,
        }
    }
}

/// Decodes `\x` and pairs of digits, and appends the bytes.
fn decode_hex(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(b"\\x")?;
    let start = bytes.len();
    bytes.resize(start + digits.len() / 2, 0);
    hex::decode_to_slice(digits, &mut bytes[start..]).ok()
}
