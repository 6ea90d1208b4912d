//! One Kafka transaction after another: what is in the current one, when it takes in no more, and
//! when it is committed. Pure.
//!
//! A transaction is open at any time, and empty at first, which costs a broker nothing. It takes in
//! events until it is due (see `pace`): a while after the last one was, at once if nothing was sent
//! for longer, and wherever possible at the end of a transaction of Postgres. Then nothing more is
//! sent until its outcome is known. When every event is with the producer the progress record
//! follows, and when Kafka has acknowledged all of them, the commit. Nothing is acknowledged before
//! that.
//!
//! **An event that has to wait is never waited for inside a transaction.** Readers of committed
//! records see nothing behind the first record of an open transaction, in no topic that it has
//! written to. So what was sent before that event is committed first, as a part of its transaction
//! of Postgres if need be.
//!
//! **There is one way out of every trouble.** A record that is not appended, a commit that fails or
//! whose outcome is not known, a transaction that takes too long: the producer is given up, and a
//! new one begins at the progress record, which says what was committed. The new one's epoch keeps
//! everything out that the old one may still have under way.

use std::time::Duration;

use crate::engine::exactly_once::limits::{ROWS_MAX, TransactionLimits};
use crate::engine::exactly_once::pace::Pace;
use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::engine::tracker::{Ticket, TransactionName};
use crate::lsn::Lsn;
use crate::outbox::Rejection;

/// The ticket of a progress record, which is no event.
pub(crate) const PROGRESS_TICKET: Ticket = Ticket::MAX;

/// What the engine knows when a step may be due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Events that were taken in and are not acknowledged, but for those that wait to be retried.
    pub(crate) in_flight: u64,
    /// Records that are with the producer.
    pub(crate) unreported: u64,
    /// Every transaction of Postgres before this was received whole.
    pub(crate) complete: Lsn,
    /// The last of them.
    pub(crate) last: Option<TransactionName>,
    /// Nothing that was committed before this has to be marked.
    pub(crate) settled: Lsn,
    /// The transaction of Postgres that is open, and how many of its changes were counted.
    pub(crate) open: Option<(TransactionName, u32)>,
    /// Nothing waits to be marked.
    pub(crate) is_marked: bool,
    /// There is no room for another event.
    pub(crate) is_full: bool,
    pub(crate) is_stopping: bool,
}

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this progress record, with [`PROGRESS_TICKET`].
    Record(Progress),
    /// Commit, then report the outcome.
    Commit,
    /// Give the producer up.
    GiveUp(Rejection),
}

/// How a commit has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    Committed,
    /// It is committed. The connection to a broker was lost meanwhile, so a request for it may
    /// still be under way, and may not meet the next transaction of this producer.
    CommittedInDoubt,
    /// It failed, or its outcome is not known.
    Failed(Rejection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no producer with a transaction.
    Closed,
    Open,
    /// It takes in no more.
    Sealed,
    /// The progress record was sent, too.
    Recorded {
        acknowledged: bool,
    },
    Committing,
    /// Rows of the table are sent, and have to be marked before others are.
    Marking,
}

/// What is in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Events of the stream or rows of the table.
    Events,
    /// Events of dead letters that are retried.
    Letters,
    /// One event, and no other.
    Single,
}

/// An event of the current transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) ticket: Ticket,
    /// Its transaction of Postgres, and its index there.
    pub(crate) commit_lsn: Lsn,
    pub(crate) index: u32,
    /// It is a row of the table.
    pub(crate) is_row: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Transactions {
    limits: TransactionLimits,
    state: State,
    /// What Kafka has for certain, if that is known.
    pub(super) committed: Option<Progress>,
    /// What it has when the current transaction is committed.
    pub(super) next: Option<Progress>,
    /// A progress record is due even without an event.
    is_new: bool,
    sent: Vec<Sent>,
    /// When the first of them was sent.
    first_at: Duration,
    pace: Pace,
    /// The event that has to wait. Nothing behind it is taken in.
    held: Option<Sent>,
    pub(super) content: Content,
    /// Of the transaction before.
    pub(super) content_before: Content,
    /// The dead letters whose events are in the current transaction.
    pub(super) letters: Vec<i64>,
}

impl Transactions {
    /// Without a producer.
    pub(crate) fn new(limits: TransactionLimits) -> Self {
        Transactions {
            limits,
            state: State::Closed,
            committed: None,
            next: None,
            is_new: false,
            sent: Vec::new(),
            first_at: Duration::ZERO,
            pace: Pace::new(limits.commit_interval),
            held: None,
            content: Content::Events,
            content_before: Content::Events,
            letters: Vec::new(),
        }
    }

    /// A new producer has begun its first transaction, and this is the progress. `is_new`: Kafka
    /// has no such record yet.
    pub(crate) fn begin(&mut self, progress: Progress, is_new: bool) {
        *self = Transactions {
            state: State::Open,
            committed: Some(progress),
            is_new,
            ..Transactions::new(self.limits)
        };
    }

    /// The producer is given up, with all that it has not committed.
    pub(crate) fn close(&mut self) {
        let committed = self.committed.take();
        self.forget();
        self.committed = committed;
    }

    /// The same, and the progress belongs to another history.
    pub(crate) fn forget(&mut self) {
        *self = Transactions::new(self.limits);
    }

    /// What Kafka has for certain, if that is known.
    pub(crate) fn committed(&self) -> Option<&Progress> {
        self.committed.as_ref()
    }

    /// Whether there is no producer with a transaction.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether an event may be sent.
    pub(crate) fn takes_events(&self) -> bool {
        self.is_open() && self.content == Content::Events
    }

    /// Whether anything may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open && !self.is_new
    }

    /// Whether an event waits, so that nothing behind it may be taken in.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The event that waits.
    pub(crate) fn held(&self) -> Option<Sent> {
        self.held
    }

    /// Whether nothing is under way, nor due at once.
    pub(crate) fn is_empty(&self) -> bool {
        let is_under_way = !matches!(self.state, State::Open | State::Closed);
        !is_under_way && self.sent.is_empty() && !self.is_new
    }

    /// An event is sent, and this is what its transaction has from now on.
    pub(super) fn sent(&mut self, now: Duration, event: Sent, content: Content) {
        debug_assert!(self.is_open(), "nothing is sent between transactions");
        if self.sent.is_empty() {
            self.first_at = now;
        }
        self.sent.push(event);
        self.content = content;
        if self.held.is_some_and(|held| held.ticket == event.ticket) {
            self.held = None;
        }
    }

    /// An event has to wait.
    pub(crate) fn hold(&mut self, event: Sent) {
        debug_assert!(
            self.held.is_none(),
            "nothing is taken in behind a held event"
        );
        self.held = Some(event);
    }

    /// The event that waited has become a dead letter.
    pub(crate) fn release(&mut self) {
        self.held = None;
    }

    /// The events of the current transaction.
    pub(crate) fn events(&self) -> &[Sent] {
        &self.sent
    }

    /// Kafka has acknowledged the progress record.
    pub(crate) fn progress_acknowledged(&mut self) {
        if let State::Recorded { acknowledged } = &mut self.state {
            *acknowledged = true;
        }
    }

    /// The next step, if one is due.
    pub(crate) fn step(&mut self, now: Duration, facts: &Facts) -> Option<Step> {
        if self.state == State::Open && self.is_due(now, facts) {
            self.state = State::Sealed;
            self.pace.sealed(now);
            if self.sent.is_empty() {
                self.first_at = now;
            }
        }
        match self.state {
            State::Sealed if facts.in_flight == self.taken_in() => {
                let progress = self.reached(facts)?;
                self.state = State::Recorded {
                    acknowledged: false,
                };
                self.next = Some(progress.clone());
                Some(Step::Record(progress))
            }
            State::Marking if facts.is_marked => {
                self.state = State::Open;
                None
            }
            State::Recorded { acknowledged: true } if facts.unreported == 0 => {
                self.state = State::Committing;
                Some(Step::Commit)
            }
            State::Sealed | State::Recorded { .. } | State::Committing
                if now >= self.give_up_at() =>
            {
                let seconds = (now - self.first_at).as_secs();
                self.close();
                Some(Step::GiveUp(Rejection {
                    code: "TRANSACTION_TIMEOUT".to_owned(),
                    message: format!("a Kafka transaction has taken {seconds} s"),
                }))
            }
            _ => None,
        }
    }

    /// Events of the transaction, and the one that waits behind it.
    fn taken_in(&self) -> u64 {
        self.sent.len() as u64 + u64::from(self.held.is_some())
    }

    fn is_due(&self, now: Duration, facts: &Facts) -> bool {
        if self.is_new {
            return true;
        }
        if self.sent.is_empty() {
            return self.idle_at(facts).is_some_and(|at| now >= at);
        }
        let is_at_end = facts.open.is_none();
        // All letters that were ready are in it.
        self.content != Content::Events
            || self.held.is_some()
            || facts.is_full
            || self.sent.len() >= self.events_max()
            || now >= self.first_at + self.limits.open_max
            || is_at_end && (facts.is_stopping || now >= self.commit_at())
    }

    /// Whether the events are rows of the table.
    fn is_of_table(&self) -> bool {
        let committed = self.committed.as_ref();
        committed.is_some_and(|it| it.phase == Phase::Table)
    }

    fn events_max(&self) -> usize {
        match self.is_of_table() {
            true => self.limits.events_max.min(ROWS_MAX),
            false => self.limits.events_max,
        }
    }

    /// When a transaction with events is due, at the end of a transaction of Postgres.
    fn commit_at(&self) -> Duration {
        self.pace.due_at(self.first_at, self.sent.len())
    }

    /// When a progress record is due without events.
    fn idle_at(&self, facts: &Facts) -> Option<Duration> {
        let position = self.committed.as_ref().map(|it| it.position);
        let has_news = facts.complete > position? && facts.open.is_none();
        let is_busy = self.held.is_some() || facts.in_flight > 0;
        let sealed_at = self.pace.sealed_at();
        let rested = sealed_at.map(|at| at + self.limits.idle_interval);
        (has_news && !is_busy).then(|| rested.unwrap_or_default())
    }

    fn give_up_at(&self) -> Duration {
        self.first_at + self.limits.open_max * 3
    }

    /// When a step may be due without an input.
    pub(crate) fn deadline(&self, facts: &Facts) -> Option<Duration> {
        match self.state {
            State::Closed | State::Marking => None,
            State::Open if self.sent.is_empty() => self.idle_at(facts),
            State::Open if facts.open.is_none() => Some(self.commit_at()),
            State::Open => Some(self.first_at + self.limits.open_max),
            State::Sealed | State::Recorded { .. } | State::Committing => Some(self.give_up_at()),
        }
    }

    /// The outcome of a commit. Returns the events that are in Kafka now, and why the producer has
    /// to be given up, if it has.
    pub(crate) fn committed_as(
        &mut self,
        now: Duration,
        outcome: CommitOutcome,
    ) -> (Vec<Sent>, Option<Rejection>) {
        if self.state != State::Committing {
            return (Vec::new(), None);
        }
        if let CommitOutcome::Failed(rejection) = outcome {
            self.close();
            return (Vec::new(), Some(rejection));
        }
        self.pace.ended(now);
        let sent = std::mem::take(&mut self.sent);
        if let Some(next) = self.next.take() {
            self.committed = Some(next);
        }
        let marks = self.is_of_table() && !sent.is_empty();
        self.state = if marks { State::Marking } else { State::Open };
        self.content_before = std::mem::replace(&mut self.content, Content::Events);
        self.letters.clear();
        self.is_new = false;
        let doubt = (outcome == CommitOutcome::CommittedInDoubt).then(|| {
            self.close();
            Rejection {
                code: "CONNECTION_LOST".to_owned(),
                message: "the connection to a Kafka broker was lost during a transaction"
                    .to_owned(),
            }
        });
        (sent, doubt)
    }
}

#[cfg(test)]
#[path = "../tests/kafka_transaction.rs"]
mod tests;
