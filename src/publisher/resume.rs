//! What is settled on arrival at a server, before anything is read from it: whether memory is true here, whether there is a slot to
//! read from, and where the stream begins.
//!
//! The order is what keeps ids and positions of another history out: memory is held against lineage, table and position first, and
//! dropped where it does not fit; only then is a row written or a slot looked at. See `lineage`, `slot_loss`
//! and `resume_state` for the decisions.

use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::slot::{self, Slot};
use crate::postgres::{Server, Session, TableShape};
use crate::publisher::instance_lock::LockHolder;
use crate::publisher::lineage::StartPosition;
use crate::publisher::slot_loss::SlotLoss;
use crate::publisher::source::bootstrap::Bootstrap;
use crate::publisher::source::table_scan::TableScan;
use crate::publisher::supervisor::Supervisor;
use crate::replication::ReplicationClient;

impl Supervisor {
    /// From now on everything is about this server and this table. What belongs to another history is dropped. `end` is where the
    /// server's log ends, invalid where nobody streams. `holder` is the server process that has the lock for us.
    pub(in crate::publisher) fn enter(&mut self, place: &TableLocation, end: Lsn, holder: i32) {
        self.forwarder.engine.lock_held();
        let own = self.forwarder.engine.resume_at();
        if let Some(why) = self.resume.arrived(place, holder, own, end) {
            tracing::warn!(%why, "dropping what is in flight");
            self.forwarder.clear();
        }
        self.forwarder.use_place(Some(place.clone()));
        let lineage = place.server.lineage;
        self.forwarder.board.update(|status| {
            status.system_id = Some(lineage.system_id.to_string());
            status.timeline = Some(lineage.timeline);
        });
    }

    /// The slot to stream from, made where there is none, and healed where it is lost. `None`: stop was asked for.
    ///
    /// # Errors
    /// Fatal where the configuration says to halt, or whose slot it is; transient ones are for another attempt.
    pub(in crate::publisher) async fn slot(
        &mut self,
        session: &Session,
        client: &mut ReplicationClient,
        server: &Server,
        shape: &TableShape,
    ) -> Result<Option<Slot>> {
        let name = &self.config.slot;
        let found = slot::read(session, name).await?;
        let reported = self.forwarder.engine.reported();
        let Err(loss) = self.resume.slot_found(found.as_ref(), reported) else {
            return Ok(found);
        };
        let bootstrap = Bootstrap {
            scan: TableScan::new(
                &mut self.forwarder,
                session,
                server.lineage.system_id,
                shape,
                &mut self.slow,
                LockHolder::of_client(client),
                self.stop.clone(),
            )?,
            server,
            loss,
        };
        let Some(handled_rows) = bootstrap.run(found).await? else {
            return Ok(None);
        };
        self.resume.healed(handled_rows);
        let made = slot::read(session, name).await?;
        let gone = || Error::transient(Code::Slot, "the new slot is gone again");
        Ok(Some(made.ok_or_else(gone)?))
    }

    /// Where the stream starts.
    ///
    /// # Errors
    /// Fatal where somebody has moved the slot and the configuration says to halt.
    pub(in crate::publisher) async fn position(
        &mut self,
        slot: &Slot,
        server: &Server,
        session: &Session,
    ) -> Result<Lsn> {
        let confirmed = slot.confirmed_flush.ok_or_else(|| {
            let message = format!("slot {} is still being made", slot.name);
            Error::transient(Code::Slot, message)
        })?;
        let engine = &self.forwarder.engine;
        let (reported, own) = (engine.reported(), engine.resume_at());
        match self.resume.start(confirmed, reported, own) {
            StartPosition::Own(own) => {
                self.resume.resumed([]);
                return Ok(own);
            }
            StartPosition::Slot => {}
            StartPosition::Moved { .. } if self.resume.has_stood_by() => {
                tracing::info!(
                    "another instance has published meanwhile, dropping what is in flight"
                );
                self.forwarder.clear();
            }
            StartPosition::Moved {
                reported,
                confirmed,
            } => {
                let moved = SlotLoss::Moved {
                    reported,
                    confirmed,
                };
                moved.permit(&self.config)?;
                tracing::warn!(slot = %slot.name, "slot {moved}: what it has passed comes from the table");
            }
        }
        let system_id = server.lineage.system_id;
        let begun = self.forwarder.start_over(session, system_id, confirmed);
        self.resume.resumed(begun.await?);
        Ok(confirmed)
    }
}
