//! One line about what was published, at a fixed interval. Pure: times are arguments.
//!
//! An interval in which nothing was published has none. The latencies, from commit to
//! acknowledgement, are counted in buckets an eighth apart or less, in constant memory.

use std::fmt;
use std::time::Duration;

/// The buckets of one doubling of the latency, as a power of two.
const STEPS: u32 = 3;
const BUCKETS: usize = 64 << STEPS;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Summary {
    /// `None`: no line is written.
    interval: Option<Duration>,
    began: Duration,
    events: u64,
    latencies: Latencies,
}

/// What was published in one interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Published {
    pub(super) events: u64,
    pub(super) time: Duration,
    /// The latency of which 99 of 100 events stay below; `None` if no event had a commit time.
    pub(super) p99: Option<Duration>,
}

impl Summary {
    /// A line each `interval`.
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Summary {
            interval,
            began: Duration::ZERO,
            events: 0,
            latencies: Latencies::default(),
        }
    }

    /// An event was published, so long after its commit, where that is known. Clocks that differ
    /// can make that negative.
    pub(super) fn published(&mut self, latency_micros: Option<i64>) {
        self.events += 1;
        if let Some(micros) = latency_micros {
            self.latencies.add(micros.max(0) as u64);
        }
    }

    /// What is to be logged at `now`.
    pub(super) fn due(&mut self, now: Duration) -> Option<Published> {
        let time = now.saturating_sub(self.began);
        if time < self.interval? {
            return None;
        }
        let published = Published {
            events: self.events,
            time,
            p99: self.latencies.p99(),
        };
        *self = Summary {
            began: now,
            ..Summary::new(self.interval)
        };
        Some(published).filter(|published| published.events > 0)
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64();
        let rate = self.events as f64 / seconds;
        let noun = if self.events == 1 { "event" } else { "events" };
        write!(f, "published {} {noun} in {seconds:.0} s", self.events)?;
        match rate {
            ..10.0 => write!(f, " ({rate:.1}/s)")?,
            _ => write!(f, " ({rate:.0}/s)")?,
        }
        match self.p99 {
            Some(p99) if p99 < Duration::from_secs(10) => write!(f, ", p99 {} ms", p99.as_millis()),
            Some(p99) => write!(f, ", p99 {} s", p99.as_secs()),
            None => Ok(()),
        }
    }
}

struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latencies({})", self.total)
    }
}

impl Latencies {
    fn add(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.total += 1;
    }

    fn p99(&self) -> Option<Duration> {
        let mut above = self.total - self.total / 100;
        let found = self.counts.iter().position(|count| {
            above = above.saturating_sub(*count);
            above == 0
        });
        let at = found.filter(|_| self.total > 0)?;
        Some(Duration::from_micros(upper_bound(at)))
    }
}

fn bucket(micros: u64) -> usize {
    let power = micros.max(1).ilog2();
    if power < STEPS {
        return micros as usize;
    }
    let step = (micros >> (power - STEPS)) & ((1 << STEPS) - 1);
    ((power as usize) << STEPS) + step as usize
}

/// The largest number of microseconds of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (power, step) = ((bucket >> STEPS) as u32, bucket as u64 & ((1 << STEPS) - 1));
    if power < STEPS {
        return bucket as u64;
    }
    let width = 1 << (power - STEPS);
    (1 << power) + (step * width) + (width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_minute_with_events_is_one_line_and_one_without_is_none() {
        let mut summary = Summary::new(Some(MINUTE));
        for event in 0..14_203 {
            // One in two hundred is slow.
            let millis = if event % 200 == 0 { 900 } else { 8 };
            summary.published(Some(millis * 1_000));
            assert_eq!(summary.due(SECOND * 59), None);
        }
        let published = summary.due(MINUTE).expect("a line");
        let text = published.to_string();
        assert_eq!(text, "published 14203 events in 60 s (237/s), p99 8 ms");
        assert_eq!(summary.due(MINUTE * 2), None, "an idle minute");
        summary.published(None);
        let published = summary.due(MINUTE * 3).map(|it| it.to_string());
        let text = "published 1 event in 60 s (0.0/s)";
        assert_eq!(published.as_deref(), Some(text));
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut summary = Summary::new(None);
        summary.published(None);
        assert_eq!(summary.due(MINUTE * 100), None);
    }

    #[test]
    fn a_latency_is_known_to_an_eighth() {
        for micros in (0..5_000).chain([1 << 40, u64::MAX]) {
            let bound = upper_bound(bucket(micros));
            assert!(
                bound >= micros && bound - micros <= micros / 8,
                "{micros} {bound}"
            );
        }
        let mut latencies = Latencies::default();
        assert_eq!(latencies.p99(), None);
        for millis in 1..=200 {
            latencies.add(millis * 1_000);
        }
        let p99 = latencies.p99().expect("there are some").as_millis();
        assert!((198..=198 + 198 / 8).contains(&p99), "{p99}");
    }
}
