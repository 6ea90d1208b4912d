//! A TCP proxy before a Kafka broker that knows requests from one another, and holds a request that
//! ends a transaction back on its way to the broker.
//!
//! <https://kafka.apache.org/protocol#protocol_messages>

use std::io::{Error, ErrorKind, Result as IoResult};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::wait::wait_for;

/// The number of `EndTxn` among the requests.
const END_TXN: [u8; 2] = [0, 26];

/// Whether the client of a request that is held back keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Waits,
    /// Its connection is cut, and the request arrives all the same.
    IsCutOff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    /// The next request is held back for so long.
    Due(Duration, Client),
    Holding,
    Delivered,
}

/// What may be held back, at any of several brokers.
#[derive(Clone)]
pub(crate) struct LateEnds(Arc<Mutex<State>>);

impl LateEnds {
    /// Nothing is held back yet.
    pub(crate) fn new() -> LateEnds {
        LateEnds(Arc::new(Mutex::new(State::Passing)))
    }

    /// Holds the next request that ends a transaction back for so long. Returns when it is held.
    pub(crate) async fn hold(&self, time: Duration, client: Client, limit: Duration) -> Result<()> {
        *self.state() = State::Due(time, client);
        wait_for("the end of a transaction", limit, async || {
            Ok((*self.state() == State::Holding).then_some(()))
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

    /// Whether this request is the one to hold back, and how.
    fn takes(&self, request: &[u8]) -> Option<(Duration, Client)> {
        let mut state = self.state();
        match *state {
            State::Due(time, client) if request.starts_with(&END_TXN) => {
                *state = State::Holding;
                Some((time, client))
            }
            _ => None,
        }
    }
}

/// See the module's head.
pub(crate) struct KafkaProxy(JoinHandle<()>);

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl KafkaProxy {
    /// Listens on this port of 127.0.0.1, and forwards to that port of the broker.
    pub(crate) async fn at(port: u16, broker: u16, late: &LateEnds) -> Result<KafkaProxy> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.with_context(|| format!("port {port}"))?;
        let late = late.clone();
        Ok(KafkaProxy(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let late = late.clone();
                connections.spawn(async move {
                    let broker = TcpStream::connect(("127.0.0.1", broker)).await?;
                    client.set_nodelay(true)?;
                    broker.set_nodelay(true)?;
                    forward(client, broker, &late).await
                });
            }
        })))
    }
}

async fn forward(client: TcpStream, broker: TcpStream, late: &LateEnds) -> IoResult<()> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let answers = tokio::spawn(async move { copy(&mut from_broker, &mut to_client).await });
    let ended = requests(from_client, &mut to_broker, late, || answers.abort()).await;
    // The broker answers what it has before the connection ends.
    to_broker.shutdown().await?;
    let _ended = answers.await;
    ended
}

/// Forwards one request after another.
async fn requests(
    mut client: OwnedReadHalf,
    broker: &mut OwnedWriteHalf,
    late: &LateEnds,
    cut_off: impl Fn(),
) -> IoResult<()> {
    loop {
        let size = client.read_u32().await?;
        let mut request = vec![0; size as usize];
        client.read_exact(&mut request).await?;
        let held = late.takes(&request);
        if let Some((time, client)) = held {
            if client == Client::IsCutOff {
                cut_off();
            }
            tokio::time::sleep(time).await;
        }
        broker.write_u32(size).await?;
        broker.write_all(&request).await?;
        if let Some((_, client)) = held {
            *late.state() = State::Delivered;
            if client == Client::IsCutOff {
                return Err(Error::from(ErrorKind::ConnectionAborted));
            }
        }
    }
}
