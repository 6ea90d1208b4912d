//! Marks rows as published, or deletes them, in batches, over an SQL connection of its own.
//!
//! The slot moves only past events whose rows are settled here, so that the unpublished rows of the
//! table are the unpublished events. Never drops a row: `marks` decides about each. A row that the
//! table itself refuses to change (a constraint, a trigger) must not hold the slot forever: the
//! batch is halved down to it, it is filed as a dead letter that is published and not marked, and
//! is then settled. The engine limits how many. An error whose state speaks of the statement comes
//! from a trigger, if the server accepts the same statement without running it. The caller retries
//! errors of table or server.
//!
//! An id belongs to one [`TableLocation`]. A session on another server, or one that finds another
//! table under the name, is refused, and every statement about rows names the table's object id as
//! well: it changes no row of a table that was dropped and recreated.
//!
//! The update is repeatable: it touches unpublished rows only, so a batch of unknown outcome is
//! written again. Filing a dead letter needs none of the statements that mark rows. The session has
//! the role's own `search_path`, because its statements fire the triggers of the table's owner.

mod marks;
mod parts;
mod row_figure;
mod statements;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, TableName};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::marking::Marking;
use crate::outbox::pause::{PauseReader, RequestedPause};
use crate::outbox::refusal::{is_refusal, silent_refusal};
use crate::outbox::retention::{Retention, RetentionStatements};
use crate::outbox::unpublished_count::RowCount;
use crate::outbox::write_back::row_figure::RowFigure;
use crate::outbox::write_back::statements::TableOnSession;
use crate::outbox::{
    CloseDeadLetter, Counted, DeadLetters, NewDeadLetter, ParkedKeyList, Rejection, ResolveRequest,
    RetentionStep, Router, RowId, RowName, SlowRows, TableGone, TableLocation, UnpublishedRows,
};
use crate::postgres::{self, RowError, Session, row_error, sql_error, table_shape};
use crate::status::OpenDeadLetters;

#[cfg(test)]
pub(crate) use marks::{Changed, MarkedTable, settle};
pub(crate) use marks::{Mark, Marker, Outcome};
#[cfg(test)]
pub(crate) use parts::{PartTable, RefusedMark, write};
pub(crate) use statements::MarkStatements;

/// The most requests about dead letters that are read at a time.
const REQUESTS_MAX: usize = 100;

/// Counting dead letters reads an index: no more often than alerts need.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// The same after a change, which a person wants to see within a second.
const COUNT_CHANGED_EVERY: Duration = Duration::from_millis(500);

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
    /// Dead letters were filed or closed since.
    changed: bool,
    row_figure: RowFigure,
    /// `None` if no old row is deleted.
    retention: Option<Retention>,
}

impl WriteBack {
    /// Connects to nothing yet.
    pub(crate) fn new(config: Arc<Config>) -> Self {
        WriteBack {
            retention: config.retain.map(Retention::new),
            config,
            place: None,
            open: None,
            slow: SlowRows::default(),
            counted: None,
            changed: false,
            row_figure: RowFigure::default(),
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
        self.changed |= parts::write(&prepared, marks).await?;
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
        self.changed = true;
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
        self.changed = true;
        self.open = Some(prepared);
        Ok(())
    }

    /// Adds an attempt to each of these rows; see [`DeadLetters::count_attempts`].
    pub(crate) async fn count_attempts(&mut self, rows: &[RowId]) -> Result<()> {
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

    /// The pause that is requested. Says that the publisher has seen it, and whether it stands
    /// still; that is best effort.
    pub(crate) async fn pause(&mut self, stands_still: bool) -> Result<Option<RequestedPause>> {
        let mut prepared = self.prepared().await?;
        let (session, reader) = (&prepared.session, &mut prepared.pause);
        let request = reader.read(session).await?;
        match reader.tell(session, &request, stands_still).await {
            Ok(()) => self.open = Some(prepared),
            Err(error) => {
                let error = error.report();
                tracing::debug!(error, "the state of the pause is not written");
            }
        }
        Ok(request.pause)
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

    /// The open dead letters and how many rows wait for them, unless they were counted a short
    /// while ago; see [`DeadLetters::open`].
    pub(crate) async fn counts_if_due(&mut self) -> Result<Option<(OpenDeadLetters, u64)>> {
        let pause = if self.changed {
            COUNT_CHANGED_EVERY
        } else {
            COUNT_EVERY
        };
        if self.counted.is_some_and(|at| at.elapsed() < pause) {
            return Ok(None);
        }
        let prepared = self.prepared().await?;
        let (dead_letters, session) = (&prepared.dead_letters, &prepared.session);
        let open = dead_letters.open(session).await?;
        let rows = dead_letters.waiting_rows(session).await?;
        let rows = rows.map_or(0, |rows| rows.all);
        self.open = Some(prepared);
        (self.counted, self.changed) = (Some(Instant::now()), false);
        Ok(Some((open, rows.unsigned_abs())))
    }

    /// The same, only if this connection has filed or closed any since they were counted.
    pub(crate) async fn counts_if_changed(&mut self) -> Result<Option<(OpenDeadLetters, u64)>> {
        match self.changed {
            true => self.counts_if_due().await,
            false => Ok(None),
        }
    }

    /// The unpublished rows, unless they were counted a while ago. The inner value is `None` while
    /// they cannot be counted; only a connection that cannot be opened is an error.
    pub(crate) async fn rows_if_due(&mut self) -> Result<Option<Option<Counted>>> {
        if !self.row_figure.is_due(Instant::now()) {
            return Ok(None);
        }
        let prepared = self.prepared().await?;
        let (counted, open) = match &prepared.row_count {
            Some(count) => self.row_figure.read(&prepared.session, count).await,
            None => (None, true),
        };
        self.open = Some(prepared).filter(|_| open);
        Ok(Some(counted))
    }

    /// Counts the unpublished rows as soon as that is possible: their number is not known.
    pub(crate) fn count_rows_again(&mut self) {
        self.row_figure = RowFigure::default();
    }

    /// The next step of retention; see [`Retention::step`]. Nothing to do if no old row is deleted.
    pub(crate) async fn retain(&mut self) -> Result<RetentionStep> {
        let prepared = self.prepared().await?;
        let step = match (&mut self.retention, &prepared.retention) {
            (Some(retention), Some(statements)) => {
                retention.step(&prepared.session, statements).await?
            }
            _ => RetentionStep {
                ends_pass: true,
                ..RetentionStep::default()
            },
        };
        self.open = Some(prepared);
        Ok(step)
    }

    /// The open session, if it is still one to the right table, or a new one.
    async fn prepared(&mut self) -> Result<Prepared> {
        let place = self
            .place
            .clone()
            .ok_or_else(|| Error::transient(Code::Write, "no session holds the lock"))?;
        match self.open.take() {
            Some(open) if place.may_use(&open.place, open.session.is_closed()) => Ok(open),
            _ => Prepared::open(&self.config, place).await,
        }
    }
}

/// A session, and the statements for the table.
#[derive(Debug)]
struct Prepared {
    session: Session,
    place: TableLocation,
    table: TableName,
    marks: MarkStatements,
    dead_letters: DeadLetters,
    rows: UnpublishedRows,
    /// `None` if rows are not marked as published.
    row_count: Option<RowCount>,
    retention: Option<RetentionStatements>,
    router: Router,
    pause: PauseReader,
}

impl Prepared {
    async fn open(config: &Config, place: TableLocation) -> Result<Self> {
        let (database, timeout) = (&config.database, config.operation_timeout);
        let session = postgres::connect(database, "outboxd write-back", timeout).await?;
        if !place.is_on(&postgres::server(&session).await?) {
            let message = "the write-back connected to another server than the publisher";
            return Err(Error::transient(Code::Write, message));
        }
        let table = config.table.clone();
        let shape = table_shape::read(&session, &table, &config.mapping).await?;
        let shape = shape.ok_or_else(|| {
            Error::transient(Code::Write, format!("table {table} does not exist"))
        })?;
        if !place.is_table(shape.oid) {
            let message = format!("table {table} was dropped and recreated");
            return Err(Error::transient(Code::Write, message).with_source(TableGone));
        }
        session.restore_search_path().await?;
        let what = format!("preparing the write-back to {table}");
        session.run(&what, LOCK_TIMEOUT).await?;
        let marking = Marking::new(config.after_publish, &shape);
        Ok(Prepared {
            marks: MarkStatements::new(&marking),
            row_count: RowCount::of_unpublished(&marking, &shape),
            dead_letters: DeadLetters::new(config, &shape),
            rows: UnpublishedRows::new(config, &shape)?,
            retention: RetentionStatements::new(config, &shape),
            router: Router::new(&config.mapping),
            pause: PauseReader::new(&table),
            session,
            place,
            table,
        })
    }
}

impl parts::PartTable for Prepared {
    type Error = Error;

    async fn write_part(&self, part: &mut [Mark]) -> Result<Option<parts::RefusedMark>> {
        let table = TableOnSession {
            session: &self.session,
            statements: &self.marks,
        };
        // The inner error may be the row's, the outer one is the server's.
        let work = async { Ok(marks::settle(&table, part).await) };
        let Err(error) = self.session.bounded("the write-back", work).await? else {
            return Ok(None);
        };
        let what = format!("writing back to {}", self.table);
        if !is_refusal(&self.session, &what, &error, &self.marks.all()).await? {
            return Err(sql_error(what, error));
        }
        let RowError {
            code,
            message,
            logged,
        } = row_error(&error);
        let rejection = Rejection { code, message };
        Ok(Some(parts::RefusedMark { rejection, logged }))
    }

    fn silent_refusal(&self) -> parts::RefusedMark {
        parts::RefusedMark::shown(silent_refusal(&self.table))
    }

    async fn file(&self, refused: &[(RowName, Rejection)], logged: &str) -> Result<()> {
        let Some((_, first)) = refused.first() else {
            return Ok(());
        };
        let some = refused.iter().take(ROWS_LOGGED);
        let some = some.map(|(row, _)| row.id.to_string());
        tracing::error!(
            count = refused.len(),
            rows = some.collect::<Vec<_>>().join(", "),
            state = first.code,
            error = logged,
            "rows cannot be marked as published, filing them as dead letters"
        );
        let system_id = self.place.server.lineage.system_id.to_string();
        let dead_letters = &self.dead_letters;
        dead_letters
            .file_not_marked(&self.session, &system_id, refused)
            .await
    }
}

/// The longest time that locked rows hold up a batch.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '1s'";

/// The most ids of a log line.
const ROWS_LOGGED: usize = 10;
