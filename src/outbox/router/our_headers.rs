//! The headers that outboxd adds to those of the row, in each style.

use crate::config::mapping::HeaderStyle;
use crate::outbox::Event;
use crate::outbox::record::OurHeaders;
use crate::outbox::router::cloud_event::{self, Attributes, SPEC_VERSION, STRUCTURED};
use crate::outbox::router::origin::{EventSource, OriginText};
use crate::outbox::router::value_choice::Content;

/// The header of a record that was sent by a replay.
pub(super) const REPLAYED: &str = "outbox_replayed";

/// Adds the headers of outboxd's own style.
pub(super) fn outboxd<'a>(
    own: &mut OurHeaders<'a>,
    event: &'a Event<'a>,
    origin: EventSource,
    text: &'a OriginText,
    source_id: &'a str,
) {
    own.add("outbox_id", some(&event.id));
    own.add("outbox_created_at", event.created_at);
    own.add("outbox_event_type", event.event_type);
    match origin {
        EventSource::Stream { .. } => {
            own.add("outbox_lsn", Some(&text.lsn));
            own.add("outbox_index", Some(&text.index));
            own.add("outbox_committed_at", Some(&text.committed_at));
        }
        EventSource::Table => own.add("outbox_source", Some("table")),
    }
    own.add("outbox_source_id", some(source_id));
}

/// Adds the headers of another style. `content` is that of the value, if the record has one.
pub(super) fn of_style<'a>(
    own: &mut OurHeaders<'a>,
    style: HeaderStyle,
    attributes: &Attributes<'a>,
    content: Option<Content>,
) {
    match style {
        HeaderStyle::Outboxd | HeaderStyle::None => {}
        HeaderStyle::Debezium => own.add("id", some(attributes.id)),
        HeaderStyle::CloudEvents => {
            own.add("ce_specversion", Some(SPEC_VERSION));
            own.add("ce_id", some(attributes.id));
            own.add("ce_source", some(attributes.source));
            own.add("ce_type", some(attributes.kind));
            own.add("ce_time", attributes.time);
            own.add("content-type", content.and_then(cloud_event::content_type));
            own.add("ce_partitionkey", attributes.partition_key.and_then(some));
        }
        HeaderStyle::CloudEventsStructured => {
            own.add("content-type", content.map(|_| STRUCTURED));
        }
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
