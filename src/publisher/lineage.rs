//! Whether the memory of a publisher is valid at the server that it has reached. Pure.
//!
//! WAL positions and row ids mean something in one history of one table only. The promotion of a
//! lagging standby, a restored volume and a recreated table reuse both with another meaning: a
//! queued write-back would then mark rows that were never published, and the publisher's position
//! would skip events silently. So memory is compared with what the server reports before a slot is
//! read, a row is written or a stream begins, and is dropped whole if they differ. That costs
//! duplicates and nothing else: a dropped event is either still in the slot or still unpublished in
//! the table.
//!
//! Memory from before a timeline switch could be kept. It is dropped too: the distinction would
//! need a comparison for each event, and would save a few duplicates in a failover.

use std::fmt;

use crate::lsn::Lsn;
use crate::postgres::Lineage;

/// The history and table that row ids and positions belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableIdentity {
    pub(crate) lineage: Lineage,
    /// Object id of the outbox table.
    pub(crate) table: u32,
}

/// Why memory is invalid here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryMismatch {
    /// Another cluster, or another timeline of the same: a failover.
    OtherLineage,
    /// The server's WAL ends before a position that it has sent: an older copy of its files was
    /// restored.
    Behind { own: Lsn, server: Lsn },
    /// The table was dropped and recreated.
    OtherTable,
    /// The server was restarted, and nothing proves that its history is the same.
    Restarted,
}

impl fmt::Display for HistoryMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryMismatch::OtherLineage => f.write_str("the server has a different history"),
            HistoryMismatch::Behind { own, server } => write!(
                f,
                "the server is at {server} and has sent {own} before: its files are an older copy"
            ),
            HistoryMismatch::OtherTable => f.write_str("the table was dropped and recreated"),
            HistoryMismatch::Restarted => {
                f.write_str("the server was restarted, perhaps on an older copy of its files")
            }
        }
    }
}

/// Whether memory of `home`, with the stream received up to `own`, is valid at `found`, whose WAL
/// ends at `server` (invalid when polling).
pub(crate) fn compare(
    home: TableIdentity,
    own: Lsn,
    found: TableIdentity,
    server: Lsn,
) -> Result<(), HistoryMismatch> {
    if !home.lineage.agrees_with(found.lineage) {
        return Err(HistoryMismatch::OtherLineage);
    }
    if home.table != found.table {
        return Err(HistoryMismatch::OtherTable);
    }
    if !own.is_invalid() && !server.is_invalid() && own > server {
        return Err(HistoryMismatch::Behind { own, server });
    }
    Ok(())
}

/// Where the stream may start, if memory belongs to this history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartPosition {
    /// Behind the last transaction that was received whole.
    Own(Lsn),
    /// At the slot's position, with memory dropped.
    Slot,
    /// The same. Since the last session the slot was moved from the reported position: by another
    /// instance, which published what it passed, or by another client.
    Moved { reported: Lsn, confirmed: Lsn },
}

/// `confirmed` is the slot's position; `reported` is the position that the server was sent last,
/// invalid if there was none; `own` is the position received. `fresh`: memory has to be dropped in
/// any case.
pub(crate) fn start(confirmed: Lsn, reported: Lsn, own: Lsn, fresh: bool) -> StartPosition {
    if !reported.is_invalid() && confirmed > reported {
        return StartPosition::Moved {
            reported,
            confirmed,
        };
    }
    if fresh || reported.is_invalid() || own < reported {
        return StartPosition::Slot;
    }
    StartPosition::Own(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: TableIdentity = TableIdentity {
        lineage: Lineage {
            system_id: 7,
            timeline: 1,
        },
        table: 16_400,
    };

    fn lsn(position: u64) -> Lsn {
        Lsn::new(position)
    }

    #[test]
    fn memory_is_true_at_the_same_table_of_the_same_history_that_has_not_gone_back() {
        assert_eq!(compare(HOME, lsn(50), HOME, lsn(50)), Ok(()));
        assert_eq!(compare(HOME, lsn(50), HOME, lsn(90)), Ok(()));
        let promoted = TableIdentity {
            lineage: Lineage {
                timeline: 2,
                ..HOME.lineage
            },
            ..HOME
        };
        let other = Err(HistoryMismatch::OtherLineage);
        assert_eq!(compare(HOME, lsn(50), promoted, lsn(90)), other);
        let again = TableIdentity { table: 1, ..HOME };
        assert_eq!(
            compare(HOME, lsn(50), again, lsn(90)),
            Err(HistoryMismatch::OtherTable)
        );
        let (own, server) = (lsn(50), lsn(49));
        let behind = Err(HistoryMismatch::Behind { own, server });
        assert_eq!(compare(HOME, own, HOME, server), behind);
    }

    #[test]
    fn who_polls_remembers_no_position() {
        assert_eq!(compare(HOME, Lsn::INVALID, HOME, Lsn::INVALID), Ok(()));
    }

    #[test]
    fn the_stream_goes_on_only_from_a_slot_that_stands_where_we_left_it_or_fell_back() {
        let own = StartPosition::Own(lsn(30));
        assert_eq!(start(lsn(20), lsn(20), lsn(30), false), own);
        // A crash of the server loses the last confirmed positions.
        assert_eq!(start(lsn(10), lsn(20), lsn(30), false), own);
        assert_eq!(start(lsn(20), lsn(20), lsn(30), true), StartPosition::Slot);
        assert_eq!(
            start(lsn(20), Lsn::INVALID, lsn(30), false),
            StartPosition::Slot
        );
        assert_eq!(start(lsn(20), lsn(20), lsn(19), false), StartPosition::Slot);
    }

    #[test]
    fn a_slot_past_what_was_reported_was_moved_by_another_session() {
        for fresh in [false, true] {
            let moved = StartPosition::Moved {
                reported: lsn(20),
                confirmed: lsn(21),
            };
            assert_eq!(start(lsn(21), lsn(20), lsn(30), fresh), moved);
        }
        // Without a reported position this cannot be known.
        assert_eq!(
            start(lsn(21), Lsn::INVALID, lsn(0), true),
            StartPosition::Slot
        );
    }
}
