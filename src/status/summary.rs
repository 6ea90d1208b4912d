//! One line about what was published, at a fixed interval. Pure: times are arguments.
//!
//! An interval in which nothing was published has none.

use std::fmt;
use std::time::Duration;

use crate::format::{count, rate, short_time};
use crate::status::flow::{Counts, FlowMeter};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Summary {
    /// `None`: no line is written.
    interval: Option<Duration>,
    began: Duration,
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
        }
    }

    /// What is to be logged at `now`, of the events that `meter` has counted since the last line.
    pub(crate) fn due(&mut self, now: Duration, meter: &mut FlowMeter) -> Option<Published> {
        let time = now.saturating_sub(self.began);
        if time < self.interval? {
            return None;
        }
        self.began = now;
        let Counts { events, latencies } = meter.take_new();
        let p99 = latencies.quantile(0.99).map(Duration::from_secs_f64);
        (events > 0).then_some(Published { events, time, p99 })
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

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_minute_with_events_is_one_line_and_one_without_is_none() {
        let mut summary = Summary::new(Some(MINUTE));
        let mut meter = FlowMeter::new(Duration::ZERO);
        for event in 0..14_203_u32 {
            let now = MINUTE * event / 14_203;
            meter.advance(now);
            // One in two hundred is slow.
            let millis = if event % 200 == 0 { 900 } else { 8 };
            meter.published(now, 0, Some(Duration::from_millis(millis)));
            assert_eq!(summary.due(now, &mut meter), None);
        }
        let published = summary.due(MINUTE, &mut meter).expect("a line");
        let text = published.to_string();
        assert_eq!(text, "published 14203 events in 60 s (237/s), p99 8 ms");
        let idle = summary.due(MINUTE * 2, &mut meter);
        assert_eq!(idle, None, "an idle minute");
        meter.published(MINUTE * 2, 0, None);
        let published = summary.due(MINUTE * 3, &mut meter);
        let text = "published 1 event in 60 s (0.0/s)";
        assert_eq!(published.map(|it| it.to_string()).as_deref(), Some(text));
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut summary = Summary::new(None);
        let mut meter = FlowMeter::new(Duration::ZERO);
        meter.published(MINUTE, 0, None);
        assert_eq!(summary.due(MINUTE * 100, &mut meter), None);
    }
}
