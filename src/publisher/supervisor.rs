//! Runs one session after another, until a stop or an error that needs a person.
//!
//! The steps of an attempt: SQL connection, preflight, replication connection on the same server,
//! lock, slot (created if there is none), position, stream. A failed step ends the attempt, and the
//! next one begins at the first step after a growing delay. The forwarder holds what outlives an
//! attempt (tracker, producer, write-back queue).
//!
//! Where to start. On the lineage of the session before, with the same table, and if no other
//! session has held the lock since, the stream resumes at the end of the last transaction received
//! whole, if `slot.confirmed ≤ last reported ≤ own position ≤ the server's position`: nothing is
//! sent twice, even if the slot lags or fell back in a crash of the server. After a restart of the
//! server it resumes one transaction earlier, and memory is used once that transaction has come
//! again: the files may be an older copy. In every other case memory is invalid: it is dropped, and
//! the slot's own position is the start. A position of another history would skip events silently.
//! `resume` checks this when a session begins, `resume_state` holds what it needs.
//!
//! After the first stream, a broken table or publication is waited for and shown in the status,
//! unless the configuration says to halt. At a first start it is a wrong setting, and ends the
//! publisher.
//!
//! Polling has fewer steps: one SQL connection, preflight, lock, table.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{Config, OnSlotLoss, Source};
use crate::engine::exactly_once::start::StartFacts;
use crate::engine::output::End;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{SlowRows, TableLocation};
use crate::postgres::Session;
use crate::postgres::walsender::synchronous_standby;
use crate::publisher::clock::Moment;
use crate::publisher::connect::Connections;
use crate::publisher::instance_lock::{self, LockHolder};
use crate::publisher::monitor::health_monitor::{HealthMonitor, HealthState};
use crate::publisher::monitor::inspector::Statements;
use crate::publisher::monitor::session_monitor::SessionMonitor;
use crate::publisher::resume_state::ResumeState;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::source::poll::{self, Poll, PollSession};
use crate::publisher::source::poll_pass::SentRows;
use crate::publisher::source::table_scan::TableScan;
use crate::publisher::source::wal_stream::Stream;
use crate::replication::ReplicationClient;
use crate::status::Phase;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(2);
/// How long a server that shuts down may take to receive the last status update.
const LAST_UPDATE_LIMIT: Duration = Duration::from_secs(2);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(in crate::publisher) config: Arc<Config>,
    pub(in crate::publisher) forwarder: Forwarder,
    pub(in crate::publisher) stop: CancellationToken,
    backoff: Backoff,
    pub(in crate::publisher) resume: ResumeState,
    health: HealthState,
    sent_rows: SentRows,
    pub(in crate::publisher) slow: SlowRows,
    /// Before this attempt asked for the lock.
    pub(in crate::publisher) lock_asked: Moment,
    /// A session of this attempt has held the lock.
    pub(in crate::publisher) held_lock: bool,
    /// What was found when this attempt's producer began, with exactly once.
    pub(in crate::publisher) opened: Option<StartFacts>,
}

/// How an attempt ended.
enum Next {
    /// A session ran and has ended.
    Over(End),
    /// The stop came before a session ran.
    StopRequested,
    /// Try again at once, from the first step.
    Again,
}

/// An attempt that holds the lock.
enum Attempt {
    Stream(Box<Connections>),
    Poll(Box<PollSession>),
}

impl Supervisor {
    pub(crate) fn new(config: Arc<Config>, forwarder: Forwarder, stop: CancellationToken) -> Self {
        Supervisor {
            health: HealthState::new(&config),
            config,
            forwarder,
            stop,
            backoff: Backoff::with_jitter(RETRY_FIRST, RETRY_CAP),
            resume: ResumeState::new(),
            sent_rows: SentRows::default(),
            slow: SlowRows::default(),
            lock_asked: Moment::default(),
            held_lock: false,
            opened: None,
        }
    }

    /// Runs until stopped (`Ok`) or until an error needs a person. A stop takes at most the
    /// operation timeout.
    pub(crate) async fn run(mut self) -> Result<()> {
        let stop = self.stop.clone();
        let board = Arc::clone(&self.forwarder.board);
        let metrics = Arc::clone(&self.forwarder.metrics);
        let limit = self.config.operation_timeout;
        let late = async {
            stop.cancelled().await;
            board.phase(Phase::Stopping);
            tokio::time::sleep(limit).await;
        };
        let result = tokio::select! {
            biased;
            result = self.sessions() => result,
            () = late => {
                let message = format!("not stopped within {limit:?}: {}", board.read().rest());
                let hint = "unconfirmed events are sent again at the next start";
                Err(Error::transient(Code::Lifecycle, message).with_hint(hint))
            }
        };
        if result.is_err() {
            self.close_transactions().await;
        }
        match &result {
            Ok(()) => board.phase(Phase::Stopped),
            Err(error) => {
                metrics.error(error.code());
                board.failed(Phase::Failed, error.code().as_str(), error.report());
            }
        }
        result
    }

    async fn sessions(&mut self) -> Result<()> {
        loop {
            if self.forwarder.replace_producer().await {
                self.resume.invalidate();
            }
            let error = match self.attempt().await {
                Ok(Next::Over(End::Stopped)) => return Ok(()),
                Ok(Next::Over(end)) => {
                    if let End::Violated(violation) = &end {
                        self.contradicted(violation);
                    }
                    end.into_error()
                }
                Ok(Next::StopRequested) => return self.forwarder.stop_without_session().await,
                Ok(Next::Again) => continue,
                Err(error) => error,
            };
            self.close_transactions().await;
            self.forwarder.use_place(None);
            let skipped = std::mem::take(&mut self.forwarder.skipped);
            let replaced = self.forwarder.replace_producer().await;
            self.resume.session_over(replaced, skipped);
            if !self.resume.retries(&error) {
                return Err(error);
            }
            if self.stop.is_cancelled() {
                return self.forwarder.stop_without_session().await;
            }
            self.pause(&error).await;
        }
    }

    /// Waits before the next attempt. Delivery reports are taken in meanwhile.
    async fn pause(&mut self, error: &Error) {
        let delay = self.backoff.next_delay();
        let board = Arc::clone(&self.forwarder.board);
        self.forwarder.metrics.error(error.code());
        // An attempt that reaches no server, again and again, is one lost session.
        let lost = std::mem::take(&mut self.held_lock) && self.resume.has_streamed();
        if lost {
            self.forwarder.metrics.reconnects.inc();
        }
        self.forwarder.log_error(error, "no session, retrying");
        let phase = if self.resume.has_streamed() {
            Phase::Reconnecting
        } else {
            Phase::Connecting
        };
        board.failed(phase, error.code().as_str(), error.report());
        board.update(|status| {
            status.reconnects += u64::from(lost);
        });
        board.slot_read(None);
        let on = match error.code() {
            Code::Publish => "kafka",
            _ => "postgres",
        };
        board.wait(Some((on, error.report())));
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
            () = self.forwarder.run_without_lock(None) => {}
        }
    }

    async fn attempt(&mut self) -> Result<Next> {
        let stop = self.stop.clone();
        let mut problems = None;
        self.lock_asked = self.forwarder.moment();
        let connecting = format!("connecting to {}", self.config.database.describe());
        self.forwarder
            .board
            .wait_unless_named("postgres", &connecting);
        // Boxed: the future is large, and connecting is rare.
        let begin = Box::pin(async {
            Ok(match self.config.source {
                Source::Slot => Connections::open(&self.config, &mut problems)
                    .await?
                    .map(|open| Attempt::Stream(Box::new(open))),
                Source::Poll => poll::take(&self.config)
                    .await?
                    .map(|taken| Attempt::Poll(Box::new(taken))),
            })
        });
        let begun = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Next::StopRequested),
            begun = begin => begun,
            () = self.forwarder.run_without_lock(None) => return Ok(Next::Again),
        };
        if let Some(problems) = &problems {
            self.health.catalogs(problems, &self.forwarder);
        }
        let passes = synchronous_standby::is_the_only(problems.as_deref().unwrap_or_default());
        match begun.map_err(|error| self.retry_once_streamed(error, passes))? {
            Some(Attempt::Stream(connections)) => Box::pin(self.stream(*connections)).await,
            Some(Attempt::Poll(taken)) => Box::pin(self.poll(*taken)).await,
            None => self.standby().await,
        }
    }

    /// Waits until an inspection finds the lock free.
    async fn standby(&mut self) -> Result<Next> {
        self.forwarder.board.phase(Phase::Standby);
        let (stop, taken) = (self.stop.clone(), Cell::new(false));
        let board = Arc::clone(&self.forwarder.board);
        let free = instance_lock::until_free(&self.config, &board, self.resume.holder(), &taken);
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Next::StopRequested),
            result = free => result.map(|()| Next::Again),
            () = self.forwarder.run_without_lock(Some(&taken)) => Ok(Next::Again),
        };
        next.map_err(|error| self.retry_once_streamed(error, false))
    }

    /// Makes an error transient that keeps a session from being opened, if one has streamed before.
    /// `passes`: no policy has to decide about it.
    fn retry_once_streamed(&self, error: Error, passes: bool) -> Error {
        let waits = passes || self.config.on_slot_loss == OnSlotLoss::Heal;
        self.resume.opening_failed(error, waits)
    }

    async fn poll(&mut self, taken: PollSession) -> Result<Next> {
        let place = TableLocation {
            server: taken.server.clone(),
            table: taken.shape.oid,
        };
        self.enter(&place, Lsn::INVALID, &taken.tenure);
        self.forwarder.read_pause(&taken.session).await?;
        let mut poll = Poll {
            scan: TableScan::new(
                &mut self.forwarder,
                &taken.session,
                taken.server.lineage.system_id,
                &taken.shape,
                &mut self.slow,
                LockHolder::of_session(&taken.session, self.lock_asked),
                self.stop.clone(),
            )?,
            sent_rows: &mut self.sent_rows,
            is_new: !self.resume.is_valid(),
            is_first: !self.resume.has_streamed(),
        };
        let began = Instant::now();
        poll.begin().await?;
        self.resume.resumed([]);
        self.resume.streaming();
        let ended = poll.run().await;
        if began.elapsed() > RETRY_CAP {
            self.backoff.reset();
        }
        ended.map(|()| Next::Over(End::Stopped))
    }

    /// The creation of the slot may have taken hours, so the server's settings are read again.
    async fn start_stream(
        &mut self,
        session: &Session,
        client: &mut ReplicationClient,
        from: Lsn,
    ) -> Result<()> {
        synchronous_standby::check(session, client.backend_pid()).await?;
        let (slot, publication) = (&self.config.slot, &self.config.publication);
        let started = client.start(slot, from, publication).await;
        started.map_err(|error| self.resume.recheck_slot(error))?;
        self.forwarder.board.phase(Phase::Streaming);
        tracing::info!(%slot, lsn = %from, "streaming");
        self.resume.streaming();
        Ok(())
    }

    async fn stream(&mut self, connections: Connections) -> Result<Next> {
        let Connections {
            session,
            mut client,
            server,
            identity,
            shape,
            tenure,
        } = connections;
        let place = TableLocation {
            server,
            table: shape.oid,
        };
        self.enter(&place, identity.flush, &tenure);
        self.forwarder.read_pause(&session).await?;
        let slot = self
            .slot(&session, &mut client, &place.server, &shape)
            .await?;
        let Some(slot) = slot else {
            return Ok(Next::StopRequested);
        };
        let kept = client.enable_failover(&slot.name, slot.failover).await?;
        self.forwarder.engine.set_failover_slot(kept);
        let from = self.position(&slot, &place.server, &session).await?;
        let config = Arc::clone(&self.config);
        self.start_stream(&session, &mut client, from).await?;
        self.forwarder.board.wal_behind(slot.lag_bytes);
        let began = Instant::now();
        let statements = Statements::new(&config, &shape)?;
        let (health, now) = (&mut self.health, self.forwarder.tick());
        let health_monitor = HealthMonitor::new(health, &config, &place, statements, now);
        let walsender = client.backend_pid();
        let session_monitor =
            SessionMonitor::new(&session, &config.slot, walsender, kept, health_monitor);
        let (forwarder, handled_rows) = (&mut self.forwarder, self.resume.handled_rows());
        let mut stream = Stream::new(
            &config,
            forwarder,
            &mut client,
            session_monitor,
            handled_rows,
            shape.oid,
        );
        let end = stream.run(&self.stop).await;
        let transaction = stream.transaction();
        drop(stream);
        // A stream that breaks as soon as it begins is no progress, and must not be retried ten
        // times a second.
        if began.elapsed() > RETRY_CAP {
            self.backoff.reset();
        }
        let ends_copy = match &end {
            Ok(end) => matches!(end, End::ServerStopping | End::Stopped | End::Halted(_)),
            // The slot can be moved only while no session reads it.
            Err(error) => error.code() == Code::Config,
        };
        if ends_copy {
            // The server's answer does not matter: the position was reported, or events are sent
            // again.
            let limit = tokio::time::Instant::now() + LAST_UPDATE_LIMIT;
            let _ended = client.finish_copy(limit).await;
        }
        if let Err(error) = &end {
            let version = place.server.version;
            self.undecodable(error, transaction, &session, version)
                .await?;
        }
        end.map(Next::Over)
            .map_err(|error| self.resume.recheck_slot(error))
    }
}
