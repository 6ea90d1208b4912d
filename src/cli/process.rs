//! The surroundings of a process that publishes: its log, its signals and the HTTP server.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use anyhow::Context;
use outboxd::config::LogFormat;
use outboxd::http;
use outboxd::publisher::Publisher;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// SIGINT and SIGTERM. Once this exists they no longer end the process by themselves.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The number of the next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// The HTTP server beside the publisher.
pub(crate) struct HttpServer {
    task: JoinHandle<()>,
    shutdown: oneshot::Sender<()>,
}

impl HttpServer {
    pub(crate) fn start(listener: tokio::net::TcpListener, publisher: &Publisher) -> HttpServer {
        let (shutdown, requested) = oneshot::channel::<()>();
        let requested = async move {
            let _ = requested.await;
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "serving metrics, health and the status page");
        }
        let (status, metrics) = (publisher.status_handle(), Arc::clone(&publisher.metrics()));
        HttpServer {
            task: tokio::spawn(http::serve(listener, status, metrics, requested)),
            shutdown,
        }
    }

    /// Finishes open requests, for a second at most: a monitor must not delay the exit.
    pub(crate) async fn stop(mut self) {
        let _ = self.shutdown.send(());
        if tokio::time::timeout(std::time::Duration::from_secs(1), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

/// Starts the log, on standard error.
pub(crate) fn init_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter: Targets = filter.parse().context("cannot parse OUTBOX_LOG")?;
    // With internal errors enabled, tracing panics once standard error has been closed.
    let lines = fmt::layer()
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let log = tracing_subscriber::registry().with(filter);
    let result = match format {
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
        _ => log.with(lines).try_init(),
    };
    result.context("cannot start the log")
}
