//! Marks rows as published, or deletes them, in batches, over an SQL connection of its own.
//!
//! The slot moves only past events whose rows are settled here, so that the unpublished rows of the
//! table are the unpublished events. Decides for each row of a batch whether it is settled; never
//! drops one. Uses no clock: a row that is not visible is judged by the transaction that inserted
//! it (`pg_xact_status`), since under synchronous replication an event is streamed before its row
//! is visible, for as long as the standby is away. A locked row is skipped and stays unsettled. A
//! row that the table itself refuses to change (a constraint, a trigger) must not hold the slot
//! forever: the batch is halved down to it, it is filed as a dead letter that is published and not
//! marked, and is then settled. The caller retries errors of table or server.
//!
//! An id belongs to one [`TableLocation`]. A session on another server, or one that finds another
//! table under the name, is refused, and every statement about rows names the table's object id as
//! well: it changes no row of a table that was dropped and recreated.
//!
//! The update is repeatable: it touches unpublished rows only, so a batch of unknown outcome is
//! written again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use crate::config::{AfterPublish, Config, TableName};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::file_not_marked;
use crate::outbox::{
    CloseDeadLetter, DeadLetters, NewDeadLetter, ParkedKeyList, ResolveRequest, Router, SlowRows,
    TableLocation, UnpublishedRows,
};
use crate::postgres::table_shape::is_table;
use crate::postgres::{
    self, Session, is_lock_conflict, is_of_the_row, row_error, sql_error, table_shape,
};

/// The most requests about dead letters that are read at a time.
const REQUESTS_MAX: usize = 100;

/// Counting dead letters reads an index: no more often than alerts need.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// One row to mark or delete, and the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Identifies the event for the publisher.
    pub(crate) ticket: u64,
    pub(crate) row: i64,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// Set by [`WriteBack::write`].
    pub(crate) outcome: Outcome,
}

/// The outcome for a row that was to be marked or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was not written back, or that is unknown: the row is locked, or the statement failed.
    Open,
    /// The row is not visible yet: its transaction has committed and waits for a synchronous
    /// standby.
    Hidden,
    /// It is written back, or does not need to be.
    Settled,
}

/// Writes back over a connection that it opens when it needs one. All methods return errors as
/// [`write`](WriteBack::write) does.
#[derive(Debug)]
pub(crate) struct WriteBack {
    config: Arc<Config>,
    place: Option<TableLocation>,
    open: Option<Prepared>,
    /// Rows of dead letters that are slow to read.
    slow: SlowRows,
    /// When the dead letters were last counted.
    counted: Option<Instant>,
}

impl WriteBack {
    /// Connects to nothing yet.
    pub(crate) fn new(config: Arc<Config>) -> Self {
        WriteBack {
            config,
            place: None,
            open: None,
            slow: SlowRows::default(),
            counted: None,
        }
    }

    /// Sets the table that the next calls are about, if one is known.
    pub(crate) fn aim(&mut self, place: Option<TableLocation>) {
        self.place = place;
    }

    /// Writes a batch back and sets the outcome of every row.
    ///
    /// # Errors
    /// Of the table or the server (`WRITE_ERROR`, `CONNECT_ERROR`): the outcome of unsettled rows
    /// is then unknown, and the next batch gets a new connection. Also when server or table are not
    /// those of [`aim`](WriteBack::aim).
    pub(crate) async fn write(&mut self, marks: &mut [Mark]) -> Result<()> {
        let prepared = self.prepared().await?;
        prepared.write(marks).await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// Files dead letters; see [`DeadLetters::file`].
    pub(crate) async fn file(&mut self, dead_letters: &[NewDeadLetter]) -> Result<()> {
        let prepared = self.prepared().await?;
        let system_id = prepared.place.server.lineage.system_id.to_string();
        let session = &prepared.session;
        prepared
            .dead_letters
            .file(session, &system_id, dead_letters)
            .await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// Closes dead letters and settles their rows; see [`DeadLetters::close`].
    pub(crate) async fn close(&mut self, closings: &[CloseDeadLetter]) -> Result<()> {
        let prepared = self.prepared().await?;
        prepared
            .dead_letters
            .close(&prepared.session, closings)
            .await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// Adds an attempt to each of these rows; see [`DeadLetters::count_attempts`].
    pub(crate) async fn count_attempts(&mut self, rows: &[i64]) -> Result<()> {
        let prepared = self.prepared().await?;
        let session = &prepared.session;
        prepared.dead_letters.count_attempts(session, rows).await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// The requests about dead letters; see [`DeadLetters::requests`].
    pub(crate) async fn requests(&mut self) -> Result<Vec<ResolveRequest>> {
        let mut prepared = self.prepared().await?;
        let (session, rows) = (&prepared.session, &prepared.rows);
        let requests = prepared
            .dead_letters
            .requests(
                session,
                rows,
                &mut prepared.router,
                &mut self.slow,
                REQUESTS_MAX,
            )
            .await?;
        self.open = Some(prepared);
        Ok(requests)
    }

    /// A WAL position behind everything that was written here before. An idle stream reaches it
    /// too. Writes a logical message to the WAL, and needs Postgres 17. Errors are those of
    /// [`write`](WriteBack::write).
    pub(crate) async fn emit_logical_message(&mut self) -> Result<Lsn> {
        let prepared = self.prepared().await?;
        let position = postgres::emit_logical_message(&prepared.session).await?;
        self.open = Some(prepared);
        Ok(position)
    }

    /// The parked keys; see [`DeadLetters::parked_keys`].
    pub(crate) async fn parked_keys(&mut self) -> Result<ParkedKeyList> {
        let prepared = self.prepared().await?;
        let keys = prepared.dead_letters.parked_keys(&prepared.session).await?;
        self.open = Some(prepared);
        Ok(keys)
    }

    /// How many dead letters are in each open state, unless they were counted a short while ago;
    /// see [`DeadLetters::counts`].
    pub(crate) async fn counts_if_due(&mut self) -> Result<Option<Vec<(String, i64)>>> {
        if self.counted.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return Ok(None);
        }
        let prepared = self.prepared().await?;
        let counts = prepared.dead_letters.counts(&prepared.session).await?;
        self.open = Some(prepared);
        self.counted = Some(Instant::now());
        Ok(Some(counts))
    }

    /// The open session, if it is still one to the right table, or a new one.
    async fn prepared(&mut self) -> Result<Prepared> {
        let place = self
            .place
            .clone()
            .ok_or_else(|| Error::transient(Code::Write, "no session holds the lock"))?;
        match self.open.take() {
            Some(open) if open.place == place && !open.session.is_closed() => Ok(open),
            _ => Prepared::open(&self.config, place).await,
        }
    }
}

/// A session and the statements prepared on it.
#[derive(Debug)]
struct Prepared {
    session: Session,
    place: TableLocation,
    table: TableName,
    update: Statement,
    update_unlocked: Statement,
    look: Statement,
    dead_letters: DeadLetters,
    rows: UnpublishedRows,
    router: Router,
}

impl Prepared {
    async fn open(config: &Config, place: TableLocation) -> Result<Self> {
        let (database, timeout) = (&config.database, config.operation_timeout);
        let session = postgres::connect(database, "outboxd write-back", timeout).await?;
        if postgres::server(&session).await? != place.server {
            let message = "the write-back connected to another server than the publisher";
            return Err(Error::transient(Code::Write, message));
        }
        let table = config.table.clone();
        let shape = table_shape::read(&session, &table).await?;
        let shape = shape.ok_or_else(|| {
            Error::transient(Code::Write, format!("table {table} does not exist"))
        })?;
        if shape.oid != place.table {
            let message = format!("table {table} was dropped and recreated");
            return Err(Error::transient(Code::Write, message));
        }
        let name = table.quoted();
        let ours = is_table(&table, place.table);
        let marks = "SET published_at = CURRENT_TIMESTAMP, \
                     times_attempted = coalesce(times_attempted, 0) + 1";
        let unpublished = format!("published_at IS NULL AND id = ANY ($1::bigint[]) AND {ours}");
        let free =
            format!("SELECT id FROM {name} WHERE {unpublished} ORDER BY id FOR UPDATE SKIP LOCKED");
        let (update, update_unlocked) = if config.after_publish == AfterPublish::Delete {
            (
                format!("DELETE FROM {name} WHERE {unpublished}"),
                format!(
                    "WITH free AS ({free}) DELETE FROM {name} t USING free WHERE t.id = free.id"
                ),
            )
        } else {
            (
                format!("UPDATE {name} {marks} WHERE {unpublished}"),
                format!(
                    "WITH free AS ({free}) UPDATE {name} t {marks} FROM free WHERE t.id = free.id"
                ),
            )
        };
        let look = format!(
            "SELECT id::bigint, published_at IS NULL FROM {name} \
              WHERE id = ANY ($1::bigint[]) AND {ours}"
        );
        let what = format!("preparing the write-back to {table}");
        session
            .bounded(&what, session.batch_execute(LOCK_TIMEOUT))
            .await?;
        Ok(Prepared {
            update: session.bounded(&what, session.prepare(&update)).await?,
            update_unlocked: session
                .bounded(&what, session.prepare(&update_unlocked))
                .await?,
            look: session.bounded(&what, session.prepare(&look)).await?,
            dead_letters: DeadLetters::new(config, &shape),
            rows: UnpublishedRows::new(config, &shape)?,
            router: Router::new(&config.key),
            session,
            place,
            table,
        })
    }

    async fn write(&self, marks: &mut [Mark]) -> Result<()> {
        // The rest of the batch, the next part last: a part that fails because of a row is halved.
        let mut parts = vec![marks];
        while let Some(part) = parts.pop() {
            // The inner error is the row's, the outer one the server's.
            let work = async { Ok(self.write_part(part).await) };
            match self.session.bounded("the write-back", work).await? {
                Ok(()) => {}
                Err(error) if is_of_the_row(&error) && part.len() > 1 => {
                    let (left, right) = part.split_at_mut(part.len() / 2);
                    parts.push(right);
                    parts.push(left);
                }
                Err(error) if is_of_the_row(&error) => {
                    for mark in part {
                        self.file(mark, &error).await?;
                    }
                }
                Err(error) => {
                    return Err(sql_error(format!("writing back to {}", self.table), error));
                }
            }
        }
        Ok(())
    }

    /// Kafka has the row's event, and the table refuses the mark: files it, so that the other rows
    /// can go on.
    async fn file(&self, mark: &mut Mark, error: &tokio_postgres::Error) -> Result<()> {
        let (row, cause) = (mark.row, row_error(error));
        tracing::error!(
            row,
            state = cause.0,
            error = cause.1,
            "row cannot be marked as published"
        );
        let system_id = self.place.server.lineage.system_id.to_string();
        file_not_marked(&self.session, &self.table, &system_id, row, cause).await?;
        mark.outcome = Outcome::Settled;
        Ok(())
    }

    async fn write_part(&self, marks: &mut [Mark]) -> Result<(), tokio_postgres::Error> {
        let ids: Vec<i64> = marks.iter().map(|mark| mark.row).collect();
        let changed = match self.session.execute(&self.update, &[&ids]).await {
            Err(error) if is_lock_conflict(&error) => {
                self.session.execute(&self.update_unlocked, &[&ids]).await?
            }
            other => other?,
        };
        if changed == ids.len() as u64 {
            marks
                .iter_mut()
                .for_each(|mark| mark.outcome = Outcome::Settled);
            return Ok(());
        }
        self.settle_the_rest(&ids, marks).await
    }

    /// Decides about a batch of which some rows did not change: published by then, deleted, locked,
    /// or not visible yet.
    async fn settle_the_rest(
        &self,
        ids: &[i64],
        marks: &mut [Mark],
    ) -> Result<(), tokio_postgres::Error> {
        let mut xids: Vec<u32> = marks.iter().map(|mark| mark.xid).collect();
        xids.sort_unstable();
        xids.dedup();
        // Queried before the deciding update: a transaction that was over by then has shown its
        // rows to that update.
        let running = self.running(&xids).await?;
        self.session.execute(&self.update_unlocked, &[&ids]).await?;
        let rows = self.session.query(&self.look, &[&ids]).await?;
        let unpublished: HashMap<i64, bool> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for mark in marks {
            mark.outcome = match unpublished.get(&mark.row) {
                Some(true) => Outcome::Open,
                None if running.contains(&mark.xid) => Outcome::Hidden,
                Some(false) | None => Outcome::Settled,
            };
        }
        Ok(())
    }

    /// Those of the transactions that are not over for other sessions. A transaction that is too
    /// old for `pg_xact_status` is over.
    ///
    /// `pg_xact_status` needs 64 bits, the stream has 32: the epoch is the one that brings the id
    /// closest to the snapshot's xmax. An id at or beyond xmax is running; `pg_xact_status` would
    /// refuse some of those as being in the future.
    async fn running(&self, xids: &[u32]) -> Result<Vec<u32>, tokio_postgres::Error> {
        let xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let row = self.session.query_one(xmax, &[]).await?;
        let xmax: i64 = row.get::<_, String>(0).parse().unwrap_or(0);
        let full = |xid: u32| xmax + i64::from(xid.wrapping_sub(xmax as u32) as i32);
        let (over, mut running): (Vec<u32>, Vec<u32>) =
            xids.iter().partition(|xid| full(**xid) < xmax);
        let known: Vec<String> = over
            .iter()
            .filter(|xid| full(**xid) > 0)
            .map(|xid| full(*xid).to_string())
            .collect();
        let status = "SELECT xid FROM unnest($1::text[]) AS t (xid) \
                      WHERE pg_xact_status(xid::xid8) = 'in progress'";
        let rows = self.session.query(status, &[&known]).await?;
        // The low half of the 64 bits is the id as the stream gives it.
        let low = |text: String| text.parse::<u64>().map(|full| full as u32).ok();
        running.extend(rows.iter().filter_map(|row| low(row.get(0))));
        Ok(running)
    }
}

/// The longest time that locked rows hold up a batch.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '1s'";
