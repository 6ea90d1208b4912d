//! One SQL session with fixed settings, a time limit for each statement, and a signal when it ends.
//!
//! Settings of the database or the role (time-outs, isolation, read-only, search path) do not
//! change the meaning of outboxd's statements. The timer of [`Session::bounded`] runs here and not
//! at the server, because a server that is frozen or waits for a standby enforces no time limit. A
//! statement that runs out of time ends its session, since the next one would only queue behind it.
//! `TimeZone` is left as it is: `published_at` has no time zone, and its meaning is the writers'.
//! Statements with parameters are prepared once, and kept.

mod columns;
mod drive;
mod explain;
mod identity;
mod open;
mod password_command;
mod settings;
mod statement_cache;

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, Row, Statement};

use crate::error::{Code, Error, Result};
use crate::postgres::session::statement_cache::StatementCache;
use crate::postgres::sql_error::{describe, sql_error};
use crate::postgres::transport::{Inspected, Negotiated, Reached, Route};

pub use columns::Columns;
pub use drive::drive;
pub use open::{connect, connect_for_slots};
pub(crate) use password_command::with_password;
pub(crate) use settings::ROLES_SEARCH_PATH;

/// How long to wait for the end of a connection or for a cancel request. No decision depends on
/// either.
const GRACE: Duration = Duration::from_secs(1);

/// The most bytes that the rows of one answer may have which is taken as a whole.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A statement took longer than the operation timeout. Its session is over.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct OutOfTime(Duration);

/// Whether the error's cause is [`OutOfTime`].
pub(crate) fn is_out_of_time(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<OutOfTime>())
}

/// One SQL connection. Dropping it closes the connection.
pub struct Session {
    client: Client,
    statements: StatementCache,
    task: JoinHandle<()>,
    end: watch::Receiver<End>,
    cancel: CancelToken,
    /// The way to the server, and the place of its host, for a request to cancel.
    route: Arc<Route>,
    host: usize,
    /// The session of the login for replication, where the settings name one.
    slots: Option<Box<Session>>,
    backend_pid: i32,
    operation_timeout: Duration,
}

/// How the connection ended.
#[derive(Debug, Clone)]
enum End {
    NotYet,
    Closed,
    Failed(Arc<tokio_postgres::Error>),
}

impl Session {
    /// The server process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The session whose role may change slots.
    pub(crate) fn for_slots(&self) -> &Session {
        self.slots.as_deref().unwrap_or(self)
    }

    /// The time limit of a statement.
    pub(crate) fn operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    /// Runs `work` for at most the operation timeout; `what` names it in an error.
    ///
    /// When time is up, the statement is cancelled and the session closed; whether the statement
    /// took effect is unknown. Not cancel-safe: a dropped future leaves the statement running at
    /// the server.
    pub async fn bounded<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        match timeout(self.operation_timeout, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is_closed() => {
                let _ended_or_not = timeout(GRACE, self.closed()).await;
                Err(self.end_error(what))
            }
            Ok(Err(error)) => Err(sql_error(what, error)),
            Err(_elapsed) => {
                let _best_effort = timeout(GRACE, self.request_cancel()).await;
                self.task.abort();
                Err(Error::transient(Code::Connect, what)
                    .with_source(OutOfTime(self.operation_timeout))
                    .with_hint(
                        "the server is frozen, overloaded, or waits for a lock or a standby",
                    ))
            }
        }
    }

    /// Requests over another connection that the server cancels the statement that runs.
    async fn request_cancel(&self) -> Result<()> {
        let send = |reached: Reached| async {
            let stream = Inspected::without_answer(reached.socket);
            let sent = self.cancel.cancel_query_raw(stream, Negotiated).await;
            sent.map_err(|error| sql_error("cancelling a statement", error))
        };
        self.route.host(self.host, &send).await
    }

    /// Runs a query, within the operation timeout, and returns its rows, 256 MiB at most.
    pub async fn rows(
        &self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let query = |it: Statement| async move {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let mut answer = pin!(self.client.query_raw(&it, params.iter().copied()).await?);
            while let Some(row) = answer.try_next().await? {
                bytes += row.raw_size_bytes() + size_of::<Row>();
                if bytes > ANSWER_BYTES_MAX {
                    return Ok(None);
                }
                rows.push(row);
            }
            Ok(Some(rows))
        };
        // Boxed: the future is large.
        let work = Box::pin(self.statements.run(&self.client, sql, query));
        self.bounded(what, work).await?.ok_or_else(|| {
            let message = format!("{what}: the answer has more than 256 MiB");
            Error::transient(Code::Connect, message)
        })
    }

    /// Runs a query that has one row.
    pub async fn row(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let query = |it: Statement| async move { self.client.query_one(&it, params).await };
        let work = self.statements.run(&self.client, sql, query);
        self.bounded(what, work).await
    }

    /// Runs a query that has one row or none.
    pub(crate) async fn row_if_any(
        &self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>> {
        let query = |it: Statement| async move { self.client.query_opt(&it, params).await };
        let work = self.statements.run(&self.client, sql, query);
        self.bounded(what, work).await
    }

    /// Runs a statement, prepared once, and returns how many rows it has changed. Has no time limit
    /// of its own.
    pub(crate) async fn change(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        let change = |it: Statement| async move { self.client.execute(&it, params).await };
        self.statements.run(&self.client, sql, change).await
    }

    /// The statement, prepared on this session before or by this call.
    pub(crate) async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.statements.get(&self.client, sql).await
    }

    /// Whether the server accepts a statement: its names, types and rights. Runs nothing.
    ///
    /// # Errors
    /// The server's reason.
    pub(crate) async fn explain(&self, what: &str, sql: &str) -> Result<()> {
        self.bounded(what, explain::explain(&self.client, sql))
            .await
    }

    /// Gives the session the role's own `search_path`. Statements that write may fire triggers, and
    /// those of the tables' owner find their names by it. Our own operators and types are those of
    /// `pg_catalog`, which stays in front.
    pub async fn restore_search_path(&self) -> Result<()> {
        self.run("restoring search_path", ROLES_SEARCH_PATH).await
    }

    /// Runs statements without parameters, separated by semicolons, in one transaction unless they
    /// say otherwise.
    pub async fn run(&self, what: &str, sql: &str) -> Result<()> {
        self.bounded(what, self.client.batch_execute(sql)).await
    }

    /// Returns when the connection has ended, for whatever reason. Cancel-safe.
    pub async fn closed(&self) {
        let mut end = self.end.clone();
        // The wait also ends when the connection task drops the sender.
        let _ended = end.wait_for(|end| !matches!(end, End::NotYet)).await;
    }

    /// Why the connection ended during `what`, with the server's last error if it sent one.
    pub fn end_error(&self, what: &str) -> Error {
        let failed = match &*self.end.borrow() {
            End::Failed(error) => Some(Arc::clone(error)),
            End::NotYet | End::Closed => None,
        };
        match failed {
            Some(error) => describe(what, error),
            None => Error::transient(Code::Connect, format!("{what}: the connection is closed")),
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("backend_pid", &self.backend_pid)
            .finish_non_exhaustive()
    }
}
