//! A proxy of the kind that providers put before Postgres: it passes one server session to one
//! client, and is known as no server by the key for cancelling alone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::postgres::Server;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// What the proxy makes of a start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It announces a process and a key of its own, as Neon's does.
    OwnKey,
    /// It announces none, and refuses a start-up packet with options, as RDS Proxy does. It also
    /// refuses replication.
    NoKey,
}

/// See the module's head. Its connections end with it.
pub(crate) struct SessionProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    kind: Kind,
    server: SocketAddr,
    /// A server that has stopped, and that a connection starts again.
    asleep: Option<Arc<Mutex<Server>>>,
    cancels: AtomicU32,
    starts: AtomicU32,
}

impl Drop for SessionProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SessionProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to this port of the server.
    pub(crate) async fn before(server: u16, kind: Kind) -> Result<SessionProxy> {
        SessionProxy::start(server, kind, None).await
    }

    /// The same before a server that stops when it is idle, and starts with the next connection.
    pub(crate) async fn before_a_sleeper(server: &Arc<Mutex<Server>>) -> Result<SessionProxy> {
        let port = server.lock().unwrap_or_else(PoisonError::into_inner).port();
        SessionProxy::start(port, Kind::OwnKey, Some(Arc::clone(server))).await
    }

    async fn start(
        server: u16,
        kind: Kind,
        asleep: Option<Arc<Mutex<Server>>>,
    ) -> Result<SessionProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shared = Arc::new(Shared {
            kind,
            server: SocketAddr::from(([127, 0, 0, 1], server)),
            asleep,
            cancels: AtomicU32::new(0),
            starts: AtomicU32::new(0),
        });
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(SessionProxy {
            address,
            shared,
            task,
        })
    }

    /// The connection string of this user over the proxy.
    pub(crate) fn url(&self, database: &str, user: &str) -> String {
        format!("postgresql://{user}@{}/{database}", self.address)
    }

    /// How many requests to cancel a statement it has received; it forwards none.
    pub(crate) fn cancels(&self) -> u32 {
        self.shared.cancels.load(Ordering::Relaxed)
    }

    /// How often it has started the server.
    pub(crate) fn starts(&self) -> u32 {
        self.shared.starts.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(serve(client, Arc::clone(&shared)));
                }
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) -> Result<()> {
    client.set_nodelay(true)?;
    let start_up = loop {
        let packet = read_packet(&mut client).await?;
        match u32::from_be_bytes(packet[4..8].try_into()?) {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
            CANCEL_REQUEST => {
                shared.cancels.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            _ => break packet,
        }
    };
    let has = |word: &str| start_up.windows(word.len()).any(|it| it == word.as_bytes());
    if shared.kind == Kind::NoKey && (has("\0options\0") || has("\0replication\0")) {
        return Ok(client.write_all(&refusal()).await?);
    }
    if let Some(asleep) = &shared.asleep {
        let asleep = Arc::clone(asleep);
        let started = tokio::task::spawn_blocking(move || -> Result<bool> {
            let mut server = asleep.lock().unwrap_or_else(PoisonError::into_inner);
            let is_asleep = server.pid().is_none();
            if is_asleep {
                server.resume()?;
            }
            Ok(is_asleep)
        });
        let started = started.await??;
        shared.starts.fetch_add(started.into(), Ordering::Relaxed);
    }
    let mut server = TcpStream::connect(shared.server).await?;
    server.set_nodelay(true)?;
    server.write_all(&start_up).await?;
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        // Up to the end of the start-up, message by message.
        loop {
            let tag = from_server.read_u8().await?;
            let mut body = read_packet(&mut from_server).await?;
            match (tag, shared.kind) {
                (b'K', Kind::NoKey) => continue,
                (b'K', Kind::OwnKey) => body[4..12].copy_from_slice(b"\x00\x00\x12\x67own!"),
                _ => {}
            }
            to_client
                .write_all(&[&[tag], body.as_slice()].concat())
                .await?;
            if tag == b'Z' {
                break;
            }
        }
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        anyhow::Ok(())
    };
    tokio::select! { _ = there => Ok(()), ended = back => ended }
}

/// A length with what it counts.
async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.resize(length as usize, 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

/// feature_not_supported, as a fatal error.
fn refusal() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C0A000\0MFeature not supported: command-line options\0\0";
    let length = u32::try_from(fields.len() + 4).unwrap_or_default();
    [b"E", length.to_be_bytes().as_slice(), fields.as_slice()].concat()
}
