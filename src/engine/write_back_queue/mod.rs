//! Which acknowledged events are written back to the table next, and when. Pure.
//!
//! Owns the tickets of events that Kafka has and that the table does not show as published yet. At
//! most one batch is out at a time, so load makes its own batches. A row that could not be marked
//! yet (locked, or not visible yet) comes back and is tried again with growing delays; the others
//! go on meanwhile. Nothing is ever dropped here: an event leaves when its row is settled. Until
//! then it is known since when the row was tried, also while it is tried again.
//!
//! A batch that fails may have been more than the server can do within its statement time-out. So
//! the next one is half as large, and batches grow again as they succeed: however slow the server,
//! some batch is small enough.

pub(crate) mod foreign_marks;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::tracker::Ticket;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(2);
/// The most batches that wait. More would only take memory: these keep the database busy.
const BATCHES_MAX: usize = 8;

/// A row that was tried and could not be marked yet.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    /// When it was first tried.
    since: Duration,
    /// It is not visible yet.
    hidden: bool,
}

/// Rows of one kind that could not be marked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StuckRows {
    pub(crate) count: usize,
    /// When the first of them was first tried.
    pub(crate) since: Duration,
}

impl StuckRows {
    fn add(&mut self, since: Duration) {
        self.since = match self.count {
            0 => since,
            _ => self.since.min(since),
        };
        self.count += 1;
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct WriteBackQueue {
    waiting: VecDeque<Ticket>,
    /// When the first of `waiting` came, or the last batch was taken.
    since: Duration,
    deferred: VecDeque<Ticket>,
    retry_at: Duration,
    retry: Backoff,
    /// The rows that were tried and are not settled, wherever they wait.
    stuck: BTreeMap<Ticket, Stuck>,
    /// Those of them that are in the batch being written.
    retried: BTreeMap<Ticket, Stuck>,
    /// When the batch being written was taken.
    taken_at: Duration,
    writing: usize,
    batch_size: usize,
    batch_max: usize,
    /// The most that the next batch holds.
    limit: usize,
    interval: Duration,
}

impl WriteBackQueue {
    /// A batch is due after `batch_size` events or `interval`, whichever comes first. It never
    /// holds more than `batch_max`.
    pub(crate) fn new(batch_size: usize, batch_max: usize, interval: Duration) -> Self {
        WriteBackQueue {
            waiting: VecDeque::new(),
            since: Duration::ZERO,
            deferred: VecDeque::new(),
            retry_at: Duration::ZERO,
            retry: Backoff::new(RETRY_FIRST, RETRY_CAP),
            stuck: BTreeMap::new(),
            retried: BTreeMap::new(),
            taken_at: Duration::ZERO,
            writing: 0,
            batch_size,
            batch_max,
            limit: batch_max,
            interval,
        }
    }

    /// Drops everything, the batch being written included. The limit on batches stays.
    pub(crate) fn clear(&mut self) {
        *self = WriteBackQueue {
            limit: self.limit,
            ..WriteBackQueue::new(self.batch_size, self.batch_max, self.interval)
        };
    }

    /// An acknowledged event.
    pub(crate) fn push(&mut self, now: Duration, ticket: Ticket) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.waiting.push_back(ticket);
    }

    /// The tickets to write back now, in the order they came, if any. `urgent` does not wait for a
    /// full batch.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        urgent: bool,
    ) -> Option<impl Iterator<Item = Ticket> + '_> {
        if self.writing > 0 {
            return None;
        }
        if !self.deferred.is_empty() && now >= self.retry_at {
            while let Some(ticket) = self.deferred.pop_back() {
                self.waiting.push_front(ticket);
            }
        } else if !self.is_due(now, urgent) {
            return None;
        }
        self.writing = self.waiting.len().min(self.limit);
        (self.since, self.taken_at) = (now, now);
        if !self.stuck.is_empty() {
            for ticket in self.waiting.range(..self.writing) {
                if let Some(stuck) = self.stuck.remove(ticket) {
                    self.retried.insert(*ticket, stuck);
                }
            }
        }
        Some(self.waiting.drain(..self.writing))
    }

    fn is_due(&self, now: Duration, urgent: bool) -> bool {
        let gathered = self.waiting.len() >= self.batch_size || now >= self.since + self.interval;
        !self.waiting.is_empty() && (urgent || gathered)
    }

    /// The batch has ended; its `unsettled` events are retried after a delay. The flag tells
    /// whether an event's row is not visible yet.
    pub(crate) fn written(
        &mut self,
        now: Duration,
        failed: bool,
        unsettled: impl Iterator<Item = (Ticket, bool)>,
    ) {
        self.limit = match failed {
            true => (self.writing / 2).max(1),
            false => (self.limit * 2).min(self.batch_max),
        };
        self.writing = 0;
        // A retry that is scheduled stays: new rows that are not visible yet must not delay the old
        // ones without end.
        let scheduled = !self.deferred.is_empty();
        let retried = std::mem::take(&mut self.retried);
        for (ticket, hidden) in unsettled {
            self.deferred.push_back(ticket);
            let since = retried
                .get(&ticket)
                .map_or(self.taken_at, |known| known.since);
            self.stuck.insert(ticket, Stuck { since, hidden });
        }
        if self.deferred.is_empty() {
            self.retry.reset();
        } else if !scheduled {
            self.retry_at = now + self.retry.next_delay();
        }
    }

    /// When [`take`](WriteBackQueue::take) is due even if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if self.writing > 0 {
            return None;
        }
        let gathered = (!self.waiting.is_empty()).then_some(self.since + self.interval);
        let retry = (!self.deferred.is_empty()).then_some(self.retry_at);
        [gathered, retry].into_iter().flatten().min()
    }

    /// Events that are not written back, those in the current batch included.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.deferred.len() + self.writing
    }

    /// Whether the intake has to pause. Rows that cannot be marked yet do not count: they may take
    /// forever.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= BATCHES_MAX * self.batch_max
    }

    /// The rows that were tried and could not be marked yet, also those that are being tried again:
    /// first those that are locked or whose write failed, then those that are not visible yet.
    pub(crate) fn stuck(&self) -> (StuckRows, StuckRows) {
        let (mut locked, mut hidden) = (StuckRows::default(), StuckRows::default());
        for stuck in self.stuck.values().chain(self.retried.values()) {
            let rows = if stuck.hidden {
                &mut hidden
            } else {
                &mut locked
            };
            rows.add(stuck.since);
        }
        (locked, hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn queue() -> WriteBackQueue {
        WriteBackQueue::new(10, 50, MS * 5000)
    }

    fn taken(queue: &mut WriteBackQueue, now: Duration, urgent: bool) -> Vec<Ticket> {
        queue
            .take(now, urgent)
            .map(Iterator::collect)
            .unwrap_or_default()
    }

    #[test]
    fn a_batch_is_due_when_enough_wait_or_the_first_has_waited_long_enough() {
        let mut queue = queue();
        (0..9).for_each(|ticket| queue.push(MS, ticket));
        assert!(taken(&mut queue, MS * 2, false).is_empty());
        assert_eq!(queue.deadline(), Some(MS * 5001));
        queue.push(MS * 3, 9);
        assert_eq!(taken(&mut queue, MS * 3, false).len(), 10);
        queue.written(MS * 4, false, std::iter::empty());
        queue.push(MS * 5, 10);
        assert!(taken(&mut queue, MS * 5004, false).is_empty());
        assert_eq!(taken(&mut queue, MS * 5005, false), [10]);
    }

    #[test]
    fn one_batch_is_out_at_a_time_and_never_larger_than_the_limit() {
        let mut queue = queue();
        (0..120).for_each(|ticket| queue.push(MS, ticket));
        assert_eq!(taken(&mut queue, MS, false).len(), 50);
        assert!(taken(&mut queue, MS, true).is_empty());
        assert_eq!(queue.len(), 120);
        queue.written(MS, false, std::iter::empty());
        assert_eq!(taken(&mut queue, MS, false), (50..100).collect::<Vec<_>>());
    }

    #[test]
    fn rows_that_could_not_be_settled_come_back_first_after_a_growing_delay() {
        let mut queue = queue();
        (0..2).for_each(|ticket| queue.push(MS, ticket));
        assert_eq!(taken(&mut queue, MS, true), [0, 1]);
        queue.written(MS, false, [(1, true)].into_iter());
        assert_eq!(queue.stuck().1.count, 1);
        queue.push(MS, 2);
        assert_eq!(taken(&mut queue, MS, true), [2]);
        queue.written(MS, false, std::iter::empty());
        assert_eq!(queue.deadline(), Some(MS * 51));
        assert_eq!(taken(&mut queue, MS * 51, false), [1]);
        queue.written(MS * 51, false, [(1, false)].into_iter());
        assert_eq!(queue.deadline(), Some(MS * 151));
        let since = MS;
        let stuck = (StuckRows { count: 1, since }, StuckRows::default());
        assert_eq!(queue.stuck(), stuck);
    }

    #[test]
    fn a_row_is_stuck_since_it_was_first_tried_until_it_is_settled() {
        let mut queue = queue();
        (0..3).for_each(|ticket| queue.push(MS, ticket));
        assert_eq!(taken(&mut queue, MS * 10, true), [0, 1, 2]);
        assert_eq!(queue.stuck().0.count, 0);
        queue.written(MS * 20, false, [(1, false), (2, true)].into_iter());
        let mut now = MS * 20;
        for round in 0..20 {
            let since = MS * 10;
            let stuck = (StuckRows { count: 1, since }, StuckRows { count: 1, since });
            assert_eq!(queue.stuck(), stuck, "round {round}, waiting");
            now += RETRY_CAP;
            assert_eq!(taken(&mut queue, now, false), [1, 2]);
            assert_eq!(queue.stuck(), stuck, "round {round}, being tried");
            queue.written(now, false, [(1, false), (2, true)].into_iter());
        }
        now += RETRY_CAP;
        taken(&mut queue, now, false);
        queue.written(now, false, [(2, false)].into_iter());
        let since = MS * 10;
        assert_eq!(
            queue.stuck(),
            (StuckRows { count: 1, since }, StuckRows::default())
        );
        now += RETRY_CAP;
        taken(&mut queue, now, false);
        queue.written(now, false, std::iter::empty());
        assert_eq!(queue.stuck(), (StuckRows::default(), StuckRows::default()));
    }

    #[test]
    fn a_batch_that_fails_is_halved_until_the_server_can_do_it_and_grows_again() {
        let mut queue = queue();
        (0..120).for_each(|ticket| queue.push(MS, ticket));
        let mut now = MS;
        for expected in [50, 25, 12, 6, 3, 1, 1] {
            let batch = taken(&mut queue, now, true);
            assert_eq!(batch.len(), expected);
            let unsettled = batch.into_iter().map(|ticket| (ticket, false));
            queue.written(now, true, unsettled);
            now += RETRY_CAP;
        }
        for expected in [1, 2, 4, 8] {
            let batch = taken(&mut queue, now, true);
            assert_eq!(batch.len(), expected);
            queue.written(now, false, std::iter::empty());
            now += RETRY_CAP;
        }
        assert_eq!(queue.len(), 105);
    }
}
