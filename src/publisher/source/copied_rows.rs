//! Whether a row that a scan has read is in Kafka already, where no mark shows it.
//!
//! Only where a lost slot is healed exactly once; see `kafka_copies`.

use crate::engine::exactly_once::copies::Presence;
use crate::error::Result;
use crate::outbox::Read;
use crate::publisher::interrupt::Interrupt;
use crate::publisher::source::kafka_copies::ReadTopic;
use crate::publisher::source::table_scan::{SHOW, TableScan};

impl TableScan<'_> {
    /// Whether a row is known to be in Kafka. Reads its topic back first, if need be.
    pub(super) async fn is_in_kafka(&mut self, read: &Read) -> Result<bool, Interrupt> {
        let (Some(copies), Read::Row(row)) = (&self.copies, read) else {
            return Ok(false);
        };
        let event = self.rows.event(row)?;
        let Some((topic, copy)) = self.forwarder.row_copy(&event)? else {
            return Ok(false);
        };
        match copies.presence(&topic, copy) {
            Presence::There => return Ok(true),
            Presence::Missing => return Ok(false),
            Presence::Unknown => {}
        }
        // Boxed: the future is large, and seldom needed.
        let reading = Box::pin(copies.read(&self.config, &topic));
        let found = self.read_back(reading).await?;
        let Some(copies) = &mut self.copies else {
            return Ok(false);
        };
        copies.take(found)?;
        Ok(copies.presence(&topic, copy) == Presence::There)
    }

    /// Waits for a topic to be read. Reports, write-backs and the lock go on meanwhile.
    async fn read_back(
        &mut self,
        mut reading: impl Future<Output = Result<ReadTopic>> + Unpin,
    ) -> Result<ReadTopic, Interrupt> {
        loop {
            self.check_stop()?;
            self.carry_out().await?;
            let board = &self.forwarder.board;
            board.wait(Some(("kafka", "reading back what it has".to_owned())));
            let rest = self.forwarder.rest(SHOW);
            tokio::select! {
                biased;
                read = &mut reading => return Ok(read?),
                () = self.session.closed() => return Err(self.lost().into()),
                () = self.forwarder.progressed() => {}
                () = tokio::time::sleep(rest) => self.forwarder.show_figures(),
            }
        }
    }
}
