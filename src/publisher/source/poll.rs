//! Polling: the table alone, read repeatedly, where no slot is allowed.
//!
//! A pass goes through the unpublished rows by id, a batch of `OUTBOX_BATCH_SIZE` rows at a time. A
//! full batch is followed by the next at once, and the end of a pass by `OUTBOX_PROCESS_INTERVAL`.
//! Rows are published, awaited and written back as at a first start.
//!
//! Why one process sends no row twice: a row that was sent to Kafka stays unpublished in the table
//! until it is written back, which takes long if the row is locked. So the ids of sent rows are
//! kept, and skipped, until a pass no longer finds them unpublished, or everything is settled. Why
//! no row holds up others: a pass goes on by id behind rows that stay unpublished, and it starts
//! over after a while even if it finds no end, since transactions commit in another order than they
//! take ids.
//!
//! One session holds the lock and reads. An instance that loses it reads no more; rows that it has
//! sent are still written back, which is correct for any instance.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::config::{AfterPublish, Backlog, Config};
use crate::error::{Code, Error, Result};
use crate::outbox::{HolderNumber, RowName, RowSet, preflight};
use crate::postgres::{self, Server, Session, TableShape};
use crate::publisher::instance_lock::{self, Tenure};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::source::table_scan::{RowFilter, TableScan};
use crate::status::Phase;

/// A pass that takes longer starts over: rows that were committed late have lower ids than it has
/// reached.
const PASS_LIMIT: Duration = Duration::from_secs(5);
/// A pass that has sent this many rows starts over too, which drops the ids of those that are
/// marked by then.
const SENT_MAX: usize = 100_000;

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
    let tenure = Tenure {
        process: session.backend_pid(),
        number: HolderNumber::draw(&session, &config.table.dead_letter()).await?,
    };
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
        if self.is_new || self.scan.forwarder.engine.is_drained() {
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
                self.scan.rest(self.scan.config.process_interval).await?;
            }
        }
    }

    /// One pass; true if it has reached the last unpublished row.
    async fn pass(&mut self) -> Result<bool, Interrupt> {
        let began = Instant::now();
        let (interval, batch_size) = (
            self.scan.config.process_interval,
            self.scan.config.batch_size,
        );
        self.sent_rows
            .begin(self.scan.forwarder.engine.is_drained());
        self.scan.follow_table().await?;
        let mut from = i64::MIN;
        loop {
            let batch = self.scan.publish_batch(from, batch_size, self.sent_rows);
            let Some(next) = batch.await?.next else {
                self.sent_rows.end(i64::MAX);
                return Ok(true);
            };
            from = next;
            let long = began.elapsed() > PASS_LIMIT.max(interval);
            if long || self.sent_rows.count() >= SENT_MAX {
                self.sent_rows.end(from - 1);
                return Ok(false);
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

/// The rows that were sent to Kafka and may still be unpublished in the table. Pure.
#[derive(Debug, Default)]
pub(crate) struct SentRows {
    /// Sent by earlier passes.
    before: RowSet,
    /// Sent, or found again, in this pass.
    now: RowSet,
}

impl SentRows {
    /// A pass begins. If everything is `settled`, all unpublished rows are to be sent, even if they
    /// were sent before.
    pub(crate) fn begin(&mut self, settled: bool) {
        self.before.take(&mut self.now);
        if settled {
            self.before.clear();
        }
    }

    /// A pass ends that has read every unpublished row up to this id: the other rows that were sent
    /// before are marked by now.
    pub(crate) fn end(&mut self, seen_up_to: i64) {
        self.before.drop_up_to(seen_up_to);
        self.before.take(&mut self.now);
    }

    /// How many rows this pass has sent or found again.
    fn count(&self) -> usize {
        self.now.len()
    }
}

impl RowFilter for SentRows {
    fn wants(&mut self, row: RowName) -> bool {
        if !self.before.contains(row) {
            return true;
        }
        self.now.insert(row);
        false
    }

    fn sent(&mut self, row: RowName) {
        self.now.insert(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass over these unpublished rows, up to this id; returns the rows that it sends.
    fn pass(sent_rows: &mut SentRows, rows: &[i64], up_to: i64) -> Vec<i64> {
        sent_rows.begin(false);
        let mut sent = Vec::new();
        for id in rows {
            let row = RowName::of_id(*id);
            if sent_rows.wants(row) {
                sent_rows.sent(row);
                sent.push(*id);
            }
        }
        sent_rows.end(up_to);
        sent
    }

    #[test]
    fn a_row_that_stays_unpublished_is_sent_once_and_one_that_comes_back_again() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1, 2, 3], i64::MAX), [1, 2, 3]);
        assert_eq!(pass(&mut sent_rows, &[2, 4], i64::MAX), [4]);
        assert_eq!(pass(&mut sent_rows, &[2], i64::MAX), Vec::<i64>::new());
        assert_eq!(sent_rows.before.len(), 1);
        // Row 4 was marked, and its mark was removed.
        assert_eq!(pass(&mut sent_rows, &[2, 4], i64::MAX), [4]);
    }

    #[test]
    fn a_pass_that_started_over_forgets_nothing_that_it_did_not_see() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1, 2, 9], i64::MAX), [1, 2, 9]);
        assert_eq!(pass(&mut sent_rows, &[2, 3], 3), [3]);
        assert_eq!(
            pass(&mut sent_rows, &[2, 3, 9], i64::MAX),
            Vec::<i64>::new()
        );
    }

    #[test]
    fn what_is_unpublished_when_all_is_settled_is_sent_again() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1], i64::MAX), [1]);
        sent_rows.begin(true);
        assert!(sent_rows.wants(RowName::of_id(1)));
    }

    #[test]
    fn a_pass_that_was_given_up_keeps_what_it_sent() {
        let mut sent_rows = SentRows::default();
        sent_rows.begin(false);
        sent_rows.sent(RowName::of_id(5));
        assert_eq!(pass(&mut sent_rows, &[5, 6], i64::MAX), [6]);
    }
}
