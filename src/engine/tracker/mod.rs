//! Which position may be confirmed: the transactions and events that are not settled.
//!
//! Owns the queue of received transactions, one small entry for each event that is not yet settled,
//! and the two positions that follow from them: [`flushed`](Tracker::flushed), which may be
//! reported, and [`complete`](Tracker::complete), where a new session of the same lineage may
//! start. No clock, socket or log; every step is O(1), and memory is bounded by what is in flight.
//!
//! Why it is correct. A transaction enters at the back when its Begin is read and leaves at the
//! front when its Commit was read and every event of it is settled. Postgres sends transactions in
//! commit order, so those that left are a prefix of the WAL, and `flushed` is the end of the last
//! one that left. A keepalive says that everything below its position was sent before it: it counts
//! for the last transaction in the queue, if that is closed, and counts at once only if the queue
//! is empty. No position is ever computed; all come from the server.

mod entry;
mod history;
mod place;
pub(crate) mod violation;

use std::collections::VecDeque;

pub(super) use crate::engine::tracker::entry::State;
pub(crate) use crate::engine::tracker::entry::{ENTRY_BYTES, InFlight, Ticket};
use crate::engine::tracker::entry::{Entry, NO_TRANSACTION, Open, Transaction, entry_mut};
use crate::engine::tracker::history::History;
pub(crate) use crate::engine::tracker::history::TransactionName;
use crate::engine::tracker::violation::Violation;
use crate::lsn::Lsn;
use crate::outbox::RowName;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Tracker {
    flushed: Lsn,
    received: Lsn,
    complete: Lsn,
    history: History,
    transactions: VecDeque<Transaction>,
    /// Number of `transactions[0]`.
    first_transaction: u64,
    open: Open,
    /// Changes of the open transaction that an earlier session already handed over.
    skip: u32,
    pub(super) entries: VecDeque<Entry>,
    /// Ticket of `entries[0]`.
    pub(super) first_ticket: Ticket,
    /// No entry before this ticket is in flight.
    oldest_in_flight: Ticket,
    in_flight_count: u64,
    in_flight_bytes: usize,
}

impl Tracker {
    /// An empty tracker; `start` is the slot's confirmed position.
    pub(crate) fn new(start: Lsn) -> Self {
        Tracker {
            flushed: start,
            received: start,
            complete: start,
            history: History::new(),
            transactions: VecDeque::new(),
            first_transaction: 0,
            open: Open::No,
            skip: 0,
            entries: VecDeque::new(),
            first_ticket: 0,
            oldest_in_flight: 0,
            in_flight_count: 0,
            in_flight_bytes: 0,
        }
    }

    /// Drops everything, for another lineage or a rewind. Earlier tickets are ignored from then on.
    pub(crate) fn reset(&mut self, start: Lsn) {
        let next = self.next_ticket();
        let transaction = self.first_transaction + self.transactions.len() as u64;
        *self = Tracker::new(start);
        self.first_ticket = next;
        self.oldest_in_flight = next;
        self.first_transaction = transaction;
    }

    /// A session ended. The changes of an open transaction that were handed over stay valid, and
    /// are skipped when the next session sends them again.
    pub(crate) fn interrupt(&mut self) {
        if self.open == Open::Yes {
            let handed_over = self.transactions.back().map_or(0, |open| open.next_index);
            self.skip = self.skip.max(handed_over);
            self.open = Open::Cut;
        }
        self.history.interrupt();
        self.received = self.complete;
    }

    /// Begin.
    pub(crate) fn begin(&mut self, name: impl Into<TransactionName>) -> Result<(), Violation> {
        let name = name.into();
        let commit_lsn = name.commit_lsn;
        if self.open == Open::Yes {
            return Err(Violation::Nested(commit_lsn));
        }
        let last = self.history.last_commit();
        if self
            .history
            .begin(name, self.open == Open::Cut, self.complete)?
        {
            return Ok(());
        }
        if self.open == Open::Cut {
            let cut = self
                .transactions
                .back_mut()
                .expect("a cut transaction is the last in the queue");
            cut.next_index = 0;
            self.open = Open::Yes;
            return Ok(());
        }
        if commit_lsn <= last || commit_lsn < self.complete {
            return Err(Violation::OutOfOrder {
                last: last.max(self.complete),
                found: commit_lsn,
            });
        }
        self.open = Open::Yes;
        let confirm = Lsn::INVALID;
        self.transactions.push_back(Transaction {
            commit_lsn,
            confirm,
            next_index: 0,
            pending: 0,
        });
        Ok(())
    }

    /// Counts a decoded change of the open transaction, of any kind. Returns its index, or `None`
    /// if an earlier session handed it over.
    pub(crate) fn change(&mut self) -> Result<Option<u32>, Violation> {
        if self.history.is_repeating() {
            return Ok(None);
        }
        let skip = self.skip;
        let open = self
            .open_mut()
            .ok_or(Violation::OutsideTransaction("a change"))?;
        let index = open.next_index;
        open.next_index += 1;
        Ok((index >= skip).then_some(index))
    }

    fn open_mut(&mut self) -> Option<&mut Transaction> {
        self.transactions
            .back_mut()
            .filter(|_| self.open == Open::Yes)
    }

    /// The change just counted becomes a record.
    pub(crate) fn accept(&mut self, event: InFlight) -> Result<Ticket, Violation> {
        self.open_mut()
            .ok_or(Violation::OutsideTransaction("an event"))?
            .pending += 1;
        let transaction = self.first_transaction + self.transactions.len() as u64 - 1;
        Ok(self.enter(event, transaction))
    }

    /// A row read from the table becomes a record.
    pub(crate) fn accept_row(&mut self, event: InFlight) -> Ticket {
        self.enter(event, NO_TRANSACTION)
    }

    fn enter(&mut self, event: InFlight, transaction: u64) -> Ticket {
        let ticket = self.next_ticket();
        self.in_flight_count += 1;
        self.in_flight_bytes += event.bytes as usize;
        self.entries.push_back(Entry {
            event,
            transaction,
            state: State::InFlight,
        });
        ticket
    }

    /// Commit of the open transaction, which ends at `end_lsn`.
    pub(crate) fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<(), Violation> {
        if self.history.is_repeating() {
            let is_cut = self.open == Open::Cut;
            return self
                .history
                .repeated(commit_lsn, end_lsn, is_cut, self.complete);
        }
        let skip = self.skip;
        let open = self
            .open_mut()
            .ok_or(Violation::OutsideTransaction("a commit"))?;
        if open.commit_lsn != commit_lsn {
            return Err(Violation::NotResumed {
                expected: open.commit_lsn,
                found: commit_lsn,
            });
        }
        if open.next_index < skip {
            return Err(Violation::Shortened(commit_lsn));
        }
        open.confirm = end_lsn;
        self.open = Open::No;
        self.skip = 0;
        self.history.commit();
        self.complete = self.complete.max(end_lsn);
        self.received = self.received.max(end_lsn);
        self.advance();
        Ok(())
    }

    /// The server has sent everything below `wal_end`.
    pub(crate) fn keepalive(&mut self, wal_end: Lsn) -> Result<(), Violation> {
        let is_cut = self.open == Open::Cut;
        if !self.history.keepalive(wal_end, is_cut, self.complete)? {
            return Ok(());
        }
        match (self.open, self.transactions.back_mut()) {
            (Open::Yes, _) => self.received = self.received.max(wal_end),
            (Open::Cut, Some(cut)) if wal_end > cut.commit_lsn => {
                return Err(Violation::NotResumed {
                    expected: cut.commit_lsn,
                    found: wal_end,
                });
            }
            (Open::Cut, _) => {}
            (Open::No, last) => {
                self.received = self.received.max(wal_end);
                self.complete = self.complete.max(wal_end);
                match last {
                    Some(last) => last.confirm = last.confirm.max(wal_end),
                    None => self.flushed = self.flushed.max(wal_end),
                }
            }
        }
        Ok(())
    }

    /// The server was restarted: memory is doubted until the stream proves it, up to this position.
    pub(crate) fn doubt(&mut self) -> Lsn {
        self.history.doubt()
    }

    /// Where the stream has to begin to prove memory, with a slot at `confirmed`; `None` if nothing
    /// can.
    pub(crate) fn expect(&mut self, confirmed: Lsn) -> Option<Lsn> {
        self.history.expect(confirmed, self.open == Open::Cut)
    }

    /// The slot's position, as long as memory is doubted; invalid before it is known.
    pub(crate) fn unproven(&self) -> Option<Lsn> {
        self.history.unproven()
    }

    /// Kafka has the record, or its dead letter is filed. `None` for a ticket from before a reset.
    pub(crate) fn acknowledge(&mut self, ticket: Ticket) -> Option<InFlight> {
        let entry = entry_mut(&mut self.entries, self.first_ticket, ticket)?;
        debug_assert_eq!(entry.state, State::InFlight, "one report for each record");
        entry.state = State::Acknowledged;
        let event = entry.event.clone();
        self.in_flight_count -= 1;
        self.in_flight_bytes -= event.bytes as usize;
        while let Some(entry) =
            entry_mut(&mut self.entries, self.first_ticket, self.oldest_in_flight)
            && entry.state != State::InFlight
        {
            self.oldest_in_flight += 1;
        }
        Some(event)
    }

    /// An acknowledged event is written back. Ignores a ticket from before a reset.
    pub(crate) fn settle(&mut self, ticket: Ticket) {
        let Some(entry) = entry_mut(&mut self.entries, self.first_ticket, ticket) else {
            return;
        };
        debug_assert_eq!(
            entry.state,
            State::Acknowledged,
            "settled once, after the acknowledgement"
        );
        entry.state = State::Settled;
        if entry.transaction != NO_TRANSACTION {
            let position = (entry.transaction - self.first_transaction) as usize;
            if let Some(transaction) = self.transactions.get_mut(position) {
                debug_assert!(transaction.pending > 0);
                transaction.pending -= 1;
            }
        }
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.state == State::Settled)
        {
            self.entries.pop_front();
            self.first_ticket += 1;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(front) = self.transactions.front()
            && !front.confirm.is_invalid()
            && front.pending == 0
        {
            debug_assert!(
                front.confirm >= self.flushed,
                "transactions leave in commit order"
            );
            self.flushed = front.confirm;
            self.transactions.pop_front();
            self.first_transaction += 1;
        }
        debug_assert!(
            self.flushed <= self.received,
            "no position is confirmed before it is received"
        );
    }

    /// The highest position that may be reported as flushed.
    pub(crate) fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The highest position received.
    pub(crate) fn received(&self) -> Lsn {
        self.received
    }

    /// Where a new session of this lineage starts: every transaction before it was received whole.
    pub(crate) fn complete(&self) -> Lsn {
        self.complete
    }

    /// A statement of unknown outcome may have marked the row of this event.
    pub(crate) fn tried(&mut self, ticket: Ticket) {
        if let Some(entry) = entry_mut(&mut self.entries, self.first_ticket, ticket) {
            entry.event.untried = false;
        }
    }

    /// The event of this ticket, unless it is settled.
    pub(crate) fn event(&self, ticket: Ticket) -> Option<&InFlight> {
        let position = ticket.checked_sub(self.first_ticket)?;
        let entry = self.entries.get(position as usize);
        entry.map(|entry| &entry.event)
    }

    /// The rows of all events that are not settled.
    pub(crate) fn unsettled_rows(&self) -> impl Iterator<Item = RowName> {
        let unsettled = |entry: &&Entry| entry.state != State::Settled;
        let unsettled = self.entries.iter().filter(unsettled);
        unsettled.filter_map(|it| it.event.row.clone())
    }

    /// The ticket that the next event gets.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.first_ticket + self.entries.len() as u64
    }

    /// Events that are accepted and not acknowledged.
    pub(crate) fn in_flight_count(&self) -> u64 {
        self.in_flight_count
    }

    /// The bytes of their records.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// The bytes that count against the memory limit.
    pub(crate) fn bytes(&self) -> usize {
        self.in_flight_bytes
            + self.entries.len() * ENTRY_BYTES
            + self.transactions.len() * size_of::<Transaction>()
    }

    /// The oldest event that is not acknowledged.
    pub(crate) fn oldest_in_flight(&self) -> Option<(Ticket, &InFlight)> {
        let oldest = (self.in_flight_count > 0).then_some(self.oldest_in_flight)?;
        Some((oldest, self.event(oldest)?))
    }

    /// Whether a transaction has begun and its Commit was not received, in this or an earlier
    /// session.
    pub(crate) fn is_open(&self) -> bool {
        self.open != Open::No
    }
}
