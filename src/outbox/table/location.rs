//! The table that row ids belong to: one table of one server.

use crate::postgres::Server;

/// A table of a server. An id that was read here means nothing elsewhere, nor in a table of the
/// same name that was recreated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableLocation {
    pub(crate) server: Server,
    /// Object id of the outbox table.
    pub(crate) table: u32,
}
