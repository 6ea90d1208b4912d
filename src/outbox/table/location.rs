//! Where the ids of rows mean what the publisher thinks they mean: one table of one server.

use crate::postgres::Server;

/// A table of a server. An id that was read here means nothing elsewhere, nor in a table of the same name that was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableLocation {
    pub(crate) server: Server,
    /// Object id of the outbox table.
    pub(crate) table: u32,
}
