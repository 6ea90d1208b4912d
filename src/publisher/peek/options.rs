//! What is asked of `peek`, and how far it has come.

use crate::config::Config;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{Session, TableShape, table_shape};

/// The names of its sessions at the server. The replication session must not count as the
/// synchronous standby that the publisher may be.
pub(super) const APPLICATION_NAME: &str = "outboxd peek";

/// What to show.
#[derive(Debug, Clone, Default)]
pub struct PeekOptions {
    /// The most events.
    pub count: usize,
    /// Begin at this position instead of the slot's.
    pub lsn: Option<Lsn>,
    /// Show events of this topic alone.
    pub only_topic: Option<String>,
    /// Where to read; by default where the publisher would.
    pub from: Option<PeekSource>,
    /// The longest key, value or header that is shown whole, in characters; by default each is.
    pub length_max: Option<usize>,
}

/// Where events are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekSource {
    /// The replication slot.
    Slot,
    /// The unpublished rows of the table.
    Table,
}

/// How far the read has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekEnd {
    /// Where the events were read from.
    pub source: PeekSource,
    /// How many were shown.
    pub shown: usize,
    /// The position at which the slot was read; `None` of the table.
    pub from: Option<Lsn>,
    /// The end of the WAL when the read began; `None` of the table.
    pub to: Option<Lsn>,
    /// Whether there are no more. Otherwise the read ended at its limit.
    pub is_all: bool,
}

/// The shape of the table, if it exists.
pub(super) async fn shape(session: &Session, config: &Config) -> Result<Option<TableShape>> {
    table_shape::read(session, &config.table, &config.mapping).await
}
