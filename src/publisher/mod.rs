//! The publisher: start, stop, status, and why it ended.
//!
//! Owns one thread with a runtime of its own, on which everything that touches Postgres, Kafka and the engine runs; so the short
//! sleeps of the reader under backlog hold up nobody else, and the whole is one owner without a lock. From outside, the
//! board and the metrics can be read at any time, and a stop can be asked for.
//!
//! ```text
//! supervisor ─▶ resume ─▶ bootstrap ─▶ stream    one attempt after another; each one slot, one session
//!      │  └───▶ poll ────────┴─▶ table scan         where no slot is allowed: one SQL session
//!      └───────────┴────────────────┴─▶ forwarder ─▶ engine ─▶ tracker, write queue, cadence      (pure)
//! ```

mod connect;
mod instance_lock;
mod interrupt;
mod lineage;
mod monitor;
mod resume;
mod resume_state;
mod sink;
mod skip_transaction;
mod slot_loss;
mod source;
mod supervisor;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Source};
use crate::error::{Code, Error, Result};
use crate::metrics::Metrics;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::supervisor::Supervisor;
use crate::status::StatusBoard;

pub use crate::publisher::skip_transaction::{Skipped, skip_transaction};
pub use crate::status::{Phase, Problem, SlotHealth, Status, Waiting};

/// Publishes one outbox table. See the module's head.
pub struct Publisher {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    board: Arc<StatusBoard>,
    running: Option<Running>,
}

struct Running {
    /// A publisher that is dropped stops as well.
    stop: DropGuard,
    ended: oneshot::Receiver<Result<()>>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.is_some();
        f.debug_struct("Publisher")
            .field("config", &self.config)
            .field("running", &running)
            .finish()
    }
}

impl Publisher {
    /// Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        let slot = (config.source == Source::Slot)
            .then(|| (config.slot.clone(), config.publication.clone()));
        let board = StatusBoard::new(slot, &config.table.to_string());
        Publisher {
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            board: Arc::new(board),
            running: None,
        }
    }

    /// Starts publishing in the background. What cannot be reached is tried again until it can; what is wrong for good shows
    /// in [`ended`](Publisher::ended).
    ///
    /// # Errors
    /// `LIFECYCLE_ERROR` when it is started already; `CONFIG_ERROR` when librdkafka refuses a property.
    pub async fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Err(Error::fatal(
                Code::Lifecycle,
                "the publisher is started already",
            ));
        }
        let stop = CancellationToken::new().drop_guard();
        let stopped = stop.token().clone();
        let (started, starting) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (config, metrics, board) = (
            Arc::clone(&self.config),
            Arc::clone(&self.metrics),
            Arc::clone(&self.board),
        );
        board.phase(Phase::Connecting);
        let work = move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async {
                let forwarder = match Forwarder::new(&config, metrics, board) {
                    Ok(forwarder) => forwarder,
                    Err(error) => return drop(started.send(Err(error))),
                };
                // A receiver that is gone is a publisher that was dropped, which has cancelled the
                // token: the supervisor stops.
                let _listening = started.send(Ok(()));
                let _listening = end.send(Supervisor::new(config, forwarder, stopped).run().await);
            });
        };
        let spawned = std::thread::Builder::new()
            .name("outboxd".to_owned())
            .spawn(work);
        let failed =
            |e| Error::fatal(Code::Lifecycle, "no thread for the publisher").with_source(e);
        let thread = spawned.map_err(failed)?;
        starting.await.unwrap_or_else(|_| Err(gone()))?;
        self.running = Some(Running {
            stop,
            ended,
            thread,
        });
        Ok(())
    }

    /// Stops: takes nothing new, waits for Kafka's reports, writes back, confirms, and returns when every task has ended. Takes at
    /// most the operation timeout, after which what is not confirmed comes again at the next start.
    ///
    /// # Errors
    /// `LIFECYCLE_ERROR` when it is not started or the time was not enough; else the error it had ended with before.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(running) = &self.running else {
            return Err(Error::fatal(
                Code::Lifecycle,
                "the publisher is not started",
            ));
        };
        // Without effect when the publisher has ended already; `ended()` then returns its result.
        running.stop.token().cancel();
        self.ended().await
    }

    /// Waits until the publisher has ended and tells why. Cancel-safe.
    ///
    /// # Errors
    /// The error that ended it; `LIFECYCLE_ERROR` when it is not started.
    pub async fn ended(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Err(Error::fatal(
                Code::Lifecycle,
                "the publisher is not started",
            ));
        };
        let result = (&mut running.ended).await.unwrap_or_else(|_| Err(gone()));
        if let Some(running) = self.running.take() {
            // The result was its last act; what is left is closing connections. A panic there has been printed.
            let _joined = tokio::task::spawn_blocking(move || running.thread.join()).await;
        }
        result
    }

    /// What it does at this moment.
    pub fn status(&self) -> Status {
        self.board.read()
    }

    /// The same for others to call, such as the HTTP server.
    pub fn status_handle(&self) -> Arc<dyn Fn() -> Status + Send + Sync> {
        let board = Arc::clone(&self.board);
        Arc::new(move || board.read())
    }

    /// Its counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}

fn gone() -> Error {
    Error::fatal(
        Code::Lifecycle,
        "the publisher's thread has gone without a word",
    )
}

/// The network is asked each turn: a reader under backlog never lets the runtime rest, and the others must be served all the same.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let failed = |e| Error::fatal(Code::Lifecycle, "no runtime for the publisher").with_source(e);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()
        .map_err(failed)
}
