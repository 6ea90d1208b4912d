//! Reads the requests about dead letters, for the publisher, which alone publishes.
//!
//! A request is read together with the record to send: the row of the outbox as it is now, read
//! like any event of the table, so that a fixed row is sent fixed; and if the row is gone, or
//! another has its id, the stored copy. Parked dead letters follow by themselves, in their order in
//! the WAL, as soon as no dead letter parks their key any more. One row is read at a time: a row
//! that cannot be printed (a few kilobytes of `1e131071`) then affects no other, and memory stays
//! bounded.

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::json;
use crate::outbox::table::may_be_of_a_slow_row;
use crate::outbox::{
    DeadLetters, EventSource, KeyHash, OwnedRecord, Rejection, Resolution, ResolveRequest, Router,
    RowId, SlowRows, TableRow, UnpublishedRows,
};
use crate::postgres::{Columns, RowError, Session, is_unreadable, row_error, sql_error};

/// The most requests of a call.
const REQUESTS_MAX: usize = 500;

/// The bytes of their records, plus at most one record.
const BYTES_MAX: usize = 8 << 20;

impl DeadLetters {
    /// The requests of the oldest open dead letters, in the order of their events: at most `limit`,
    /// 500, or about 8 MiB of records. `slow` has the results of reads in earlier sessions.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn requests(
        &self,
        session: &Session,
        rows: &UnpublishedRows,
        router: &mut Router,
        slow: &mut SlowRows,
        limit: usize,
    ) -> Result<Vec<ResolveRequest>> {
        let limit = limit.min(REQUESTS_MAX) as i64;
        let what = format!("reading requests from {}", self.table);
        let dead_letters = session.rows(&what, &self.requests, &[&limit]).await?;
        if !dead_letters.is_empty() {
            rows.expect_unaltered(session).await?;
        }
        let (mut requests, mut bytes) = (Vec::with_capacity(dead_letters.len()), 0);
        for dead_letter in &dead_letters {
            if bytes >= BYTES_MAX {
                break;
            }
            let (id, outbox_id): (_, Option<String>) =
                (dead_letter.column(0)?, dead_letter.column(1)?);
            let row = outbox_id.and_then(|id| rows.key().kind().id_of(&id));
            let (record, rejection) = match self
                .record(session, rows, router, slow, (id, row.as_ref()))
                .await?
            {
                Ok(record) => (record, None),
                Err(rejection) => (None, Some(rejection)),
            };
            let value = record.as_ref().and_then(|record| record.value());
            bytes += value.map_or(0, <[u8]>::len);
            requests.push(ResolveRequest {
                dead_letter: id,
                row,
                resolution: match dead_letter.column(2)? {
                    "discard" => Resolution::Discard,
                    _ => Resolution::Retry,
                },
                place: place_of(dead_letter)?,
                parked_key: parked_key(dead_letter).map_err(|error| sql_error(&what, error))?,
                record: record.map(Box::new),
                rejection,
            });
        }
        Ok(requests)
    }

    async fn record(
        &self,
        session: &Session,
        rows: &UnpublishedRows,
        router: &mut Router,
        slow: &mut SlowRows,
        (dead_letter, row): (i64, Option<&RowId>),
    ) -> Result<Result<Option<OwnedRecord>, Rejection>> {
        let Some(row) = row else {
            return self.copy(session, dead_letter).await.map(Ok);
        };
        if slow.gives_up(row) {
            return Ok(Err(rows.too_slow(row)));
        }
        let found = rows.row(session, row, dead_letter).await;
        if found.as_ref().is_err_and(may_be_of_a_slow_row) {
            slow.note(row.clone(), 1);
        }
        match found? {
            LookedUpRow::Row(found) => {
                let event = match rows.event(&found) {
                    Ok(event) => event,
                    Err(error) => return Ok(Err(rejection("ROW_MALFORMED", &error))),
                };
                // The rejection is about the row as it is now, not about the stored copy.
                Ok(match router.record(&event, EventSource::Table) {
                    Ok(record) => Ok(Some(OwnedRecord::from(&record))),
                    Err(error) => Err(rejection(event.rejection_code(&error), &error)),
                })
            }
            LookedUpRow::Unreadable(error) => {
                let RowError { code, logged, .. } = row_error(&error);
                Ok(Err(Rejection {
                    code,
                    message: logged,
                }))
            }
            LookedUpRow::Gone => self.copy(session, dead_letter).await.map(Ok),
        }
    }

    /// The record as it was filed; `None` if only its row was stored.
    async fn copy(&self, session: &Session, dead_letter: i64) -> Result<Option<OwnedRecord>> {
        let what = format!("reading dead letter {dead_letter} from {}", self.table);
        let row = session
            .row_if_any(&what, &self.copy, &[&dead_letter])
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let headers = json::headers_of(row.column(3)?);
        let (topic, key, payload) = (row.column(0)?, row.column(1)?, row.column(2)?);
        Ok(headers.map(|headers| {
            // Its place in the WAL is before that of records that are sent already.
            let is_streamed = headers.iter().any(|(name, _)| name == "outbox_lsn");
            let source = is_streamed.then_some(("outbox_source", Some(&b"dead-letter"[..])));
            let headers = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref()));
            OwnedRecord::with_nulls(topic, key, payload, headers.chain(source))
        }))
    }
}

fn rejection(code: &str, error: &Error) -> Rejection {
    Rejection {
        code: code.to_owned(),
        message: error.report(),
    }
}

fn place_of(dead_letter: &tokio_postgres::Row) -> Result<Option<(Lsn, u32)>> {
    let lsn: Option<&str> = dead_letter.column(4)?;
    let index: Option<i32> = dead_letter.column(5)?;
    let lsn = lsn.and_then(|lsn| lsn.parse().ok());
    Ok(lsn.zip(index.and_then(|index| index.try_into().ok())))
}

/// The topic and the key whose later events wait for the dead letter, if any do.
fn parked_key(
    dead_letter: &tokio_postgres::Row,
) -> Result<Option<(Box<str>, KeyHash)>, tokio_postgres::Error> {
    let topic: Option<&str> = dead_letter.try_get(6)?;
    let topic = topic.filter(|_| dead_letter.try_get(3).unwrap_or(false));
    Ok(topic.map(Box::from).zip(KeyHash::of_row(dead_letter, 7)?))
}

/// The result of reading one row.
#[derive(Debug)]
pub(crate) enum LookedUpRow {
    Row(TableRow),
    /// The server cannot print it.
    Unreadable(tokio_postgres::Error),
    /// There is none, or another row has its id.
    Gone,
}

impl UnpublishedRows {
    /// The row that this dead letter is about, published or not.
    async fn row(&self, session: &Session, id: &RowId, dead_letter: i64) -> Result<LookedUpRow> {
        let what = format!("reading row {id} of {}", self.table());
        // The inner error is the row's, the outer one the server's.
        let work = async {
            let statement = session.prepared(self.one()).await?;
            Ok(session.query_opt(&statement, &[id, &dead_letter]).await)
        };
        match session.bounded(&what, work).await? {
            Ok(Some(row)) => match TableRow::new(row) {
                Ok(row) => Ok(LookedUpRow::Row(row)),
                Err(error) => Err(sql_error(what, error)),
            },
            Ok(None) => Ok(LookedUpRow::Gone),
            Err(error) if is_unreadable(&error) => Ok(LookedUpRow::Unreadable(error)),
            Err(error) => Err(sql_error(what, error)),
        }
    }
}
