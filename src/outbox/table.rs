//! Reading unpublished rows from the table: the way of everything that the slot does not bring (the backlog of a first start, healing).
//!
//! Reads by ascending id, a page at a time and never the same row twice in a pass, so that a pass ends whatever cannot be marked. An index
//! `(id) WHERE published_at IS NULL` makes a page cost what it holds. A row becomes the same [`Event`](crate::outbox::Event) as an insert
//! from the stream; only what the stream alone knows is absent.

use std::collections::HashSet;
use std::pin::Pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Row, RowStream};

use crate::config::{Config, TableName};
use crate::error::Result;
use crate::outbox::{Columns, Event};
use crate::postgres::{Session, TableShape};

/// Rows a page: one statement, and so one snapshot of the server, for no longer than this takes.
pub(crate) const PAGE: usize = 1_000;

/// A part of a page that is held at a time, up to one row more.
const PART_BYTES: usize = 1 << 20;

/// The statements for one table, as it is now.
#[derive(Debug)]
pub(crate) struct UnpublishedRows {
    table: TableName,
    columns: Columns,
    page: String,
}

/// One row, as it was read.
#[derive(Debug)]
pub(crate) struct TableRow {
    row: Row,
    fields: usize,
}

impl TableRow {
    /// The transaction that inserted the row, or changed it last.
    pub(crate) fn xid(&self) -> u32 {
        self.row.get::<_, i64>(self.fields + 1) as u32
    }

    /// The row's id.
    pub(crate) fn id(&self) -> i64 {
        self.row.get(self.fields)
    }

    /// When it was created, in microseconds since 1970; 0 where the table does not tell.
    pub(crate) fn created_micros(&self) -> i64 {
        self.row.get::<_, Option<i64>>(self.fields + 2).unwrap_or(0)
    }
}

impl UnpublishedRows {
    /// For a table that passed the preflight check.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a column that is needed is not there.
    pub(crate) fn new(config: &Config, shape: &TableShape) -> Result<Self> {
        let columns = shape.columns.iter().filter(|column| column.can_select);
        let columns = columns.map(|column| (column.name.as_str(), column.type_name.as_str()));
        let columns = Columns::of_table(&config.table, columns, &config.key)?;
        let list = columns.select_list();
        // The session's time zone is the writers', so a timestamp without zone means the same moment to both.
        let created = match shape.column("created_at") {
            Some(_) => "(extract(epoch FROM o.created_at::timestamptz) * 1000000)::bigint",
            None => "NULL::bigint",
        };
        let page = format!(
            "SELECT {list}, o.id::bigint, o.xmin::text::bigint, {created} FROM {table} \
             AS o WHERE o.published_at IS NULL AND o.id > $1::bigint ORDER BY o.id LIMIT {PAGE}",
            table = config.table.quoted(),
        );
        Ok(UnpublishedRows {
            table: config.table.clone(),
            columns,
            page,
        })
    }

    /// Begins to read the next page of unpublished rows above `after`, by id. A page of fewer than [`PAGE`] rows is the last.
    /// The session can do nothing else until the page has been read.
    pub(crate) async fn page<'s>(&self, session: &'s Session, after: i64) -> Result<Page<'s>> {
        let what = format!("reading unpublished rows of {}", self.table);
        let stream = session
            .bounded(&what, session.query_raw(&self.page, [after]))
            .await?;
        Ok(Page {
            session,
            what,
            stream: Box::pin(stream),
            ended: false,
            count: 0,
            last: after,
        })
    }

    /// The row's event.
    pub(crate) fn event<'a>(&self, row: &'a TableRow) -> Result<Event<'a>> {
        self.columns.event_from_row(&row.row)
    }

    /// Those of the ids whose rows are marked as published by now.
    pub(crate) async fn published(&self, session: &Session, ids: &[i64]) -> Result<HashSet<i64>> {
        let what = format!("reading published rows of {}", self.table);
        let published = format!(
            "SELECT id::bigint FROM {} WHERE id = ANY ($1::bigint[]) AND published_at IS NOT NULL",
            self.table.quoted()
        );
        let rows = session
            .bounded(&what, session.query(&published, &[&ids]))
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How many rows are unpublished (counted up to `limit`), the oldest of them, and whether any row was ever marked.
    pub(crate) async fn survey(&self, session: &Session, limit: i64) -> Result<Survey> {
        let what = format!("counting unpublished rows of {}", self.table);
        let survey = format!(
            "WITH unpublished AS (SELECT created_at::text AS at FROM {table} \
                                  WHERE published_at IS NULL ORDER BY id LIMIT $1) \
             SELECT count(*), min(at), EXISTS (SELECT FROM {table} WHERE published_at IS NOT NULL) \
             FROM unpublished",
            table = self.table.quoted()
        );
        let row = session
            .bounded(&what, session.query_one(&survey, &[&limit]))
            .await?;
        Ok(Survey {
            unpublished: row.get(0),
            oldest: row.get(1),
            ever_marked: row.get(2),
        })
    }
}

/// A page that is being read. However large its rows are, only a part of it is in memory.
pub(crate) struct Page<'s> {
    session: &'s Session,
    what: String,
    stream: Pin<Box<RowStream>>,
    /// A stream that has ended must not be asked again.
    ended: bool,
    count: usize,
    last: i64,
}

impl Page<'_> {
    /// The next rows; none at the end of the page.
    pub(crate) async fn rows(&mut self) -> Result<Vec<TableRow>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < PART_BYTES && !self.ended {
            let next = self.session.bounded(&self.what, self.stream.try_next());
            let Some(row) = next.await? else {
                self.ended = true;
                break;
            };
            bytes += row.raw_size_bytes();
            rows.push(TableRow {
                fields: row.len() - 3,
                row,
            });
        }
        self.count += rows.len();
        self.last = rows.last().map_or(self.last, TableRow::id);
        Ok(rows)
    }

    /// How many rows were read so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The highest id that was read so far.
    pub(crate) fn last(&self) -> i64 {
        self.last
    }
}

/// What a look at the whole table shows.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) unpublished: i64,
    pub(crate) oldest: Option<String>,
    pub(crate) ever_marked: bool,
}
