//! When the producer flushes the records that linger. Pure.
//!
//! librdkafka sends one request of a partition at a time, and polls in a busy loop while a record
//! has lingered for longer than `linger.ms` behind a request that no broker answers. So records
//! linger for longer than an outage lasts, and are sent by a flush. A flush makes librdkafka poll
//! for as long as it takes, a millisecond at most.
//!
//! A flush is due when records were sent since the last one, or a report has come that may have let
//! records go on; at once while few records are in flight, and after [`LINGER`] while many are, so
//! that they fill their requests. librdkafka's threads may miss a flush, and it sends records again
//! by itself, which then linger too. With transactions it passes over the records of a partition
//! that the coordinator has not added yet, and that answer is no report. So a flush is repeated
//! while records are in flight, after [`LINGER`] and, as long as no report comes, after twice the
//! time of the one before, up to [`REPEAT`], and up to [`SELDOM`] once the brokers are silent.
//!
//! One record at a time is watched. While it has had no report for [`STALL`], some broker answers
//! late or not at all, and a flush is due after [`LINGER_STALLED`] at the earliest: an outage of
//! one broker or of all costs a twentieth of a processor at most. A partition that a silent broker
//! leads holds its records until it answers, so one of them is watched soon, and stays watched. A
//! changing number of records is passed over before the next one is watched, since partitions may
//! take turns.

use std::mem;
use std::time::Duration;

/// So few records in flight do not wait for more.
const FEW: u64 = 64;
/// How long records linger while many are in flight.
const LINGER: Duration = Duration::from_millis(5);
/// A record without a report for this time has stalled.
const STALL: Duration = Duration::from_millis(250);
/// The shortest time between two flushes while a record has stalled.
const LINGER_STALLED: Duration = Duration::from_millis(20);
/// Fewer records than this are passed over before the next one is watched.
const PASS_OVER: u64 = 8;
/// Without a report for this time, the brokers count as silent.
const SILENCE: Duration = Duration::from_millis(250);
/// The longest time between two flushes until then.
const REPEAT: Duration = Duration::from_millis(20);
/// The longest time between two flushes.
const SELDOM: Duration = Duration::from_millis(200);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    in_flight: u64,
    /// A record was sent, or a report has come, since the last flush.
    is_due: bool,
    /// The brokers are not silent, since the last look at the clock.
    is_heard: bool,
    heard_at: Duration,
    flushed_at: Duration,
    /// Flushes since the brokers were heard.
    flushes: u32,
    watched: Option<Watched>,
    /// Records that are sent before the next one is watched.
    pass_over: u64,
    /// Records that were watched.
    watched_count: u64,
}

/// A record that has no report.
#[derive(Debug)]
struct Watched {
    ticket: u64,
    /// The first look at the clock since it was sent.
    since: Option<Duration>,
}

impl Lingering {
    /// The records that have no report.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// A record is given to librdkafka. Where none was in flight, silence begins with it.
    pub(crate) fn sent(&mut self, ticket: u64) {
        self.is_heard |= self.in_flight == 0;
        self.in_flight += 1;
        self.is_due = true;
        if self.watched.is_none() {
            self.watch(ticket);
        }
    }

    fn watch(&mut self, ticket: u64) {
        if self.pass_over > 0 {
            self.pass_over -= 1;
            return;
        }
        self.watched_count += 1;
        self.pass_over = self.watched_count % PASS_OVER;
        self.watched = Some(Watched {
            ticket,
            since: None,
        });
    }

    /// Reports on these records.
    pub(crate) fn reported(&mut self, tickets: impl ExactSizeIterator<Item = u64>) {
        let count = tickets.len() as u64;
        self.in_flight -= count;
        self.is_heard |= count > 0;
        self.is_due |= count > 0;
        if let Some(Watched { ticket, .. }) = self.watched
            && { tickets }.any(|reported| reported == ticket)
        {
            self.watched = None;
        }
    }

    /// Whether to flush at `now`, where no record follows at once.
    pub(crate) fn takes_flush(&mut self, now: Duration) -> bool {
        if mem::take(&mut self.is_heard) {
            (self.heard_at, self.flushes) = (now, 0);
        }
        if let Some(watched) = &mut self.watched {
            watched.since.get_or_insert(now);
        }
        let takes = self.deadline().is_some_and(|at| now >= at);
        if takes {
            (self.is_due, self.flushed_at) = (false, now);
            self.flushes = self.flushes.saturating_add(1);
        }
        takes
    }

    /// When the next flush is due, as of the last [`takes_flush`](Lingering::takes_flush).
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if self.in_flight == 0 {
            return None;
        }
        let is_silent = self.flushed_at >= self.heard_at + SILENCE;
        let doubled = LINGER * 2_u32.saturating_pow(self.flushes.saturating_sub(1).min(8));
        let longest = if is_silent { SELDOM } else { REPEAT };
        let at = match self.in_flight {
            _ if is_silent || !self.is_due => self.flushed_at + doubled.min(longest),
            1..=FEW => self.heard_at,
            _ => self.flushed_at + LINGER,
        };
        Some(match self.has_stalled() {
            true => at.max(self.flushed_at + LINGER_STALLED),
            false => at,
        })
    }

    /// As of the last flush.
    fn has_stalled(&self) -> bool {
        let since = self.watched.as_ref().and_then(|watched| watched.since);
        since.is_some_and(|since| self.flushed_at >= since + STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn few_records_go_at_once_and_a_report_lets_the_next_ones_go() {
        let mut lingering = Lingering::default();
        assert_eq!(lingering.deadline(), None);
        lingering.sent(1);
        assert!(lingering.takes_flush(MS));
        assert!(!lingering.takes_flush(MS * 2), "nothing was sent since");
        assert_eq!(lingering.deadline(), Some(MS + LINGER));
        lingering.sent(2);
        assert!(lingering.takes_flush(MS * 2));
        lingering.reported([1].into_iter());
        assert!(lingering.takes_flush(MS * 3));
        lingering.reported([2].into_iter());
        assert!(!lingering.takes_flush(MS * 4));
        assert_eq!(lingering.deadline(), None);
    }

    #[test]
    fn many_records_fill_their_requests() {
        let mut lingering = Lingering::default();
        for ticket in 0..=FEW {
            lingering.sent(ticket);
        }
        assert!(lingering.takes_flush(MS * 10));
        lingering.sent(FEW + 1);
        assert!(!lingering.takes_flush(MS * 14));
        assert_eq!(lingering.deadline(), Some(MS * 15));
        assert!(lingering.takes_flush(MS * 15));
    }

    /// As where the coordinator takes its time to add the last partition of a transaction.
    #[test]
    fn a_flush_follows_soon_while_the_brokers_are_not_yet_silent() {
        let mut lingering = Lingering::default();
        lingering.sent(1);
        let flushes = (0..2_000).filter(|millis| lingering.takes_flush(MS * *millis));
        let flushes: Vec<u32> = flushes.collect();
        let gap = |from: u32, to: u32| {
            let within = |pair: &&[u32]| (from..to).contains(&pair[0]);
            let gaps = flushes.windows(2).filter(within).map(|it| it[1] - it[0]);
            gaps.max()
        };
        assert_eq!(gap(0, 250), Some(20), "{flushes:?}");
        assert_eq!(gap(250, 2_000), Some(200), "{flushes:?}");
    }

    #[test]
    fn silent_brokers_cost_a_flush_now_and_then() {
        let mut lingering = Lingering::default();
        let mut flushes = 0;
        for millis in 0..60_000 {
            if millis % 5 == 0 {
                lingering.sent(u64::from(millis));
            }
            flushes += u32::from(lingering.takes_flush(MS * millis));
        }
        assert!((330..450).contains(&flushes), "{flushes}");
        lingering.reported([0].into_iter());
        assert!(lingering.takes_flush(MS * 60_000 + LINGER_STALLED));
    }

    /// Each millisecond brings a record; a partition of four has a leader that is silent.
    #[test]
    fn a_silent_broker_among_others_costs_a_flush_in_twenty_milliseconds() {
        let mut lingering = Lingering::default();
        let mut flushes = 0;
        for millis in 0..60_000_u32 {
            lingering.sent(u64::from(millis));
            if let Some(answered) = millis.checked_sub(3)
                && answered % 4 != 1
            {
                lingering.reported([u64::from(answered)].into_iter());
            }
            flushes += u32::from(lingering.takes_flush(MS * millis));
        }
        assert!((2_900..3_400).contains(&flushes), "{flushes}");
    }

    #[test]
    fn a_record_is_watched_until_its_report_comes() {
        let mut lingering = Lingering::default();
        lingering.sent(1);
        assert!(lingering.takes_flush(MS));
        for millis in 1..=300_u32 {
            lingering.sent(1 + u64::from(millis));
            lingering.reported([1 + u64::from(millis)].into_iter());
            lingering.takes_flush(MS * millis);
        }
        assert!(lingering.has_stalled());
        lingering.reported([1].into_iter());
        assert!(!lingering.has_stalled());
    }
}
