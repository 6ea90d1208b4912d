//! One SQL session with fixed settings, a time limit for each statement, and a signal when it ends.
//!
//! Settings of the database or the role (time-outs, isolation, read-only, search path) do not
//! change the meaning of outboxd's statements. The timer of [`Session::bounded`] runs here and not
//! at the server, because a server that is frozen or waits for a standby enforces no time limit. A
//! statement that runs out of time ends its session, since the next one would only queue behind it.
//! `TimeZone` is left as it is: `published_at` has no time zone, and its meaning is the writers'.
//! Statements with parameters are prepared once, and kept.

mod drive;
mod explain;
mod identity;
mod password_command;
mod settings;
mod statement_cache;

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, Row, Statement};

use crate::config::{Database, socket_folder};
use crate::error::{Code, Error, Result};
use crate::postgres::session::settings::SETTINGS;
use crate::postgres::session::statement_cache::StatementCache;
use crate::postgres::sql_error::{describe, sql_error};
use crate::postgres::sqlstate::ServerError;
use crate::postgres::tls;

pub use drive::drive;
pub(crate) use password_command::with_password;
pub(crate) use settings::ROLES_SEARCH_PATH;

/// How long to wait for the end of a connection or for a cancel request. No decision depends on
/// either.
const GRACE: Duration = Duration::from_secs(1);

/// How long a host may take to accept a connection, unless `connect_timeout` is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    tls: postgres_openssl::MakeTlsConnector,
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
                let cancel = self.cancel.cancel_query(self.tls.clone());
                let _best_effort = timeout(GRACE, cancel).await;
                self.task.abort();
                Err(Error::transient(Code::Connect, what)
                    .with_source(OutOfTime(self.operation_timeout))
                    .with_hint(
                        "the server is frozen, overloaded, or waits for a lock or a standby",
                    ))
            }
        }
    }

    /// Runs a query, within the operation timeout, and returns its rows.
    pub async fn rows(
        &self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let query = |it: Statement| async move { self.client.query(&it, params).await };
        let work = self.statements.run(&self.client, sql, query);
        self.bounded(what, work).await
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

/// Opens a session to the first host of `database` that accepts writes.
///
/// `operation_timeout` limits the opening on each host and every later statement. A refused log-in
/// and a database that does not exist are fatal; errors that may pass are transient.
pub async fn connect(
    database: &Database,
    application_name: &str,
    operation_timeout: Duration,
) -> Result<Session> {
    let database = &*with_password(database, operation_timeout).await?;
    let tls = tls::connector(&database.tls)?;
    let hosts = database
        .pg
        .get_hosts()
        .len()
        .max(database.pg.get_hostaddrs().len())
        .max(1);
    let mut refusal: Option<Error> = None;
    for host in 0..hosts {
        let open = async |with_options| {
            let mut pg = only_host(&database.pg, host, with_options);
            let tls_mode = tls.tokio_postgres_mode(&pg);
            pg.application_name(application_name).ssl_mode(tls_mode);
            open(database, &pg, tls.for_tokio_postgres(), operation_timeout).await
        };
        let either = async {
            match open(true).await {
                Err(error) if refuses_options(&error) => open(false).await,
                opened => opened,
            }
        };
        let error = match timeout(operation_timeout, Box::pin(either)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => error,
            Err(_elapsed) => Error::transient(
                Code::Connect,
                format!(
                    "{}: no answer within {operation_timeout:?}",
                    cannot_connect(database)
                ),
            ),
        };
        // A transient error of one host outweighs a fatal error of another.
        if refusal
            .as_ref()
            .is_none_or(|refusal| !refusal.is_transient() || error.is_transient())
        {
            refusal = Some(error);
        }
    }
    Err(refusal.unwrap_or_else(|| Error::fatal(Code::Config, "the connection names no host")))
}

fn cannot_connect(database: &Database) -> String {
    format!("cannot connect to Postgres at {}", database.describe())
}

async fn open(
    database: &Database,
    pg: &tokio_postgres::Config,
    tls: postgres_openssl::MakeTlsConnector,
    operation_timeout: Duration,
) -> Result<Session> {
    let refused = |error| sql_error(cannot_connect(database), error);
    let (client, connection) = pg.connect(tls.clone()).await.map_err(refused)?;
    let (report, end) = watch::channel(End::NotYet);
    let task = tokio::spawn(async move {
        report.send_replace(match drive(connection).await {
            Ok(()) => End::Closed,
            Err(error) => End::Failed(Arc::new(error)),
        });
    });
    let cancel = client.cancel_token();
    let mut session = Session {
        client,
        statements: StatementCache::default(),
        task,
        end,
        cancel,
        tls,
        backend_pid: 0,
        operation_timeout,
    };

    // First, since settings in a shared session would be those of other clients.
    session.identify(database, pg).await?;
    session.run("setting up the session", SETTINGS).await?;
    Ok(session)
}

/// Whether a pooler or proxy refuses the start-up packet, perhaps for its options:
/// protocol_violation by PgBouncer, feature_not_supported by RDS Proxy.
fn refuses_options(error: &Error) -> bool {
    let server = ServerError::of(error);
    server.is_some_and(|server| ["08P01", "0A000"].contains(&server.code.as_str()))
}

/// The settings of `pg` with one of its hosts, so that a host that accepts and never answers cannot
/// hold up the others. Without our options, [`Session::identify`] shows whether the server accepts
/// writes.
fn only_host(
    pg: &tokio_postgres::Config,
    index: usize,
    with_options: bool,
) -> tokio_postgres::Config {
    let mut one = tokio_postgres::Config::new();
    one.ssl_negotiation(pg.get_ssl_negotiation())
        .channel_binding(pg.get_channel_binding())
        .connect_timeout(pg.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT))
        .keepalives(pg.get_keepalives())
        .keepalives_idle(pg.get_keepalives_idle());
    // In force before the first statement: tokio-postgres queries whether the server accepts writes
    // before `SETTINGS` has run.
    let ours = "-c default_transaction_read_only=off -c statement_timeout=0";
    let options = pg.get_options();
    if with_options {
        let options = options.unwrap_or_default();
        one.options(format!("{options} {ours}").trim_start())
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
    } else if let Some(options) = options {
        one.options(options);
    }
    if let Some(user) = pg.get_user() {
        one.user(user);
    }
    if let Some(password) = pg.get_password() {
        one.password(password);
    }
    if let Some(name) = pg.get_dbname() {
        one.dbname(name);
    }
    if let Some(limit) = pg.get_tcp_user_timeout() {
        one.tcp_user_timeout(*limit);
    }
    if let Some(interval) = pg.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = pg.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    match pg.get_hosts().get(index).map(|it| (socket_folder(it), it)) {
        Some((Some(folder), _)) => drop(one.host_path(folder)),
        Some((None, Host::Tcp(name))) => drop(one.host(name)),
        Some((None, Host::Unix(_))) | None => {}
    }
    if let Some(address) = pg.get_hostaddrs().get(index) {
        one.hostaddr(*address);
    }
    if let Some(port) = pg.get_ports().get(index).or_else(|| pg.get_ports().first()) {
        one.port(*port);
    }
    one
}
