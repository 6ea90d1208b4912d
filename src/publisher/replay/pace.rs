//! How fast a replay sends: so many events a second, in small groups. Pure: the time is an
//! argument.
//!
//! Each event takes one slice of the second. The events of [`GATHER`] are sent together: a broker
//! spends its time on requests, and a request for each event would make live events wait. A group
//! makes up for time in which nothing was sent, up to a limit, so that a wait for Kafka is not
//! followed by a flood.

use std::time::Duration;

/// The shortest time between two groups.
const GATHER: Duration = Duration::from_millis(250);
/// The longest time that a group makes up for.
const BURST: Duration = Duration::from_millis(500);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time of one event; zero without a limit.
    slice: Duration,
    /// When the next event's slice begins.
    next: Duration,
    /// When the next group begins.
    group: Duration,
}

impl Pace {
    /// At most so many events a second; 0 means no limit.
    pub(super) fn new(per_second: u32) -> Self {
        let slice = Duration::from_secs(1).checked_div(per_second);
        Pace {
            slice: slice.unwrap_or_default(),
            next: Duration::ZERO,
            group: Duration::ZERO,
        }
    }

    /// Takes the slice of one event; otherwise returns how long to wait for it.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if self.slice.is_zero() {
            return Ok(());
        }
        if self.group > now {
            return Err(self.group - now);
        }
        let next = self.next.max(now.saturating_sub(BURST));
        if next > now {
            self.group = next.max(now + GATHER);
            return Err(self.group - now);
        }
        self.next = next + self.slice;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many events are sent at this time.
    fn sent(pace: &mut Pace, now: Duration) -> usize {
        (0..100_000).take_while(|_| pace.take(now).is_ok()).count()
    }

    #[test]
    fn a_second_has_as_many_events_as_the_rate_says_however_often_it_is_asked() {
        for (rate, step) in [(1, 7), (3, 1), (200, 1), (1_000, 5), (50_000, 3)] {
            let mut pace = Pace::new(rate);
            // The first second begins with a burst.
            sent(&mut pace, MS * 1_000);
            let times = (1..=10_000 / step).map(|at| MS * (1_000 + at * step));
            let count: usize = times.map(|now| sent(&mut pace, now)).sum();
            let expected = 10 * rate as usize;
            let off = count.abs_diff(expected);
            // The last group is still due.
            assert!(
                off <= 1 + rate as usize / 4,
                "{rate}/s: {count} in ten seconds"
            );
        }
    }

    #[test]
    fn events_go_in_groups_and_a_pause_is_made_up_for_by_a_small_one_alone() {
        let mut pace = Pace::new(1_000);
        assert_eq!(sent(&mut pace, MS * 1_000), 501);
        assert_eq!(sent(&mut pace, MS * 1_249), 0);
        assert_eq!(sent(&mut pace, MS * 1_250), 250);
        assert_eq!(sent(&mut pace, MS * 60_000), 501);
    }

    #[test]
    fn the_wait_ends_when_the_next_event_or_the_next_group_is_due() {
        for rate in [2, 1_000] {
            let mut pace = Pace::new(rate);
            let now = MS * 500;
            let taken = sent(&mut pace, now);
            assert!(taken > 0, "{rate}/s");
            let wait = pace.take(now).expect_err("all slices are taken");
            assert!(wait <= BURST && wait >= GATHER, "{rate}/s: {wait:?}");
            assert!(pace.take(now + wait - Duration::from_nanos(1)).is_err());
            assert_eq!(pace.take(now + wait), Ok(()));
        }
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut pace = Pace::new(0);
        assert_eq!(sent(&mut pace, Duration::ZERO), 100_000);
    }
}
