//! Reading unpublished rows from the table, for all events that the slot does not deliver: the
//! backlog of a first start, healing, polling.
//!
//! Reads in one order, that of the ids or of a column that a setting names, a batch at a time and
//! never the same row twice in a pass, so that a pass ends even if rows cannot be marked as
//! published. With an index of that order of the unpublished rows, a batch costs no more than its
//! own rows. A row becomes the same
//! [`Event`](crate::outbox::Event) as an insert from the stream, without what only the stream has.
//! A row with an open dead letter is left out everywhere: the request to retry or discard decides
//! about it. A row that has only the id of such a row is not left out. A table that was dropped and
//! recreated under the same name has other ids: its reader has to start over.

mod batch;
mod location;
mod missed;
mod row;
mod slow_rows;
mod survey;
mod window;

use tokio_postgres::RowStream;
use tokio_postgres::types::ToSql;

use crate::config::{Config, TableName};
use crate::error::{Code, Error, Result};
use crate::outbox::dead_letter::{OPEN, is_about};
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::row_key::{ReadOrder, RowKey};
use crate::outbox::table::row::FoundRow;
use crate::outbox::unpublished_count::{Counted, RowCount};
use crate::outbox::{Columns, Event, Rejection, RowId, RowSet, row_name};
use crate::postgres::table_shape;
use crate::postgres::{ServerError, Session, TableShape, sql_error};

pub(crate) use batch::{Batch, Read, ReadPosition, SAVEPOINT};
pub(crate) use location::{TableGone, TableLocation};
pub(crate) use missed::MissedRows;
pub(crate) use row::TableRow;
pub use slow_rows::SlowRows;
pub(in crate::outbox) use slow_rows::may_be_of_a_slow_row;
pub(crate) use survey::Survey;
pub(crate) use window::{RowWindow, Stretch, WindowRow, WindowRows, time_and_estimate};

/// Rows in a batch by default.
pub(crate) const BATCH: usize = 1_000;

/// The statements for one table.
#[derive(Debug, Clone)]
pub struct UnpublishedRows {
    table: TableName,
    reading: String,
    columns: Columns,
    list: String,
    list_on: String,
    /// The rows whose ordering column is null, if there can be such.
    list_unordered: Option<String>,
    read: String,
    one: String,
    published: Option<String>,
    survey: String,
    key: RowKey,
    count: RowCount,
    unpublished: String,
    shape: TableShape,
}

/// What has become of the table since its shape was read.
#[derive(Debug)]
pub(crate) enum TableState {
    Same,
    /// Its columns, rights or partitions have changed.
    Altered(TableShape),
}

impl UnpublishedRows {
    /// The statements for a table that passed the preflight check.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a required column is missing.
    pub fn new(config: &Config, shape: &TableShape) -> Result<Self> {
        let candidates = Marking::new(config.after_publish, shape).candidates("o");
        let reading = format!("reading unpublished rows of {}", config.table);
        UnpublishedRows::of(config, shape, reading, &candidates)
    }

    /// The same for the rows `o` of which `candidates` is true; `reading` names the operation.
    pub(in crate::outbox) fn of(
        config: &Config,
        shape: &TableShape,
        reading: String,
        candidates: &str,
    ) -> Result<Self> {
        let columns = columns_of(config, shape)?;
        let name = config.table.quoted();
        let marking = Marking::new(config.after_publish, shape);
        let dead_letters = config.table.dead_letter().quoted();
        let about = is_about(shape, "o");
        let (key, order) = (RowKey::of(shape), ReadOrder::of(shape));
        let (by, is_any) = (order.by("o"), key.is_any("o", "$1"));
        let unpublished = format!(
            "{candidates}{is_message} AND NOT EXISTS (SELECT FROM {dead_letters} AS d \
                 WHERE d.outbox_id = {id} AND d.{OPEN} AND {about})",
            is_message = and_is_message(shape, "o"),
            id = key.text("o"),
        );
        let list = |more: &str| {
            let found = FoundRow::columns(shape);
            format!(
                "SELECT {found} FROM {name} AS o \
                  WHERE {unpublished}{more} ORDER BY {by} LIMIT $1::bigint"
            )
        };
        let is_behind = order.is_behind("o", "$2", "$3");
        let is_unordered = order.is_unordered("o", "$2");
        let list_unordered = is_unordered.map(|it| list(&format!(" AND {it}")));
        let (list, list_on) = (list(""), list(&format!(" AND {is_behind}")));
        let select = format!(
            "SELECT {values}, {columns} FROM {name} AS o, {printed}",
            values = columns.select_list(),
            columns = TableRow::columns(shape),
            printed = columns.printed(),
        );
        let read = format!("{select} WHERE {unpublished} AND {is_any} ORDER BY {by}");
        // In a partitioned table, two partitions may have the same id: the unpublished row counts.
        let is_published = marking.is_published("o");
        let order_by = |is_published: &String| format!("ORDER BY {is_published}");
        let unpublished_first = is_published.as_ref().map(order_by).unwrap_or_default();
        let one = format!(
            "{select} WHERE {is_this} \
                AND EXISTS (SELECT FROM {dead_letters} AS d WHERE d.id = $2::bigint AND {about}) \
             {unpublished_first} LIMIT 1",
            is_this = key.is("o", &format!("$1::{}", key.parameter())),
        );
        let published = is_published.as_ref().map(|is_published| {
            let row_name = row_name::columns(shape, "o");
            format!("SELECT {row_name} FROM {name} AS o WHERE {is_any} AND {is_published}")
        });
        Ok(UnpublishedRows {
            table: config.table.clone(),
            reading,
            columns,
            list,
            read,
            list_on,
            list_unordered,
            one,
            published,
            survey: survey_sql(shape, &marking, &unpublished),
            count: RowCount::new(&config.table, &unpublished),
            key,
            unpublished,
            shape: shape.clone(),
        })
    }

    /// Every statement.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &str> {
        let (list, count) = (self.list.as_str(), self.count.statement());
        let always = [
            list,
            &self.list_on,
            &self.read,
            &self.survey,
            count,
            &self.one,
        ];
        let sometimes = [&self.published, &self.list_unordered];
        let sometimes = sometimes.into_iter().filter_map(Option::as_deref);
        always.into_iter().chain(sometimes)
    }

    /// The statement that reads the row with this id that this dead letter is about, published or
    /// not.
    pub(crate) fn one(&self) -> &str {
        &self.one
    }

    /// How statements name rows of the table.
    pub(crate) fn key(&self) -> &RowKey {
        &self.key
    }

    /// Whether the table is still the one that this was made for, with the same columns.
    ///
    /// # Errors
    /// Of the server; transient if the table was dropped, or dropped and recreated.
    pub(crate) async fn table_state(&self, session: &Session) -> Result<TableState> {
        let mapping = &self.shape.mapping;
        let shape = table_shape::read(session, &self.table, mapping).await?;
        match shape.filter(|shape| shape.oid == self.shape.oid) {
            None => {
                let message = format!("table {} was dropped and recreated", self.table);
                Err(Error::transient(Code::Write, message))
            }
            Some(shape) if shape == self.shape => Ok(TableState::Same),
            Some(shape) => Ok(TableState::Altered(shape)),
        }
    }

    /// As [`table_state`](UnpublishedRows::table_state), for a caller that makes all its statements
    /// again after an error.
    pub(crate) async fn expect_unaltered(&self, session: &Session) -> Result<()> {
        match self.table_state(session).await? {
            TableState::Same => Ok(()),
            TableState::Altered(_) => {
                let message = format!("table {} was altered, reading it again", self.table);
                Err(Error::transient(Code::Write, message))
            }
        }
    }

    /// The shape of the table that these statements are made for.
    pub(crate) fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// The condition for a row of the table `o` to be published: unpublished, without an open dead
    /// letter, and of the table that this was made for.
    pub(in crate::outbox) fn condition(&self) -> &str {
        &self.unpublished
    }

    pub(crate) fn table(&self) -> &TableName {
        &self.table
    }

    async fn list(
        &self,
        session: &Session,
        behind: Option<&ReadPosition>,
        limit: usize,
    ) -> Result<Vec<FoundRow>> {
        let what = &self.reading;
        let most = limit as i64;
        let mut rows = match (behind, &self.list_unordered) {
            (None, _) => session.rows(what, &self.list, &[&most]).await?,
            (Some(ReadPosition { order: None, .. }), Some(_)) => Vec::new(),
            (Some(ReadPosition { id, order }), _) => {
                let params: [&(dyn ToSql + Sync); 3] = [&most, id, order];
                session.rows(what, &self.list_on, &params).await?
            }
        };
        if let (Some(behind), Some(list)) = (behind, &self.list_unordered)
            && rows.len() < limit
        {
            let id = Some(&behind.id).filter(|_| behind.order.is_none());
            let left = (limit - rows.len()) as i64;
            rows.extend(session.rows(what, list, &[&left, &id]).await?);
        }
        let found: Result<Vec<_>, _> = rows.iter().map(FoundRow::of).collect();
        found.map_err(|error| sql_error(&self.reading, error))
    }

    /// The name of the operation, for errors.
    pub(super) fn reading(&self) -> &str {
        &self.reading
    }

    /// Those of the rows that are unpublished, in the order of a read.
    pub(super) async fn stream(
        &self,
        session: &Session,
        ids: &[RowId],
    ) -> Result<RowStream, tokio_postgres::Error> {
        let statement = session.prepared(&self.read).await?;
        session.query_raw(&statement, [ids]).await
    }

    /// The rejection of a row that the server cannot print.
    pub(super) fn unreadable(&self, id: &RowId, server: &ServerError) -> Rejection {
        Rejection {
            code: "ROW_UNREADABLE".to_owned(),
            message: format!("row {id} of {} cannot be read: {server}", self.table),
        }
    }

    /// The rejection of a row that is unpublished again and again.
    pub(crate) fn mark_removed(&self, id: &RowId) -> Rejection {
        Rejection {
            code: "MARK_REMOVED".to_owned(),
            message: format!(
                "row {id} of {} was published and marked several times, and its mark was removed \
                 each time",
                self.table
            ),
        }
    }

    /// The rejection of a row that [`SlowRows`] gives up.
    pub(super) fn too_slow(&self, id: &RowId) -> Rejection {
        Rejection {
            code: "ROW_UNREADABLE".to_owned(),
            message: format!(
                "row {id} of {} cannot be read: two reads of it alone exceeded \
                 OUTBOX_OPERATION_TIMEOUT or failed at a file of the server",
                self.table
            ),
        }
    }

    /// The row's event.
    pub(crate) fn event<'a>(&'a self, row: &'a TableRow) -> Result<Event<'a>> {
        self.columns.event_from_row(&row.row)
    }

    /// The rows with these ids that are marked as published by now.
    pub(crate) async fn published(&self, session: &Session, ids: &[RowId]) -> Result<RowSet> {
        let Some(published) = &self.published else {
            return Ok(RowSet::default());
        };
        let what = format!("reading published rows of {}", self.table);
        let rows = session.rows(&what, published, &[&ids]).await?;
        let names: Result<RowSet, _> = rows.iter().map(|row| row_name::of_row(row, 0)).collect();
        names.map_err(|error| sql_error(what, error))
    }

    /// How many rows are unpublished, up to `most`; `None` if counting takes too long.
    pub(crate) async fn count(&self, session: &Session, most: i64) -> Result<Option<Counted>> {
        self.count.up_to(session, most).await
    }
}

/// The columns of the table that the role may read.
fn columns_of(config: &Config, shape: &TableShape) -> Result<Columns> {
    let columns = shape.columns.iter().filter(|column| column.can_select);
    let columns = columns.map(|column| (column.name.as_str(), column.printed_type()));
    let payload_bytes_max = config.record_bytes_max();
    Columns::of_table(&config.table, columns, &config.mapping, payload_bytes_max)
}

/// The statement that counts the rows of which `unpublished` is true, up to `$1`.
fn survey_sql(shape: &TableShape, marking: &Marking, unpublished: &str) -> String {
    let name = shape.name.quoted();
    let ever_marked = match marking.is_published("o") {
        Some(is_published) => format!("EXISTS (SELECT FROM {name} AS o WHERE {is_published})"),
        None => "false".to_owned(),
    };
    format!(
        "WITH unpublished AS (SELECT {oldest} AS at FROM {name} AS o \
                              WHERE {unpublished} ORDER BY {by} LIMIT $1::bigint) \
         SELECT pg_catalog.count(*), pg_catalog.min(at)::text, {ever_marked} FROM unpublished",
        oldest = oldest(shape),
        by = ReadOrder::of(shape).by("o"),
    )
}

/// The creation time of a row `o`, for a person: none if the column has another type than a time.
fn oldest(shape: &TableShape) -> String {
    match shape.created().filter(|column| column.is_time()) {
        Some(created) => format!("o.{}", created.quoted()),
        None => "NULL::text".to_owned(),
    }
}
