//! Rows of the table on their way through the forwarder: those that are sent, and those that are
//! only marked.

use crate::config::AfterPublish;
use crate::engine::record_checks;
use crate::engine::tracker::InFlight;
use crate::error::Result;
use crate::outbox::{Event, EventSource, Read, RowCopy, RowName, UnpublishedRows};
use crate::publisher::sink::forwarder::Forwarder;

impl Forwarder {
    /// A row to be marked as published without being sent.
    pub(crate) fn mark_unsent(&mut self, row: RowName, xid: u32) {
        if self.config.after_publish != AfterPublish::Keep {
            let unsent = InFlight::of_row(row, xid, self.now);
            self.engine.accept_unsent(self.now, unsent);
        }
    }

    /// The same for a row that the progress record names.
    pub(in crate::publisher) fn mark_recorded(&mut self, row: RowName, xid: u32) {
        let recorded = InFlight::of_row(row, xid, self.now);
        self.engine.accept_recorded(self.now, recorded);
    }

    /// The topic of an event, and what a copy of it there looks like; `None` if it cannot be sent
    /// as it is.
    ///
    /// # Errors
    /// Of the router.
    pub(crate) fn row_copy(&mut self, event: &Event<'_>) -> Result<Option<(String, RowCopy)>> {
        let origin = EventSource::Table;
        let (parts, rejection) = record_checks::prepare(&mut self.router, event, origin)?;
        let record = self.router.assemble(&parts, event, origin);
        let copy = RowCopy::of(event.id.as_bytes(), record.key, record.value);
        Ok(rejection.is_none().then(|| (record.topic.to_owned(), copy)))
    }
}

/// Passes a row of the table to the forwarder, or files it if its mark was removed again and again.
/// The caller has checked that there is room for it.
///
/// # Errors
/// Of the producer, which cannot be used any more.
pub(crate) fn forward_row(
    forwarder: &mut Forwarder,
    rows: &UnpublishedRows,
    read: &Read,
) -> Result<()> {
    match read {
        Read::Row(row) => {
            let (now, name) = (forwarder.tick(), row.name());
            if !forwarder.returning_rows.may_send(now, name) {
                let rejection = rows.mark_removed(&name.id);
                forwarder.unreadable(name.clone(), row.xid(), rejection);
                return Ok(());
            }
            let event = rows.event(row)?;
            forwarder.row(&event, name.clone(), row.xid(), row.created_micros())
        }
        Read::Unreadable {
            row,
            xid,
            rejection,
        } => {
            forwarder.unreadable(row.clone(), *xid, rejection.clone());
            Ok(())
        }
    }
}
