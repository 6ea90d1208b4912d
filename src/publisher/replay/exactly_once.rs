//! A replay in Kafka transactions: for a reader of committed records each row is there once.
//!
//! Each transaction has a progress record, which names the last row that was sent and describes the
//! replay: with it any process can go on behind that row, however the one before ended. The
//! transactional id and the record's key are of the slot's replays, and not the publisher's, so
//! neither shuts the other out.
//!
//! No row is sent before a record of this process is committed: until then the replay has not
//! begun, and the record of an earlier one stands. After the last row a record says that all are
//! done.
//!
//! After any trouble with Kafka the producer is given up (E4 of the engine), and an attempt begins:
//! a new producer, the record that is committed by then, the rows behind its row. The rows are read
//! again, so nothing of the attempt before is used but what is known of refused events. `beginning`
//! decides whether this process may go on.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::engine::exactly_once::progress::{Phase, Progress, ProgressKey};
use crate::engine::exactly_once::recorded_replay::{DESCRIPTION_MAX, RecordedReplay};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::replay::{ReplayFilter, ReplayRows, position_of};
use crate::outbox::{ReadPosition, UnpublishedRows};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::replay::beginning::{Beginning, Ended, Us, decide};
use crate::publisher::replay::ended::{Continuation, ReplayEnd, Replayed};
use crate::publisher::replay::order::SentOrder;
use crate::publisher::replay::outbox::Outbox;
use crate::publisher::replay::scan::Scan;
use crate::publisher::sink::forwarder::Forwarder;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(2);

/// A replay that another process has begun and not completed.
pub(super) struct Recorded {
    replay: RecordedReplay,
    /// The last row that was sent.
    after: Option<String>,
    /// Its producer has shut out the other process.
    forwarder: Forwarder,
}

/// What the progress topic has.
pub(super) enum Found {
    Complete { started: String },
    Unfinished(Box<Recorded>),
}

impl Recorded {
    /// Shuts out the replay of this outbox that may be running, and reads the record of the last
    /// one.
    ///
    /// # Errors
    /// Fatal: there is none, or it is of another table, or the brokers refuse. Transient: they do
    /// not answer.
    pub(super) async fn read(outbox: &Outbox) -> Result<Found> {
        let mut forwarder = outbox.forwarder()?;
        let key = key(outbox)?;
        let topic = outbox.progress_topic();
        let found = forwarder.begin_producer(key.clone(), topic).await?;
        let after = found.as_ref().and_then(last_row);
        let Some(replay) = found.and_then(|found| found.replay) else {
            let message =
                format!("there is nothing to continue: topic {topic} has no replay {key}");
            return Err(Error::fatal(Code::Config, message).with_hint(
                "a replay is recorded when it is sent with OUTBOX_DELIVERY=exactly-once",
            ));
        };
        if replay.complete {
            let started = replay.started;
            return Ok(Found::Complete { started });
        }
        let table = outbox.config.table.to_string();
        if replay.table != table {
            let message = format!("the last replay was of table {}, not {table}", replay.table);
            return Err(Error::fatal(Code::Config, message)
                .with_hint("set OUTBOX_TABLE to the table of the replay"));
        }
        Ok(Found::Unfinished(Box::new(Recorded {
            replay: *replay,
            after,
            forwarder,
        })))
    }

    /// Which rows are still to be sent.
    pub(super) fn filter(&self) -> ReplayFilter {
        let filter = self.replay.filter.clone();
        ReplayFilter {
            after: self.after.clone().or(filter.after.clone()),
            ..filter
        }
    }

    /// When it began.
    pub(super) fn started(&self) -> &str {
        &self.replay.started
    }
}

/// Sends these rows, at most `rate` events a second; see the module's head.
pub(super) async fn run(
    outbox: &Outbox,
    rows: (&ReplayRows, &UnpublishedRows),
    recorded: Option<Box<Recorded>>,
    rate: u32,
    stop: CancellationToken,
) -> Replayed {
    let (chosen, rows) = rows;
    let run = format!("{:016x}", fastrand::u64(..));
    let failed = |error| {
        let end = ReplayEnd::Failed(error);
        Replayed::of(&outbox.watch, end, Continuation::Behind)
    };
    let begun = match recorded {
        Some(recorded) => {
            let Recorded {
                replay, forwarder, ..
            } = *recorded;
            Ok((RecordedReplay { run, ..replay }, forwarder, true))
        }
        None => described(outbox, chosen, run)
            .and_then(|replay| Ok((replay, outbox.forwarder()?, false))),
    };
    let (replay, forwarder, continues) = match begun {
        Ok(begun) => begun,
        Err(error) => return failed(error),
    };
    let key = match key(outbox) {
        Ok(key) => key,
        Err(error) => return failed(error),
    };
    let mut attempts = Attempts {
        outbox,
        chosen,
        rows,
        key,
        forwarder,
        rate,
        stop,
        sent_before: replay.sent,
        replay,
        continues,
        is_recorded: false,
        after: chosen.filter.after.clone(),
        continuation: match continues {
            true => Continuation::Recorded,
            false => Continuation::Behind,
        },
    };
    let (end, unsettled) = attempts.run().await;
    Replayed {
        unsettled,
        after: attempts.after,
        ..Replayed::of(&outbox.watch, end, attempts.continuation)
    }
}

/// What the records say of a new replay.
fn described(outbox: &Outbox, chosen: &ReplayRows, run: String) -> Result<RecordedReplay> {
    let replay = RecordedReplay {
        table: outbox.config.table.to_string(),
        filter: chosen.filter.clone(),
        started: chosen.started.clone(),
        run,
        sent: 0,
        complete: false,
    };
    match replay.size() {
        0..=DESCRIPTION_MAX => Ok(replay),
        size => {
            let message = format!(
                "the flags that choose rows take {size} bytes, and a progress record holds \
                 {DESCRIPTION_MAX}"
            );
            Err(Error::fatal(Code::Config, message)
                .with_hint("choose rows by fewer values, in several replays"))
        }
    }
}

/// Whose progress is recorded.
fn key(outbox: &Outbox) -> Result<ProgressKey> {
    match outbox.server.lineage.system_id {
        0 => {
            let message = "the server does not tell its system identifier, which a progress record \
                           names";
            Err(Error::fatal(Code::Config, message).with_hint(
                "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO outboxd's role",
            ))
        }
        system_id => Ok(ProgressKey::of_replay(system_id, &outbox.config.slot)),
    }
}

/// The row that a progress record names.
fn last_row(progress: &Progress) -> Option<String> {
    progress.rows.last().map(|row| row.name().id.to_string())
}

/// One attempt after another; see the module's head.
struct Attempts<'a> {
    outbox: &'a Outbox,
    chosen: &'a ReplayRows,
    rows: &'a UnpublishedRows,
    key: ProgressKey,
    forwarder: Forwarder,
    rate: u32,
    stop: CancellationToken,
    replay: RecordedReplay,
    /// Another process has begun it.
    continues: bool,
    /// This process has committed a record.
    is_recorded: bool,
    /// Events that other processes have sent.
    sent_before: u64,
    /// The last row that was sent, as far as this process knows.
    after: Option<String>,
    continuation: Continuation,
}

impl Attempts<'_> {
    /// Returns how many events may be in Kafka beside those that are counted.
    async fn run(&mut self) -> (ReplayEnd, u64) {
        let mut backoff = Backoff::with_jitter(RETRY_FIRST, RETRY_CAP);
        loop {
            let sent = self.forwarder.published;
            let ended = self.attempt().await;
            // Its outcome is not known, and the next record that is read shows it.
            let unsettled = match self.forwarder.commit {
                Some(_) => self.forwarder.engine.stats().in_flight_count,
                None => 0,
            };
            let committed = self.forwarder.engine.committed_progress();
            self.after = committed.and_then(last_row).or(self.after.take());
            self.forwarder.give_producer_up().await;
            self.outbox.watch.follow(&self.forwarder);
            let error = match ended {
                Ok(end) => return (end, unsettled),
                Err(error) => error,
            };
            if self.forwarder.published > sent {
                backoff.reset();
            }
            let what = "the transaction was not committed, going on behind the last one that was";
            self.forwarder.log_error(&error, what);
            let board = &self.outbox.watch.board;
            board.wait(Some(("kafka", error.report())));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return (ReplayEnd::Stopped, unsettled),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One producer.
    ///
    /// # Errors
    /// Transient: the producer is given up, and the next one goes on.
    async fn attempt(&mut self) -> Result<ReplayEnd> {
        let stop = self.stop.clone();
        let topic = self.outbox.progress_topic();
        let beginning = self.forwarder.begin_producer(self.key.clone(), topic);
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(ReplayEnd::Stopped),
            found = beginning => found,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => return Ok(ReplayEnd::Failed(error)),
        };
        let us = Us {
            replay: &self.replay,
            continues: self.continues,
            is_recorded: self.is_recorded,
        };
        if !self.continues && !self.is_recorded {
            warn_of_unfinished(found.as_ref(), &self.replay);
        }
        match decide(found, self.fresh(), us) {
            Ok(beginning) => self.send(beginning).await,
            Err(ended) => {
                self.continuation = match ended {
                    Ended::Completed | Ended::Continued => Continuation::Elsewhere,
                    Ended::Replaced | Ended::Gone => Continuation::Behind,
                };
                Ok(ReplayEnd::Failed(
                    ended.into_error(&self.outbox.config.slot),
                ))
            }
        }
    }

    /// The progress of a replay that has sent nothing.
    fn fresh(&self) -> Progress {
        let timeline = self.outbox.server.lineage.timeline;
        let publication = self.outbox.config.publication.clone();
        Progress {
            replay: Some(Box::new(self.replay.clone())),
            ..Progress::beginning(timeline, publication, Lsn::INVALID, Phase::Replay)
        }
    }

    async fn send(&mut self, beginning: Beginning) -> Result<ReplayEnd> {
        let (progress, is_new) = match beginning {
            Beginning::Continue(progress) => (progress, false),
            Beginning::Begin(progress) => (progress, true),
        };
        if let Some(replay) = &progress.replay {
            // A commit whose outcome was not known is counted here.
            if is_new {
                self.sent_before = replay.sent;
            }
            self.forwarder.published = replay.sent.saturating_sub(self.sent_before);
            if replay.complete {
                return Ok(ReplayEnd::Complete);
            }
        }
        self.after = last_row(&progress).or(self.after.take());
        let behind = match self.prepared(&progress).await {
            Ok(behind) => behind,
            Err(error) => return Ok(ReplayEnd::Failed(error)),
        };
        let engine = &mut self.forwarder.engine;
        engine.transactions_begun(progress, Lsn::INVALID, is_new);
        let mut order = SentOrder::default();
        let sent = (&mut self.forwarder, &mut order);
        let (outbox, stop) = (self.outbox, self.stop.clone());
        let mut scan = Scan::new(outbox, self.chosen, self.rows, sent, self.rate, stop);
        let sending = async {
            scan.settle().await?;
            self.is_recorded = true;
            self.continuation = Continuation::Recorded;
            scan.run(behind).await?;
            scan.forwarder.engine.replay_complete();
            scan.settle().await
        };
        let end = match sending.await {
            Ok(()) => ReplayEnd::Complete,
            Err(Interrupt::Failed(error)) if scan.forwarder.producer_failed => return Err(error),
            Err(interrupt) => scan.end(interrupt).await,
        };
        // What was not committed when the stop came is left to the one who continues.
        match end {
            ReplayEnd::Failed(_) if self.forwarder.producer_failed && self.stop.is_cancelled() => {
                Ok(ReplayEnd::Stopped)
            }
            end => Ok(end),
        }
    }

    /// Lets the forwarder send rows. Returns the place behind which this progress goes on.
    ///
    /// # Errors
    /// Of the session.
    async fn prepared(&mut self, progress: &Progress) -> Result<Option<ReadPosition>> {
        let Outbox { session, shape, .. } = self.outbox;
        let behind = match last_row(progress) {
            Some(id) => position_of(session, shape, &id).await?,
            None => self.chosen.after.clone(),
        };
        let equipped = self.outbox.equip(&mut self.forwarder, self.chosen).await;
        equipped.map(|()| behind)
    }
}

/// A new replay takes the place of one that has not ended.
fn warn_of_unfinished(found: Option<&Progress>, new: &RecordedReplay) {
    let replay = found.and_then(|found| found.replay.as_deref());
    let is_unfinished = |it: &&RecordedReplay| !it.complete && !it.is_same(new);
    if let Some(replay) = replay.filter(is_unfinished) {
        let RecordedReplay { started, sent, .. } = replay;
        tracing::warn!(
            started,
            sent,
            "an earlier replay is not complete, and cannot be continued any more"
        );
    }
}
