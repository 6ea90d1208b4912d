//! A TCP proxy that breaks networks: between the program and a server, one fault at a time, each way of its own.
//!
//! What is set holds for the connections that are open and for those to come, from the next piece on; a piece is what one read
//! gives. Everything ends with the proxy.

use std::net::SocketAddr;
use std::os::fd::AsFd;
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

/// The most that is passed on at once.
const PIECE: usize = 16 << 10;

/// What becomes of the bytes of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They go on.
    Pass,
    /// Each piece goes on after so long.
    Delay(Duration),
    /// So many bytes a second go on.
    Throttle(u32),
    /// Nobody reads them: the sender's socket fills. They arrive when it is over.
    StopReading,
    /// They are taken and go nowhere, and the end of a connection with them: nobody can tell it from a slow answer. A
    /// connection that lost bytes this way ends when it is over.
    Swallow,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    to_server: Flow,
    to_client: Flow,
    /// Grows with each reset: connections of an earlier number end.
    resets: u64,
}

impl Rules {
    fn of(&self, way: Way) -> Flow {
        match way {
            Way::ToServer => self.to_server,
            Way::ToClient => self.to_client,
        }
    }
}

/// Bytes that may still pass one way before the connection that carries them is cut.
type Cut = Arc<Mutex<Option<(Way, usize)>>>;

/// See the module's head.
pub(crate) struct Proxy {
    port: u16,
    rules: watch::Sender<Rules>,
    cut: Cut,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 in front of this one.
    pub(crate) async fn before(server: u16) -> Result<Proxy> {
        Proxy::at(free_port()?, server).await
    }

    /// The same on a port that is known already.
    pub(crate) async fn at(port: u16, server: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.with_context(|| format!("port {port}"))?;
        let (rules, seen) = watch::channel(Rules {
            to_server: Flow::Pass,
            to_client: Flow::Pass,
            resets: 0,
        });
        let cut = Cut::default();
        let server = SocketAddr::from(([127, 0, 0, 1], server));
        let task = tokio::spawn(accept(listener, server, seen, Arc::clone(&cut)));
        Ok(Proxy {
            port,
            rules,
            cut,
            task,
        })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same URL as this, through the proxy.
    pub(crate) fn url(&self, url: &str) -> Result<String> {
        let (head, rest) = url.split_once('@').context("a user")?;
        let (_, database) = rest.split_once('/').context("a database")?;
        Ok(format!("{head}@127.0.0.1:{}/{database}", self.port))
    }

    /// Both ways.
    pub(crate) fn set(&self, flow: Flow) {
        self.rules
            .send_modify(|rules| (rules.to_server, rules.to_client) = (flow, flow));
    }

    /// One way; the other stays as it is.
    pub(crate) fn set_way(&self, way: Way, flow: Flow) {
        self.rules.send_modify(|rules| match way {
            Way::ToServer => rules.to_server = flow,
            Way::ToClient => rules.to_client = flow,
        });
    }

    /// Ends all connections as a machine does that knows nothing of them: both sides see a reset.
    pub(crate) fn reset(&self) {
        self.rules.send_modify(|rules| rules.resets += 1);
    }

    /// After so many bytes more this way, whichever connection carries them ends in the middle of what it was sending.
    pub(crate) fn cut_after(&self, way: Way, bytes: usize) {
        *lock(&self.cut) = Some((way, bytes));
    }

    /// Waits until the cut has come; not at all where none was asked for.
    pub(crate) async fn wait_for_cut(&self, limit: Duration) -> Result<()> {
        wait_for("the cut", limit, async || {
            Ok(lock(&self.cut).is_none().then_some(()))
        })
        .await
    }
}

fn lock(cut: &Cut) -> std::sync::MutexGuard<'_, Option<(Way, usize)>> {
    cut.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    rules: watch::Receiver<Rules>,
    cut: Cut,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(connect(client, server, rules.clone(), Arc::clone(&cut)))),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    mut rules: watch::Receiver<Rules>,
    cut: Cut,
) {
    let resets = rules.borrow().resets;
    let reset = {
        let mut rules = rules.clone();
        async move { drop(rules.wait_for(|rules| rules.resets > resets).await) }
    };
    // Who is swallowed does not reach the server either.
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
    // In pieces as they come: a proxy adds no delay that nobody asked for.
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
    tokio::select! {
        () = reset => {
            for socket in sockets {
                // A socket that lingers for no time is reset when it closes, which is here.
                let _best_effort = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
        }
        both = async {
            tokio::try_join!(
                pump(from_client, to_server, Way::ToServer, rules.clone(), &cut),
                pump(from_server, to_client, Way::ToClient, rules.clone(), &cut),
            )
        } => drop(both),
    }
}

/// The connection is over, both ways.
struct Ended;

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut rules: watch::Receiver<Rules>,
    cut: &Cut,
) -> Result<(), Ended> {
    let mut buffer = vec![0; PIECE];
    let mut swallowed = false;
    loop {
        let flow = rules.borrow_and_update().of(way);
        if swallowed && flow != Flow::Swallow {
            // What comes now would not follow on what went before.
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
            // Half of a connection may end before the other; what is on its way must arrive, not be reset.
            return to.shutdown().await.map_err(|_| Ended);
        }
        let (passes, cuts) = allowance(cut, way, count);
        to.write_all(&buffer[..passes]).await.map_err(|_| Ended)?;
        if cuts {
            return Err(Ended);
        }
    }
}

/// How much of a piece passes, and whether the connection is cut behind it.
fn allowance(cut: &Cut, way: Way, count: usize) -> (usize, bool) {
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
