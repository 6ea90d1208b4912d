//! Looks at the catalogs and at the table, beside the stream, over an SQL session of its own. Decides nothing.
//!
//! A read of ten thousand rows must hold up neither the stream nor the look at the slot, so it has a session for itself, which is opened
//! when it is needed and held to the same server as everything else. One question is out at a time.

use std::fmt;
use std::pin::Pin;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{Batch, MissedRows, Read, SlowRows, TableLocation, UnpublishedRows};
use crate::postgres::{self, Inspection, Session, TableShape, preflight};
use crate::publisher::monitor::audit::CANDIDATES;

/// What to look at.
#[derive(Debug)]
pub(crate) enum Query {
    /// Table, publication and rights.
    Catalogs,
    /// The lowest unpublished ids, and a position behind them.
    List,
    /// Which of these are unpublished still.
    StillUnpublished(Vec<i64>),
    /// The next rows of a batch.
    Rows(Batch),
}

/// What was seen.
#[derive(Debug)]
pub(crate) enum Answer {
    Catalogs(Inspection),
    Listed(Vec<i64>, Lsn),
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
    /// For a table that passed the preflight check.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a column that is needed is not there.
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
    statements: &'a Statements,
    session: Option<Session>,
    /// At rest here, or inside the work that is out.
    slow: SlowRows,
    work: Option<Work<'a>>,
}

impl<'a> Inspector<'a> {
    /// Connects to nothing yet.
    pub(crate) fn new(
        config: &'a Config,
        place: &'a TableLocation,
        statements: &'a Statements,
    ) -> Self {
        Inspector {
            config,
            place,
            statements,
            session: None,
            slow: SlowRows::default(),
            work: None,
        }
    }

    /// Whether it can be asked.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// Begins to look; [`told`](Auditor::told) gives what was seen.
    pub(crate) fn begin(&mut self, ask: Query) {
        debug_assert!(self.is_idle(), "one question at a time");
        let (config, place, statements) = (self.config, self.place, self.statements);
        let (open, mut slow) = (self.session.take(), std::mem::take(&mut self.slow));
        self.work = Some(Box::pin(async move {
            let session = match open.filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => match connect(config, place).await {
                    Ok(session) => session,
                    Err(error) => return (None, slow, Err(error)),
                },
            };
            let told = look(&session, config, statements, &mut slow, ask).await;
            // After an error nobody knows what the session is good for.
            (told.is_ok().then_some(session), slow, told)
        }));
    }

    /// Waits for what was seen; for ever where nothing was asked. Cancel-safe.
    ///
    /// # Errors
    /// Of the connection or a statement: the question may be asked again.
    pub(crate) async fn told(&mut self) -> Result<Answer> {
        let (session, slow, told) = match &mut self.work {
            Some(work) => work.await,
            None => std::future::pending().await,
        };
        self.work = None;
        (self.session, self.slow) = (session, slow);
        told
    }
}

impl fmt::Debug for Inspector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auditor")
            .field("idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}

async fn connect(config: &Config, place: &TableLocation) -> Result<Session> {
    let limit = config.operation_timeout;
    let session = postgres::connect(&config.database, "outboxd audit", limit).await?;
    if postgres::server(&session).await? != place.server {
        let message = "the audit's connection is on another server";
        return Err(Error::transient(Code::Connect, message));
    }
    Ok(session)
}

async fn look(
    session: &Session,
    config: &Config,
    statements: &Statements,
    slow: &mut SlowRows,
    ask: Query,
) -> Result<Answer> {
    Ok(match ask {
        Query::Catalogs => Answer::Catalogs(preflight::inspect(session, config).await?),
        Query::List => {
            let (ids, behind) = statements.missed.list(session, CANDIDATES).await?;
            Answer::Listed(ids, behind)
        }
        Query::StillUnpublished(ids) => {
            Answer::StillUnpublished(statements.missed.left(session, &ids).await?)
        }
        Query::Rows(mut batch) => {
            let rows = batch.read(&statements.rows, session, slow).await?;
            Answer::Rows(rows, batch)
        }
    })
}
