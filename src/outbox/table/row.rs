//! One row of the outbox: as it was found, and as it was read.

use tokio_postgres::Row;

/// One row, as it was read.
#[derive(Debug)]
pub(crate) struct TableRow {
    pub(super) row: Row,
    fields: usize,
}

impl TableRow {
    pub(in crate::outbox) fn new(row: Row) -> Self {
        let fields = row.len() - 3;
        TableRow { row, fields }
    }

    /// The transaction that inserted the row, or changed it last.
    pub(crate) fn xid(&self) -> u32 {
        self.row.get::<_, i64>(self.fields + 1) as u32
    }

    /// The row's id.
    pub(crate) fn id(&self) -> i64 {
        self.row.get(self.fields)
    }

    /// When it was created, in microseconds since 1970; 0 if the table has no such column or value.
    pub(crate) fn created_micros(&self) -> i64 {
        self.row.get::<_, Option<i64>>(self.fields + 2).unwrap_or(0)
    }
}

/// A row that was found and is not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundRow {
    pub(super) id: i64,
    pub(super) xid: u32,
    pub(super) stored_bytes: i64,
}

impl FoundRow {
    /// The columns of the outbox `o` that a statement selects for [`of`](FoundRow::of).
    pub(super) const COLUMNS: &str = "o.id::bigint, o.xmin::text::bigint, \
         coalesce(pg_catalog.pg_column_size(o.event_payload), 0)::bigint";

    pub(super) fn of(row: &Row) -> Self {
        FoundRow {
            id: row.get(0),
            xid: row.get::<_, i64>(1) as u32,
            stored_bytes: row.get(2),
        }
    }
}
