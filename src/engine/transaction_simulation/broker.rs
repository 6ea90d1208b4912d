//! A model of Kafka's transactions as they are without KIP-890: a request to end a transaction
//! names only the producer's epoch, so a late one ends whatever is open then.

use crate::engine::exactly_once::transaction::PROGRESS_TICKET;
use crate::engine::tracker::Ticket;

/// Topics of events; one more log holds the progress records.
pub(super) const TOPICS: usize = 2;

/// A record on its way, and in a log.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) ticket: Ticket,
    pub(super) value: String,
    /// A broker refuses the batch that it is in.
    pub(super) is_poison: bool,
    /// It was streamed, and says so.
    pub(super) is_streamed: bool,
}

/// A request on its way to the broker. It may outlive its producer.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Produce {
        epoch: u32,
        log: usize,
        batch: Vec<Sent>,
    },
    End {
        epoch: u32,
        /// Its answer has no receiver any more.
        is_late: bool,
    },
}

impl Request {
    pub(super) fn epoch(&self) -> u32 {
        match self {
            Request::Produce { epoch, .. } | Request::End { epoch, .. } => *epoch,
        }
    }
}

/// The answer to a request of the living producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Appended(Vec<Ticket>),
    Refused(Vec<Ticket>),
    /// Another producer has taken over.
    Fenced(Vec<Ticket>),
    Committed,
    NotCommitted,
}

/// A record in a log.
#[derive(Debug)]
struct Logged {
    transaction: usize,
    value: String,
    is_streamed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) epoch: u32,
    logs: [Vec<Logged>; TOPICS + 1],
    /// By transaction: committed, aborted, or still open.
    outcomes: Vec<Option<bool>>,
    ongoing: Option<usize>,
    /// The last one of this epoch was committed, so a repeated request gets the same answer.
    was_committed: bool,
    pub(super) requests: Vec<Request>,
    /// Late requests that have ended a transaction.
    pub(super) late_ends: u64,
    /// Transactions that were committed.
    pub(super) commits: u64,
}

impl Broker {
    /// A new producer shuts out the one before it.
    pub(super) fn init(&mut self) -> u32 {
        self.end(false);
        self.was_committed = false;
        self.epoch += 1;
        self.epoch
    }

    fn end(&mut self, is_committed: bool) {
        if let Some(transaction) = self.ongoing.take() {
            self.outcomes[transaction] = Some(is_committed);
            self.was_committed = is_committed;
            self.commits += u64::from(is_committed);
        }
    }

    /// The requests that may arrive next: those to one log arrive in the order of sending, and the
    /// end of a transaction behind its records, unless it comes late.
    pub(super) fn next(&self) -> Vec<usize> {
        let is_first = |at: &usize| {
            let before = &self.requests[..*at];
            match &self.requests[*at] {
                Request::Produce { epoch, log, .. } => !before.iter().any(|it| {
                    matches!(it, Request::Produce { epoch: other, log: same, .. }
                        if other == epoch && same == log)
                }),
                Request::End { .. } => true,
            }
        };
        (0..self.requests.len()).filter(is_first).collect()
    }

    /// A request arrives.
    pub(super) fn receive(&mut self, at: usize) -> Option<Answer> {
        match self.requests.remove(at) {
            Request::Produce { epoch, log, batch } => {
                let tickets = batch.iter().map(|it| it.ticket).collect();
                if epoch != self.epoch {
                    return Some(Answer::Fenced(tickets));
                }
                if batch.iter().any(|it| it.is_poison) {
                    return Some(Answer::Refused(tickets));
                }
                let transaction = *self.ongoing.get_or_insert_with(|| {
                    self.outcomes.push(None);
                    self.outcomes.len() - 1
                });
                self.logs[log].extend(batch.into_iter().map(|it| Logged {
                    transaction,
                    value: it.value,
                    is_streamed: it.is_streamed,
                }));
                Some(Answer::Appended(tickets))
            }
            Request::End { epoch, is_late } => {
                let answer = if epoch != self.epoch {
                    Answer::NotCommitted
                } else if self.ongoing.is_some() {
                    self.late_ends += u64::from(is_late);
                    self.end(true);
                    Answer::Committed
                } else if self.was_committed {
                    Answer::Committed
                } else {
                    Answer::NotCommitted
                };
                (!is_late).then_some(answer)
            }
        }
    }

    /// The values of a log that a reader of committed records gets.
    pub(super) fn committed(&self, log: usize) -> impl Iterator<Item = &str> {
        let is_committed = |it: &&Logged| self.outcomes[it.transaction] == Some(true);
        self.logs[log]
            .iter()
            .filter(is_committed)
            .map(|it| &*it.value)
    }

    /// The values of a log's streamed records that a reader of committed records gets, from the
    /// last to the first.
    pub(super) fn streamed(&self, log: usize) -> impl Iterator<Item = &str> {
        let is_committed = |it: &&Logged| self.outcomes[it.transaction] == Some(true);
        let records = self.logs[log].iter().rev().filter(is_committed);
        records.filter(|it| it.is_streamed).map(|it| &*it.value)
    }

    /// The records of transactions that were aborted.
    pub(super) fn aborted(&self) -> usize {
        let logged = self.logs.iter().flatten();
        logged
            .filter(|it| self.outcomes[it.transaction] == Some(false))
            .count()
    }

    /// The last committed progress record.
    pub(super) fn progress(&self) -> Option<&str> {
        let is_committed = |it: &&Logged| self.outcomes[it.transaction] == Some(true);
        let last = self.logs[TOPICS].iter().rfind(is_committed);
        last.map(|it| &*it.value)
    }
}

/// The log that a record goes to.
pub(super) fn log_of(ticket: Ticket, key: usize) -> usize {
    if ticket == PROGRESS_TICKET {
        TOPICS
    } else {
        key % TOPICS
    }
}
