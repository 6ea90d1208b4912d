//! Carries out the first steps of a session: drops memory that is not valid, reads or creates the
//! slot, and begins at the right position.
//!
//! The order keeps out ids and positions of another history: memory is compared with lineage, table
//! and position first, and dropped if they differ; only then is a row written or a slot read. After
//! a restart of the server the same lineage is no proof, and no row is written until the stream has
//! repeated the last transaction that was received (see the tracker's `history`).
//! `session_start` makes the decisions, by `lineage`, `slot_loss` and `resume_state`.

use std::fmt::Display;
use std::sync::Arc;

use crate::engine::tracker::violation::Violation;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::slot::{self, Slot};
use crate::postgres::{self, Server, Session, TableShape};
use crate::publisher::hand_over;
use crate::publisher::instance_lock::{LockHolder, Tenure};
use crate::publisher::session_start::{
    BeforeCreation, Cleared, PositionStep, SessionStart, SlotStep,
};
use crate::publisher::source::bootstrap::Bootstrap;
use crate::publisher::source::table_scan::TableScan;
use crate::publisher::supervisor::Supervisor;
use crate::replication::ReplicationClient;

impl Supervisor {
    fn session_start(&mut self) -> SessionStart<'_> {
        SessionStart {
            engine: &mut self.forwarder.engine,
            resume: &mut self.resume,
        }
    }

    /// A session holds the lock on this server, for this table. Drops memory that belongs to
    /// another history. `end` is where the server's WAL ends, invalid when polling.
    pub(in crate::publisher) fn enter(&mut self, place: &TableLocation, end: Lsn, tenure: &Tenure) {
        if let Some(why) = self.session_start().entered(place, end, tenure) {
            self.clear(&why);
        }
        self.held_lock = true;
        self.forwarder.use_place(Some(place.clone()));
        let lineage = place.server.lineage;
        self.forwarder.board.has_session();
        self.forwarder.board.update(|status| {
            status.system_id = (lineage.system_id != 0).then(|| lineage.system_id.to_string());
            status.timeline = (lineage.timeline != 0).then_some(lineage.timeline);
        });
    }

    /// Drops memory together with the records in flight.
    fn clear(&mut self, why: &dyn Display) {
        tracing::warn!(%why, "dropping in-flight events");
        self.forwarder.clear();
    }

    /// The stream contradicts what was received before.
    pub(in crate::publisher) fn contradicted(&mut self, violation: &Violation) {
        if self.session_start().contradicted(violation) {
            self.clear(violation);
        }
    }

    /// The slot to stream from: created if there is none, and healed if it is lost. `None`: a stop
    /// was requested.
    ///
    /// # Errors
    /// Fatal if the configuration says to halt, or the slot is not usable; transient errors are for
    /// another attempt.
    pub(in crate::publisher) async fn slot(
        &mut self,
        session: &Session,
        client: &mut ReplicationClient,
        server: &Server,
        shape: &TableShape,
    ) -> Result<Option<Slot>> {
        let config = Arc::clone(&self.config);
        let name = &config.slot;
        self.open_transactions(session, client, server).await?;
        let found = slot::read(session, name).await?;
        let is_first = !self.resume.has_streamed();
        let start = config.start_lsn.filter(|_| is_first);
        let SlotStep::Create { loss, memory } = self.session_start().slot_read(found.as_ref())
        else {
            if let (Some(start), Some(slot)) = (start, &found)
                && hand_over::continues(start, slot)?
            {
                tracing::info!(slot = name, "the slot has passed the start position");
            }
            return Ok(found);
        };
        self.permit_new_slot()?;
        if let BeforeCreation::Cleared(why) = &memory {
            self.clear(why);
        }
        if let (Some(start), None) = (start, &loss) {
            return hand_over::take_over(session, &config, start)
                .await
                .map(Some);
        }
        let (copies, loss) = self.healing(loss);
        let progress = self.opened.as_ref().and_then(|it| it.progress.clone());
        let mut scan = TableScan::new(
            &mut self.forwarder,
            session,
            server.lineage.system_id,
            shape,
            &mut self.slow,
            LockHolder::of_client(client, self.lock_asked),
            self.stop.clone(),
        )?;
        scan.copies = copies;
        let bootstrap = Bootstrap {
            scan,
            server,
            loss,
            progress,
            settles: memory == BeforeCreation::Settled,
        };
        let Some(handled_rows) = bootstrap.run(found).await? else {
            return Ok(None);
        };
        self.resume.healed(handled_rows);
        let created = slot::read(session, name).await?;
        let disappeared = || Error::transient(Code::Slot, "the new slot disappeared");
        Ok(Some(created.ok_or_else(disappeared)?))
    }

    /// Where the stream starts.
    ///
    /// # Errors
    /// Transient: the slot is still being created. Those of the session.
    pub(in crate::publisher) async fn position(
        &mut self,
        slot: &Slot,
        server: &Server,
        session: &Session,
    ) -> Result<Lsn> {
        let confirmed = slot.confirmed_flush.ok_or_else(|| {
            let message = format!("slot {} is still being created", slot.name);
            Error::transient(Code::Slot, message)
        })?;
        let from = match self.session_start().position(confirmed) {
            PositionStep::Resume(from) => from,
            PositionStep::StartOver { cleared } => {
                self.start_over(slot, confirmed, server, session, cleared)
                    .await?;
                self.begin_transactions(confirmed)?;
                confirmed
            }
        };
        if self.forwarder.engine.is_failover_slot() {
            let written = postgres::emit_logical_message(session).await?;
            self.forwarder.engine.hold_for_standbys(written);
        }
        Ok(from)
    }

    /// Drops memory, and begins at the slot's position.
    async fn start_over(
        &mut self,
        slot: &Slot,
        confirmed: Lsn,
        server: &Server,
        session: &Session,
        cleared: Option<Cleared>,
    ) -> Result<()> {
        match &cleared {
            None => {}
            Some(Cleared::History(why)) => self.clear(why),
            Some(Cleared::Moved {
                reported,
                confirmed,
                by_hand,
            }) => {
                let why = match by_hand {
                    true => "another client moved the slot",
                    false => {
                        "another instance published meanwhile, or another client moved the slot"
                    }
                };
                tracing::warn!(
                    slot = %slot.name,
                    %reported,
                    %confirmed,
                    "{why}, dropping in-flight events"
                );
                self.forwarder.clear();
            }
        }
        let system_id = server.lineage.system_id;
        let filed = self.forwarder.start_over(session, system_id, confirmed);
        self.resume.resumed(filed.await?);
        if self.config.read_back && !self.config.is_exactly_once() {
            // No earlier holder of the lock has received what is committed behind this.
            let end = match self.forwarder.engine.lock_held_at() {
                Some(held_at) => held_at,
                None => postgres::log_position(session).await?,
            };
            self.forwarder.engine.read_back(confirmed, end);
        }
        Ok(())
    }
}
