//! A TCP proxy before a Kafka broker that knows requests from one another, and lets one of them, or
//! its answer, come late or not at all.
//!
//! <https://kafka.apache.org/protocol#protocol_messages>

use std::io::{Error, ErrorKind, Result as IoResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, empty};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::ephemeral::free_port;
use super::kafka::{self, Kafka};
use super::wait::wait_for;

/// Which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its number among the requests of the protocol.
    api: u16,
    /// What it has somewhere, such as the name of a topic.
    has: String,
}

impl Wanted {
    pub(crate) fn any(api: u16) -> Wanted {
        Wanted::with(api, "")
    }

    /// One that has this text.
    pub(crate) fn with(api: u16, has: &str) -> Wanted {
        Wanted {
            api,
            has: has.to_owned(),
        }
    }

    fn is(&self, request: &[u8]) -> bool {
        let has = self.has.as_bytes();
        request.starts_with(&self.api.to_be_bytes())
            && (has.is_empty() || request.windows(has.len()).any(|part| part == has))
    }
}

pub(crate) const PRODUCE: u16 = 0;
pub(crate) const FETCH: u16 = 1;
pub(crate) const LIST_OFFSETS: u16 = 2;
pub(crate) const FIND_COORDINATOR: u16 = 10;
pub(crate) const INIT_PRODUCER_ID: u16 = 22;
pub(crate) const ADD_PARTITIONS_TO_TXN: u16 = 24;
pub(crate) const END_TXN: u16 = 26;

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives after this time, and the client waits for its answer.
    Late(Duration),
    /// It arrives after this time, though the connection of the client is cut at once.
    LateAndCutOff(Duration),
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer does not.
    Unanswered,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Passing,
    /// The next such request.
    Due(Wanted, Fate),
    Holding,
    Delivered,
}

/// What may be held back, at any of several brokers.
#[derive(Clone)]
pub(crate) struct HeldRequest(Arc<Mutex<State>>);

impl HeldRequest {
    /// Nothing is held back yet.
    pub(crate) fn new() -> HeldRequest {
        HeldRequest(Arc::new(Mutex::new(State::Passing)))
    }

    /// Holds the next such request back.
    pub(crate) fn next(&self, wanted: Wanted, fate: Fate) {
        *self.state() = State::Due(wanted, fate);
    }

    /// Waits until the request has come.
    pub(crate) async fn has_come(&self, limit: Duration) -> Result<()> {
        let due = format!("{:?}", self.state());
        wait_for(&due, limit, async || {
            Ok((!matches!(*self.state(), State::Due(..))).then_some(()))
        })
        .await
    }

    /// Whether the request is still held back.
    pub(crate) fn is_holding(&self) -> bool {
        *self.state() == State::Holding
    }

    /// Waits until the broker has the request.
    pub(crate) async fn delivered(&self, limit: Duration) -> Result<()> {
        wait_for("the late request", limit, async || {
            Ok((*self.state() == State::Delivered).then_some(()))
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of this request, if it is the one to hold back.
    fn takes(&self, request: &[u8]) -> Option<Fate> {
        let mut state = self.state();
        match &*state {
            State::Due(wanted, fate) if wanted.is(request) => {
                let fate = *fate;
                *state = State::Holding;
                Some(fate)
            }
            _ => None,
        }
    }
}

/// See the module's head.
struct KafkaProxy(JoinHandle<()>);

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl KafkaProxy {
    /// Listens on this port of 127.0.0.1, and forwards to that port of the broker.
    async fn at(port: u16, broker: u16, held: &HeldRequest) -> Result<KafkaProxy> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.with_context(|| format!("port {port}"))?;
        let held = held.clone();
        Ok(KafkaProxy(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let held = held.clone();
                connections.spawn(async move {
                    let broker = TcpStream::connect(("127.0.0.1", broker)).await?;
                    client.set_nodelay(true)?;
                    broker.set_nodelay(true)?;
                    forward(client, broker, &held).await
                });
            }
        })))
    }
}

/// Three brokers with a proxy before each.
pub(crate) struct Cluster {
    pub(crate) brokers: Vec<Kafka>,
    /// The proxies, as bootstrap servers.
    pub(crate) addresses: String,
    _proxies: Vec<KafkaProxy>,
}

impl Cluster {
    pub(crate) async fn start(held: &HeldRequest) -> Result<Cluster> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let brokers = kafka::cluster_with_outers(&ports)?;
        let mut proxies = Vec::new();
        for (port, broker) in ports.iter().zip(&brokers) {
            proxies.push(KafkaProxy::at(*port, broker.outer_port()?, held).await?);
        }
        Ok(Cluster {
            brokers,
            addresses: ports.map(|port| format!("127.0.0.1:{port}")).join(","),
            _proxies: proxies,
        })
    }
}

async fn forward(client: TcpStream, broker: TcpStream, held: &HeldRequest) -> IoResult<()> {
    let (from_client, to_client) = client.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let muted = Arc::new(AtomicBool::new(false));
    let answers = tokio::spawn(answers(from_broker, to_client, Arc::clone(&muted)));
    let ended = requests(from_client, &mut to_broker, held, &muted, || {
        answers.abort();
    })
    .await;
    // The broker answers what it has before the connection ends.
    to_broker.shutdown().await?;
    if muted.load(Ordering::Relaxed) {
        answers.abort();
    }
    let _ended = answers.await;
    ended
}

/// Forwards what the broker answers, until that is muted.
async fn answers(
    mut broker: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    muted: Arc<AtomicBool>,
) -> IoResult<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let size = broker.read(&mut piece).await?;
        if size == 0 {
            return Ok(());
        }
        if muted.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        client.write_all(&piece[..size]).await?;
    }
}

/// Forwards one request after another.
async fn requests(
    mut client: OwnedReadHalf,
    broker: &mut OwnedWriteHalf,
    held: &HeldRequest,
    muted: &AtomicBool,
    cut_off: impl Fn(),
) -> IoResult<()> {
    loop {
        let size = client.read_u32().await?;
        let mut request = vec![0; size as usize];
        client.read_exact(&mut request).await?;
        let fate = held.takes(&request);
        match fate {
            None => {}
            Some(Fate::Late(time)) => sleep(time).await,
            Some(Fate::LateAndCutOff(time)) => {
                cut_off();
                sleep(time).await;
            }
            Some(Fate::Unanswered) => muted.store(true, Ordering::Relaxed),
            Some(Fate::Lost) => {
                // What the client sends behind it is lost too.
                return copy(&mut client, &mut empty()).await.map(|_| ());
            }
        }
        broker.write_u32(size).await?;
        broker.write_all(&request).await?;
        if fate.is_some() {
            *held.state() = State::Delivered;
        }
        if let Some(Fate::LateAndCutOff(_)) = fate {
            return Err(Error::from(ErrorKind::ConnectionAborted));
        }
    }
}
