//! Makes Kafka records out of events: topic, key, value, partition, time and headers, each by a
//! rule of the [`Mapping`].
//!
//! By default the value is the payload byte for byte, and the key is the event's type. Headers are
//! added, nothing else: `outbox_id` and `outbox_created_at`, which identify the event for consumers
//! that remove duplicates, `outbox_event_type`, the event's source, and the members of the row's
//! own headers.
//!
//! A record borrows from the event and from the router's scratch memory, so only one exists at a
//! time, and making one by the default rules allocates nothing once the scratch memory has grown.
//!
//! A row that cannot become a record (it has no id or no topic, its headers are not an object, its
//! payload is not the JSON that a rule needs, one of its values is too long or not UTF-8) is an
//! error of code [`Code::Publish`]. It does not affect the next row.

mod cloud_event;
mod json_text;
mod key_choice;
mod origin;
mod our_headers;
mod placement;
mod rejected;
mod row_headers;
mod scratch;
mod template;
mod topic_choice;
mod value_choice;

use std::fmt;
use std::ops::Range;

use crate::config::Mapping;
use crate::config::mapping::HeaderStyle;
use crate::error::{Code, Error, Result};
use crate::outbox::record::{HeaderSums, Identity, OurHeaders};
use crate::outbox::router::cloud_event::Attributes;
use crate::outbox::router::key_choice::KeyChoice;
use crate::outbox::router::origin::OriginText;
use crate::outbox::router::placement::Placement;
use crate::outbox::router::rejected::rejected;
use crate::outbox::router::row_headers::RowHeaders;
use crate::outbox::router::scratch::{Part, Scratch};
use crate::outbox::router::topic_choice::{Topic, TopicChoice};
use crate::outbox::router::value_choice::{Chosen, Content, ValueChoice};
use crate::outbox::{Event, Record};

pub use origin::EventSource;

/// Makes records out of events.
pub struct Router {
    topic: TopicChoice,
    key: KeyChoice,
    value: ValueChoice,
    headers: RowHeaders,
    placement: Placement,
    style: HeaderStyle,
    source_id: String,
    /// The value is the payload, and the record has no [`Details`].
    is_plain: bool,
    origin: OriginText,
    details: Details,
    /// The time of the replay that the records belong to.
    replayed: Option<String>,
    scratch: Scratch,
}

/// The parts of a record, before it is put together.
pub(crate) struct Parts<'a> {
    topic: Topic,
    key: Option<Part<'a>>,
    value: Option<Part<'a>>,
}

/// What only some rules give to a record.
#[derive(Debug, Default)]
struct Details {
    /// `None` if the record has no value, or nothing asks what it is.
    content: Option<Content>,
    partition: Option<i32>,
    timestamp: Option<i64>,
    time: EventTime,
}

/// The time of an event, for its attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum EventTime {
    #[default]
    Unknown,
    /// The commit of its transaction.
    Commit,
    /// This piece of the scratch memory's text.
    Text(Range<usize>),
}

impl Router {
    /// A router that makes records by this mapping.
    pub fn new(mapping: &Mapping) -> Self {
        let extras = mapping.extra_columns();
        let is_cloud_event = is_cloud_event(mapping.headers);
        let value = ValueChoice::of(mapping, &extras);
        let placement = Placement::of(mapping, &extras);
        let key = KeyChoice::of(mapping, &extras);
        let mut scratch = Scratch::default();
        let headers = RowHeaders::of(mapping, &extras, key.header(), &mut scratch);
        Router {
            topic: TopicChoice::of(mapping, &extras, &mut scratch),
            key,
            is_plain: value.is_plain() && placement.is_plain() && !is_cloud_event,
            value,
            headers,
            placement,
            style: mapping.headers,
            source_id: match is_cloud_event {
                true => cloud_event::source(&mapping.source_id),
                false => mapping.source_id.clone(),
            },
            origin: OriginText::default(),
            details: Details::default(),
            replayed: None,
            scratch,
        }
    }

    /// Marks the records from now on as those of a replay that began at this time: with a header,
    /// unless the records have none of outboxd's.
    pub(crate) fn mark_replayed(&mut self, at: &str) {
        let has_headers = self.style != HeaderStyle::None;
        self.replayed = has_headers.then(|| at.to_owned());
    }

    /// The `source` of CloudEvents that this id of an outbox gives.
    pub(crate) fn cloud_events_source(source_id: &str) -> String {
        cloud_event::source(source_id)
    }

    /// Makes the record of an event, whose columns were found with the same mapping.
    ///
    /// # Errors
    ///
    /// [`Code::Publish`] when this row, and no other, cannot become a record.
    pub fn record<'a>(
        &'a mut self,
        event: &'a Event<'a>,
        origin: EventSource,
    ) -> Result<Record<'a>> {
        let parts = self.prepare(event, origin)?;
        Ok(self.assemble(&parts, event, origin))
    }

    /// The first half of [`record`](Router::record): everything that can fail.
    pub(crate) fn prepare<'a>(
        &mut self,
        event: &Event<'a>,
        origin: EventSource,
    ) -> Result<Parts<'a>> {
        self.scratch.clear();
        self.origin.print(origin);
        check(event)?;
        let scratch = &mut self.scratch;
        let topic = match self.topic.is_column() {
            true => Topic::Event,
            false => self.topic.choose(event, scratch)?,
        };
        let named = match self.headers.has_columns() || event.headers.is_some() {
            true => self.headers.read(event, scratch)?,
            false => None,
        };
        let payload = match event.payload {
            Some(payload) => Some(scratch.part(event, payload)?),
            None => None,
        };
        let key = self.key.find(event, payload.as_ref(), named, scratch)?;
        let mut parts = Parts {
            topic,
            key,
            value: payload,
        };
        if !self.is_plain {
            self.detail(event, origin, &mut parts)?;
        }
        if let Some(at) = &self.replayed {
            self.scratch.header(our_headers::REPLAYED, at);
        }
        Ok(parts)
    }

    /// Makes the value out of the payload, and all that only some rules give to a record.
    fn detail<'a>(
        &mut self,
        event: &Event<'a>,
        origin: EventSource,
        parts: &mut Parts<'a>,
    ) -> Result<()> {
        self.details = Details::default();
        let scratch = &mut self.scratch;
        scratch.clear_values();
        let chosen = self.value.choose(event, parts.value.take(), scratch)?;
        let value = self.value.value(event, chosen, scratch)?;
        self.details = Details {
            content: value.as_ref().map(|value| value.content),
            partition: self.placement.partition(event)?,
            timestamp: self.placement.timestamp(event, origin)?,
            time: EventTime::Unknown,
        };
        if is_cloud_event(self.style) {
            self.details.time = self.event_time(event, origin);
        }
        parts.value = match value {
            Some(value) if self.style == HeaderStyle::CloudEventsStructured => {
                Some(self.structured(event, parts, &value)?)
            }
            value => value.map(|value| value.part),
        };
        Ok(())
    }

    /// In place of [`prepare`](Router::prepare) for a row that cannot become a record: its payload
    /// as Postgres prints it and the key of its column, without headers of its own. It has a topic
    /// only if its row says which.
    pub(crate) fn bare<'a>(&mut self, event: &Event<'a>) -> Parts<'a> {
        self.scratch.headers.clear();
        self.details = Details::default();
        let key = event.key.filter(|_| matches!(self.key, KeyChoice::Column));
        let key = key.and_then(|key| self.scratch.part(event, key).ok());
        let topic = self.topic.choose(event, &mut self.scratch);
        Parts {
            topic: topic.unwrap_or(Topic::Text(0..0)),
            key,
            value: event.payload.map(|payload| Part::Event(payload.text())),
        }
    }

    /// The second half of [`record`](Router::record).
    pub(crate) fn assemble<'a>(
        &'a self,
        parts: &Parts<'a>,
        event: &'a Event<'a>,
        origin: EventSource,
    ) -> Record<'a> {
        let topic = self.topic_of(&parts.topic, event);
        let mut record = Record {
            topic,
            topic_error: self.topic.check(topic),
            key: parts.key.as_ref().map(|part| self.scratch.resolve(part)),
            value: parts.value.as_ref().map(|part| self.scratch.resolve(part)),
            partition: self.details.partition,
            timestamp: self.details.timestamp,
            ours: OurHeaders::none(),
            theirs: &self.scratch.headers,
            text: &self.scratch.text,
            bytes: &self.scratch.bytes,
            sums: HeaderSums::default(),
            identity: None,
        };
        if self.style == HeaderStyle::Outboxd {
            let source_id = &self.source_id;
            our_headers::outboxd(&mut record.ours, event, origin, &self.origin, source_id);
        } else {
            let (attributes, content) = (self.attributes(event, parts), self.details.content);
            our_headers::of_style(&mut record.ours, self.style, &attributes, content);
            record.identity = Some(Identity {
                id: &event.id,
                created_at: event.created_at,
                event_type: event.event_type,
                place: origin.place(),
            });
        }
        record.add_up();
        record
    }

    fn topic_of<'a>(&'a self, topic: &Topic, event: &Event<'a>) -> &'a str {
        match topic {
            Topic::Event => event.topic,
            Topic::Text(range) => self.text(range),
        }
    }

    fn text(&self, range: &Range<usize>) -> &str {
        self.scratch.text.get(range.clone()).unwrap_or_default()
    }

    /// Prints the time of the event: that of the writer if it is one, and otherwise the commit's.
    fn event_time(&mut self, event: &Event<'_>, origin: EventSource) -> EventTime {
        let created = event.created_at.and_then(placement::moment);
        match (created, origin) {
            (Some(created), _) if cloud_event::has_time(created) => {
                EventTime::Text(self.scratch.push(&created.to_string()))
            }
            (_, EventSource::Stream { .. }) => EventTime::Commit,
            (_, EventSource::Table) => EventTime::Unknown,
        }
    }

    fn attributes<'a>(&'a self, event: &'a Event<'a>, parts: &Parts<'a>) -> Attributes<'a> {
        let key = parts.key.as_ref().map(|part| self.scratch.resolve(part));
        Attributes {
            id: &event.id,
            source: &self.source_id,
            kind: match event.event_type {
                Some(kind) if !kind.is_empty() => kind,
                _ => self.topic_of(&parts.topic, event),
            },
            time: match &self.details.time {
                EventTime::Unknown => None,
                EventTime::Commit => Some(&self.origin.committed_at),
                EventTime::Text(range) => Some(self.text(range)),
            },
            partition_key: key.and_then(|key| std::str::from_utf8(key).ok()),
        }
    }

    fn structured<'a>(
        &mut self,
        event: &Event<'a>,
        parts: &Parts<'a>,
        value: &Chosen<'a>,
    ) -> Result<Part<'a>> {
        // It grows while other scratch memory is read.
        let mut into = std::mem::take(&mut self.scratch.cloud_event);
        let attributes = self.attributes(event, parts);
        let written = cloud_event::write(event, &attributes, value, &self.scratch, &mut into);
        self.scratch.cloud_event = into;
        written.map(|()| Part::CloudEvent)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

fn is_cloud_event(style: HeaderStyle) -> bool {
    matches!(
        style,
        HeaderStyle::CloudEvents | HeaderStyle::CloudEventsStructured
    )
}

/// Whether the event was read whole.
fn check(event: &Event<'_>) -> Result<()> {
    if event.id.is_empty() {
        let error = Error::fatal(Code::Publish, "the event has no id");
        return Err(error.with_hint("make id the primary key: it identifies the event"));
    }
    if let Some(column) = event.left_out {
        let what = format!("has a longer value in {column} than a record can have");
        return Err(rejected(event, &what));
    }
    if let Some(column) = event.not_utf8 {
        let what = format!("has a value in {column} that is not UTF-8");
        return Err(rejected(event, &what));
    }
    Ok(())
}
