//! From settings to a session that waits for its first command: hosts in turn, TLS, start-up
//! packet, session settings.
//!
//! Owns the choice among several hosts, the time-out of each, and the settings of every replication
//! session. Text output is the same whatever the server's configuration, and the only server
//! time-outs in force are the two that the caller sets. As in libpq, a rejection that no other host
//! would change (a wrong password, say) ends the round at once.
//!
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;
use tokio_postgres::config::TargetSessionAttrs;

use crate::config::{Database, SslMode};
use crate::error::{Code, Error, Result};
use crate::postgres::tls::{self, Connector};
use crate::postgres::with_password;
use crate::replication::auth::{self, Credentials, refusal};
use crate::replication::command;
use crate::replication::connection::Connection;
use crate::replication::hosts::{self, Address, Endpoint};
use crate::replication::options::{SessionOptions, Transport};
use crate::replication::socket::{KernelFirst, Socket};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The kernel's receive buffer for a near server. While it has room, each message is a packet of
/// its own, which takes two or three times as long. Once it is full the server's kernel collects
/// the messages, at the cost of a copy each.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A server that accepts within this time is near. On a longer path so small a buffer would limit
/// the throughput to one buffer per round trip.
const NEAR: Duration = Duration::from_millis(1);

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
    let database = &*with_password(database, session.command_timeout).await?;
    let connector = tls::connector(&database.tls)?;
    let login = Login {
        database: database.database_name(),
        credentials: Credentials {
            user: database.user(),
            password: database.pg.get_password(),
            channel_binding: database.pg.get_channel_binding(),
        },
        options: database.pg.get_options(),
        session,
        target: database.pg.get_target_session_attrs(),
    };
    let limit = database
        .pg
        .get_connect_timeout()
        .copied()
        .unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    let mut failures = vec![];
    let endpoints = hosts::all(&database.pg)?;
    for endpoint in &endpoints {
        // Boxed: the future is large, and connecting is rare.
        let attempt: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(attempt(endpoint, &login, &connector, limit));
        match attempt.await {
            Ok(session) => return Ok(session),
            Err(e) if e.is_transient() => failures.push(e),
            Err(e) => return Err(e),
        }
    }
    Err(combined(failures, &endpoints))
}

/// Combines the errors of all hosts into one.
fn combined(mut failures: Vec<Error>, endpoints: &[Endpoint]) -> Error {
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        last => {
            let names: Vec<_> = endpoints.iter().map(Endpoint::describe).collect();
            failures.extend(last);
            let reasons: Vec<_> = failures.iter().map(Error::report).collect();
            Error::transient(
                Code::Connect,
                format!("no usable server among {}", names.join(", ")),
            )
            .with_source(reasons.join("; "))
        }
    }
}

async fn attempt(
    endpoint: &Endpoint,
    login: &Login<'_>,
    connector: &Connector,
    limit: Duration,
) -> Result<LoggedIn> {
    let peer = endpoint.describe();
    match &endpoint.address {
        Address::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{}", endpoint.port));
            within(limit, &peer, async {
                let unix = UnixStream::connect(path)
                    .await
                    .map_err(|e| unreachable(&peer, e))?;
                let connection = Connection::new(Socket::Unix(unix), peer.clone());
                log_in(connection, Transport::Unix, login).await
            })
            .await
        }
        Address::Tcp(host) => {
            let mut failure = unreachable(&peer, std::io::ErrorKind::NotFound.into());
            for address in within(limit, &peer, resolve(host, endpoint.port, &peer)).await? {
                let outcome = within(limit, &peer, async {
                    let stream = open(address, endpoint, connector, &peer).await?;
                    log_in(Connection::new(stream, peer.clone()), Transport::Tcp, login).await
                });
                match outcome.await {
                    Err(e) if e.is_transient() => failure = e,
                    outcome => return outcome,
                }
            }
            Err(failure)
        }
    }
}

async fn resolve(host: &str, port: u16, peer: &str) -> Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| unreachable(peer, e))?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

async fn open(
    address: SocketAddr,
    endpoint: &Endpoint,
    connector: &Connector,
    peer: &str,
) -> Result<Socket> {
    let asked = Instant::now();
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|e| unreachable(peer, e))?;
    let is_near = asked.elapsed() < NEAR;
    // Detects a cut connection within half a minute, even while neither side sends.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    tcp.set_nodelay(true)
        .and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&keepalive))
        .and_then(|()| match is_near {
            true => SockRef::from(&tcp).set_recv_buffer_size(RECEIVE_BUFFER),
            false => Ok(()),
        })
        .map_err(|e| unreachable(peer, e))?;
    encrypt(tcp, &endpoint.name, connector, peer).await
}

/// Negotiates TLS as `sslmode` requires.
async fn encrypt(
    mut tcp: TcpStream,
    host: &str,
    connector: &Connector,
    peer: &str,
) -> Result<Socket> {
    if connector.mode() == SslMode::Disable {
        return Ok(Socket::Tcp(tcp));
    }
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request)
        .await
        .map_err(|e| unreachable(peer, e))?;
    // Exactly one byte: bytes sent in clear text after the `S` must not be read, since an attacker
    // could have injected them.
    match tcp.read_u8().await.map_err(|e| unreachable(peer, e))? {
        b'S' => {}
        b'N' if connector.mode() == SslMode::Prefer => return Ok(Socket::Tcp(tcp)),
        b'N' => {
            return Err(Error::fatal(
                Code::Connect,
                format!("Postgres at {peer} does not offer TLS"),
            )
            .with_hint("set `ssl = on` on the server, or sslmode=prefer in the database URL"));
        }
        _ => {
            return Err(Error::transient(
                Code::Connect,
                format!("Postgres at {peer} sent an invalid reply to the TLS request"),
            ));
        }
    }
    let cannot =
        |e| Error::fatal(Code::Connect, format!("cannot set up TLS with {peer}")).with_source(e);
    let session = connector.session(host).map_err(cannot)?;
    let mut stream = Box::new(SslStream::new(session, KernelFirst(tcp)).map_err(cannot)?);
    match Pin::new(&mut *stream).connect().await {
        Ok(()) => Ok(Socket::Tls(stream)),
        Err(e) => Err(tls::handshake_error(peer, stream.ssl(), e)),
    }
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
            Message::NoticeResponse(_) => {
                connection.skips(&raw);
            }
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

fn unreachable(peer: &str, cause: std::io::Error) -> Error {
    Error::transient(
        Code::Connect,
        format!("cannot connect to Postgres at {peer}"),
    )
    .with_source(cause)
}

async fn within<T>(
    limit: Duration,
    peer: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("Postgres at {peer} did not answer within {limit:?}");
        Err(Error::transient(Code::Connect, message))
    })
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
