//! The rows of a replay out: reads them, sends them at their pace, and takes in reports.
//!
//! As a scan of the table by the publisher, without a lock and without marks. While it waits, no
//! statement is open on the server.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::output::Intake;
use crate::error::{Error, Result};
use crate::outbox::replay::ReplayRows;
use crate::outbox::{
    BATCH, Batch, Read, ReadPosition, RowName, SlowRows, TableState, UnpublishedRows,
};
use crate::postgres::{Session, table_shape};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::replay::ended::ReplayEnd;
use crate::publisher::replay::order::SentOrder;
use crate::publisher::replay::outbox::Outbox;
use crate::publisher::replay::pace::Pace;
use crate::publisher::replay::watch::ReplayWatch;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::source::table_scan::{SHOW, carry_out};

/// See the module's head.
pub(super) struct Scan<'a> {
    config: Arc<Config>,
    session: &'a Session,
    watch: &'a ReplayWatch,
    rows: UnpublishedRows,
    chosen: &'a ReplayRows,
    slow: SlowRows,
    pub(super) forwarder: &'a mut Forwarder,
    order: &'a mut SentOrder,
    pace: Pace,
    stop: CancellationToken,
    /// When the figures were last shown.
    shown: Instant,
}

impl<'a> Scan<'a> {
    /// Of these rows, at most `rate` events a second. `sent`: what sends them, and where their
    /// order is kept.
    pub(super) fn new(
        outbox: &'a Outbox,
        chosen: &'a ReplayRows,
        rows: &UnpublishedRows,
        sent: (&'a mut Forwarder, &'a mut SentOrder),
        rate: u32,
        stop: CancellationToken,
    ) -> Self {
        let (forwarder, order) = sent;
        Scan {
            config: Arc::clone(&outbox.config),
            session: &outbox.session,
            watch: &outbox.watch,
            rows: rows.clone(),
            chosen,
            slow: SlowRows::default(),
            forwarder,
            order,
            pace: Pace::new(rate),
            stop,
            shown: Instant::now(),
        }
    }

    /// Sends every row behind this place, and waits until all are done.
    pub(super) async fn run(&mut self, behind: Option<ReadPosition>) -> Result<(), Interrupt> {
        let mut behind = behind;
        loop {
            self.follow_table().await?;
            let mut batch = self.next(behind.as_ref()).await?;
            let next = batch.next();
            loop {
                let reads = self.read(&mut batch).await?;
                if reads.is_empty() {
                    break;
                }
                for read in &reads {
                    self.send(read).await?;
                }
            }
            behind = match next {
                Some(next) => Some(next),
                None => break,
            };
        }
        self.settle().await?;
        // A table that was replaced meanwhile has no rows to find.
        self.follow_table().await?;
        Ok(())
    }

    /// Waits until all that was taken in is done.
    pub(super) async fn settle(&mut self) -> Result<(), Interrupt> {
        while !self.turn(SHOW).await? {
            self.check_stop()?;
        }
        Ok(())
    }

    /// Waits for the reports of the records that were sent and, with `sends_held`, until those are
    /// done that the engine holds. A transaction with events is committed. Needs no session.
    async fn finish(&mut self, sends_held: bool) -> Result<()> {
        loop {
            carry_out(self.forwarder)?;
            self.watch.follow(self.forwarder);
            let is_sending =
                self.forwarder.awaits_reports() || self.forwarder.engine.has_uncommitted();
            let holds = sends_held || is_sending;
            if self.forwarder.engine.is_drained() || !holds {
                return Ok(());
            }
            self.forwarder.show();
            let rest = self.forwarder.rest(SHOW);
            tokio::select! {
                biased;
                () = self.forwarder.progressed() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// The end of a scan that was interrupted: what is in flight is awaited, for the operation
    /// timeout at most. What is not acknowledged by then counts as not sent.
    pub(super) async fn end(&mut self, interrupt: Interrupt) -> ReplayEnd {
        let limit = self.config.operation_timeout;
        // After an error, what the engine holds is left to the next replay.
        let sends_held = matches!(interrupt, Interrupt::Stopped);
        let finished = tokio::time::timeout(limit, self.finish(sends_held)).await;
        match (interrupt, finished) {
            (Interrupt::Failed(error), _) => ReplayEnd::Failed(self.recheck(error).await),
            (Interrupt::Stopped, Ok(Err(error))) => ReplayEnd::Failed(error),
            (Interrupt::Stopped, _) => ReplayEnd::Stopped,
        }
    }

    /// An error of the scan: transient if the table was altered under its statements.
    async fn recheck(&self, error: Error) -> Error {
        table_shape::recheck(self.session, self.rows.shape(), error).await
    }

    /// Follows a change of the table's columns.
    async fn follow_table(&mut self) -> Result<()> {
        if let TableState::Altered(shape) = self.rows.table_state(self.session).await? {
            self.rows = self.chosen.reader(&self.config, &shape)?;
        }
        Ok(())
    }

    async fn next(&mut self, behind: Option<&ReadPosition>) -> Result<Batch, Interrupt> {
        self.check_stop()?;
        let mut reading = pin!(self.rows.batch(self.session, behind, BATCH));
        loop {
            carry_out(self.forwarder)?;
            let rest = self.forwarder.rest(SHOW);
            tokio::select! {
                biased;
                batch = &mut reading => return Ok(batch?),
                () = self.forwarder.progressed() => {}
                () = tokio::time::sleep(rest) => self.forwarder.show(),
            }
        }
    }

    async fn read(&mut self, batch: &mut Batch) -> Result<Vec<Read>, Interrupt> {
        self.check_stop()?;
        let mut reading = pin!(batch.read(&self.rows, self.session, &mut self.slow));
        loop {
            carry_out(self.forwarder)?;
            let rest = self.forwarder.rest(SHOW);
            tokio::select! {
                biased;
                reads = &mut reading => return Ok(reads?),
                () = self.forwarder.progressed() => {}
                () = tokio::time::sleep(rest) => self.forwarder.show(),
            }
        }
    }

    /// Sends a row as soon as its time has come and there is room for it. Between the look for room
    /// and the row the engine decides nothing: a transaction may end while the row waits.
    async fn send(&mut self, read: &Read) -> Result<(), Interrupt> {
        self.check_stop()?;
        loop {
            let now = self.forwarder.tick();
            let Err(wait) = self.pace.take(now) else {
                break;
            };
            self.rest(wait).await?;
            self.check_stop()?;
        }
        while self.forwarder.engine.intake() != Intake::Open || self.has_no_place() {
            self.turn(SHOW).await?;
            self.check_stop()?;
        }
        self.forward(read)?;
        self.order.sent(read.name().clone());
        if self.shown.elapsed() >= SHOW {
            self.shown = Instant::now();
            carry_out(self.forwarder)?;
            self.forwarder.show();
            self.watch.follow(self.forwarder);
        }
        Ok(())
    }

    /// Whether too many rows wait behind one that is not done.
    fn has_no_place(&mut self) -> bool {
        if self.order.is_due() {
            self.order.settle(&self.forwarder.engine.unsettled_rows());
        }
        self.order.is_full()
    }

    fn forward(&mut self, read: &Read) -> Result<()> {
        match read {
            Read::Row(row) => {
                let (name, event): (&RowName, _) = (row.name(), self.rows.event(row)?);
                let created = row.created_micros();
                self.forwarder.row(&event, name.clone(), row.xid(), created)
            }
            Read::Unreadable {
                row,
                xid,
                rejection,
            } => {
                self.forwarder
                    .unreadable(row.clone(), *xid, rejection.clone());
                Ok(())
            }
        }
    }

    fn check_stop(&self) -> Result<(), Interrupt> {
        match self.stop.is_cancelled() {
            true => Err(Interrupt::Stopped),
            false => Ok(()),
        }
    }

    /// Does what is due and, unless everything is done then, waits for the next event. True if
    /// everything is done.
    async fn turn(&mut self, most: Duration) -> Result<bool> {
        carry_out(self.forwarder)?;
        self.watch.follow(self.forwarder);
        if self.forwarder.engine.is_drained() {
            return Ok(true);
        }
        self.forwarder.show();
        self.wait(most).await?;
        Ok(false)
    }

    /// Waits for this time, or until something happens.
    async fn rest(&mut self, most: Duration) -> Result<()> {
        carry_out(self.forwarder)?;
        self.wait(most).await
    }

    async fn wait(&mut self, most: Duration) -> Result<()> {
        let rest = self.forwarder.rest(most);
        tokio::select! {
            biased;
            () = self.session.closed() => Err(self.session.end_error("replaying from the table")),
            () = self.forwarder.progressed() => Ok(()),
            () = tokio::time::sleep(rest) => Ok(()),
        }
    }
}
