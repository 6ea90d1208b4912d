//! One line about what was published, at a fixed interval. Pure: times are arguments.
//!
//! An interval in which nothing was published has none.

use std::fmt;
use std::time::Duration;

use crate::format::{count, rate, short_time};
use crate::status::latency::LatencyCounts;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Summary {
    /// `None`: no line is written.
    interval: Option<Duration>,
    began: Duration,
    events: u64,
    latencies: LatencyCounts,
}

/// What was published in one interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Published {
    pub(crate) events: u64,
    pub(crate) time: Duration,
    /// The latency of which 99 of 100 events stay below; `None` if no event had a commit time.
    pub(crate) p99: Option<Duration>,
}

impl Summary {
    /// A line each `interval`.
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Summary {
            interval,
            began: Duration::ZERO,
            events: 0,
            latencies: LatencyCounts::default(),
        }
    }

    /// An event was published, so long after its commit, where that is known. Clocks that differ
    /// can make that negative.
    pub(crate) fn published(&mut self, latency_micros: Option<i64>) {
        self.events += 1;
        if let Some(micros) = latency_micros {
            let latency = Duration::from_micros(micros.max(0) as u64);
            self.latencies.observe(latency);
        }
    }

    /// What is to be logged at `now`.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Published> {
        let time = now.saturating_sub(self.began);
        if time < self.interval? {
            return None;
        }
        let published = Published {
            events: self.events,
            time,
            p99: self.latencies.quantile(0.99).map(Duration::from_secs_f64),
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
        let events = count(self.events, "event");
        write!(f, "published {events} in {seconds:.0} s")?;
        write!(f, " ({}/s)", rate(self.events as f64 / seconds))?;
        match self.p99 {
            Some(p99) => write!(f, ", p99 {}", short_time(p99.as_secs_f64())),
            None => Ok(()),
        }
    }
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
}
