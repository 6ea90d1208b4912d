//! Reading every row of a window of the table, published or not, in the order of the ids: for a
//! comparison with the topics.
//!
//! Each statement reads a stretch of limited length behind the last id, and no transaction stays
//! open between two. Rows that share an id come in one stretch (`WITH TIES`). A statement that
//! fails because the server cannot print a row is repeated with fewer rows, until the row is alone:
//! that row is returned by its id, without its event.

use futures_util::{TryStreamExt, pin_mut};
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::row_key::RowKey;
use crate::outbox::table::missed::MOVE_ON;
use crate::outbox::table::row::{TableRow, micros};
use crate::outbox::{Columns, Event, RowId, RowName, row_name};
use crate::postgres::table_shape::{identifier, is_part};
use crate::postgres::{self, Columns as _, ServerError, Session, TableShape, sql_error};

/// The rows of the first statement, and the most of a later one.
const ROWS_FIRST: i64 = 500;
const ROWS_MAX: i64 = 5_000;

/// The bytes of a stretch as received, plus at most one row. Two stretches are in memory.
const BYTES_MAX: usize = 2 << 20;

/// Which rows are read. Ids are compared in the order of their type, and times with the time of
/// creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RowWindow {
    /// The first id.
    pub(crate) from_id: Option<String>,
    /// The last id.
    pub(crate) to_id: Option<String>,
    /// The first time, in microseconds since 1970.
    pub(crate) since: Option<i64>,
    /// The time behind the last one, in microseconds since 1970.
    pub(crate) until: Option<i64>,
}

/// The statements for one table and window.
#[derive(Debug)]
pub(crate) struct WindowRows {
    reading: String,
    columns: Columns,
    last: String,
    first: String,
    behind: String,
    ids: String,
    known: String,
    /// The last row of the table when the read began. Rows that are inserted behind it meanwhile
    /// are not read: writers may be faster than this read.
    end: Option<RowId>,
}

/// One row of the window.
#[derive(Debug)]
pub(crate) struct WindowRow {
    row: TableRow,
    /// Whether the row is marked as published; `None` if the table does not tell.
    pub(crate) published: Option<bool>,
    /// The time of the mark in microseconds since 1970, if the mark is a time.
    pub(crate) marked_micros: Option<i64>,
    /// Whether no attempt to send is counted in the row; `None` if the table counts none.
    pub(crate) is_unattempted: Option<bool>,
}

/// Consecutive rows of the window.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) rows: Vec<WindowRow>,
    /// A row that the server cannot print.
    pub(crate) unreadable: Option<RowName>,
    /// Where the next stretch begins; `None` at the end.
    pub(crate) next: Option<StretchStart>,
}

/// Where a stretch begins.
#[derive(Debug)]
pub(crate) struct StretchStart {
    /// The id that it lies behind; `None` for the first stretch.
    behind: Option<RowId>,
    /// The rows of the statement: fewer behind large rows, so that none is sent in vain.
    rows: i64,
}

impl WindowRows {
    /// The statements for a table of this shape.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a required column is missing, or the window is about a column that the
    /// table does not have.
    pub(crate) fn new(config: &Config, shape: &TableShape, window: &RowWindow) -> Result<Self> {
        let readable = shape.columns.iter().filter(|column| column.can_select);
        let named = readable.map(|column| (column.name.as_str(), column.printed_type()));
        let longest = config.record_bytes_max();
        let columns = Columns::of_table(&config.table, named, &config.mapping, longest)?;
        let marking = Marking::new(config.after_publish, shape);
        let key = RowKey::of(shape);
        let is_within = is_within(config, shape, &key, window)?;
        let (name, by, ours) = (shape.name.quoted(), key.list("o"), marking.is_ours());
        let condition = format!("{ours}{}{is_within}", and_is_message(shape, "o"));
        let published = marking.is_published("o");
        let counter = shape.attempts().filter(|column| column.can_select);
        let select = format!(
            "SELECT {values}, {published}, {marked}, {unattempted}, {columns} \
               FROM {name} AS o, {printed} WHERE {condition}",
            values = columns.select_list(),
            published = published.unwrap_or_else(|| "NULL::boolean".to_owned()),
            marked = micros(shape.published().filter(|column| column.can_select)),
            unattempted = counter.map_or_else(
                || "NULL::boolean".to_owned(),
                |column| format!("coalesce(o.{}, 0) = 0", column.quoted()),
            ),
            columns = TableRow::columns(shape),
            printed = columns.printed(),
        );
        let order = format!("ORDER BY {by} FETCH FIRST ($1::bigint) ROWS WITH TIES");
        let (is_read, is_behind) = (key.compares("o", "<=", "$2"), key.compares("o", ">", "$3"));
        let (named, is_named) = key.named_by_text("t.id", "o", "named");
        Ok(WindowRows {
            reading: format!("reading the rows of {}", config.table),
            last: format!(
                "SELECT {id} FROM {name} AS o WHERE {ours} ORDER BY {backwards} LIMIT 1",
                id = key.value("o"),
                backwards = key.list_descending("o"),
            ),
            first: format!("{select} AND {is_read} {order}"),
            behind: format!("{select} AND {is_read} AND {is_behind} {order}"),
            ids: format!(
                "SELECT {row_name} FROM {name} AS o WHERE {condition} \
                    AND {is_read} AND ($3::{kind} IS NULL OR {is_behind}) \
                  ORDER BY {by} LIMIT $1::bigint",
                row_name = row_name::columns(shape, "o"),
                kind = key.parameter(),
            ),
            known: format!(
                "WITH named AS MATERIALIZED ( \
                     SELECT {named} AS id FROM pg_catalog.unnest($1::text[]) AS t (id)) \
                 SELECT {id} FROM {name} AS o WHERE {is_named}",
                id = key.text("o"),
            ),
            end: None,
            columns,
        })
    }

    /// Finds the end of the read. Returns where the first stretch begins, if there is a row.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn begin(&mut self, session: &Session) -> Result<Option<StretchStart>> {
        let rows = session.rows(&self.reading, &self.last, &[]).await?;
        self.end = rows.first().map(|row| row.column(0)).transpose()?;
        Ok(self.end.is_some().then_some(StretchStart {
            behind: None,
            rows: ROWS_FIRST,
        }))
    }

    /// The next rows.
    ///
    /// # Errors
    /// Of the table or the server. A row that the server cannot print is no error.
    pub(crate) async fn stretch(&self, session: &Session, start: &StretchStart) -> Result<Stretch> {
        let (behind, mut limit) = (start.behind.as_ref(), start.rows);
        loop {
            let (rows, ended) = self.read(session, behind, limit).await;
            match ended {
                Ok(is_complete) => {
                    let next_limit = match is_complete {
                        true => (limit * 2).min(ROWS_MAX),
                        false => (rows.len() as i64).max(1),
                    };
                    let is_end = is_complete && (rows.len() as i64) < limit;
                    return Ok(Stretch::of(rows, is_end, next_limit));
                }
                Err(error) => {
                    let server = ServerError::of(&error);
                    if !server.is_some_and(|server| server.is_unprintable_row()) {
                        return Err(error);
                    }
                }
            }
            if limit == 1 {
                return self.without_event(session, behind).await;
            }
            // The rows that came before the failure are read again.
            limit = (limit / 8).max(1);
        }
    }

    /// The row that comes next, by its name alone.
    async fn without_event(&self, session: &Session, behind: Option<&RowId>) -> Result<Stretch> {
        let (one, what) = (1_i64, &self.reading);
        let params: [&(dyn ToSql + Sync); 3] = [&one, &self.end, &behind];
        let rows = session.rows(what, &self.ids, &params).await?;
        let name = rows.first().map(|row| row_name::of_row(row, 0));
        let name = name
            .transpose()
            .map_err(|error| sql_error(&self.reading, error))?;
        Ok(Stretch {
            rows: Vec::new(),
            next: name.as_ref().map(|name| StretchStart {
                behind: Some(name.id.clone()),
                rows: one,
            }),
            unreadable: name,
        })
    }

    /// The rows that were received, and whether they are all that the statement has, or the error
    /// that ended it.
    async fn read(
        &self,
        session: &Session,
        behind: Option<&RowId>,
        limit: i64,
    ) -> (Vec<WindowRow>, Result<bool>) {
        let what = &self.reading;
        let mut rows: Vec<WindowRow> = Vec::new();
        let query = async {
            let sql = behind.map_or(&self.first, |_| &self.behind);
            let statement = session.prepared(sql).await?;
            let id = behind.map(|id| id as &(dyn ToSql + Sync));
            let first: [&(dyn ToSql + Sync); 2] = [&limit, &self.end];
            let params = first.into_iter().chain(id);
            session
                .query_raw(&statement, params.collect::<Vec<_>>())
                .await
        };
        let stream = match session.bounded(what, query).await {
            Ok(stream) => stream,
            Err(error) => return (rows, Err(error)),
        };
        pin_mut!(stream);
        let mut bytes = 0;
        loop {
            match session.bounded(what, stream.try_next()).await {
                Ok(Some(row)) => {
                    bytes += row.raw_size_bytes();
                    match WindowRow::new(row) {
                        Ok(row) => {
                            let has_more = bytes > BYTES_MAX && !is_tied(&rows, &row);
                            if has_more {
                                // The connection discards the rest, which is read again.
                                return (rows, Ok(false));
                            }
                            rows.push(row);
                        }
                        Err(error) => return (rows, Err(error)),
                    }
                }
                Ok(None) => return (rows, Ok(true)),
                Err(error) => return (rows, Err(error)),
            }
        }
    }

    /// The event of a row.
    pub(crate) fn event<'a>(&'a self, row: &'a WindowRow) -> Result<Event<'a>> {
        self.columns.event_from_row(row.row.inner())
    }

    /// Those of these texts that are ids of rows, in or outside the window.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn known(&self, session: &Session, ids: &[&str]) -> Result<Vec<String>> {
        let rows = session.rows(&self.reading, &self.known, &[&ids]).await?;
        rows.iter().map(|row| row.column(0)).collect()
    }

    /// A position in the WAL behind the commits of all rows that were read before. The WAL moves on
    /// behind it, so that an idle stream reaches it.
    ///
    /// # Errors
    /// Of the server.
    pub(crate) async fn position(&self, session: &Session) -> Result<Lsn> {
        let position = postgres::log_position(session).await?;
        session.run(&self.reading, MOVE_ON).await?;
        Ok(position)
    }
}

/// Whether a row must come in the same stretch as the last one. The first row always does.
fn is_tied(rows: &[WindowRow], row: &WindowRow) -> bool {
    rows.last()
        .is_none_or(|last| last.name().id == row.name().id)
}

impl Stretch {
    fn of(rows: Vec<WindowRow>, is_end: bool, next_limit: i64) -> Self {
        let last = rows.last().filter(|_| !is_end);
        Stretch {
            next: last.map(|row| StretchStart {
                behind: Some(row.name().id.clone()),
                rows: next_limit,
            }),
            rows,
            unreadable: None,
        }
    }
}

impl WindowRow {
    fn new(row: Row) -> Result<Self> {
        // Three columns, and those of `TableRow`.
        let at = row.len().saturating_sub(7);
        Ok(WindowRow {
            published: row.column(at)?,
            marked_micros: row.column(at + 1)?,
            is_unattempted: row.column(at + 2)?,
            row: TableRow::new(row).map_err(|error| sql_error("reading a row", error))?,
        })
    }

    /// The row's name.
    pub(crate) fn name(&self) -> &RowName {
        self.row.name()
    }

    /// When it was created, in microseconds since 1970; `None` if that is not known.
    pub(crate) fn created_micros(&self) -> Option<i64> {
        Some(self.row.created_micros()).filter(|micros| *micros != 0)
    }
}

/// The server's time in microseconds since 1970, and how many rows the table has, as the planner
/// estimates.
///
/// # Errors
/// Of the server.
pub(crate) async fn time_and_estimate(session: &Session, shape: &TableShape) -> Result<(i64, u64)> {
    let sql = format!(
        "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint, \
                coalesce(pg_catalog.sum(greatest(c.reltuples, 0)), 0)::bigint \
           FROM pg_catalog.pg_class AS c WHERE {}",
        is_part(shape.oid)
    );
    let row = session
        .row("estimating the rows of the outbox", &sql, &[])
        .await?;
    let rows: i64 = row.column(1)?;
    Ok((row.column(0)?, rows.unsigned_abs()))
}

/// The conditions of the window, each with `AND` before it.
fn is_within(
    config: &Config,
    shape: &TableShape,
    key: &RowKey,
    window: &RowWindow,
) -> Result<String> {
    let mut all = String::new();
    let ids = [(&window.from_id, ">="), (&window.to_id, "<=")];
    for (id, operator) in ids {
        let Some(id) = id else { continue };
        if !key.is_single() {
            let message = format!("the id of {} is several columns", config.table);
            return Err(Error::fatal(Code::Config, message)
                .with_hint("leave --from-id and --to-id out, and use --since and --until"));
        }
        let is_number = id.parse::<i64>().is_ok();
        if key.parameter() == "bigint" && !is_number {
            let message = format!("the ids of {} are integers, and {id} is none", config.table);
            return Err(Error::fatal(Code::Config, message).with_hint("write an id of the table"));
        }
        let literal = escape_literal(id);
        all.push_str(&format!(" AND {}", key.compares("o", operator, &literal)));
    }
    for (time, operator) in [(window.since, ">="), (window.until, "<")] {
        let Some(time) = time else { continue };
        let Some(column) = shape.created().filter(|column| column.is_time()) else {
            let message = format!("{} has no time of creation", config.table);
            return Err(Error::fatal(Code::Config, message).with_hint(
                "name the column in OUTBOX_COLUMNS as created, or use --from-id and --to-id",
            ));
        };
        all.push_str(&format!(
            " AND o.{name} {operator} (timestamptz '1970-01-01 00:00:00+00' \
                + interval '1 microsecond' * {time}::bigint)::{kind}",
            name = identifier(&column.name),
            kind = column.base_type,
        ));
    }
    Ok(all)
}
