//! The last fifteen minutes, a sample each five seconds, for the status page's charts.

use std::collections::VecDeque;
use std::time::Duration;

/// Between two samples.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// How far back the samples reach.
pub(crate) const REACH: Duration = Duration::from_secs(15 * 60);

/// One interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// When it ended, since the start.
    pub(crate) at: Duration,
    pub(crate) events_per_second: f64,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p99_seconds: Option<f64>,
    /// Bytes of WAL between the slot's confirmed position and the server's, as last read.
    pub(crate) lag_bytes: Option<i64>,
}

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History(VecDeque<Sample>);

impl History {
    /// Adds a sample, and drops those that are too old.
    pub(crate) fn push(&mut self, sample: Sample) {
        let is_old = |first: &Sample| sample.at.saturating_sub(first.at) > REACH;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// From the oldest to the newest.
    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_back_fifteen_minutes() {
        let mut history = History::default();
        for at in (0..3_600).step_by(5).map(Duration::from_secs) {
            let sample = Sample {
                at,
                ..Sample::default()
            };
            history.push(sample);
        }
        let kept: Vec<Duration> = history.samples().map(|sample| sample.at).collect();
        assert_eq!(kept.len(), 181);
        assert_eq!(kept[0], Duration::from_secs(3_595 - 900));
    }
}
