//! One row of the outbox: as it was found, and as it was read.

use tokio_postgres::{Error, Row};

use crate::outbox::row_key::ReadOrder;
use crate::outbox::{RowName, row_name};
use crate::postgres::TableShape;
use crate::postgres::table_shape::Column;

/// One row, as it was read.
#[derive(Debug)]
pub(crate) struct TableRow {
    pub(super) row: Row,
    name: RowName,
    xid: u32,
    created_micros: i64,
}

impl TableRow {
    /// A row that ends with [`columns`](TableRow::columns).
    pub(in crate::outbox) fn new(row: Row) -> Result<Self, Error> {
        let fields = row.len().saturating_sub(4);
        Ok(TableRow {
            name: row_name::of_row(&row, fields)?,
            xid: row.try_get::<_, i64>(fields + 2)? as u32,
            created_micros: row.try_get::<_, Option<i64>>(fields + 3)?.unwrap_or(0),
            row,
        })
    }

    /// The last columns of a select of the outbox `o`, of this shape.
    ///
    /// The time is for a figure alone: any other type, and any time that is no moment of this era,
    /// reads as none. The session has the time zone of the writers, so a timestamp without zone
    /// means the same moment to both.
    pub(super) fn columns(shape: &TableShape) -> String {
        let micros = micros(shape.created());
        let name = row_name::columns(shape, "o");
        format!("{name}, {xid}, {micros}", xid = shape.xid("o"))
    }

    /// What the server has sent.
    pub(super) fn inner(&self) -> &Row {
        &self.row
    }

    /// The transaction that inserted the row, or changed it last.
    pub(crate) fn xid(&self) -> u32 {
        self.xid
    }

    /// The row's name.
    pub(crate) fn name(&self) -> &RowName {
        &self.name
    }

    /// When it was created, in microseconds since 1970; 0 if that is not known.
    pub(crate) fn created_micros(&self) -> i64 {
        self.created_micros
    }
}

/// An expression for a time of the row `o`, in microseconds since 1970.
pub(super) fn micros(column: Option<&Column>) -> String {
    let time = column.filter(|column| column.is_time());
    time.map_or_else(
        || "NULL::bigint".to_owned(),
        |column| {
            let time = format!("o.{}", column.quoted());
            format!(
                "CASE WHEN {time} >= '1970-01-01' AND {time} < '9999-01-01' \
                 THEN (extract(epoch FROM {time}::timestamptz) * 1000000)::bigint END"
            )
        },
    )
}

/// A row that was found and is not read yet.
#[derive(Debug, Clone)]
pub(super) struct FoundRow {
    pub(super) name: RowName,
    /// The text of the column that orders the reads.
    pub(super) order: Option<Box<str>>,
    pub(super) xid: u32,
    pub(super) stored_bytes: i64,
}

impl FoundRow {
    /// The columns of the outbox `o` that a statement selects for [`of`](FoundRow::of).
    pub(super) fn columns(shape: &TableShape) -> String {
        let name = row_name::columns(shape, "o");
        let payload = shape
            .payload()
            .map_or("NULL".to_owned(), |it| format!("o.{}", it.quoted()));
        format!(
            "{name}, {xid}, \
             coalesce(pg_catalog.pg_column_size({payload}), 0)::bigint, {order}",
            xid = shape.xid("o"),
            order = ReadOrder::of(shape).text("o"),
        )
    }

    pub(super) fn of(row: &Row) -> Result<Self, Error> {
        Ok(FoundRow {
            name: row_name::of_row(row, 0)?,
            xid: row.try_get::<_, i64>(2)? as u32,
            stored_bytes: row.try_get(3)?,
            order: row
                .try_get::<_, Option<String>>(4)?
                .map(String::into_boxed_str),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_is_read_as_one() {
        let columns = |type_name| {
            TableRow::columns(&TableShape::of_columns(
                16_400,
                &[("created_at", type_name)],
            ))
        };
        for type_name in ["bigint", "text", "jsonb", "app.moment", "interval", "time"] {
            let columns = columns(type_name);
            assert!(!columns.contains("created_at"), "{type_name}: {columns}");
        }
        assert!(columns("date").contains("o.created_at::timestamptz"));
    }
}
