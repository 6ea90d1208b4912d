//! Telling the table what Kafka has: marks or deletes rows, in batches, over one SQL connection of its own.
//!
//! The slot moves only past events whose rows are settled here, so that what the table shows as unpublished is what is
//! unpublished. Decides for each row of a batch whether it is settled; never drops one. Asks no clock: a row that cannot be seen is
//! judged by the transaction that inserted it (`pg_xact_status`), since under synchronous replication an event is streamed before its row
//! is visible, for as long as the standby is away. A locked row is passed over and stays unsettled. A row that the table itself refuses
//! to change (a constraint, a trigger) must not hold the slot for ever: the batch is halved down to it, it is filed among the dead
//! letters as published and not marked, and is settled then. Errors of table or server are the caller's to retry.
//!
//! An id means something at one [`TableLocation`] only. A session that is on another server, or finds another table under the name, is refused, and
//! every statement about rows names the table's object id as well: a table that was dropped and made anew has none of our rows.
//!
//! The update repeats safely: it touches unpublished rows only, so a batch of unknown outcome is just written again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use crate::config::{AfterPublish, Config, TableName};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::file_not_marked;
use crate::outbox::{
    CloseDeadLetter, DeadLetters, NewDeadLetter, ParkedKey, ResolveRequest, Router, SlowRows,
    TableLocation, UnpublishedRows,
};
use crate::postgres::table_shape::is_table;
use crate::postgres::{
    self, Session, is_lock_conflict, is_of_the_row, row_error, sql_error, table_shape,
};

/// Requests about dead letters that are read at a time.
const REQUESTS_MAX: usize = 100;

/// Counting dead letters reads an index: what alerts need, and no more often.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// One row to mark or delete, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Names the event for the publisher.
    pub(crate) ticket: u64,
    pub(crate) row: i64,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// Set by [`WriteBack::write`].
    pub(crate) outcome: Outcome,
}

/// What became of a row that was to be marked or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was not written back, or nobody knows: somebody has locked it, or the statement failed.
    Open,
    /// Its transaction is committed and not over: nobody sees the row yet. A synchronous standby has not confirmed it.
    Hidden,
    /// Nothing is left to do for it.
    Settled,
}

/// Writes back over a connection that it opens when it needs one.
#[derive(Debug)]
pub(crate) struct WriteBack {
    config: Arc<Config>,
    place: Option<TableLocation>,
    open: Option<Prepared>,
    /// Rows of dead letters that are slow to read.
    slow: SlowRows,
    /// When the dead letters were counted last.
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

    /// Where the rows are that the next call is about, if anybody knows.
    pub(crate) fn aim(&mut self, place: Option<TableLocation>) {
        self.place = place;
    }

    /// Writes a batch back and says of every row what became of it.
    ///
    /// # Errors
    /// Of the table or the server (`WRITE_ERROR`, `CONNECT_ERROR`): the outcome of unsettled rows is then unknown, and the
    /// connection is made anew for the next batch. Also when server or table are not those that it was aimed at.
    pub(crate) async fn write(&mut self, marks: &mut [Mark]) -> Result<()> {
        let prepared = self.prepared().await?;
        prepared.write(marks).await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// Files letters; see [`DeadLetters::file`].
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
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

    /// Closes letters and settles their rows; see [`DeadLetters::close`].
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
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
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
    pub(crate) async fn count_attempts(&mut self, rows: &[i64]) -> Result<()> {
        let prepared = self.prepared().await?;
        let session = &prepared.session;
        prepared.dead_letters.count_attempts(session, rows).await?;
        self.open = Some(prepared);
        Ok(())
    }

    /// What is to be done about dead letters; see [`DeadLetters::requests`].
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
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

    /// A position behind all that was written here before, which a stream comes to without anybody writing more. Writes to the log,
    /// and needs Postgres 17. Errors are those of [`write`](WriteBack::write).
    pub(crate) async fn emit_logical_message(&mut self) -> Result<Lsn> {
        let prepared = self.prepared().await?;
        let position = postgres::emit_logical_message(&prepared.session).await?;
        self.open = Some(prepared);
        Ok(position)
    }

    /// Which keys are parked; see [`DeadLetters::parked_keys`].
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
    pub(crate) async fn parked_keys(&mut self) -> Result<Vec<ParkedKey>> {
        let prepared = self.prepared().await?;
        let keys = prepared.dead_letters.parked_keys(&prepared.session).await?;
        self.open = Some(prepared);
        Ok(keys)
    }

    /// How many letters are in each open state, where that was not counted a short while ago; see [`DeadLetters::counts`].
    ///
    /// # Errors
    /// As of [`write`](WriteBack::write).
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

    /// The session that is open, if it still fits, or a new one.
    async fn prepared(&mut self) -> Result<Prepared> {
        let place = self.place.clone().ok_or_else(|| {
            Error::transient(
                Code::Write,
                "no replication session says which server to write to",
            )
        })?;
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
            let message = "the server that answers SQL is not the one that streams";
            return Err(Error::transient(Code::Write, message));
        }
        let table = config.table.clone();
        let shape = table_shape::read(&session, &table).await?;
        let shape = shape.ok_or_else(|| {
            Error::transient(Code::Write, format!("the table {table} is not there"))
        })?;
        if shape.oid != place.table {
            let message = format!("the table {table} was made anew");
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
        // Halves of a batch that one of its rows refused, the rest of the batch behind them.
        let mut parts = vec![marks];
        while let Some(part) = parts.pop() {
            // The inner error says what the row's fault is; the outer one is the server's.
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

    /// Kafka has the row's event, and the table will not hear of it: somebody has to look, and the others go on.
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

    /// Some rows of a batch did not change: published by then, gone, locked, or not visible yet.
    async fn settle_the_rest(
        &self,
        ids: &[i64],
        marks: &mut [Mark],
    ) -> Result<(), tokio_postgres::Error> {
        let mut xids: Vec<u32> = marks.iter().map(|mark| mark.xid).collect();
        xids.sort_unstable();
        xids.dedup();
        // Asked before the update that decides: a transaction that is over by then has shown its rows to that update.
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

    /// Those of the transactions that are not over for other sessions. A transaction too old to be known is over.
    ///
    /// `pg_xact_status` wants 64 bits, the stream gives 32: the epoch is the one that brings it closest to the snapshot's
    /// xmax. What lies at or beyond xmax is running; `pg_xact_status` would refuse some of it as being in the future.
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

/// Locked rows must not hold up the batch for longer than this.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '1s'";
