//! The way to a server, the same for SQL and for replication: hosts in turn, TCP or a Unix socket,
//! TLS.
//!
//! Owns which host and address is tried next, the time limit of each, and the negotiation of TLS as
//! `sslmode` requires it. Every host is tried; if none gives a session, an error that may pass
//! outweighs one that does not, because the host with the passing error may be the right one. What
//! arrives before TLS is one byte: an attacker could have added more.
//!
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.

mod authentication;
mod hosts;
mod inspected;
mod inspector;
mod obstacle;
mod socket;
pub(crate) mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;
use tokio_postgres::config::SslNegotiation;

use crate::config::{Database, SslMode};
use crate::error::{Code, Error, Result};

pub(crate) use self::authentication::{AuthenticationPolicy, RefusedRequest, check_iterations};
pub(crate) use self::inspected::{Inspected, Negotiated};
pub(crate) use self::inspector::{Inspector, Limits, refusal};
pub(crate) use self::obstacle::Obstacle;
pub(crate) use self::socket::Socket;

use self::hosts::{Address, Endpoint};
use self::socket::KernelFirst;
use self::tls::Connector;

/// How long an address may take to accept a connection, unless `connect_timeout` is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The kernel's receive buffer for the stream of a near server. While it has room, each message is
/// a packet of its own, which takes two or three times as long. Once it is full the server's kernel
/// collects the messages, at the cost of a copy each.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A server that accepts within this time is near. On a longer path so small a buffer would limit
/// the throughput to one buffer per round trip.
const NEAR: Duration = Duration::from_millis(1);

/// What tokio-postgres takes for a keepalive that is not configured.
const UNSET_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Statements and their answers.
    Sql,
    /// The stream of the WAL.
    Stream,
}

/// A stream to a server, ready for the start-up packet.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) socket: Socket,
    /// `host:port`, for errors.
    pub(crate) peer: String,
    /// The place of the host among those of the connection string.
    pub(crate) host: usize,
}

/// How sessions of one database reach their server.
pub(crate) struct Route {
    database: Database,
    connector: Connector,
    endpoints: Vec<Endpoint>,
    purpose: Purpose,
    connect_limit: Duration,
    attempt_limit: Duration,
}

impl Route {
    /// Reads the certificates. An address may take `limit` from the first packet to the end of the
    /// log-in; `None` is the settings' connect time-out.
    ///
    /// # Errors
    /// Fatal: a file that cannot be used, a URL without a host.
    pub(crate) fn new(
        database: &Database,
        purpose: Purpose,
        limit: Option<Duration>,
    ) -> Result<Self> {
        let given = database.pg.get_connect_timeout().copied();
        let connect_limit = given.unwrap_or(CONNECT_TIMEOUT);
        Ok(Route {
            database: database.clone(),
            connector: tls::connector(&database.tls)?,
            endpoints: hosts::all(&database.pg)?,
            purpose,
            connect_limit,
            attempt_limit: limit.unwrap_or(connect_limit),
        })
    }

    /// Tries the addresses of all hosts in order until `log_in` succeeds on one.
    pub(crate) async fn first<T, F, L>(&self, log_in: L) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        L: Fn(Reached) -> F + Sync,
    {
        let mut failures = vec![];
        for host in 0..self.endpoints.len() {
            // Boxed: the future is large, and connecting is rare.
            let attempt: Pin<Box<dyn Future<Output = _> + Send + '_>> =
                Box::pin(self.host(host, &log_in));
            match attempt.await {
                Ok(session) => return Ok(session),
                Err(error) => failures.push(error),
            }
        }
        Err(combined(failures, &self.endpoints))
    }

    /// The addresses of one host, in order, until `log_in` succeeds on one.
    pub(crate) async fn host<T, F, L>(&self, host: usize, log_in: &L) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        L: Fn(Reached) -> F + Sync,
    {
        let Some(endpoint) = self.endpoints.get(host) else {
            return Err(combined(vec![], &self.endpoints));
        };
        let peer = &endpoint.describe();
        let enter = async |socket: Socket| {
            let peer = peer.clone();
            log_in(Reached { socket, peer, host }).await
        };
        let name = match &endpoint.address {
            Address::Tcp(name) => name,
            Address::Unix(folder) => {
                let opening = async { enter(self.unix(folder, endpoint.port, peer).await?).await };
                return within(self.attempt_limit, peer, opening).await;
            }
        };
        let resolving = resolve(name, endpoint.port, peer);
        let addresses = within(self.connect_limit, peer, resolving).await?;
        let mut failure = unreachable(peer, std::io::ErrorKind::NotFound.into());
        for address in addresses {
            let opening = async { enter(self.tcp(address, endpoint, peer).await?).await };
            match within(self.attempt_limit, peer, opening).await {
                Err(error) if error.is_transient() => failure = error,
                outcome => return outcome,
            }
        }
        Err(failure)
    }

    async fn unix(&self, folder: &Path, port: u16, peer: &str) -> Result<Socket> {
        let path = folder.join(format!(".s.PGSQL.{port}"));
        let connecting = UnixStream::connect(path);
        let stream = within(self.connect_limit, peer, async {
            connecting.await.map_err(|e| unreachable(peer, e))
        });
        Ok(Socket::Unix(stream.await?))
    }

    async fn tcp(&self, address: SocketAddr, endpoint: &Endpoint, peer: &str) -> Result<Socket> {
        let asked = Instant::now();
        let connecting = TcpStream::connect(address);
        let tcp = within(self.connect_limit, peer, async {
            connecting.await.map_err(|e| unreachable(peer, e))
        })
        .await?;
        let is_near = asked.elapsed() < NEAR;
        self.tune(&tcp, is_near).map_err(|e| unreachable(peer, e))?;
        self.encrypt(tcp, &endpoint.name, peer).await
    }

    /// A cut connection is noticed within half a minute, even while neither side sends, unless the
    /// connection string asks for something else.
    fn tune(&self, tcp: &TcpStream, is_near: bool) -> std::io::Result<()> {
        let pg = &self.database.pg;
        tcp.set_nodelay(true)?;
        let socket = SockRef::from(tcp);
        if pg.get_keepalives() {
            let idle = Some(pg.get_keepalives_idle()).filter(|idle| *idle != UNSET_KEEPALIVE);
            let keepalive = TcpKeepalive::new()
                .with_time(idle.unwrap_or(Duration::from_secs(10)))
                .with_interval(
                    pg.get_keepalives_interval()
                        .unwrap_or(Duration::from_secs(5)),
                )
                .with_retries(pg.get_keepalives_retries().unwrap_or(3));
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(limit) = pg.get_tcp_user_timeout() {
            socket.set_tcp_user_timeout(Some(*limit))?;
        }
        if is_near && self.purpose == Purpose::Stream {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        Ok(())
    }

    /// Negotiates TLS as `sslmode` and `sslnegotiation` require.
    async fn encrypt(&self, mut tcp: TcpStream, host: &str, peer: &str) -> Result<Socket> {
        let mode = self.connector.mode();
        if mode == SslMode::Disable {
            return Ok(Socket::Tcp(tcp));
        }
        let is_direct = self.database.pg.get_ssl_negotiation() == SslNegotiation::Direct;
        if !is_direct && !request_tls(&mut tcp, mode, peer).await? {
            return Ok(Socket::Tcp(tcp));
        }
        let cannot = |e| {
            Error::fatal(Code::Connect, format!("cannot set up TLS with {peer}")).with_source(e)
        };
        let session = self.connector.session(host, is_direct).map_err(cannot)?;
        let mut stream = Box::new(SslStream::new(session, KernelFirst(tcp)).map_err(cannot)?);
        match Pin::new(&mut *stream).connect().await {
            Ok(()) => Ok(Socket::Tls(stream)),
            Err(e) => Err(tls::handshake_error(peer, stream.ssl(), e)),
        }
    }
}

/// Requests TLS; false if the server offers none and `mode` does without.
async fn request_tls(tcp: &mut TcpStream, mode: SslMode, peer: &str) -> Result<bool> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request)
        .await
        .map_err(|e| unreachable(peer, e))?;
    match tcp.read_u8().await.map_err(|e| unreachable(peer, e))? {
        b'S' => Ok(true),
        b'N' if mode == SslMode::Prefer => Ok(false),
        b'N' => {
            let message = format!("cannot connect to Postgres at {peer}");
            Err(Error::fatal(Code::Connect, message)
                .with_source(Obstacle::NoTls)
                .with_hint("write sslmode=disable or prefer, or switch the server's ssl on"))
        }
        _ => {
            let message = format!("Postgres at {peer} sent an invalid reply to the TLS request");
            Err(Error::transient(Code::Connect, message)
                .with_hint("is it Postgres that listens there?"))
        }
    }
}

async fn resolve(host: &str, port: u16, peer: &str) -> Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|e| {
        unreachable(peer, e).with_hint("does the host's name exist in DNS, and is it spelt right?")
    })?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

fn unreachable(peer: &str, cause: std::io::Error) -> Error {
    let is_refused = cause.kind() == std::io::ErrorKind::ConnectionRefused;
    let message = format!("cannot connect to Postgres at {peer}");
    let error = Error::transient(Code::Connect, message).with_source(cause);
    match is_refused {
        true => error.with_hint("is the server up, and are host and port right?"),
        false => error,
    }
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

/// One error for all hosts.
fn combined(mut failures: Vec<Error>, endpoints: &[Endpoint]) -> Error {
    if failures.len() <= 1 || failures.iter().all(|error| !error.is_transient()) {
        let none = || Error::fatal(Code::Config, "the connection names no host");
        return failures.drain(..).next().unwrap_or_else(none);
    }
    let names: Vec<_> = endpoints.iter().map(Endpoint::describe).collect();
    let reasons: Vec<_> = failures.iter().map(Error::report).collect();
    let message = format!("no usable server among {}", names.join(", "));
    Error::transient(Code::Connect, message).with_source(reasons.join("; "))
}
