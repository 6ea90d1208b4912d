//! A TCP proxy between the program and a server that simulates network faults, in each direction
//! separately.
//!
//! A setting applies to open and to new connections, from the next read on. All connections end
//! with the proxy.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ephemeral::free_port;
use super::wait::wait_for;

/// The most bytes that one read takes.
const PIECE: usize = 16 << 10;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They are forwarded.
    Pass,
    /// Each read is forwarded after this delay.
    Delay(Duration),
    /// At most this many bytes a second are forwarded.
    Throttle(u32),
    /// The proxy stops reading, so the sender's socket buffer fills. The bytes arrive once the flow
    /// changes.
    StopReading,
    /// The proxy reads the bytes and drops them, and hides the end of the connection too: for the
    /// peer this cannot be told from a slow answer. A connection that lost bytes this way is closed
    /// once the flow changes.
    Swallow,
}

/// Direction of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    to_server: Flow,
    to_client: Flow,
    /// Grows with each reset: connections opened under a lower number are reset.
    resets: u64,
}

impl Rules {
    fn of(&self, way: Direction) -> Flow {
        match way {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }
}

/// Bytes that may still pass in one direction before the connection that carries them is cut.
type Cut = Arc<Mutex<Option<(Direction, usize)>>>;

/// The word of the request that gets no answer.
type Mute = Arc<Mutex<Option<String>>>;

/// What all connections share.
#[derive(Clone)]
struct Shared {
    rules: watch::Receiver<Rules>,
    cut: Cut,
    mute: Mute,
}

/// See the module's head.
pub(crate) struct Proxy {
    port: u16,
    rules: watch::Sender<Rules>,
    cut: Cut,
    mute: Mute,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to this port of the server.
    pub(crate) async fn before(server: u16) -> Result<Proxy> {
        Proxy::at(free_port()?, server).await
    }

    /// Listens on a given port.
    pub(crate) async fn at(port: u16, server: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.with_context(|| format!("port {port}"))?;
        let (rules, seen) = watch::channel(Rules {
            to_server: Flow::Pass,
            to_client: Flow::Pass,
            resets: 0,
        });
        let (cut, mute) = (Cut::default(), Mute::default());
        let server = SocketAddr::from(([127, 0, 0, 1], server));
        let shared = Shared {
            rules: seen,
            cut: Arc::clone(&cut),
            mute: Arc::clone(&mute),
        };
        let task = tokio::spawn(accept(listener, server, shared));
        Ok(Proxy {
            port,
            rules,
            cut,
            mute,
            task,
        })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same URL, through the proxy.
    pub(crate) fn url(&self, url: &str) -> Result<String> {
        let (head, rest) = url.split_once('@').context("a user")?;
        let (_, database) = rest.split_once('/').context("a database")?;
        Ok(format!("{head}@127.0.0.1:{}/{database}", self.port))
    }

    /// Sets both directions.
    pub(crate) fn set(&self, flow: Flow) {
        self.rules
            .send_modify(|rules| (rules.to_server, rules.to_client) = (flow, flow));
    }

    /// Sets one direction; the other stays as it is.
    pub(crate) fn set_direction(&self, way: Direction, flow: Flow) {
        self.rules.send_modify(|rules| match way {
            Direction::ToServer => rules.to_server = flow,
            Direction::ToClient => rules.to_client = flow,
        });
    }

    /// Resets all connections: both sides receive a TCP RST.
    pub(crate) fn reset(&self) {
        self.rules.send_modify(|rules| rules.resets += 1);
    }

    /// Cuts a connection in the middle of a write: the one that carries the last of this many
    /// further bytes.
    pub(crate) fn cut_after(&self, way: Direction, bytes: usize) {
        *lock(&self.cut) = Some((way, bytes));
    }

    /// From a request with this word on, the client of that connection receives nothing more, and
    /// everything else goes on. `None`: later requests are answered again.
    pub(crate) fn mute(&self, word: Option<&str>) {
        *lock(&self.mute) = word.map(str::to_owned);
    }

    /// Waits until the cut has happened; returns at once if none is pending.
    pub(crate) async fn wait_for_cut(&self, limit: Duration) -> Result<()> {
        wait_for("the cut", limit, async || {
            Ok(lock(&self.cut).is_none().then_some(()))
        })
        .await
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Shared) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connect(client, server, shared.clone()));
                }
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: SocketAddr, shared: Shared) {
    let mut rules = shared.rules.clone();
    let resets = rules.borrow().resets;
    let reset = {
        let mut rules = rules.clone();
        async move { drop(rules.wait_for(|rules| rules.resets > resets).await) }
    };
    // A swallowed client does not reach the server either.
    let swallowed = |rules: &Rules| rules.to_server == Flow::Swallow;
    if rules
        .wait_for(|rules| !swallowed(rules) || rules.resets > resets)
        .await
        .is_err()
    {
        return;
    }
    let Ok(upstream) = TcpStream::connect(server).await else {
        return;
    };
    // No Nagle: the proxy must not add a delay of its own.
    let _best_effort = (client.set_nodelay(true), upstream.set_nodelay(true));
    let Ok(sockets) = [&client, &upstream]
        .map(|it| it.as_fd().try_clone_to_owned())
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
    else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = upstream.into_split();
    let muted = AtomicBool::new(false);
    tokio::select! {
        () = reset => {
            for socket in sockets {
                // With SO_LINGER of zero, closing the socket sends a RST.
                let _best_effort = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
        }
        both = async {
            tokio::try_join!(
                pump(from_client, to_server, Direction::ToServer, &shared, &muted),
                pump(from_server, to_client, Direction::ToClient, &shared, &muted),
            )
        } => drop(both),
    }
}

/// The connection has ended in both directions.
struct Ended;

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Direction,
    shared: &Shared,
    muted: &AtomicBool,
) -> Result<(), Ended> {
    let mut rules = shared.rules.clone();
    let mut buffer = vec![0; PIECE];
    let mut swallowed = false;
    loop {
        let flow = rules.borrow_and_update().of(way);
        if swallowed && flow != Flow::Swallow {
            // Bytes were lost: later ones would not follow on.
            return Err(Ended);
        }
        if flow == Flow::StopReading {
            rules.changed().await.map_err(|_| Ended)?;
            continue;
        }
        let size = match flow {
            Flow::Throttle(rate) => (rate as usize / 10).clamp(1, PIECE),
            _ => PIECE,
        };
        let count = tokio::select! {
            biased;
            changed = rules.changed() => { changed.map_err(|_| Ended)?; continue }
            read = from.read(&mut buffer[..size]) => read.map_err(|_| Ended)?,
        };
        if way == Direction::ToServer && shared.mutes(&buffer[..count]) {
            muted.store(true, Ordering::Relaxed);
        }
        if way == Direction::ToClient && count > 0 && muted.load(Ordering::Relaxed) {
            continue;
        }
        match flow {
            Flow::Swallow => {
                swallowed = true;
                if count == 0 {
                    rules.changed().await.map_err(|_| Ended)?;
                }
                continue;
            }
            Flow::Delay(time) => tokio::time::sleep(time).await,
            Flow::Throttle(rate) => {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(rate))).await;
            }
            Flow::Pass | Flow::StopReading => {}
        }
        if count == 0 {
            // One direction may end before the other; bytes in flight must arrive.
            return to.shutdown().await.map_err(|_| Ended);
        }
        let (passes, cuts) = allowance(&shared.cut, way, count);
        to.write_all(&buffer[..passes]).await.map_err(|_| Ended)?;
        if cuts {
            return Err(Ended);
        }
    }
}

impl Shared {
    fn mutes(&self, request: &[u8]) -> bool {
        let mute = lock(&self.mute);
        mute.as_ref().is_some_and(|word| {
            let mut places = request.windows(word.len());
            places.any(|place| place == word.as_bytes())
        })
    }
}

/// How much of a read may pass, and whether the connection is cut after it.
fn allowance(cut: &Cut, way: Direction, count: usize) -> (usize, bool) {
    let mut cut = lock(cut);
    match &mut *cut {
        Some((cut_way, left)) if *cut_way == way => {
            if count < *left {
                *left -= count;
                return (count, false);
            }
            let passes = *left;
            *cut = None;
            (passes, true)
        }
        _ => (count, false),
    }
}
