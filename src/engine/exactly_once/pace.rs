//! When a transaction with events takes in no more. Pure.
//!
//! Nothing is sent while a transaction ends, and no reader sees an event before it has ended. While
//! few events come, one that has just missed a transaction is with its readers an interval later,
//! the end of its transaction included. While more come, transactions follow each other at the
//! interval: ends take the brokers' time too, and more of them make all events later. While many
//! come, the time that sends is what counts, and the end may take only a small part of it.

use std::time::Duration;

/// With so many events in one transaction, the brokers have enough to do.
const SOME: usize = 32;
/// By this part of the interval a transaction is early at most.
const EARLY: u32 = 4;
/// So many events in one transaction are a backlog.
const MANY: usize = 2_000;
/// How many times as long as an end events are sent then.
const ENDS: u32 = 7;
/// An end that takes longer says more about the brokers than about transactions.
const END_MAX: Duration = Duration::from_millis(100);

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The time between two transactions, while few events come.
    interval: Duration,
    /// When the last transaction took in no more.
    sealed_at: Option<Duration>,
    /// How long its end took.
    end: Duration,
}

impl Pace {
    /// Before the first transaction.
    pub(super) fn new(interval: Duration) -> Self {
        Pace {
            interval,
            sealed_at: None,
            end: Duration::ZERO,
        }
    }

    /// The transaction takes in no more.
    pub(super) fn sealed(&mut self, now: Duration) {
        self.sealed_at = Some(now);
    }

    /// It is committed.
    pub(super) fn ended(&mut self, now: Duration) {
        self.end = self
            .sealed_at
            .map_or(Duration::ZERO, |at| now.saturating_sub(at).min(END_MAX));
    }

    /// When the last transaction took in no more.
    pub(super) fn sealed_at(&self) -> Option<Duration> {
        self.sealed_at
    }

    /// When a transaction is due, at the end of a transaction of Postgres: the first of its events
    /// was sent at `first_at`.
    pub(super) fn due_at(&self, first_at: Duration, events: usize) -> Duration {
        let early = match events < SOME {
            true => self.end.min(self.interval / EARLY),
            false => Duration::ZERO,
        };
        let rested = self.sealed_at.map(|at| at + self.interval - early);
        let due = first_at.max(rested.unwrap_or_default());
        match events >= MANY {
            true => due.max(first_at + self.end * ENDS),
            false => due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The last transaction took in no more at 100 ms, and its end took so long.
    fn after(end: Duration) -> Pace {
        let mut pace = Pace::new(MS * 50);
        pace.sealed(MS * 100);
        pace.ended(MS * 100 + end);
        pace
    }

    #[test]
    fn events_are_committed_at_the_interval_and_at_once_after_a_rest() {
        assert_eq!(Pace::new(MS * 50).due_at(MS * 7, 1), MS * 7);
        for end in [0, 10, 60] {
            let pace = after(MS * end);
            for events in [SOME, MANY - 1] {
                assert_eq!(pace.due_at(MS * 101, events), MS * 150, "{end}");
            }
        }
        assert_eq!(after(MS * 10).due_at(MS * 900, 1), MS * 900);
    }

    #[test]
    fn few_events_are_committed_earlier_by_the_end_of_a_transaction_or_a_quarter_of_the_interval() {
        for (end, due) in [(0, 150_000), (8, 142_000), (13, 137_500), (60, 137_500)] {
            let due = Duration::from_micros(due);
            assert_eq!(after(MS * end).due_at(MS * 101, SOME - 1), due, "{end}");
        }
    }

    #[test]
    fn a_backlog_is_sent_for_seven_times_as_long_as_a_transaction_takes_to_end() {
        for (end, due) in [(0, 150), (2, 150), (20, 260), (100, 820), (9_000, 820)] {
            let pace = after(MS * end);
            assert_eq!(pace.due_at(MS * 120, MANY), MS * due, "{end}");
        }
    }
}
