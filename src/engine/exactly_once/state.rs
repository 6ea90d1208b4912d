//! What the engine keeps for exactly once.

use crate::engine::exactly_once::history::HistoryCheck;
use crate::engine::exactly_once::limits::TransactionLimits;
use crate::engine::exactly_once::recorded_row::RecordedRow;
use crate::engine::exactly_once::suspects::Suspects;
use crate::engine::exactly_once::transaction::{Sent, Transactions};
use crate::engine::tracker::Ticket;

/// See the module `exactly_once`.
#[derive(Debug)]
pub(crate) struct ExactlyOnce {
    pub(super) transactions: Transactions,
    pub(super) suspects: Suspects,
    pub(super) history: HistoryCheck,
    /// The events of the transaction that was given up last, whose reports may follow.
    pub(super) refused_of: Vec<Sent>,
    /// Rows of the table that are in Kafka by a progress record, and may not be marked yet.
    pub(super) unmarked_rows: Vec<(Ticket, RecordedRow)>,
}

impl ExactlyOnce {
    pub(crate) fn new(limits: TransactionLimits) -> Self {
        ExactlyOnce {
            transactions: Transactions::new(limits),
            suspects: Suspects::default(),
            history: HistoryCheck::default(),
            refused_of: Vec::new(),
            unmarked_rows: Vec::new(),
        }
    }

    /// Drops all but the suspects: a new producer begins at the progress record.
    pub(crate) fn reset(&mut self) {
        self.transactions.forget();
        self.history = HistoryCheck::default();
        self.refused_of = Vec::new();
        self.unmarked_rows = Vec::new();
    }
}
