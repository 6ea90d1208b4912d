//! `replay`: publishes rows of the table once more, beside the running publisher.
//!
//! Owns a session, a producer and an engine of its own. It takes no lock, never touches the slot,
//! and writes nothing to the table: an event is done once Kafka has it. Everything else goes as in
//! the publisher: the same router and checks, the same limits, an outage waits in place, and an
//! event that Kafka refuses is filed as a dead letter. The publisher carries out the request about
//! that letter: its row is published already, so a retry sends the row again, and either request
//! closes the letter and leaves the row as it is.
//!
//! Two rules differ. A key is never parked for a replayed event, since later events of the key are
//! in Kafka already. And requests about dead letters are left to the publisher.
//!
//! Why it can be continued: rows are sent in the order of reading, and the position is the last row
//! before which every row is done.

mod order;
mod pace;
mod scan;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::{AfterPublish, Backlog, Config, OnPoison, Source};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::outbox::replay::{ReplayFilter, ReplayRows, ReplaySummary, resolve};
use crate::outbox::{
    EventSource, OwnedRecord, Read, Router, SlowRows, TableLocation, UnpublishedRows, preflight,
};
use crate::postgres::{self, Server, Session, TableShape};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::replay::order::SentOrder;
use crate::publisher::replay::pace::Pace;
use crate::publisher::replay::scan::Scan;
use crate::publisher::sink::forwarder::Forwarder;
use crate::status::{Status, StatusBoard};

pub use crate::publisher::replay::watch::ReplayWatch;

/// A replay that is ready to run. See the module's head.
pub struct Replay {
    config: Arc<Config>,
    session: Session,
    server: Server,
    shape: TableShape,
    chosen: ReplayRows,
    rows: UnpublishedRows,
    watch: Arc<ReplayWatch>,
}

/// How a replay ended.
#[derive(Debug)]
pub struct Replayed {
    /// Events that Kafka has acknowledged.
    pub sent: u64,
    /// Events that were filed as dead letters.
    pub refused: u64,
    /// Events that may be in Kafka and were not acknowledged in time.
    pub unsettled: u64,
    /// The time that it took.
    pub took: Duration,
    /// The last row before which every row is done; `None` if there is none.
    pub after: Option<String>,
    /// Why it ended.
    pub end: ReplayEnd,
}

/// Why a replay ended.
#[derive(Debug)]
pub enum ReplayEnd {
    /// All rows are done.
    Complete,
    /// A stop was requested.
    Stopped,
    /// An error ended it.
    Failed(Error),
}

/// One of the first records, before they are sent.
#[derive(Debug)]
pub struct FirstRecord {
    /// The row's id.
    pub id: String,
    /// The record, or why there is none.
    pub record: std::result::Result<OwnedRecord, String>,
}

impl Replay {
    /// Connects, checks the table and the rights that a replay needs, and chooses the rows.
    ///
    /// # Errors
    /// Fatal with every problem of table, rights and filter; transient if the server cannot be
    /// reached.
    pub async fn open(config: Config, filter: ReplayFilter) -> Result<Replay> {
        if config.exactly_once.is_some() {
            let message = "a replay is not sent exactly once";
            return Err(Error::fatal(Code::Config, message)
                .with_hint("--delivery at-least-once sends it, for this command alone"));
        }
        let after_publish = config.after_publish;
        let config = Arc::new(of_replay(config));
        let timeout = config.operation_timeout;
        let session = postgres::connect(&config.database, "outboxd replay", timeout).await?;
        let server = postgres::server(&session).await?;
        let shape = preflight(&session, &config).await?;
        let chosen = resolve(&session, &config, &shape, after_publish, filter).await?;
        let rows = chosen.reader(&config, &shape)?;
        let status = Status::new(config.database.describe(), None, &config.table.to_string());
        let watch = Arc::new(ReplayWatch::new(StatusBoard::new(status)));
        Ok(Replay {
            config,
            session,
            server,
            shape,
            chosen,
            rows,
            watch,
        })
    }

    /// The filter with moments in place of times ago, and an end: with it a later replay chooses
    /// the same rows.
    pub fn filter(&self) -> &ReplayFilter {
        &self.chosen.filter
    }

    /// How many rows are chosen; `None` if counting takes longer than half of the operation
    /// timeout.
    ///
    /// # Errors
    /// Of the session.
    pub async fn summary(&self) -> Result<Option<ReplaySummary>> {
        ReplaySummary::read(&self.session, &self.chosen, &self.rows, &self.shape).await
    }

    /// The first records, which are not sent.
    ///
    /// # Errors
    /// Of the session.
    pub async fn first_records(&self, count: usize) -> Result<Vec<FirstRecord>> {
        let after = self.chosen.after.as_ref();
        let mut batch = self.rows.batch(&self.session, after, count).await?;
        let mut router = Router::new(&self.config.mapping);
        router.mark_replayed(&self.chosen.started);
        let (mut slow, mut records) = (SlowRows::default(), Vec::new());
        loop {
            let reads = batch.read(&self.rows, &self.session, &mut slow).await?;
            if reads.is_empty() {
                return Ok(records);
            }
            for read in &reads {
                let record = match read {
                    Read::Row(row) => {
                        let event = self.rows.event(row)?;
                        let record = router.record(&event, EventSource::Table);
                        record
                            .map(|record| OwnedRecord::from(&record))
                            .map_err(|error| error.report())
                    }
                    Read::Unreadable { rejection, .. } => Err(rejection.message.clone()),
                };
                let id = read.id().to_string();
                records.push(FirstRecord { id, record });
            }
        }
    }

    /// How far it has come, while it runs.
    pub fn watch(&self) -> Arc<ReplayWatch> {
        Arc::clone(&self.watch)
    }

    /// Sends the rows, at most `rate` events a second (0: no limit), until all are done or `stop`
    /// is cancelled. Records in flight are then awaited, for the operation timeout at most.
    pub async fn run(self, rate: u32, stop: CancellationToken) -> Replayed {
        let began = Instant::now();
        let mut order = SentOrder::default();
        // Boxed: the future is large.
        let (end, unsettled) = match Box::pin(self.forwarder()).await {
            Ok(mut forwarder) => {
                let pace = Pace::new(rate);
                let scan = self.scan(&mut forwarder, &mut order, pace, stop);
                let ended = Box::pin(scan).await;
                order.settle(&forwarder.engine.unsettled_rows());
                self.watch.follow(&forwarder);
                let unsettled = forwarder.engine.stats().in_flight_count;
                forwarder.clear();
                (ended, unsettled)
            }
            Err(error) => (ReplayEnd::Failed(error), 0),
        };
        let filter = &self.chosen.filter;
        let done = order.done().map(ToString::to_string);
        Replayed {
            sent: self.watch.sent(),
            refused: self.watch.refused(),
            unsettled,
            took: began.elapsed(),
            after: done.or_else(|| filter.after.clone()),
            end,
        }
    }

    /// A forwarder that knows the dead letters of the last minute, and where to file others.
    async fn forwarder(&self) -> Result<Forwarder> {
        let database = self.config.database.database_name();
        let metrics = Arc::new(Metrics::new(database, &self.config.slot));
        let board = Arc::clone(&self.watch.board);
        let mut forwarder = Forwarder::new(&self.config, metrics, board)?;
        forwarder.router.mark_replayed(&self.chosen.started);
        forwarder.engine.limits.resolves = false;
        forwarder.use_place(Some(TableLocation {
            server: self.server.clone(),
            table: self.shape.oid,
        }));
        let system_id = self.server.lineage.system_id;
        let start = Lsn::INVALID;
        forwarder
            .start_over(&self.session, system_id, start)
            .await?;
        Ok(forwarder)
    }

    async fn scan(
        &self,
        forwarder: &mut Forwarder,
        order: &mut SentOrder,
        pace: Pace,
        stop: CancellationToken,
    ) -> ReplayEnd {
        let mut scan = Scan {
            config: Arc::clone(&self.config),
            session: &self.session,
            watch: &self.watch,
            rows: self.rows.clone(),
            chosen: &self.chosen,
            slow: SlowRows::default(),
            forwarder,
            order,
            pace,
            stop,
            shown: Instant::now(),
        };
        let interrupt = match scan.run().await {
            Ok(()) => return ReplayEnd::Complete,
            Err(interrupt) => interrupt,
        };
        let limit = self.config.operation_timeout;
        // After an error, what the engine holds is left to the next replay.
        let sends_held = matches!(interrupt, Interrupt::Stopped);
        // What is not acknowledged by then counts as not sent.
        let finished = tokio::time::timeout(limit, scan.finish(sends_held)).await;
        match (interrupt, finished) {
            (Interrupt::Failed(error), _) => ReplayEnd::Failed(scan.recheck(error).await),
            (Interrupt::Stopped, Ok(Err(error))) => ReplayEnd::Failed(error),
            (Interrupt::Stopped, _) => ReplayEnd::Stopped,
        }
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("chosen", &self.chosen)
            .finish_non_exhaustive()
    }
}

/// The publisher's configuration for a replay: nothing is written back, no slot is used, and no key
/// is parked.
fn of_replay(mut config: Config) -> Config {
    config.after_publish = AfterPublish::Keep;
    config.source = Source::Poll;
    // The rows of the table are read, with `keep` too.
    config.backlog = Backlog::Publish;
    config.log_summary = None;
    if config.on_poison == OnPoison::ParkKey {
        config.on_poison = OnPoison::DeadLetter;
    }
    config
}
