//! Polling: the table alone, read repeatedly, where no slot is allowed.
//!
//! A pass goes through the unpublished rows by id, a batch of `OUTBOX_BATCH_SIZE` rows at a time. A
//! full batch is followed by the next at once, and the end of a pass by `OUTBOX_PROCESS_INTERVAL`.
//! Rows are published, awaited and written back as at a first start.
//!
//! `poll_pass` decides which rows a pass sends and when it is over: why no row is sent twice, and
//! none holds up others.
//!
//! One session holds the lock and reads. An instance that loses it reads no more; rows that it has
//! sent are still written back, which is correct for any instance.

use std::convert::Infallible;

use crate::config::{AfterPublish, Backlog, Config};
use crate::error::{Code, Error, Result};
use crate::outbox::preflight;
use crate::postgres::{self, Server, Session, TableShape};
use crate::publisher::instance_lock::{self, Tenure};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::source::poll_pass::{self, AfterBatch, PollPass, SentRows};
use crate::publisher::source::table_scan::TableScan;
use crate::status::Phase;

/// A session that holds the lock, and its server and table.
pub(crate) struct PollSession {
    pub(crate) session: Session,
    pub(crate) server: Server,
    pub(crate) shape: TableShape,
    pub(crate) tenure: Tenure,
}

/// Connects, checks what polling needs, and takes the lock. `None` when another session holds it.
pub(crate) async fn take(config: &Config) -> Result<Option<PollSession>> {
    let session = postgres::connect(&config.database, "outboxd", config.operation_timeout).await?;
    let server = postgres::server(&session).await?;
    let shape = preflight(&session, config).await?;
    if !instance_lock::take_by_sql(&session, &config.slot, shape.oid).await? {
        return Ok(None);
    }
    let tenure = Tenure::begin(session.backend_pid(), &session, config).await?;
    Ok(Some(PollSession {
        session,
        server,
        shape,
        tenure,
    }))
}

/// See the module's head.
pub(crate) struct Poll<'a> {
    pub(crate) scan: TableScan<'a>,
    pub(crate) sent_rows: &'a mut SentRows,
    /// Memory belongs to another server, or to a producer that has failed.
    pub(crate) is_new: bool,
    /// The first session of this process: a table without any marked row is checked before it is
    /// sent.
    pub(crate) is_first: bool,
}

impl Poll<'_> {
    /// The steps before the first row: drops memory that may not be used, and checks that the rows
    /// may be sent.
    ///
    /// # Errors
    /// Of the session, transient: another one begins with the same steps. Fatal if the table is
    /// sent only with `--backlog publish`.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        if poll_pass::starts_over(self.is_new, self.scan.forwarder.engine.is_drained()) {
            self.scan.start_over().await?;
            *self.sent_rows = SentRows::default();
        }
        if self.is_first {
            self.permit().await?;
        }
        Ok(())
    }

    /// Polls until a stop, and then until everything is settled.
    ///
    /// # Errors
    /// Of the session, transient: another one goes on.
    pub(crate) async fn run(mut self) -> Result<()> {
        self.scan.forwarder.board.phase(Phase::Polling);
        tracing::info!(table = %self.scan.config.table, "polling");
        self.scan.count_backlog().await?;
        let Err(interrupt) = self.passes().await;
        match interrupt {
            Interrupt::Stopped => self.scan.finish().await,
            Interrupt::Failed(error) => Err(self.scan.recheck(error).await),
        }
    }

    async fn passes(&mut self) -> Result<Infallible, Interrupt> {
        loop {
            if self.pass().await? {
                self.scan.forwarder.engine.table_was_read();
                self.scan.rest(self.scan.config.process_interval).await?;
            }
        }
    }

    /// One pass; true if it has reached the last unpublished row.
    async fn pass(&mut self) -> Result<bool, Interrupt> {
        let (interval, batch_size) = (
            self.scan.config.process_interval,
            self.scan.config.batch_size,
        );
        let now = self.scan.forwarder.tick();
        let settled = self.scan.forwarder.engine.is_drained();
        let mut pass = PollPass::begin(now, interval, settled, self.sent_rows);
        self.scan.follow_table().await?;
        loop {
            let behind = pass.behind();
            let batch = self.scan.publish_batch(behind, batch_size, self.sent_rows);
            let next = batch.await?.next;
            // The session that has read the batch holds the lock.
            self.scan.forwarder.engine.lock_proven();
            let now = self.scan.forwarder.tick();
            let engine = &self.scan.forwarder.engine;
            match pass.published(now, next, self.sent_rows, || engine.unsettled_rows()) {
                AfterBatch::Next => {}
                AfterBatch::Rest => return Ok(true),
                AfterBatch::StartOver => return Ok(false),
            }
        }
    }

    /// Checks that the unpublished rows may be sent. If rows are deleted, the table cannot show
    /// whether this is a first start.
    async fn permit(&self) -> Result<()> {
        let config = &self.scan.config;
        if config.backlog == Backlog::Publish || config.after_publish == AfterPublish::Delete {
            return Ok(());
        }
        let survey = self.scan.rows.survey(self.scan.session).await?;
        if !survey.is_many_and_never_marked() {
            return Ok(());
        }
        let message = format!("{} has {survey}", config.table);
        Err(Error::fatal(Code::Config, message).with_hint(
            "start with --backlog publish to send them, \
             or set published_at of the rows that must not be sent",
        ))
    }
}
