//! How a stream can contradict what was received before.

use crate::lsn::Lsn;

/// The stream did not go on where it had stopped, or went backwards: nothing in memory can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("transaction {found} came where {expected} was cut in two")]
    NotResumed { expected: Lsn, found: Lsn },
    #[error("transaction {0} came again with fewer changes than before")]
    Shortened(Lsn),
    #[error("commit {found} came after {last}")]
    OutOfOrder { last: Lsn, found: Lsn },
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    #[error("transaction {0} began inside another")]
    Nested(Lsn),
}
