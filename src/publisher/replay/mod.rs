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
//! before which every row is done. `exactly_once` says how a replay is sent in transactions.

mod beginning;
mod ended;
mod exactly_once;
mod order;
mod outbox;
mod pace;
mod scan;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::outbox::replay::{ReplayFilter, ReplayRows, ReplaySummary};
use crate::outbox::{EventSource, OwnedRecord, Read, Router, SlowRows, UnpublishedRows};
use crate::publisher::replay::exactly_once::{Found, Recorded};
use crate::publisher::replay::order::SentOrder;
use crate::publisher::replay::outbox::Outbox;
use crate::publisher::replay::scan::Scan;

pub use crate::publisher::replay::ended::{Continuation, ReplayEnd, Replayed};
pub use crate::publisher::replay::watch::ReplayWatch;

/// A replay that is ready to run. See the module's head.
pub struct Replay {
    outbox: Outbox,
    chosen: ReplayRows,
    rows: UnpublishedRows,
    /// It goes on with this, exactly once.
    recorded: Option<Box<Recorded>>,
}

/// The last replay that was sent exactly once.
#[derive(Debug)]
pub enum LastReplay {
    /// It ended early, and is ready to go on.
    Unfinished(Box<Replay>),
    /// All its rows are done.
    Complete {
        /// When it began.
        started: String,
    },
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
        let outbox = Outbox::open(config).await?;
        let chosen = outbox.choose(filter).await?;
        Replay::of(outbox, chosen, None)
    }

    /// The last replay that was sent exactly once: connects, and reads its progress record. A
    /// process that still sends it is shut out.
    ///
    /// # Errors
    /// Fatal when there is no record, or the delivery is not exactly once, and with every problem
    /// of table and rights; transient if a server cannot be reached.
    pub async fn last(config: Config) -> Result<LastReplay> {
        if config.exactly_once.is_none() {
            let message =
                "--continue goes on by a progress record, which a replay has exactly once";
            return Err(Error::fatal(Code::Config, message).with_hint(
                "set OUTBOX_DELIVERY=exactly-once, or use the command with --after that the \
                 replay has printed",
            ));
        }
        let outbox = Outbox::open(config).await?;
        // Boxed: the future is large.
        match Box::pin(Recorded::read(&outbox)).await? {
            Found::Complete { started } => Ok(LastReplay::Complete { started }),
            Found::Unfinished(recorded) => {
                let mut chosen = outbox.choose(recorded.filter()).await?;
                chosen.started = recorded.started().to_owned();
                let replay = Replay::of(outbox, chosen, Some(recorded))?;
                Ok(LastReplay::Unfinished(Box::new(replay)))
            }
        }
    }

    fn of(outbox: Outbox, chosen: ReplayRows, recorded: Option<Box<Recorded>>) -> Result<Replay> {
        let rows = chosen.reader(&outbox.config, &outbox.shape)?;
        Ok(Replay {
            outbox,
            chosen,
            rows,
            recorded,
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
        let Outbox { session, shape, .. } = &self.outbox;
        ReplaySummary::read(session, &self.chosen, &self.rows, shape).await
    }

    /// The first records, which are not sent.
    ///
    /// # Errors
    /// Of the session.
    pub async fn first_records(&self, count: usize) -> Result<Vec<FirstRecord>> {
        let after = self.chosen.after.as_ref();
        let Outbox {
            config, session, ..
        } = &self.outbox;
        let mut batch = self.rows.batch(session, after, count).await?;
        let mut router = Router::new(&config.mapping);
        router.mark_replayed(&self.chosen.started);
        let (mut slow, mut records) = (SlowRows::default(), Vec::new());
        loop {
            let reads = batch.read(&self.rows, session, &mut slow).await?;
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
        Arc::clone(&self.outbox.watch)
    }

    /// Sends the rows, at most `rate` events a second (0: no limit), until all are done or `stop`
    /// is cancelled. Records in flight are then awaited, for the operation timeout at most.
    pub async fn run(self, rate: u32, stop: CancellationToken) -> Replayed {
        let began = Instant::now();
        // Boxed: the futures are large.
        let replayed = match self.outbox.config.is_exactly_once() {
            true => {
                let rows = (&self.chosen, &self.rows);
                let run = exactly_once::run(&self.outbox, rows, self.recorded, rate, stop);
                Box::pin(run).await
            }
            false => Box::pin(self.at_least_once(rate, stop)).await,
        };
        Replayed {
            took: began.elapsed(),
            ..replayed
        }
    }

    async fn at_least_once(self, rate: u32, stop: CancellationToken) -> Replayed {
        let Replay {
            outbox,
            chosen,
            rows,
            ..
        } = &self;
        let mut order = SentOrder::default();
        // Boxed: the future is large.
        let forwarder = Box::pin(async {
            let mut forwarder = outbox.forwarder()?;
            outbox.equip(&mut forwarder, chosen).await?;
            Ok(forwarder)
        });
        let (end, unsettled) = match forwarder.await {
            Ok(mut forwarder) => {
                let sent = (&mut forwarder, &mut order);
                let mut scan = Scan::new(outbox, chosen, rows, sent, rate, stop);
                let end = match scan.run(chosen.after.clone()).await {
                    Ok(()) => ReplayEnd::Complete,
                    Err(interrupt) => scan.end(interrupt).await,
                };
                order.settle(&forwarder.engine.unsettled_rows());
                outbox.watch.follow(&forwarder);
                let unsettled = forwarder.engine.stats().in_flight_count;
                forwarder.clear();
                (end, unsettled)
            }
            Err(error) => (ReplayEnd::Failed(error), 0),
        };
        let done = order.done().map(ToString::to_string);
        let after = done.or_else(|| chosen.filter.after.clone());
        Replayed {
            unsettled,
            after,
            ..Replayed::of(&outbox.watch, end, Continuation::Behind)
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
