//! Capped exponential back-off, with or without jitter. Pure: the caller sleeps.

use std::time::Duration;

/// Delays that double from `first` up to `cap`, until [`reset`](Backoff::reset).
///
/// With `jitter` each delay varies by up to a fifth either way, so that many clients of one server
/// do not return in step. The engine uses exact delays.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    jitter: bool,
    /// Delays since the start or the last reset.
    count: u32,
}

impl Backoff {
    /// Exact delays: the same failures give the same delays.
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Backoff {
            first,
            cap,
            jitter: false,
            count: 0,
        }
    }

    /// Delays that differ from client to client, up to `cap` plus a fifth.
    pub(crate) const fn with_jitter(first: Duration, cap: Duration) -> Self {
        Backoff {
            jitter: true,
            ..Backoff::new(first, cap)
        }
    }

    /// The delay before the next attempt. The delay after it is twice as long.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let base = self.delay();
        self.advance();
        if self.jitter {
            base.mul_f64(0.8 + 0.4 * fastrand::f64())
        } else {
            base
        }
    }

    /// The next delay without jitter, without advancing.
    pub(crate) fn delay(&self) -> Duration {
        self.delay_after(self.count)
    }

    /// The delay after this many earlier ones, for a caller that keeps the count itself.
    pub(crate) fn delay_after(&self, earlier: u32) -> Duration {
        let factor = 1_u32.checked_shl(earlier).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.cap)
    }

    /// Makes the next delay twice as long.
    pub(crate) fn advance(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Starts over with the first delay. To be called when an attempt has made progress.
    pub(crate) fn reset(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(10);
    const DELAYS: [u32; 9] = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];

    #[test]
    fn delays_double_up_to_the_cap_within_a_fifth_and_start_over_after_reset() {
        let mut backoff = Backoff::with_jitter(FIRST, CAP);
        for base in DELAYS {
            let delay = backoff.next_delay().as_millis() as f64;
            assert!(
                (0.79..=1.21).contains(&(delay / f64::from(base))),
                "{delay} for {base}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(120));
    }

    #[test]
    fn without_jitter_every_delay_is_exact_however_often_it_is_asked_for() {
        let mut backoff = Backoff::new(FIRST, CAP);
        for (earlier, base) in (0..).zip(DELAYS) {
            let expected = Duration::from_millis(u64::from(base));
            assert_eq!(backoff.delay_after(earlier), expected);
            assert_eq!(backoff.delay(), expected);
            assert_eq!(backoff.next_delay(), expected);
        }
        assert_eq!(backoff.delay_after(u32::MAX), CAP);
        backoff.reset();
        assert_eq!(backoff.delay(), FIRST);
    }
}
