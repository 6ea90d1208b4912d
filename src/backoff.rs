//! Capped exponential back-off with jitter to either side. Pure: the caller sleeps.

use std::time::Duration;

/// Yields growing delays until [`reset`](Backoff::reset): each twice the last, never over the cap, moved by up to a fifth to
/// either side so that many clients of one server do not return in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `cap` plus a fifth.
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Backoff {
            first,
            cap,
            next: first,
        }
    }

    /// The delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.cap);
        base.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Begins again with the first delay; to be called when an attempt has made progress.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_within_a_fifth_and_start_over_after_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for base in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let delay = backoff.next_delay().as_millis() as f64;
            assert!(
                (0.79..=1.21).contains(&(delay / f64::from(base))),
                "{delay} for {base}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(120));
    }
}
