//! A row that was read from the table, on its way to the forwarder.

use crate::error::Result;
use crate::outbox::{Read, UnpublishedRows};
use crate::publisher::sink::forwarder::Forwarder;

/// Hands a row of the table to the forwarder. There has to be room for it.
///
/// # Errors
/// Of the producer, which is of no more use then.
pub(crate) fn forward_row(
    forwarder: &mut Forwarder,
    rows: &UnpublishedRows,
    read: &Read,
) -> Result<()> {
    match read {
        Read::Row(row) => {
            let event = rows.event(row)?;
            forwarder.row(&event, row.xid(), row.created_micros())
        }
        Read::Unreadable { id, xid, rejection } => {
            forwarder.unreadable(*id, *xid, rejection.clone());
            Ok(())
        }
    }
}
