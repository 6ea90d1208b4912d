//! Reads the catalogs and the table, beside the stream, over an SQL session of its own. Decides
//! nothing.
//!
//! A read of ten thousand rows must delay neither the stream nor the reads of the slot, so it has a
//! session of its own, which is opened when it is needed and checked to be on the same server. One
//! query runs at a time.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{
    Batch, MissedRows, Read, RowId, RowName, SlowRows, TableLocation, UnpublishedRows,
};
use crate::postgres::{self, Inspection, Session, TableShape, preflight};
use crate::publisher::monitor::audit::CANDIDATES;

/// What to read.
#[derive(Debug)]
pub(crate) enum Query {
    /// Table, publication and rights.
    Catalogs,
    /// The lowest unpublished ids, and a WAL position behind them.
    List,
    /// Which of these are still unpublished.
    StillUnpublished(Vec<RowName>),
    /// The next rows of a batch.
    Rows(Batch),
}

/// The result of a query.
#[derive(Debug)]
pub(crate) enum Answer {
    Catalogs(Inspection),
    Listed(Vec<RowName>, Lsn),
    StillUnpublished(Batch),
    /// The rows, and the rest of the batch; none at its end.
    Rows(Vec<Read>, Batch),
}

/// The statements about one table.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) rows: UnpublishedRows,
    missed: MissedRows,
}

impl Statements {
    /// The statements for a table that passed the preflight check.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a required column is missing.
    pub(crate) fn new(config: &Config, shape: &TableShape) -> Result<Self> {
        let rows = UnpublishedRows::new(config, shape)?;
        let missed = MissedRows::new(&rows);
        Ok(Statements { rows, missed })
    }
}

type Work<'a> = Pin<Box<dyn Future<Output = (Option<Session>, SlowRows, Result<Answer>)> + 'a>>;

/// See the module's head.
pub(crate) struct Inspector<'a> {
    config: &'a Config,
    place: &'a TableLocation,
    session: Option<Session>,
    /// Kept here, or inside the query under way.
    slow: SlowRows,
    work: Option<Work<'a>>,
}

impl<'a> Inspector<'a> {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &'a Config, place: &'a TableLocation) -> Self {
        Inspector {
            config,
            place,
            session: None,
            slow: SlowRows::default(),
            work: None,
        }
    }

    /// Whether no query runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// Starts a query by these statements; [`answer`](Inspector::answer) returns its result.
    pub(crate) fn begin(&mut self, query: Query, statements: &Rc<Statements>) {
        debug_assert!(self.is_idle(), "one query at a time");
        let (config, place, statements) = (self.config, self.place, Rc::clone(statements));
        let (open, mut slow) = (self.session.take(), std::mem::take(&mut self.slow));
        self.work = Some(Box::pin(async move {
            let session = match open.filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => match connect(config, place).await {
                    Ok(session) => session,
                    Err(error) => return (None, slow, Err(error)),
                },
            };
            let answer = read(&session, config, &statements, &mut slow, query).await;
            // The session's state is unknown after an error: drop it.
            (answer.is_ok().then_some(session), slow, answer)
        }));
    }

    /// Waits for the result; forever if no query runs. Cancel-safe.
    ///
    /// # Errors
    /// Of the connection or a statement: the query can be repeated.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        let (session, slow, answer) = match &mut self.work {
            Some(work) => work.await,
            None => std::future::pending().await,
        };
        self.work = None;
        (self.session, self.slow) = (session, slow);
        answer
    }
}

impl fmt::Debug for Inspector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}

async fn connect(config: &Config, place: &TableLocation) -> Result<Session> {
    let limit = config.operation_timeout;
    let session = postgres::connect(&config.database, "outboxd audit", limit).await?;
    if !place.is_on(&postgres::server(&session).await?) {
        let message = "the audit's connection is on another server";
        return Err(Error::transient(Code::Connect, message));
    }
    Ok(session)
}

async fn read(
    session: &Session,
    config: &Config,
    statements: &Statements,
    slow: &mut SlowRows,
    query: Query,
) -> Result<Answer> {
    Ok(match query {
        Query::Catalogs => Answer::Catalogs(preflight::inspect(session, config).await?),
        Query::List => {
            let (rows, behind) = statements.missed.list(session, CANDIDATES).await?;
            Answer::Listed(rows, behind)
        }
        Query::StillUnpublished(rows) => {
            let ids: Vec<RowId> = rows.into_iter().map(|row| row.id).collect();
            Answer::StillUnpublished(statements.missed.left(session, &ids).await?)
        }
        Query::Rows(mut batch) => {
            let rows = batch.read(&statements.rows, session, slow).await?;
            Answer::Rows(rows, batch)
        }
    })
}
