//! Passes rows that were read from the table to the forwarder.

use crate::error::Result;
use crate::outbox::{Read, UnpublishedRows};
use crate::publisher::sink::forwarder::Forwarder;

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
