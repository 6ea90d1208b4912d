//! A scan of the table while a session holds the lock: sends rows to Kafka, takes in reports and
//! write-backs.
//!
//! The common part of Bootstrap and polling. The engine decides how much may be in flight, what is
//! written back and when, and what happens to a refused event. While the scan waits it keeps the
//! lock, notices a stop at once, and shows what it waits for. No statement is open on the server
//! meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::{Config, Source};
use crate::engine::output::{Intake, SessionOutput};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{Batch, Read, ReadPosition, RowName, SlowRows, TableState, UnpublishedRows};
use crate::postgres::{Session, TableShape, table_shape};
use crate::publisher::instance_lock::LockHolder;
use crate::publisher::interrupt::Interrupt;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::table_rows::forward_row;
use crate::publisher::source::kafka_copies::KafkaCopies;

/// How often the status is updated during a wait.
pub(in crate::publisher) const SHOW: Duration = Duration::from_millis(250);
/// The most rows that are counted for the log.
const COUNTED_MAX: i64 = 1_000_000;

/// See the module's head.
pub(crate) struct TableScan<'a> {
    pub(crate) config: Arc<Config>,
    pub(crate) forwarder: &'a mut Forwarder,
    pub(crate) session: &'a Session,
    pub(crate) rows: UnpublishedRows,
    pub(crate) lock_holder: LockHolder<'a>,
    stop: CancellationToken,
    system_id: u64,
    slow: &'a mut SlowRows,
    /// Finds the rows that Kafka has, where no mark shows them.
    pub(crate) copies: Option<KafkaCopies>,
    /// When the status was last updated.
    shown: Instant,
}

impl<'a> TableScan<'a> {
    /// A scan of the table of this `shape`, read on `session`, while `lock_holder` holds the lock.
    ///
    /// # Errors
    /// When the table is not an outbox.
    pub(crate) fn new(
        forwarder: &'a mut Forwarder,
        session: &'a Session,
        system_id: u64,
        shape: &TableShape,
        slow: &'a mut SlowRows,
        lock_holder: LockHolder<'a>,
        stop: CancellationToken,
    ) -> Result<Self> {
        let config = Arc::clone(&forwarder.config);
        Ok(TableScan {
            rows: UnpublishedRows::new(&config, shape)?,
            config,
            forwarder,
            session,
            lock_holder,
            stop,
            system_id,
            slow,
            copies: None,
            shown: Instant::now(),
        })
    }

    /// Follows a change of the table's columns: from now on rows are read by its present shape.
    ///
    /// # Errors
    /// When the table was recreated, or is no outbox any more.
    pub(crate) async fn follow_table(&mut self) -> Result<()> {
        if let TableState::Altered(shape) = self.rows.table_state(self.session).await? {
            self.rows = UnpublishedRows::new(&self.config, &shape)?;
            let table = &self.config.table;
            tracing::info!(%table, "table was altered, reading its new columns");
        }
        Ok(())
    }

    /// An error of the scan: transient if the table was altered under its statements.
    pub(crate) async fn recheck(&self, error: Error) -> Error {
        table_shape::recheck(self.session, self.rows.shape(), error).await
    }

    /// Ends the scan when a stop was requested.
    pub(crate) fn check_stop(&self) -> Result<(), Interrupt> {
        if self.stop.is_cancelled() {
            return Err(Interrupt::Stopped);
        }
        Ok(())
    }

    /// Drops everything in memory: what follows is about rows of the table alone.
    pub(crate) async fn start_over(&mut self) -> Result<()> {
        let (session, system_id) = (self.session, self.system_id);
        self.forwarder
            .start_over(session, system_id, Lsn::INVALID)
            .await?;
        Ok(())
    }

    /// Reads the batch of unpublished rows behind a position, and publishes those that `filter`
    /// wants.
    /// Can be cancelled between two rows: `filter` knows at any time which were sent.
    pub(crate) async fn publish_batch(
        &mut self,
        behind: Option<&ReadPosition>,
        limit: usize,
        filter: &mut impl RowFilter,
    ) -> Result<BatchSummary, Interrupt> {
        self.glance().await?;
        // A batch that waits grows old.
        self.room().await?;
        let mut batch = self.rows.batch(self.session, behind, limit).await?;
        let found = BatchSummary {
            count: batch.names().count(),
            next: batch.next(),
        };
        batch.retain(|row| filter.wants(row));
        loop {
            let reads = self.read(&mut batch, self.session).await?;
            if reads.is_empty() {
                return Ok(found);
            }
            for read in &reads {
                self.publish(read).await?;
                filter.sent(read.name());
            }
        }
    }

    /// The next rows of a batch. Reports, write-backs and the lock go on meanwhile, however long
    /// that takes.
    pub(crate) async fn read(&mut self, batch: &mut Batch, session: &Session) -> Result<Vec<Read>> {
        let mut reading = pin!(batch.read(&self.rows, session, self.slow));
        loop {
            carry_out(self.forwarder)?;
            let now = self.forwarder.moment();
            self.lock_holder.keep_beside_a_statement(now).await?;
            let rest = self.forwarder.rest(SHOW);
            tokio::select! {
                biased;
                reads = &mut reading => return reads,
                () = self.forwarder.progressed() => {}
                () = tokio::time::sleep(rest) => show(&self.config, self.forwarder),
            }
        }
    }

    /// Publishes a row as soon as there is room for it, while this instance holds the lock. A row
    /// that is known to be in Kafka is only marked.
    pub(crate) async fn publish(&mut self, read: &Read) -> Result<(), Interrupt> {
        self.room().await?;
        if self.is_in_kafka(read).await? {
            self.forwarder.mark_unsent(read.name().clone(), read.xid());
            return Ok(());
        }
        let now = self.forwarder.moment();
        self.lock_holder.confirm(now).await?;
        forward_row(self.forwarder, &self.rows, read)?;
        Ok(())
    }

    /// Waits until there is room for another event, and for the end of a pause.
    pub(crate) async fn room(&mut self) -> Result<(), Interrupt> {
        while !self.has_room().await? {
            if self.turn().await? {
                self.idle(SHOW).await?;
            }
        }
        Ok(())
    }

    /// Waits until there is room for another event; false if a pause begins instead.
    pub(crate) async fn has_room(&mut self) -> Result<bool, Interrupt> {
        while self.forwarder.engine.intake() != Intake::Open {
            self.check_stop()?;
            if self.forwarder.engine.is_paused() {
                return Ok(false);
            }
            self.turn().await?;
        }
        Ok(true)
    }

    /// Waits until everything that was sent is acknowledged and written back.
    pub(crate) async fn settle(&mut self) -> Result<(), Interrupt> {
        while !self.turn().await? {
            self.check_stop()?;
        }
        Ok(())
    }

    /// The end of a scan that was stopped: the rows that Kafka has are marked as published, so that
    /// the next start does not send them again.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        while !self.turn().await? {}
        Ok(())
    }

    /// Counts the rows to send and logs how many there are.
    ///
    /// # Errors
    /// Of the session.
    pub(crate) async fn count_backlog(&mut self) -> Result<()> {
        let published = self.forwarder.published;
        match self.rows.count(self.session, COUNTED_MAX).await? {
            Some(counted) => self.forwarder.board.backlog(|backlog, now| {
                let rows = counted.rows.unsigned_abs();
                backlog.rows(now, rows, counted.is_cut, published)
            }),
            None => tracing::info!("backlog: not counted, since that takes too long"),
        }
        Ok(())
    }

    /// The rows that were counted have been published.
    pub(crate) fn backlog_is_over(&self) {
        let board = &self.forwarder.board;
        board.backlog(|backlog, now| backlog.rows_over(now));
    }

    /// Waits for this time; reports and write-backs go on meanwhile.
    pub(crate) async fn rest(&mut self, time: Duration) -> Result<(), Interrupt> {
        let began = Instant::now();
        loop {
            self.check_stop()?;
            let settled = self.turn().await?;
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            if settled {
                self.backlog_is_over();
                self.idle(left.min(SHOW)).await?;
            }
        }
    }

    /// Waits while everything is settled, until something is due, for at most this time.
    async fn idle(&mut self, limit: Duration) -> Result<(), Interrupt> {
        show(&self.config, self.forwarder);
        let rest = self.forwarder.rest(limit);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.session.closed() => return Err(self.lost().into()),
            // Requests about dead letters are read while everything is settled.
            () = self.forwarder.progressed() => {}
            () = tokio::time::sleep(rest) => {}
        }
        Ok(())
    }

    /// Does what is due and takes in what is ready, without waiting: reports and write-backs must
    /// go on during a long read.
    async fn glance(&mut self) -> Result<(), Interrupt> {
        self.check_stop()?;
        self.carry_out().await?;
        // While a table is never read to its end, the status is updated nowhere else.
        if self.shown.elapsed() >= SHOW {
            self.shown = Instant::now();
            show(&self.config, self.forwarder);
        }
        tokio::select! {
            biased;
            () = self.session.closed() => return Err(self.lost().into()),
            () = self.forwarder.progressed() => {}
            () = tokio::task::yield_now() => {}
        }
        Ok(())
    }

    /// Does what is due and, unless everything is settled then, waits for the next event. True if
    /// everything is settled.
    pub(crate) async fn turn(&mut self) -> Result<bool> {
        self.carry_out().await?;
        if self.forwarder.engine.is_drained() {
            return Ok(true);
        }
        self.forwarder.show();
        let rest = self.forwarder.rest(SHOW);
        tokio::select! {
            biased;
            () = self.session.closed() => Err(self.lost()),
            () = self.forwarder.progressed() => Ok(false),
            () = tokio::time::sleep(rest) => Ok(false),
        }
    }

    /// Takes in reports, carries out the engine's outputs, and keeps the lock. After a gap the lock
    /// has to be proved first: the outputs may be records that were held.
    pub(super) async fn carry_out(&mut self) -> Result<()> {
        let now = self.forwarder.moment();
        self.lock_holder.confirm(now).await?;
        carry_out(self.forwarder)?;
        let now = self.forwarder.moment();
        self.lock_holder.keep(now).await
    }

    pub(super) fn lost(&self) -> Error {
        self.session.end_error("publishing from the table")
    }
}

/// Takes in what is ready and carries out what is due. Never waits.
///
/// # Errors
/// What ends the scan.
pub(in crate::publisher) fn carry_out(forwarder: &mut Forwarder) -> Result<()> {
    let now = forwarder.tick();
    forwarder.take_reports();
    forwarder.engine.poll(now);
    while let Some(output) = forwarder.output()? {
        // Without a stream the engine outputs no status and no inspection.
        if let SessionOutput::End(end) = output {
            return Err(end.into_error());
        }
    }
    Ok(())
}

fn show(config: &Config, forwarder: &mut Forwarder) {
    match config.source {
        Source::Poll => forwarder.show(),
        // Bootstrap has set what the slot waits for.
        Source::Slot => forwarder.show_figures(),
    }
}

/// Chooses the rows to send and records those that were sent.
pub(crate) trait RowFilter {
    /// Whether this row, which was found unpublished, is to be sent.
    fn wants(&mut self, row: &RowName) -> bool;
    /// The row was sent to Kafka.
    fn sent(&mut self, row: &RowName);
}

/// What a batch contained.
#[derive(Debug)]
pub(crate) struct BatchSummary {
    /// How many rows were found, sent or not.
    pub(crate) count: usize,
    /// The row that the next batch follows; `None` if none can.
    pub(crate) next: Option<ReadPosition>,
}
