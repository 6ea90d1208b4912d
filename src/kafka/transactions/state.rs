//! What a producer with transactions keeps of them.

/// How a commit has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitResult {
    Committed,
    /// It is committed. Meanwhile a connection was lost, so a request may still be under way, or
    /// the next transaction could not begin.
    CommittedInDoubt,
    /// Its code, and why it failed. It may be committed or not.
    Failed(String, String),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// librdkafka's errors before the first record of the transaction was sent.
    pub(super) errors_before: Option<u64>,
}

impl Transactions {
    /// No record of the transaction was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors_before.is_none()
    }

    /// The first record is sent, and librdkafka has met this many errors.
    pub(crate) fn sends(&mut self, errors: u64) {
        self.errors_before = Some(errors);
    }
}
