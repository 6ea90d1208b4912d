//! Counts of latencies by size, from which quantiles are read: constant memory, a few instructions
//! an event.
//!
//! Four buckets an octave: a quantile is exact to a tenth of its value.

use std::time::Duration;

/// Four buckets for each power of two of microseconds, up to some 70 minutes.
const BUCKETS: usize = 128;

/// See the module's head.
#[derive(Debug, Clone)]
pub(crate) struct LatencyCounts([u32; BUCKETS]);

impl Default for LatencyCounts {
    fn default() -> Self {
        LatencyCounts([0; BUCKETS])
    }
}

impl LatencyCounts {
    pub(crate) fn observe(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let count = &mut self.0[bucket(micros)];
        *count = count.saturating_add(1);
    }

    pub(crate) fn add(&mut self, other: &LatencyCounts) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// The counts without those that were made earlier of the same events.
    pub(crate) fn since(&self, earlier: &LatencyCounts) -> Self {
        let mut counts = self.clone();
        for (count, before) in counts.0.iter_mut().zip(earlier.0) {
            *count = count.saturating_sub(before);
        }
        counts
    }

    /// The latency that this share of the events did not exceed, in seconds; `None` without an
    /// event.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all as f64 * share).ceil().max(1.0);
        let mut before = 0.0;
        for (at, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if before + count >= wanted {
                let (low, high) = (lower_bound(at), lower_bound(at + 1));
                return Some((low + (high - low) * (wanted - before) / count) / 1e6);
            }
            before += count;
        }
        None
    }
}

/// The octave, and two bits below its leading one.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(4);
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    ((octave as usize - 2) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// Of a bucket, in microseconds.
fn lower_bound(at: usize) -> f64 {
    let (octave, quarter) = (at / 4, at % 4);
    if at == 0 {
        return 0.0;
    }
    (4 + quarter) as f64 * 2_f64.powi(octave as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_exact_to_a_tenth_from_microseconds_to_an_hour() {
        for micros in [5, 37, 999, 3_000, 250_000, 61_000_000, 3_600_000_000] {
            let mut counts = LatencyCounts::default();
            for _ in 0..1_000 {
                counts.observe(Duration::from_micros(micros));
            }
            let found = counts.quantile(0.5).unwrap_or_default() * 1e6;
            let error = (found - micros as f64).abs() / micros as f64;
            assert!(error < 0.13, "{micros} µs shows as {found}");
        }
    }

    #[test]
    fn the_slowest_hundredth_shows_in_the_last_quantile_alone() {
        let mut counts = LatencyCounts::default();
        assert_eq!(counts.quantile(0.5), None);
        for at in 0..1_000 {
            let millis = if at < 20 { 900 } else { 3 };
            counts.observe(Duration::from_millis(millis));
        }
        let read = |share| counts.quantile(share).unwrap_or_default();
        assert!(read(0.5) < 0.004, "{}", read(0.5));
        assert!(read(0.99) > 0.7, "{}", read(0.99));
    }

    #[test]
    fn what_is_out_of_range_is_counted_at_the_ends() {
        let mut counts = LatencyCounts::default();
        counts.observe(Duration::ZERO);
        counts.observe(Duration::MAX);
        assert!(counts.quantile(0.5).is_some_and(|low| low < 1e-5));
        assert!(counts.quantile(1.0).is_some_and(|high| high > 3_600.0));
    }
}
