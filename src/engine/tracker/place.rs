//! The place in the stream, for those who record it.

use crate::engine::tracker::{State, Ticket, Tracker, TransactionName};
use crate::lsn::Lsn;

impl Tracker {
    /// The change that was counted last: the commit position of its transaction, and its index.
    pub(crate) fn last_change(&self) -> Option<(Lsn, u32)> {
        let (transaction, counted) = self.open_transaction()?;
        Some((transaction.commit_lsn, counted.checked_sub(1)?))
    }

    /// The open transaction, and how many of its changes were counted.
    pub(crate) fn open_transaction(&self) -> Option<(TransactionName, u32)> {
        let open = self.transactions.back().filter(|_| self.is_open())?;
        Some((self.history.current(), open.next_index))
    }

    /// The last transaction that was received whole.
    pub(crate) fn last_transaction(&self) -> Option<TransactionName> {
        Some(self.history.last()).filter(|last| !last.commit_lsn.is_invalid())
    }

    /// Whether the event of this ticket is not acknowledged.
    pub(crate) fn is_in_flight(&self, ticket: Ticket) -> bool {
        self.state_of(ticket) == Some(State::InFlight)
    }

    /// Whether this event is known and not settled.
    pub(crate) fn is_unsettled(&self, ticket: Ticket) -> bool {
        self.state_of(ticket).is_some_and(|it| it != State::Settled)
    }

    fn state_of(&self, ticket: Ticket) -> Option<State> {
        let position = ticket.checked_sub(self.first_ticket)?;
        self.entries.get(position as usize).map(|entry| entry.state)
    }
}
