//! Opens a session: the first host that accepts writes, its settings, and the proof that it is a
//! server and no pooler.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::{SslMode, SslNegotiation};

use crate::config::Database;
use crate::error::{Code, Error, Result};
use crate::postgres::pooler;
use crate::postgres::session::settings::SETTINGS;
use crate::postgres::session::statement_cache::StatementCache;
use crate::postgres::session::{Columns, End, Session, drive, with_password};
use crate::postgres::sql_error::{is_without_password, sql_error};
use crate::postgres::transport::{
    AuthenticationPolicy, Inspected, Inspector, Limits, Negotiated, Obstacle, Purpose, Reached,
    Route,
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
    let mut pg = database.pg.clone();
    let options = pg.get_options().unwrap_or_default();
    let options = format!("{options} {OPTIONS}");
    pg.options(options.trim_start())
        .application_name(application_name)
        // TLS is negotiated before; tokio-postgres asks the stream for channel binding.
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let enter = |reached: Reached| {
        let route = Arc::clone(&route);
        open(database, &pg, route, reached, operation_timeout)
    };
    route.first(enter).await
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

async fn open(
    database: &Database,
    pg: &tokio_postgres::Config,
    route: Arc<Route>,
    reached: Reached,
    operation_timeout: Duration,
) -> Result<Session> {
    let Reached { socket, peer, host } = reached;
    let address = format!("{peer}/{} as {}", database.database_name(), database.user());
    let policy = AuthenticationPolicy::new(&database.require_auth, &socket);
    let row = database.row_bytes_max;
    let stream = Inspected::new(socket, Inspector::new(policy, Limits { row }));
    let refused = |error| {
        let error = sql_error(format!("cannot connect to Postgres at {address}"), error);
        match (&database.ignored_passfile, is_without_password(&error)) {
            (Some(why), true) => error.with_hint(format!("mend the password file: {why}")),
            _ => error,
        }
    };
    let (client, connection) = pg.connect_raw(stream, Negotiated).await.map_err(refused)?;
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
    prepare(&mut session, &address).await?;
    Ok(session)
}

/// Makes the session's settings ours, and refuses a standby and a pooler.
async fn prepare(session: &mut Session, address: &str) -> Result<()> {
    const STATE: &str = "SELECT pg_catalog.pg_backend_pid(),
                                pg_catalog.current_setting('transaction_read_only') = 'on'";
    session.run("setting up the session", SETTINGS).await?;
    let row = session
        .row("reading the session's state", STATE, &[])
        .await?;
    session.backend_pid = row.column(0)?;
    if row.column(1)? {
        let message = format!("cannot connect to Postgres at {address}");
        return Err(Error::transient(Code::Connect, message)
            .with_source(Obstacle::ReadOnly)
            .with_hint("name the primary, or all hosts of the cluster"));
    }
    let announced = pooler::announced_pid(&session.cancel)
        .await
        .map_err(|error| {
            Error::fatal(Code::Connect, "cannot read the connection's cancel key")
                .with_source(error)
        })?;
    if announced != session.backend_pid {
        return Err(
            Error::fatal(Code::Connect, format!("{address} is a connection pooler"))
                .with_hint("connect to Postgres itself: sessions must not be shared"),
        );
    }
    Ok(())
}
