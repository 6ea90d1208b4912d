//! Creates the slot, and heals a lost one, by one procedure, so that every row is published and
//! none is missed between table and stream.
//!
//! 1. Publish the unpublished rows of the table, page by page, until a pass finds few. No slot and
//!    no snapshot exists yet, so a large backlog holds back neither WAL nor vacuum.
//! 2. Create a temporary slot with an exported snapshot, import the snapshot, and end the exporting
//!    transaction. Postgres waits here for every transaction that is open on the server; these are
//!    reported, and step 1 goes on meanwhile.
//! 3. Publish the rows that are unpublished in the snapshot and still are now. The slot delivers
//!    the events that the snapshot does not show.
//! 4. When every row is settled, copy the temporary slot to the real one, which keeps its position.
//!
//! Why a crash loses nothing: before the copy there is no slot, and the next start begins at step 1
//! with the unpublished rows; after it, everything older is published and marked, and the stream
//! delivers the rest. No state is kept anywhere else. The stream may repeat rows that step 1 has
//! published while step 2 waited: their ids are kept until the stream has passed that moment.
//!
//! With `keep` the table does not show which rows were published; the stream then starts at the new
//! slot.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::config::{AfterPublish, Backlog, OnSlotLoss};
use crate::engine::exactly_once::progress::Progress;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{BATCH, Read, RowId, RowName, RowSet, SAVEPOINT};
use crate::postgres::slot::{self, Slot};
use crate::postgres::{self, Server, Session, snapshot};
use crate::publisher::interrupt::Interrupt;
use crate::publisher::slot_loss::SlotLoss;
use crate::publisher::source::answer_watch::AnswerWatch;
use crate::publisher::source::bootstrap_steps::{BootstrapSteps, Done, Step};
use crate::publisher::source::event_decoder::HandledRows;
use crate::publisher::source::table_scan::{RowFilter, TableScan};
use crate::replication::ReplicationClient;
use crate::status::Phase;

/// After this time the slot is released and created again: slot and snapshot hold back WAL and
/// vacuum.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);
/// How often the table is read again while Postgres waits for other transactions.
const WAIT_PASS: Duration = Duration::from_secs(1);
/// The most ids that are kept while Postgres waits. After that the table is not read until the slot
/// exists.
const REMEMBERED_MAX: usize = 100_000;

/// See the module's head. Holds the lock, and has no slot.
pub(crate) struct Bootstrap<'a> {
    /// Its lock holder is a replication connection, which is lent out while it creates the slot.
    pub(crate) scan: TableScan<'a>,
    pub(crate) server: &'a Server,
    /// How the earlier slot was lost; `None` at a first start.
    pub(crate) loss: Option<SlotLoss>,
    /// The events in memory can be settled.
    pub(crate) settles: bool,
    /// Exactly once: the last progress record, if there is one.
    pub(crate) progress: Option<Progress>,
}

impl Bootstrap<'_> {
    /// Creates the slot. `None`: a stop was requested. `found` is the lost slot, if it still
    /// exists.
    ///
    /// # Errors
    /// Transient ones start over. Fatal if the configuration says not to heal, or not to publish
    /// the backlog.
    pub(crate) async fn run(mut self, found: Option<Slot>) -> Result<Option<HandledRows>> {
        match self.procedure(found).await {
            Ok(handled_rows) => Ok(Some(handled_rows)),
            Err(Interrupt::Stopped) => {
                self.scan.finish().await?;
                Ok(None)
            }
            Err(Interrupt::Failed(error)) => Err(self.scan.recheck(error).await),
        }
    }

    async fn procedure(&mut self, found: Option<Slot>) -> Result<HandledRows, Interrupt> {
        self.scan.forwarder.board.phase(Phase::Backlog);
        self.loss.iter().for_each(|loss| self.name(loss));
        let steps = self.steps(found.is_some());
        let slot = self.scan.config.slot.clone();
        let temporary = format!("outboxd_new_{:016x}", fastrand::u64(..));
        let (mut step, mut created) = (steps.first(), None);
        loop {
            let done = match step {
                Step::Settle => {
                    self.scan.settle().await?;
                    Done::Settled
                }
                Step::SettleInTime => {
                    self.settle_in_time().await?;
                    Done::Settled
                }
                Step::StartOver => {
                    self.scan.start_over().await?;
                    self.begin_transactions().await?;
                    Done::StartedOver
                }
                Step::Permit => {
                    self.permit().await?;
                    self.announce().await?;
                    Done::Permitted
                }
                Step::DropLost => {
                    slot::drop(self.scan.session, &slot).await?;
                    Done::LostDropped
                }
                Step::Pass => Done::Passed(self.pass(None).await?),
                Step::Create => {
                    self.scan.backlog_is_over();
                    created = Some(self.create_slot(&temporary).await?);
                    Done::Created
                }
                Step::PublishSnapshot => match self.publish_snapshot(created.as_ref()).await? {
                    true => Done::SnapshotPublished,
                    false => Done::OutOfTime,
                },
                Step::Release => {
                    tracing::warn!("the snapshot cannot be published in time, releasing the slot");
                    created = None;
                    self.client()?.drop_slot(&temporary).await?;
                    Done::Released
                }
                Step::Copy => {
                    self.record_new_slot(created.as_ref().map(|(.., at)| *at))
                        .await?;
                    slot::copy(self.scan.session, &temporary, &slot).await?;
                    self.client()?.drop_slot(&temporary).await?;
                    break;
                }
            };
            step = steps.next(done);
        }
        let metrics = &self.scan.forwarder.metrics;
        match self.loss {
            Some(_) => metrics.slot_heals.inc(),
            None => metrics.slot_bootstraps.inc(),
        };
        tracing::info!(%slot, "slot created");
        let handled_rows = created.map(|(handled_rows, ..)| handled_rows);
        Ok(handled_rows.unwrap_or_default())
    }

    fn steps(&self, has_lost: bool) -> BootstrapSteps {
        let config = &self.scan.config;
        BootstrapSteps {
            settles: self.settles,
            halts: self.loss.as_ref().is_some_and(|loss| loss.halts(config)),
            has_lost,
            publishes_backlog: self.publishes_backlog(),
        }
    }

    /// Says at once that the slot is lost: what comes next may have to wait for Kafka.
    fn name(&self, loss: &SlotLoss) {
        let slot = &self.scan.config.slot;
        tracing::warn!(%slot, %loss, "the slot is lost");
        let (board, code) = (&self.scan.forwarder.board, Code::Slot.as_str());
        board.failed(Phase::Backlog, code, format!("slot {slot} {loss}"));
    }

    async fn settle_in_time(&mut self) -> Result<(), Interrupt> {
        let limit = self.scan.config.operation_timeout;
        timeout(limit, self.scan.settle()).await.unwrap_or(Ok(()))
    }

    /// Says what comes next, and how many rows it will send.
    async fn announce(&mut self) -> Result<(), Interrupt> {
        if self.loss.is_some() {
            let slot = &self.scan.config.slot;
            tracing::warn!(%slot, "creating a new slot, and publishing from the table");
        }
        if self.publishes_backlog() {
            self.scan.count_backlog().await?;
        }
        Ok(())
    }

    fn client(&mut self) -> Result<&mut ReplicationClient> {
        let message = "the replication connection is still creating a slot";
        let lent = || Error::transient(Code::Slot, message);
        self.scan.lock_holder.client().ok_or_else(lent)
    }

    /// Whether unpublished rows are sent. `skip` is about the backlog of a first start: after a
    /// loss, unpublished rows were missed.
    fn publishes_backlog(&self) -> bool {
        self.loss.is_some() || matches!(self.scan.config.backlog, Backlog::Auto | Backlog::Publish)
    }

    /// Checks that the configuration permits a new slot here. After a loss the backlog does not
    /// matter: its rows were missed.
    async fn permit(&self) -> Result<()> {
        let config = &self.scan.config;
        if let Some(loss) = &self.loss {
            return loss.permit(config);
        }
        if matches!(config.backlog, Backlog::Publish | Backlog::Skip) {
            return Ok(());
        }
        let survey = self.scan.rows.survey(self.scan.session).await?;
        // `--on-slot-loss halt` applies here too: a slot that was dropped while no publisher ran
        // left no trace.
        let asks = config.backlog == Backlog::Halt || config.on_slot_loss == OnSlotLoss::Halt;
        let halt = asks && !survey.is_empty();
        if !halt && !survey.is_many_and_never_marked() {
            return Ok(());
        }
        let message = format!("{} has {survey}", config.table);
        Err(Error::fatal(Code::Config, message).with_hint(
            "start with --backlog publish to send them, \
             or with --backlog skip to mark them as published without sending",
        ))
    }

    /// One pass over the unpublished rows; returns their number. With `remember`, the ids of the
    /// sent rows are kept.
    async fn pass(&mut self, mut remember: Remember<'_>) -> Result<usize, Interrupt> {
        let (mut behind, mut count) = (None, 0);
        loop {
            let from = behind.as_ref();
            let found = self.scan.publish_batch(from, BATCH, &mut remember).await?;
            count += found.count;
            let full = remember
                .as_ref()
                .is_some_and(|ids| ids.len() >= REMEMBERED_MAX);
            match found.next {
                Some(next) if !full => behind = Some(next),
                _ => break,
            }
        }
        self.scan.settle().await?;
        Ok(count)
    }

    /// Creates the temporary slot, and publishes from the table while Postgres waits. Returns a
    /// session that sees its snapshot.
    async fn create_slot(&mut self, name: &str) -> Result<Created, Interrupt> {
        let mut handled_rows = HandledRows::default();
        let client = self.scan.lock_holder.take_client();
        let client =
            client.ok_or_else(|| Error::fatal(Code::Slot, "a slot is already being created"))?;
        let mut watch = AnswerWatch::new(client.backend_pid());
        let created = {
            let mut create = pin!(client.create_temporary_slot(name));
            loop {
                // A pass is cancelled only between two rows: the ids of sent rows are kept, and the
                // snapshot has the others.
                let pass = self.while_waiting(&mut watch, &mut handled_rows.rows);
                tokio::select! {
                    biased;
                    created = &mut create => break created?,
                    step = pass => step?,
                }
            }
        };
        self.scan.lock_holder.return_client(client);
        // The next command of the client ends the export, a keepalive too: nothing is waited for
        // before the import.
        let session = self.import(&created.snapshot).await?;
        self.client()?.query(snapshot::END_EXPORT).await?;
        self.scan.settle().await?;
        handled_rows.until = postgres::log_position(self.scan.session).await?;
        Ok((handled_rows, session, created.consistent_point))
    }

    /// One turn of waiting for Postgres: reports the transactions that it waits for, and publishes
    /// new rows of the table.
    async fn while_waiting(
        &mut self,
        watch: &mut AnswerWatch,
        published: &mut RowSet,
    ) -> Result<(), Interrupt> {
        tokio::time::sleep(WAIT_PASS).await;
        self.scan.check_stop()?;
        watch.look(self.scan.session).await?;
        let blockers = slot::blockers(self.scan.session).await?.join("; ");
        self.scan.forwarder.board.wait(Some(("snapshot", blockers)));
        // Exactly once, a crash would forget what the stream brings a second time.
        let publishes = self.publishes_backlog() && self.scan.config.exactly_once.is_none();
        if publishes && published.len() < REMEMBERED_MAX {
            self.pass(Some(published)).await?;
        }
        Ok(())
    }

    /// A session in a transaction that sees the commits before the slot's start.
    async fn import(&self, exported: &str) -> Result<Session> {
        let (database, limit) = (
            &self.scan.config.database,
            self.scan.config.operation_timeout,
        );
        let session = postgres::connect(database, "outboxd snapshot", limit).await?;
        if !self.server.is_same(&postgres::server(&session).await?) {
            let message = "the snapshot's connection is on another server";
            return Err(Error::transient(Code::Connect, message));
        }
        snapshot::import(&session, exported, SAVEPOINT).await?;
        Ok(session)
    }

    /// Publishes the unpublished rows of the snapshot. False if that took too long.
    async fn publish_snapshot(&mut self, created: Option<&Created>) -> Result<bool, Interrupt> {
        let Some((handled_rows, snapshot, _)) = created else {
            return Ok(false);
        };
        if self.scan.config.after_publish == AfterPublish::Keep && !self.publishes_backlog() {
            return Ok(true);
        }
        let began = Instant::now();
        let mut behind = None;
        loop {
            let batch = self.scan.rows.batch_of_snapshot(snapshot, behind.as_ref());
            let mut batch = batch.await?;
            loop {
                let reads = self.scan.read(&mut batch, snapshot).await?;
                if reads.is_empty() {
                    break;
                }
                if !self.publish_unpublished(&reads, handled_rows).await? {
                    return self.scan.settle().await.map(|()| false);
                }
            }
            let next = batch.next();
            match next {
                Some(next) if began.elapsed() <= SNAPSHOT_LIMIT => behind = Some(next),
                next => {
                    self.scan.settle().await?;
                    return Ok(next.is_none());
                }
            }
        }
    }

    /// Publishes the rows of the snapshot that were not published since. False if a pause begins:
    /// neither slot nor snapshot may wait for its end.
    async fn publish_unpublished(
        &mut self,
        reads: &[Read],
        handled_rows: &HandledRows,
    ) -> Result<bool, Interrupt> {
        let ids: Vec<RowId> = reads.iter().map(|read| read.id().clone()).collect();
        let by_now = self.scan.rows.published(self.scan.session, &ids).await?;
        for read in reads {
            let name = read.name();
            if handled_rows.rows.contains(name) || by_now.contains(name) {
                continue;
            }
            if !self.scan.has_room().await? {
                return Ok(false);
            }
            if self.publishes_backlog() {
                self.scan.publish(read).await?;
            } else {
                self.scan.forwarder.mark_unsent(name.clone(), read.xid());
            }
        }
        Ok(true)
    }
}

/// The rows that were published meanwhile, a session that sees the snapshot of the slot, and the
/// slot's position.
type Created = (HandledRows, Session, Lsn);

/// The sent rows, where they are kept.
type Remember<'a> = Option<&'a mut RowSet>;

impl RowFilter for Remember<'_> {
    fn wants(&mut self, _row: &RowName) -> bool {
        true
    }

    fn sent(&mut self, row: &RowName) {
        if let Some(remembered) = self {
            remembered.insert(row.clone());
        }
    }
}
