//! The table that row ids belong to: one table of one server, and which session is about it. Pure.

use crate::postgres::Server;

/// The table that work is about was dropped and recreated: the work can never be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its rows are gone")]
pub(crate) struct TableGone;

/// A table of a server. An id that was read here means nothing elsewhere, nor in a table of the
/// same name that was recreated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableLocation {
    pub(crate) server: Server,
    /// Object id of the outbox table.
    pub(crate) table: u32,
}

impl TableLocation {
    /// Whether work about this table may use a session that was opened for the table `opened`.
    pub(crate) fn may_use(&self, opened: &TableLocation, is_closed: bool) -> bool {
        self == opened && !is_closed
    }

    /// Whether a session that has reached this server is one to the table's.
    pub(crate) fn is_on(&self, server: &Server) -> bool {
        self.server.is_same(server)
    }

    /// Whether the table with this object id, which a session on that server has found under the
    /// name, is this one.
    pub(crate) fn is_table(&self, oid: u32) -> bool {
        self.table == oid
    }

    /// A table of the server that has started at `start`.
    #[cfg(test)]
    pub(crate) fn for_tests(timeline: u32, start: &str, table: u32) -> Self {
        let lineage = crate::postgres::Lineage {
            system_id: 7,
            timeline,
        };
        let server = Server {
            lineage,
            postmaster_start: start.to_owned(),
            version: 170_000,
            in_recovery: false,
        };
        TableLocation { server, table }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_used_for_the_table_that_it_was_opened_for_and_for_no_other() {
        let at = TableLocation::for_tests;
        let place = at(1, "a", 5);
        assert!(place.may_use(&place, false) && !place.may_use(&place, true));
        for other in [at(2, "a", 5), at(1, "b", 5), at(1, "a", 6)] {
            assert!(!place.may_use(&other, false), "{other:?}");
            let is_same = place.is_on(&other.server) && place.is_table(other.table);
            assert!(!is_same, "{other:?}");
        }
        assert!(place.is_on(&place.server) && place.is_table(5));
    }
}
