//! Opens a session: the first host that accepts writes, the proof that it is a server and no
//! pooler, and its settings.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Connection};

use crate::config::Database;
use crate::error::{Error, Result};
use crate::postgres::session::settings::SETTINGS;
use crate::postgres::session::statement_cache::StatementCache;
use crate::postgres::session::{End, Session, drive, with_password};
use crate::postgres::sql_error::{is_without_password, sql_error};
use crate::postgres::sqlstate::ServerError;
use crate::postgres::transport::{
    AuthenticationPolicy, Inspected, Inspector, Limits, Negotiated, Purpose, Reached, Route,
};

/// In force before the first statement, which a time-out of the role could otherwise end.
const OPTIONS: &str = "-c default_transaction_read_only=off -c statement_timeout=0";

/// Opens a session to the first host of `database` that accepts writes.
///
/// `operation_timeout` limits the opening on each address and every later statement. A refused
/// log-in and a database that does not exist are fatal; errors that may pass are transient.
pub async fn connect(
    database: &Database,
    application_name: &str,
    operation_timeout: Duration,
) -> Result<Session> {
    let database = &*with_password(database, operation_timeout).await?;
    let route = Arc::new(Route::new(database, Purpose::Sql, Some(operation_timeout))?);
    let plain = settings_of(database, application_name, None);
    let ours = settings_of(database, application_name, Some(OPTIONS));
    let (plain, ours) = (&plain, &ours);
    let enter = |reached: Reached| {
        let route = Arc::clone(&route);
        async move {
            let host = reached.host;
            match open(
                database,
                ours,
                Arc::clone(&route),
                reached,
                operation_timeout,
            )
            .await
            {
                Err(error) if refuses_options(&error) => {
                    let again = |reached: Reached| ready(Ok(reached));
                    let reached = route.host(host, &again).await?;
                    open(database, plain, route, reached, operation_timeout).await
                }
                opened => opened,
            }
        }
    };
    // Boxed: the future is large, and connecting is rare.
    Box::pin(route.first(enter)).await
}

/// The same, with a session of the login for replication beside it if there is one: a slot is
/// created, moved and dropped by that login, which alone sees what its walsender waits for.
pub async fn connect_for_slots(
    database: &Database,
    application_name: &str,
    operation_timeout: Duration,
) -> Result<Session> {
    let mut session = connect(database, application_name, operation_timeout).await?;
    if let Some(replication) = &database.replication {
        let name = format!("{application_name} slots");
        let slots = connect(replication, &name, operation_timeout).await?;
        session.slots = Some(Box::new(slots));
    }
    Ok(session)
}

/// What tokio-postgres sends. TLS is negotiated before; it asks the stream for channel binding.
fn settings_of(database: &Database, application_name: &str, ours: Option<&str>) -> Config {
    let mut pg = database.pg.clone();
    let options = pg.get_options().unwrap_or_default().to_owned();
    if let Some(ours) = ours {
        pg.options(format!("{options} {ours}").trim_start());
    }
    pg.application_name(application_name)
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    pg
}

/// Whether a pooler or proxy refuses the start-up packet, perhaps for its options:
/// protocol_violation by PgBouncer, feature_not_supported by RDS Proxy.
fn refuses_options(error: &Error) -> bool {
    let server = ServerError::of(error);
    server.is_some_and(|server| ["08P01", "0A000"].contains(&server.code.as_str()))
}

/// Logs in over this stream. Returns the server's name for errors as well.
pub(super) async fn enter(
    database: &Database,
    pg: &Config,
    reached: Reached,
) -> Result<(Client, Connection<Inspected, Inspected>, String)> {
    let Reached { socket, peer, .. } = reached;
    let address = format!("{peer}/{} as {}", database.database_name(), database.user());
    let policy = AuthenticationPolicy::new(&database.require_auth, &socket);
    let row = database.row_bytes_max;
    let stream = Inspected::new(socket, Inspector::new(policy, Limits { row }));
    match pg.connect_raw(stream, Negotiated).await {
        Ok((client, connection)) => Ok((client, connection, address)),
        Err(error) => {
            let error = sql_error(format!("cannot connect to Postgres at {address}"), error);
            Err(
                match (&database.ignored_passfile, is_without_password(&error)) {
                    (Some(why), true) => error.with_hint(format!("mend the password file: {why}")),
                    _ => error,
                },
            )
        }
    }
}

async fn open(
    database: &Database,
    pg: &Config,
    route: Arc<Route>,
    reached: Reached,
    operation_timeout: Duration,
) -> Result<Session> {
    let host = reached.host;
    let (client, connection, address) = enter(database, pg, reached).await?;
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
        route,
        host,
        slots: None,
        backend_pid: 0,
        operation_timeout,
    };
    // First, since settings in a shared session would be those of other clients.
    session.identify(database, pg, &address).await?;
    session.run("setting up the session", SETTINGS).await?;
    Ok(session)
}
