//! Exactly once, while the slot is created or healed: the rows of the table go out in transactions
//! whose progress records name them, and the slot is recorded before it is there.
//!
//! After a crash the rows of the last record are marked before the table is read again, so none is
//! sent twice. The next transaction begins when those of the one before are marked, so the last
//! record names all that may be missing. The records of a healing also say from which position on
//! events of the lost slot may be in Kafka without a mark, so that a crash forgets nothing of it.

use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::lsn::Lsn;
use crate::publisher::interrupt::Interrupt;
use crate::publisher::source::bootstrap::Bootstrap;

impl Bootstrap<'_> {
    /// Marks what the progress record says is in Kafka, and lets rows be sent. Does nothing at
    /// least once.
    pub(super) async fn begin_transactions(&mut self) -> Result<(), Interrupt> {
        if self.scan.config.exactly_once.is_none() {
            return Ok(());
        }
        let (mut rows, mut position) = (Vec::new(), Lsn::INVALID);
        if let Some(progress) = &mut self.progress {
            (rows, position) = (std::mem::take(&mut progress.rows), progress.position);
        }
        for row in rows {
            self.scan.forwarder.mark_unsent(row.name(), row.xid);
        }
        self.scan.settle().await?;
        self.begin(position, Phase::Table, false);
        Ok(())
    }

    /// The slot is about to be made at this position: a crash behind that then finds that it is
    /// new.
    pub(super) async fn record_new_slot(&mut self, at: Option<Lsn>) -> Result<(), Interrupt> {
        if let (Some(at), Some(_)) = (at, &self.scan.config.exactly_once) {
            self.begin(at, Phase::Copying, true);
            self.scan.settle().await?;
        }
        Ok(())
    }

    fn begin(&mut self, at: Lsn, phase: Phase, is_new: bool) {
        let publication = self.scan.config.publication.clone();
        let timeline = self.server.lineage.timeline;
        let beginning = match &self.progress {
            Some(progress) => progress.followed_by(timeline, publication, at, phase),
            None => Progress::beginning(timeline, publication, at, phase),
        };
        let engine = &mut self.scan.forwarder.engine;
        engine.transactions_begun(beginning, at, is_new);
    }
}
