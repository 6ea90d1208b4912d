//! What of the memory of a publisher is still true at the server that it has reached now. Pure.
//!
//! Positions of the log and ids of rows mean something in one history of one table only. A promotion of a lagging standby, a restored
//! volume and a table that was made anew bring both back with another meaning: a queued write-back would then mark rows that nobody has
//! published, and a position of our own would skip events in silence. So memory is held against what the server says of itself before a
//! slot is read, a row is written or a stream begins, and is dropped as a whole where it does not fit. That costs duplicates and nothing
//! else: what is dropped is either still in the slot or still unpublished in the table.
//!
//! At a switch of timelines what lies before it could be kept. It is dropped as well: to tell the one from the other needs a comparison
//! for each event, and saves a few duplicates in a failover.

use std::fmt;

use crate::lsn::Lsn;
use crate::postgres::Lineage;

/// Where row ids and positions mean what we remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableIdentity {
    pub(crate) lineage: Lineage,
    /// Object id of the outbox table.
    pub(crate) table: u32,
}

/// Why memory means nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryMismatch {
    /// Another cluster, or another timeline of the same: a failover.
    OtherLineage,
    /// The server ends before what it has sent us: an older copy of its files was put in their place.
    Behind { own: Lsn, server: Lsn },
    /// The table was dropped and made anew.
    OtherTable,
}

impl fmt::Display for HistoryMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryMismatch::OtherLineage => f.write_str("the server's history is another one"),
            HistoryMismatch::Behind { own, server } => write!(
                f,
                "the server is at {server} and has sent us {own} before: its files are an older copy"
            ),
            HistoryMismatch::OtherTable => f.write_str("the table was dropped and made anew"),
        }
    }
}

/// Whether what is remembered of `home`, with the stream received up to `own`, is true at `found`, whose log ends at `server` (invalid
/// where nobody streams).
pub(crate) fn compare(
    home: TableIdentity,
    own: Lsn,
    found: TableIdentity,
    server: Lsn,
) -> Result<(), HistoryMismatch> {
    if home.lineage != found.lineage {
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

/// Where the stream may go on, of memory that is true here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartPosition {
    /// Behind the last transaction that was received whole.
    Own(Lsn),
    /// At the slot's position, with everything in memory dropped.
    Slot,
    /// The same, and somebody has moved the slot from what we reported: it may have passed events.
    Moved { reported: Lsn, confirmed: Lsn },
}

/// `confirmed` is the slot's; `reported` is what we told it last, invalid where nothing was told; `own` is where we are. `fresh`: memory is
/// to be dropped in any case.
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
        let anew = TableIdentity { table: 1, ..HOME };
        assert_eq!(
            compare(HOME, lsn(50), anew, lsn(90)),
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
        // In a crash the server forgets what was confirmed last.
        assert_eq!(start(lsn(10), lsn(20), lsn(30), false), own);
        assert_eq!(start(lsn(20), lsn(20), lsn(30), true), StartPosition::Slot);
        assert_eq!(
            start(lsn(20), Lsn::INVALID, lsn(30), false),
            StartPosition::Slot
        );
    }

    #[test]
    fn a_slot_past_what_was_reported_was_moved_by_somebody_else() {
        for fresh in [false, true] {
            let moved = StartPosition::Moved {
                reported: lsn(20),
                confirmed: lsn(21),
            };
            assert_eq!(start(lsn(21), lsn(20), lsn(30), fresh), moved);
        }
        // Who has reported nothing cannot tell.
        assert_eq!(
            start(lsn(21), Lsn::INVALID, lsn(0), true),
            StartPosition::Slot
        );
    }
}
