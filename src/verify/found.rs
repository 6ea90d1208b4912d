//! What is kept of a record: whose it is, which event it is of, and what it is compared by. Pure
//! but for the header's names.

use rdkafka::Message;
use rdkafka::message::Headers as _;

use crate::config::Mapping;
use crate::config::mapping::HeaderStyle;
use crate::outbox::stated_place;
use crate::verify::moment;
use crate::verify::store::digest;
use crate::verify::store::entry::{OrderEntry, Position, RecordEntry};

/// The headers of a record that say what it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Said<'m> {
    id: Option<&'m [u8]>,
    source: Option<&'m [u8]>,
    created_at: Option<&'m [u8]>,
    lsn: Option<&'m [u8]>,
    index: Option<&'m [u8]>,
    committed_at: Option<&'m [u8]>,
    is_replayed: bool,
}

/// How headers are read.
#[derive(Debug)]
pub(super) struct Reading {
    source_id: String,
    /// Of CloudEvents.
    source: String,
    /// `id` is the header of the id.
    is_debezium: bool,
}

/// A record, as it is compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Of another outbox.
    Foreign,
    Record {
        entry: RecordEntry,
        has_id: bool,
        /// `None` where nothing tells its order.
        order: Option<OrderEntry>,
    },
}

impl Reading {
    /// For the records of this mapping; `source` is what CloudEvents have as theirs.
    pub(super) fn new(mapping: &Mapping, source: String) -> Self {
        Reading {
            source_id: mapping.source_id.clone(),
            source,
            is_debezium: mapping.headers == HeaderStyle::Debezium,
        }
    }

    /// Reads a record. `early_until`: a record that was committed before this time, in microseconds
    /// since 1970, may have a copy before those that are read.
    pub(super) fn read(&self, record: &impl Message, topic: u32, early_until: i64) -> Found {
        let said = self.said(record);
        let is_ours = match said.source {
            Some(source) if source == self.source_id.as_bytes() => true,
            Some(source) if source == self.source.as_bytes() => true,
            Some(_) => return Found::Foreign,
            None => false,
        };
        let at = Position {
            topic,
            partition: record.partition(),
            offset: record.offset(),
        };
        let text = |value: Option<&[u8]>| {
            value.and_then(|it| std::str::from_utf8(it).ok().map(str::to_owned))
        };
        let created_at = text(said.created_at);
        let id = said.id.map_or([0; 16], digest::id);
        let place = digest::place(record.topic(), record.key());
        let entry = RecordEntry {
            id,
            created: digest::text(said.created_at),
            created_at: created_at.as_deref().and_then(moment::absolute),
            place,
            value: digest::value(record.payload()),
            at,
            is_replayed: said.is_replayed,
            is_ours,
            name: text(said.id).unwrap_or_default().into(),
        };
        let order = (record.key().is_some() && !said.is_replayed)
            .then(|| place_in_wal(&said))
            .flatten()
            .map(|(lsn, index)| {
                let committed = text(said.committed_at);
                let committed = committed.as_deref().and_then(moment::absolute);
                OrderEntry {
                    id,
                    place,
                    at,
                    lsn,
                    index,
                    committed,
                    is_early: committed.is_none_or(|committed| committed < early_until),
                }
            });
        Found::Record {
            has_id: said.id.is_some(),
            entry,
            order,
        }
    }

    fn said<'m>(&self, record: &'m impl Message) -> Said<'m> {
        let mut said = Said::default();
        let headers = record.headers();
        let headers = headers.iter().flat_map(|headers| headers.iter());
        let mut debezium = None;
        for header in headers {
            let place = match header.key {
                "outbox_id" | "ce_id" => &mut said.id,
                "outbox_source_id" | "ce_source" => &mut said.source,
                "outbox_created_at" => &mut said.created_at,
                "outbox_lsn" => &mut said.lsn,
                "outbox_index" => &mut said.index,
                "outbox_committed_at" => &mut said.committed_at,
                "outbox_replayed" => {
                    said.is_replayed = true;
                    continue;
                }
                "id" if self.is_debezium => &mut debezium,
                _ => continue,
            };
            // A row's own header of the same name comes behind.
            *place = place.or(header.value);
        }
        said.id = said.id.or(debezium);
        said
    }
}

fn place_in_wal(said: &Said<'_>) -> Option<(u64, u32)> {
    let (lsn, index) = stated_place(said.lsn, said.index)?;
    Some((lsn.raw(), index))
}
