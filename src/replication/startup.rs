//! From settings to a session that waits for its first command: start-up packet, authentication,
//! session settings.
//!
//! Owns the settings of every replication session. Text output is the same whatever the server's
//! configuration, and the only server time-outs in force are the two that the caller sets.
//!
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use std::time::Duration;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio_postgres::config::TargetSessionAttrs;

use crate::config::Database;
use crate::error::{Code, Error, Result};
use crate::postgres::transport::{Purpose, Reached, Route, Socket};
use crate::postgres::with_password;
use crate::replication::auth::{self, Credentials, refusal};
use crate::replication::command;
use crate::replication::connection::Connection;
use crate::replication::options::{SessionOptions, Transport};

/// The first version with `transaction_timeout`; older servers reject the setting.
const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

/// A session after start-up, and the data that the server sent about itself.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(crate) connection: Connection,
    pub(crate) transport: Transport,
    pub(crate) backend_pid: i32,
    pub(crate) server_version: u32,
}

/// The parameters of start-up, the same for each host.
pub(crate) struct Login<'a> {
    pub(crate) database: &'a str,
    pub(crate) credentials: Credentials<'a>,
    pub(crate) options: Option<&'a str>,
    pub(crate) session: &'a SessionOptions,
    pub(crate) target: TargetSessionAttrs,
}

/// Tries the hosts in order and returns the first session that fits `target_session_attrs`.
pub(crate) async fn connect(database: &Database, session: &SessionOptions) -> Result<LoggedIn> {
    let database = database.for_replication();
    let database = &*with_password(database, session.command_timeout).await?;
    let route = Route::new(database, Purpose::Stream, None)?;
    let login = Login {
        database: database.database_name(),
        credentials: Credentials {
            user: database.user(),
            password: database.pg.get_password(),
            channel_binding: database.pg.get_channel_binding(),
            require_auth: &database.require_auth,
        },
        options: database.pg.get_options(),
        session,
        target: database.pg.get_target_session_attrs(),
    };
    let enter = |reached: Reached| {
        let transport = match reached.socket {
            Socket::Unix(_) => Transport::Unix,
            _ => Transport::Tcp,
        };
        let connection = Connection::new(reached.socket, reached.peer);
        log_in(connection, transport, &login)
    };
    route.first(enter).await
}

/// Sends the start-up packet, authenticates, and waits until the server accepts commands.
pub(crate) async fn log_in(
    mut connection: Connection,
    transport: Transport,
    login: &Login<'_>,
) -> Result<LoggedIn> {
    let parameters = parameters(login);
    let pairs = parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    connection.queue(|out| frontend::startup_message(pairs, out))?;
    connection.flush().await?;
    auth::authenticate(&mut connection, &login.credentials).await?;
    let (backend_pid, server_version) = server_identity(&mut connection).await?;
    if server_version >= TRANSACTION_TIMEOUT_SINCE {
        command::query(&mut connection, "SET transaction_timeout = 0").await?;
    }
    check_target(&mut connection, login.target).await?;
    connection.established(login.session.command_timeout);
    Ok(LoggedIn {
        connection,
        transport,
        backend_pid,
        server_version,
    })
}

fn parameters(login: &Login<'_>) -> Vec<(&'static str, String)> {
    let milliseconds = |duration: Duration| duration.as_millis().min(i32::MAX as u128).to_string();
    let mut parameters = vec![
        ("user", login.credentials.user.to_owned()),
        ("database", login.database.to_owned()),
        ("replication", "database".to_owned()),
        ("application_name", login.session.application_name.clone()),
        (
            "wal_sender_timeout",
            milliseconds(login.session.wal_sender_timeout),
        ),
        (
            "idle_session_timeout",
            milliseconds(login.session.idle_session_timeout),
        ),
    ];
    if let Some(options) = login.options {
        parameters.push(("options", options.to_owned()));
    }
    let fixed = [
        ("client_encoding", "UTF8"),
        // Postgres 18 sends a warning where it continues without the publication.
        ("client_min_messages", "warning"),
        // No trigger runs here. A name prints as the SQL sessions print it.
        ("search_path", "pg_catalog"),
        ("DateStyle", "ISO"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("bytea_output", "hex"),
        ("extra_float_digits", "3"),
        ("standard_conforming_strings", "on"),
        ("quote_all_identifiers", "off"),
        ("default_transaction_isolation", "read committed"),
        // A server that accepts writes would look like one that does not.
        ("default_transaction_read_only", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        // The stream is not read while Kafka is away; the full receive window must not end the
        // connection.
        ("tcp_user_timeout", "0"),
    ];
    parameters.extend(fixed.map(|(name, value)| (name, value.to_owned())));
    parameters
}

/// Reads until the server waits for a command; returns the announced process ID and the server's
/// version. Some proxies announce no process.
async fn server_identity(connection: &mut Connection) -> Result<(i32, u32)> {
    let (mut pid, mut version) = (None, None);
    loop {
        let raw = connection.receive().await?;
        connection.skips(&raw)?;
        match connection.parse(&raw)? {
            Message::BackendKeyData(key) => pid = Some(key.process_id()),
            Message::ParameterStatus(status) => {
                let read = |text: std::io::Result<&str>| {
                    text.map(str::to_owned)
                        .map_err(|e| connection.protocol_error(e))
                };
                if read(status.name())? == "server_version" {
                    version = version_number(&read(status.value())?);
                }
            }
            Message::ErrorResponse(_) => {
                let error = connection.server_error(&raw);
                return Err(refusal(connection.peer(), error));
            }
            Message::NoticeResponse(_) => {}
            Message::ReadyForQuery(_) => {
                connection.note_ready(&raw);
                break;
            }
            _ => return Err(connection.unexpected(&raw, "the end of start-up")),
        }
    }
    match version {
        Some(version) => Ok((pid.unwrap_or_default(), version)),
        None => Err(connection.protocol_error("the server did not send its version")),
    }
}

/// `server_version` in the form of `server_version_num`: `15.18 (Debian 15.18-1)` is 150018,
/// `18beta1` is 180000.
fn version_number(text: &str) -> Option<u32> {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let minor = parts
        .next()
        .map_or(Some(0), |minor| minor.parse::<u32>().ok())?;
    major.checked_mul(10_000)?.checked_add(minor)
}

async fn check_target(connection: &mut Connection, target: TargetSessionAttrs) -> Result<()> {
    let (wanted, is_not) = match target {
        TargetSessionAttrs::ReadWrite => ("off", "read-only"),
        TargetSessionAttrs::ReadOnly => ("on", "not read-only"),
        _ => return Ok(()),
    };
    let rows = command::query(connection, "SHOW transaction_read_only").await?;
    let shown = rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_deref);
    if shown == Some(wanted) {
        return Ok(());
    }
    let message = format!("Postgres at {} is {is_not}", connection.peer());
    Err(Error::transient(Code::Connect, message)
        .with_hint("target_session_attrs in the database URL requires another kind of server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_whatever_the_packager_adds() {
        for (text, number) in [
            ("15.18 (Debian 15.18-1.pgdg12+1)", 150_018),
            ("17.5", 170_005),
            ("18beta1", 180_000),
            ("18devel", 180_000),
            ("14.2-something", 140_002),
        ] {
            assert_eq!(version_number(text), Some(number), "{text}");
        }
        assert_eq!(version_number("unknown"), None);
    }
}
