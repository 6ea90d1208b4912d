//! How a stream can contradict what was received before.

use crate::lsn::Lsn;

/// The stream did not continue where it stopped, or went backwards: memory is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("expected transaction {expected}, received {found}")]
    NotResumed { expected: Lsn, found: Lsn },
    #[error("received {found} where {expected} was received before the server's restart")]
    OtherHistory { expected: Lsn, found: Lsn },
    #[error("transaction {0} was sent again with fewer changes than before")]
    Shortened(Lsn),
    #[error("commit {found} received after {last}")]
    OutOfOrder { last: Lsn, found: Lsn },
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    #[error("transaction {0} began inside another")]
    Nested(Lsn),
}
