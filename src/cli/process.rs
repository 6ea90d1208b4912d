//! The surroundings of a process that publishes: its signals and the HTTP server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use outboxd::http;
use outboxd::publisher::Publisher;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Signals within this time of the first are the same request: `timeout` and many shells send one
/// to the process and one to its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// SIGINT, SIGTERM and SIGHUP. Once this exists they do not end the process by themselves.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where SIGHUP was ignored from the start: the process is meant to survive it.
    hangup: Option<Signal>,
    first: Option<Instant>,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(listen(SignalKind::hangup())?),
            },
            first: None,
        })
    }

    /// The number of the next signal that is a request of its own. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        loop {
            let kind = tokio::select! {
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.terminate.recv() => SignalKind::terminate(),
                () = received(&mut self.hangup) => SignalKind::hangup(),
            };
            match self.first {
                Some(first) if first.elapsed() <= SAME_REQUEST => {}
                Some(_) => return kind.as_raw_value(),
                None => {
                    self.first = Some(Instant::now());
                    return kind.as_raw_value();
                }
            }
        }
    }
}

/// The next signal; none ever comes where there is no listener.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            let _ = signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The HTTP server beside the publisher.
pub(crate) struct HttpServer {
    task: JoinHandle<()>,
    shutdown: oneshot::Sender<()>,
}

impl HttpServer {
    /// `hosts`: the names to answer to; see [`http::serve`].
    pub(crate) fn start(
        listener: tokio::net::TcpListener,
        hosts: &[String],
        publisher: &Publisher,
    ) -> HttpServer {
        let (shutdown, requested) = oneshot::channel::<()>();
        let requested = async move {
            let _ = requested.await;
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "serving metrics, health and the status page");
        }
        let (status, metrics) = (publisher.status_handle(), Arc::clone(&publisher.metrics()));
        HttpServer {
            task: tokio::spawn(http::serve(listener, hosts, status, metrics, requested)),
            shutdown,
        }
    }

    /// Finishes open requests, for a second at most: a monitor must not delay the exit.
    pub(crate) async fn stop(mut self) {
        let _ = self.shutdown.send(());
        if tokio::time::timeout(Duration::from_secs(1), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

/// Whether the process was started with this signal ignored, as `nohup` starts it.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = signal.as_raw_value() - 1;
    mask.is_some_and(|mask| mask >> bit & 1 == 1)
}
