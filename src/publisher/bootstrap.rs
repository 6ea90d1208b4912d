//! Making the slot, and healing a lost one: one procedure, so that every row goes out and none falls between table and stream.
//!
//! 1. Publish what is unpublished in the table, page by page, marking as ever, until a pass finds little: a large backlog costs
//!    neither log nor vacuum, since no slot and no snapshot exists yet.
//! 2. Make a temporary slot with an exported snapshot, import the snapshot, and end the exporting transaction. Postgres waits here for
//!    every transaction that is open anywhere on the server; they are named, and 1. goes on meanwhile.
//! 3. Publish what is unpublished in the snapshot and still unpublished now. What the snapshot does not show, the slot brings.
//! 4. When every row is settled, copy the temporary slot to the real one, which keeps its position.
//!
//! Why a crash loses nothing: before the copy there is no slot, and the next start begins at 1. with what is unmarked; after it,
//! everything older is published and marked, and the stream brings the rest. No state is kept anywhere else. What 1. published
//! while 2. waited may come again in the stream: those ids are remembered until the stream has passed that moment.
//!
//! Where nothing is marked (`keep`) the table cannot tell what was published; the stream then starts at the new slot.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::{AfterPublish, Backlog, Config};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{PAGE, TableRow, UnpublishedRows};
use crate::postgres::slot::{self, Slot};
use crate::postgres::{self, Server, Session};
use crate::publisher::decision::{Intake, Output, WAL_SENDER_TIMEOUT};
use crate::publisher::forwarder::Forwarder;
use crate::publisher::status::Phase;
use crate::publisher::stream::{Already, stop_requested};
use crate::replication::ReplicationClient;

/// A pass over the table that finds fewer rows than this is the last before the slot is made.
const FEW: usize = 1_000;
/// Publishing the snapshot's rows for longer than this gives the slot back: it holds log and vacuum.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);
/// How often the table is read again while Postgres waits for other transactions.
const WAIT_PASS: Duration = Duration::from_secs(1);
/// Rows remembered while Postgres waits. With more, the table is left alone until the slot is there.
const REMEMBERED_MAX: usize = 100_000;
/// Without a word for this long the server gives lock and slot to another instance; we speak three times as often.
const LEASE: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 3);
const SHOW: Duration = Duration::from_millis(250);

/// See the module's head. Holds the lock, and has no slot.
pub(crate) struct Bootstrap<'a> {
    pub(crate) config: &'a Config,
    pub(crate) forwarder: &'a mut Forwarder,
    /// Away while it makes the slot.
    pub(crate) client: Option<&'a mut ReplicationClient>,
    pub(crate) session: &'a Session,
    pub(crate) server: &'a Server,
    pub(crate) rows: UnpublishedRows,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) spoken: Instant,
    /// A slot was in use before.
    pub(crate) had_slot: bool,
}

/// Stop was asked for.
struct Stopped;

/// What a step made, or that it was stopped.
type Step<T> = Result<std::result::Result<T, Stopped>>;

macro_rules! go_on {
    ($step:expr) => {
        match $step? {
            Ok(value) => value,
            Err(Stopped) => return Ok(Err(Stopped)),
        }
    };
}

impl Bootstrap<'_> {
    /// Makes the slot. `None`: stop was asked for. `found` is a slot that is lost.
    ///
    /// # Errors
    /// Transient ones start over; fatal: the configuration says not to heal, or not to publish what is there.
    pub(crate) async fn run(mut self, found: Option<Slot>) -> Result<Option<Already>> {
        match self.procedure(found).await? {
            Ok(already) => Ok(Some(already)),
            Err(Stopped) => {
                // What Kafka has is marked before we go, so that the next start does not send it again.
                while !self.turn().await? {}
                Ok(None)
            }
        }
    }

    async fn procedure(&mut self, found: Option<Slot>) -> Step<Already> {
        self.forwarder.board.phase(Phase::Backlog);
        go_on!(self.settle().await);
        self.forwarder.engine.reset(Lsn::INVALID);
        self.permit(found.as_ref()).await?;
        if let Some(lost) = found {
            let confirmed = lost.confirmed_flush.unwrap_or_default();
            tracing::warn!(slot = %lost.name, %confirmed, "slot is lost, making a new one");
            slot::drop(self.session, &lost.name).await?;
        }
        let temporary = format!("outboxd_new_{:016x}", fastrand::u64(..));
        let already = loop {
            if self.publishes_backlog() {
                while go_on!(self.pass(None).await) >= FEW {}
            }
            let (already, snapshot) = go_on!(self.make_slot(&temporary).await);
            if go_on!(self.publish_snapshot(&snapshot, &already).await) {
                break already;
            }
            tracing::warn!("publishing the snapshot takes too long, giving the slot back");
            self.client()?.drop_slot(&temporary).await?;
        };
        slot::copy(self.session, &temporary, &self.config.slot).await?;
        self.client()?.drop_slot(&temporary).await?;
        let metrics = &self.forwarder.metrics;
        if self.had_slot {
            metrics.slot_heals.inc()
        } else {
            metrics.slot_bootstraps.inc()
        };
        tracing::info!(slot = %self.config.slot, "slot made");
        Ok(Ok(already))
    }

    fn client(&mut self) -> Result<&mut ReplicationClient> {
        self.spoken = Instant::now();
        let away = || {
            Error::transient(
                Code::Slot,
                "the replication connection is still making a slot",
            )
        };
        self.client.as_deref_mut().ok_or_else(away)
    }

    /// What `skip` leaves out is the backlog of a first start. Once a slot was in use, what is unmarked was missed.
    fn publishes_backlog(&self) -> bool {
        let heals = self.had_slot && self.config.after_publish != AfterPublish::Keep;
        heals || matches!(self.config.backlog, Backlog::Auto | Backlog::Publish)
    }

    /// Whether the configuration lets a slot be made here.
    async fn permit(&self, found: Option<&Slot>) -> Result<()> {
        let slot = &self.config.slot;
        if self.had_slot && self.config.after_publish == AfterPublish::Keep {
            let gap = found.and_then(|slot| slot.confirmed_flush);
            let since = gap.map_or_else(String::new, |lsn| format!(", confirmed up to {lsn}"));
            return Err(
                Error::fatal(Code::Slot, format!("slot {slot} is lost{since}")).hint(
                    "nothing is marked in the table, so it cannot tell what was missed: \
                 send that again by hand, drop the slot if it is still there, and start",
                ),
            );
        }
        if matches!(self.config.backlog, Backlog::Publish | Backlog::Skip) {
            return Ok(());
        }
        let survey = self.rows.survey(self.session, FEW as i64 + 1).await?;
        let (count, table) = (survey.unpublished, &self.config.table);
        let halt = self.config.backlog == Backlog::Halt && count > 0;
        let never = count > FEW as i64 && !survey.ever_marked;
        if !halt && !never {
            return Ok(());
        }
        let count = if count > FEW as i64 {
            format!("over {FEW}")
        } else {
            count.to_string()
        };
        let oldest = survey
            .oldest
            .map_or_else(String::new, |at| format!(", the oldest of {at}"));
        let never = if never {
            " and none was ever marked"
        } else {
            ""
        };
        let message = format!("{table} has {count} unpublished rows{oldest}{never}");
        Err(Error::fatal(Code::Config, message).hint(
            "start with --backlog publish to send them, \
             or with --backlog skip to mark them as published unsent",
        ))
    }

    /// One pass over the unpublished rows; how many there were. With `remember`, the ids of those that went out are kept.
    async fn pass(&mut self, mut remember: Option<&mut HashSet<i64>>) -> Step<usize> {
        let (mut after, mut count) = (i64::MIN, 0);
        loop {
            let mut page = self.rows.page(self.session, after).await?;
            loop {
                let rows = page.rows().await?;
                for row in &rows {
                    go_on!(self.publish(row).await);
                    if let Some(remembered) = remember.as_deref_mut() {
                        remembered.insert(row.id());
                    }
                }
                if rows.is_empty() {
                    break;
                }
            }
            after = page.last();
            count += page.count();
            let full = remember
                .as_ref()
                .is_some_and(|ids| ids.len() >= REMEMBERED_MAX);
            if page.count() < PAGE || full {
                break;
            }
        }
        go_on!(self.settle().await);
        Ok(Ok(count))
    }

    /// Makes the temporary slot, publishing from the table while Postgres waits. Returns a session that sees its snapshot.
    async fn make_slot(&mut self, name: &str) -> Step<(Already, Session)> {
        let mut already = Already::default();
        let client = self.client.take();
        let client = client.ok_or_else(|| Error::fatal(Code::Slot, "two slots at a time"))?;
        let created = {
            let mut create = pin!(client.create_temporary_slot(name));
            loop {
                // Given up between two rows at most: what went out is remembered, the rest is in the snapshot.
                let pass = self.while_waiting(&mut already.rows);
                tokio::select! {
                    biased;
                    created = &mut create => break created?,
                    step = pass => go_on!(step),
                }
            }
        };
        self.client = Some(client);
        go_on!(self.settle().await);
        let until = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";
        let row = self
            .session
            .bounded("reading the position", self.session.query_one(until, &[]));
        let until: String = row.await?.get(0);
        let bad = |e| Error::fatal(Code::Slot, "the server's position is malformed").source(e);
        already.until = until.parse().map_err(bad)?;
        let snapshot = self.import(&created.snapshot).await?;
        // Any command ends the transaction that exports the snapshot; who has imported it keeps it.
        self.client()?.query("SELECT 1").await?;
        Ok(Ok((already, snapshot)))
    }

    /// A turn of waiting for Postgres: names what it waits for, and publishes what is new in the table.
    async fn while_waiting(&mut self, published: &mut HashSet<i64>) -> Step<()> {
        tokio::time::sleep(WAIT_PASS).await;
        if stop_requested(&self.stop) {
            return Ok(Err(Stopped));
        }
        let blockers = slot::blockers(self.session).await?.join("; ");
        tracing::warn!(%blockers, "slot waits for open transactions");
        self.forwarder.board.wait(Some(("snapshot", blockers)));
        if self.publishes_backlog() && published.len() < REMEMBERED_MAX {
            go_on!(self.pass(Some(published)).await);
        }
        Ok(Ok(()))
    }

    /// A session in a transaction that sees what was committed where the slot begins.
    async fn import(&self, snapshot: &str) -> Result<Session> {
        let (database, limit) = (&self.config.database, self.config.operation_timeout);
        let session = postgres::connect(database, "outboxd snapshot", limit).await?;
        if postgres::server(&session).await? != *self.server {
            let message = "the snapshot's connection is on another server";
            return Err(Error::transient(Code::Connect, message));
        }
        let import = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
        );
        session
            .bounded("importing the snapshot", session.batch_execute(&import))
            .await?;
        Ok(session)
    }

    /// Publishes what the snapshot shows as unpublished. False when it took too long.
    async fn publish_snapshot(&mut self, snapshot: &Session, already: &Already) -> Step<bool> {
        if self.config.after_publish == AfterPublish::Keep && !self.publishes_backlog() {
            return Ok(Ok(true));
        }
        let began = Instant::now();
        let mut after = i64::MIN;
        loop {
            let mut page = self.rows.page(snapshot, after).await?;
            loop {
                let rows = page.rows().await?;
                if rows.is_empty() {
                    break;
                }
                go_on!(self.publish_unpublished(&rows, already).await);
            }
            after = page.last();
            if page.count() < PAGE || began.elapsed() > SNAPSHOT_LIMIT {
                go_on!(self.settle().await);
                return Ok(Ok(page.count() < PAGE));
            }
        }
    }

    /// Publishes those rows of the snapshot that nobody has published since.
    async fn publish_unpublished(&mut self, rows: &[TableRow], already: &Already) -> Step<()> {
        let ids: Vec<i64> = rows.iter().map(TableRow::id).collect();
        let by_now = self.rows.published(self.session, &ids).await?;
        for row in rows {
            if already.rows.contains(&row.id()) || by_now.contains(&row.id()) {
                continue;
            }
            if self.publishes_backlog() {
                go_on!(self.publish(row).await);
            } else {
                go_on!(self.room().await);
                self.forwarder.mark_unsent(row.id(), row.xid());
            }
        }
        Ok(Ok(()))
    }

    async fn publish(&mut self, row: &TableRow) -> Step<()> {
        go_on!(self.room().await);
        self.forwarder
            .row(&self.rows.event(row)?, row.xid(), row.created_micros())?;
        Ok(Ok(()))
    }

    /// Waits until there is room for another event.
    async fn room(&mut self) -> Step<()> {
        while self.forwarder.engine.intake() != Intake::Open {
            if stop_requested(&self.stop) {
                return Ok(Err(Stopped));
            }
            self.turn().await?;
        }
        Ok(Ok(()))
    }

    /// Waits until everything that went out is acknowledged and written back.
    async fn settle(&mut self) -> Step<()> {
        while !self.turn().await? {
            if stop_requested(&self.stop) {
                return Ok(Err(Stopped));
            }
        }
        Ok(Ok(()))
    }

    /// Does what is due and, unless that settled everything, waits for the next thing. True when everything is settled.
    async fn turn(&mut self) -> Result<bool> {
        let now = self.forwarder.tick();
        self.forwarder.take_reports()?;
        self.forwarder.engine.poll(now);
        while let Some(output) = self.forwarder.engine.output() {
            match output {
                Output::WriteBack(marks) => self.forwarder.write(marks),
                Output::End(end) => return Err(end.into_error(self.config)),
                // Both belong to a session that streams.
                Output::Status { .. } | Output::LookAtWalsender => {}
            }
        }
        if self.forwarder.engine.is_drained() {
            return Ok(true);
        }
        self.forwarder.show();
        if self.client.is_some() && self.spoken.elapsed() > LEASE {
            self.client()?.query("SELECT 1").await?;
        }
        let rest = self.forwarder.rest(SHOW);
        tokio::select! {
            biased;
            () = self.session.closed() => Err(self.session.end_error("publishing from the table")),
            result = self.forwarder.progressed() => result.map(|()| false),
            () = tokio::time::sleep(rest) => Ok(false),
        }
    }
}
