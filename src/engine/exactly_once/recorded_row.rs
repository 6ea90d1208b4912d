//! A row of the table that a progress record names: it is in Kafka, and may not be marked yet.

use serde::{Deserialize, Serialize};

use crate::engine::tracker::InFlight;
use crate::outbox::{CreatedAt, RowId, RowName};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedRow {
    id: Id,
    /// As Postgres stores it.
    created: Option<i64>,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl RecordedRow {
    /// The row of an event; `None` if it has none.
    pub(crate) fn of(event: &InFlight) -> Option<Self> {
        Some(RecordedRow::new(event.row.as_ref()?, event.xid))
    }

    pub(crate) fn new(name: &RowName, xid: u32) -> Self {
        RecordedRow {
            id: match name.id.number() {
                Some(number) => Id::Number(number),
                None => Id::Text(name.id.to_string()),
            },
            created: name.created.to_raw(),
            xid,
        }
    }

    pub(crate) fn name(&self) -> RowName {
        let id = match &self.id {
            Id::Number(number) => RowId::Number(*number),
            Id::Text(text) => RowId::from(text.as_str()),
        };
        RowName {
            id,
            created: CreatedAt::of_raw(self.created),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_as_it_was() {
        let created = CreatedAt::of_text("2026-01-31 23:59:59.123456");
        for (id, created) in [
            (RowId::Number(-7), created),
            (RowId::from("a \u{1F600} \"text\""), created),
            (RowId::from("[\"1\",\"b\"]"), CreatedAt::UNKNOWN),
            (RowId::Number(i64::MAX), CreatedAt::ANY),
        ] {
            let name = RowName { id, created };
            let text = serde_json::to_string(&RecordedRow::new(&name, 9));
            let read: Option<RecordedRow> = text.ok().and_then(|it| serde_json::from_str(&it).ok());
            let read = read.map(|it| (it.name(), it.xid));
            assert_eq!(read, Some((name, 9)));
        }
    }
}
