//! The publisher: start, stop, status, and why it ended.
//!
//! Owns one thread with a runtime of its own, on which everything that uses Postgres, Kafka and the
//! engine runs. So the short sleeps of the reader under backlog delay no other task, and the state
//! has one owner and no lock. Other threads can read the status and the metrics at any time, and
//! request a stop.
//!
//! ```text
//! supervisor ─▶ resume ─▶ bootstrap ─▶ stream    each attempt: one slot, one session
//!      │  └───▶ poll ────────┴─▶ table scan       where no slot is allowed: one SQL session
//!      └───────────┴────────────────┴─▶ forwarder ─▶ engine (pure)
//! ```
//!
//! `replay` is a process of its own beside that: a read of the table into a forwarder of its own.

mod clock;
mod connect;
mod hand_over;
mod instance_lock;
mod interrupt;
mod lineage;
mod lock_holders;
mod marking_alarm;
mod monitor;
mod partition_keeper;
mod peek;
pub mod replay;
mod resume;
mod resume_state;
mod session_start;
#[cfg(test)]
mod simulation;
mod sink;
mod skip_search;
mod skip_transaction;
mod slot_loss;
mod source;
mod supervisor;
mod transactions;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Source};
use crate::error::{Code, Error, Result};
use crate::metrics::Metrics;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::supervisor::Supervisor;
use crate::status::StatusBoard;

pub use crate::publisher::peek::{
    OpenDeadLetter, PeekEnd, PeekOptions, PeekSource, PeekedEvent, Refusal, Shown, peek,
};
pub use crate::publisher::skip_transaction::{Skipped, skip_transaction};
pub use crate::status::{
    DeadLetterGroup, Flow, Instance, OpenDeadLetters, Pause, Phase, Problem, RecentProblem,
    SlotHealth, Status, TopicFlow, Waiting,
};

/// How long the end waits for calls that do not return, such as to a name server.
const RUNTIME_END_LIMIT: Duration = Duration::from_secs(1);

/// Publishes one outbox table. See the module's head.
pub struct Publisher {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    board: Arc<StatusBoard>,
    running: Option<Running>,
}

struct Running {
    /// A dropped publisher stops too.
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
        let status = Status::new(config.database.describe(), slot, &config.table.to_string());
        Publisher {
            metrics: Arc::new(Metrics::new(config.database.database_name(), &config.slot)),
            config: Arc::new(config),
            board: Arc::new(StatusBoard::new(status)),
            running: None,
        }
    }

    /// Starts publishing in the background. A server that cannot be reached is retried until it
    /// can; [`ended`](Publisher::ended) returns an error that no retry fixes.
    ///
    /// # Errors
    /// `LIFECYCLE_ERROR` when it is already started; `CONFIG_ERROR` when librdkafka refuses a
    /// property.
    pub async fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Err(Error::fatal(
                Code::Lifecycle,
                "the publisher is already started",
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
            let work = async {
                let forwarder = match Forwarder::new(&config, metrics, board) {
                    Ok(forwarder) => forwarder,
                    Err(error) => return drop(started.send(Err(error))),
                };
                // The receiver is gone only if the publisher was dropped, which has cancelled the
                // token: the supervisor stops.
                let _listening = started.send(Ok(()));
                let supervisor = Supervisor::new(config, forwarder, stopped);
                let _listening = end.send(Box::pin(supervisor.run()).await);
            };
            runtime.block_on(work);
            runtime.shutdown_timeout(RUNTIME_END_LIMIT);
        };
        let spawned = std::thread::Builder::new()
            .name("outboxd".to_owned())
            .spawn(work);
        let failed = |e| {
            Error::fatal(Code::Lifecycle, "failed to start the publisher thread").with_source(e)
        };
        let thread = spawned.map_err(failed)?;
        starting.await.unwrap_or_else(|_| Err(gone()))?;
        self.running = Some(Running {
            stop,
            ended,
            thread,
        });
        Ok(())
    }

    /// Stops: takes in no more events, waits for Kafka's reports, writes back, confirms, and
    /// returns when every task has ended. Takes at most the operation timeout; unconfirmed events
    /// are then sent again at the next start.
    ///
    /// # Errors
    /// `LIFECYCLE_ERROR` when it is not started or the time was not enough; otherwise the error
    /// that had ended it before.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(running) = &self.running else {
            return Err(Error::fatal(
                Code::Lifecycle,
                "the publisher is not started",
            ));
        };
        // No effect if the publisher has already ended; `ended()` then returns its result.
        running.stop.token().cancel();
        self.ended().await
    }

    /// Waits until the publisher has ended and returns why. Cancel-safe.
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
            // After the result the thread only closes connections. A panic there has been printed.
            let _joined = tokio::task::spawn_blocking(move || running.thread.join()).await;
        }
        result
    }

    /// The current status.
    pub fn status(&self) -> Status {
        self.board.read()
    }

    /// A function that returns the current status, for another owner such as the HTTP server.
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
    Error::fatal(Code::Lifecycle, "the publisher thread exited unexpectedly")
}

/// The runtime polls the network after each task: a reader under backlog never lets the runtime
/// idle, and the other tasks must be served too.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let failed =
        |e| Error::fatal(Code::Lifecycle, "failed to start the publisher's runtime").with_source(e);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()
        .map_err(failed)
}
