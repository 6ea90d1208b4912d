//! Decides before a session reads anything from a server: whether memory is valid here, whether
//! there is a slot to read from, and where the stream begins.
//!
//! The order keeps out ids and positions of another history: memory is compared with lineage, table
//! and position first, and dropped if they differ; only then is a row written or a slot read. After
//! a restart of the server the same lineage is no proof, and no row is written until the stream has
//! repeated the last transaction that was received (see the tracker's `history`).
//! `lineage`, `slot_loss` and `resume_state` make the decisions.

use std::fmt::Display;
use std::sync::Arc;

use crate::engine::violation::Violation;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::slot::{self, Slot};
use crate::postgres::{Server, Session, TableShape};
use crate::publisher::instance_lock::LockHolder;
use crate::publisher::lineage::{HistoryMismatch, StartPosition};
use crate::publisher::resume_state::Arrival;
use crate::publisher::source::bootstrap::Bootstrap;
use crate::publisher::source::table_scan::TableScan;
use crate::publisher::supervisor::Supervisor;
use crate::replication::ReplicationClient;

impl Supervisor {
    /// A session holds the lock on this server, for this table. Drops memory that belongs to
    /// another history. `end` is where the server's WAL ends, invalid when polling. `holder` is the
    /// server process that holds the lock.
    pub(in crate::publisher) fn enter(&mut self, place: &TableLocation, end: Lsn, holder: i32) {
        self.forwarder.engine.lock_held();
        let own = self.forwarder.engine.resume_at();
        match self.resume.arrived(place, holder, own, end) {
            Arrival::Known => {}
            Arrival::Restarted => self.forwarder.engine.doubt(),
            Arrival::Elsewhere(why) => self.drop_memory(&why),
        }
        self.forwarder.use_place(Some(place.clone()));
        let lineage = place.server.lineage;
        self.forwarder.board.wait(None);
        self.forwarder.board.update(|status| {
            status.system_id = Some(lineage.system_id.to_string());
            status.timeline = Some(lineage.timeline);
        });
    }

    /// Drops everything that belongs to another history, or cannot be shown to belong to this one.
    fn drop_memory(&mut self, why: &dyn Display) {
        tracing::warn!(%why, "dropping in-flight events");
        self.forwarder.clear();
        self.resume.forget();
    }

    /// The same, unless the server is still the one that was seen, or has proven its history.
    fn drop_unproven(&mut self) {
        if !self.forwarder.engine.is_proven() {
            self.drop_memory(&HistoryMismatch::Restarted);
        }
    }

    /// The stream contradicts what was received before.
    pub(in crate::publisher) fn contradicted(&mut self, violation: &Violation) {
        self.resume.invalidate();
        if matches!(violation, Violation::OtherHistory { .. }) {
            self.drop_memory(violation);
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
        let found = slot::read(session, name).await?;
        let reported = self.forwarder.engine.reported();
        let Err(loss) = self.resume.slot_found(found.as_ref(), reported) else {
            return Ok(found);
        };
        self.drop_unproven();
        let bootstrap = Bootstrap {
            scan: TableScan::new(
                &mut self.forwarder,
                session,
                server.lineage.system_id,
                shape,
                &mut self.slow,
                LockHolder::of_client(client, self.lock_asked),
                self.stop.clone(),
            )?,
            server,
            loss,
        };
        let Some(handled_rows) = bootstrap.run(found).await? else {
            return Ok(None);
        };
        self.resume.healed(handled_rows);
        let created = slot::read(session, name).await?;
        let disappeared = || Error::transient(Code::Slot, "the new slot disappeared");
        Ok(Some(created.ok_or_else(disappeared)?))
    }

    /// Where the stream starts. A slot that was moved since the last session is no error: this
    /// instance did not hold the lock, so another one may have published.
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
        let engine = &mut self.forwarder.engine;
        let (reported, own) = (engine.reported(), engine.resume_at());
        match self.resume.start(confirmed, reported, own) {
            StartPosition::Own(own) if engine.is_proven() => {
                self.resume.resumed([]);
                return Ok(own);
            }
            StartPosition::Own(_) => {
                if let Some(proof) = engine.expect_proof(confirmed) {
                    self.resume.resumed([]);
                    return Ok(proof);
                }
            }
            StartPosition::Slot => {}
            StartPosition::Moved {
                reported,
                confirmed,
            } => {
                tracing::warn!(
                    slot = %slot.name,
                    %reported,
                    %confirmed,
                    "another instance published meanwhile, or another client moved the slot, \
                     dropping in-flight events"
                );
                self.forwarder.clear();
            }
        }
        self.drop_unproven();
        let system_id = server.lineage.system_id;
        let filed = self.forwarder.start_over(session, system_id, confirmed);
        self.resume.resumed(filed.await?);
        Ok(confirmed)
    }
}
