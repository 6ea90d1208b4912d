//! How fast the server writes WAL, and when the slot is lost if it goes on like this. Pure.
//!
//! A slot that keeps up retains now more, now less: its restart position moves by leaps, with every
//! snapshot that the server logs. Only what it retains at the least shows whether it falls behind.
//! So the least of the window's first half is compared with the least of its second half: a slot
//! that keeps up shows no growth, and one that stands still grows as fast as WAL is written. What
//! may still be written is then used up at that speed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::postgres::slot::Slot;

/// The time that the forecast looks back.
const WINDOW: Duration = Duration::from_secs(120);
/// Samples over less time than this show nothing.
const SPAN_MIN: Duration = Duration::from_secs(20);
/// Between two samples, which bounds their number.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    written: i64,
    retained: i64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct SlotForecast {
    /// The oldest first.
    samples: VecDeque<Sample>,
    /// What may be written before the slot is lost, as last read.
    safe: Option<i64>,
}

impl SlotForecast {
    /// Takes in the slot as it was read at this time.
    pub(crate) fn read(&mut self, at: Duration, slot: &Slot) {
        self.safe = slot.safe_wal_size;
        let last = self.samples.back();
        if last.is_some_and(|last| slot.wal_bytes < last.written) {
            // The WAL of another history.
            self.samples.clear();
        } else if last.is_some_and(|last| at < last.at + SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back(Sample {
            at,
            written: slot.wal_bytes,
            retained: slot.retained_bytes,
        });
        while self.samples.front().is_some_and(|it| it.at + WINDOW < at) {
            self.samples.pop_front();
        }
    }

    /// Bytes of WAL that the server writes a second.
    pub(crate) fn wal_bytes_per_second(&self) -> Option<f64> {
        let (first, last) = self.ends()?;
        let seconds = (last.at - first.at).as_secs_f64();
        Some((last.written - first.written) as f64 / seconds)
    }

    /// Seconds until the slot is lost; `None` without a limit, while too little is known, and while
    /// the slot keeps up.
    pub(crate) fn seconds_until_lost(&self) -> Option<f64> {
        let safe = self.safe?;
        if safe <= 0 {
            return Some(0.0);
        }
        let (first, last) = self.ends()?;
        let middle = first.at + (last.at - first.at) / 2;
        let least = |half: &dyn Fn(Duration) -> bool| {
            let half = self.samples.iter().filter(|it| half(it.at));
            half.min_by_key(|it| it.retained).copied()
        };
        let (before, after) = (least(&|at| at < middle)?, least(&|at| at >= middle)?);
        let growth = (after.retained - before.retained) as f64;
        let speed = growth / (after.at - before.at).as_secs_f64();
        (speed > 0.0).then(|| safe as f64 / speed)
    }

    fn ends(&self) -> Option<(Sample, Sample)> {
        let (first, last) = (*self.samples.front()?, *self.samples.back()?);
        (last.at - first.at >= SPAN_MIN).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    const MIB: i64 = 1 << 20;

    /// After a sample every two seconds until `seconds`: what the server has written, what the slot
    /// retains, and what is safe, by the second.
    fn forecast(
        seconds: u64,
        written: impl Fn(i64) -> i64,
        retained: impl Fn(i64) -> i64,
        limit: Option<i64>,
    ) -> SlotForecast {
        let mut forecast = SlotForecast::default();
        for second in (0..=seconds).step_by(2) {
            let (at, second) = (Duration::from_secs(second), second as i64);
            let slot = Slot {
                wal_bytes: written(second),
                retained_bytes: retained(second),
                safe_wal_size: limit.map(|limit| limit - retained(second)),
                ..Slot::at(Lsn::INVALID)
            };
            forecast.read(at, &slot);
        }
        forecast
    }

    fn is_about(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found / expected - 1.0).abs() < 0.01)
    }

    #[test]
    fn a_slot_that_stands_still_is_lost_when_its_room_is_used_up() {
        for seconds in [20, 60, 600] {
            let stuck = |second| MIB * second;
            let forecast = forecast(seconds, stuck, stuck, Some(1_000 * MIB));
            assert!(is_about(forecast.wal_bytes_per_second(), MIB as f64));
            let left = 1_000.0 - seconds as f64;
            assert!(is_about(forecast.seconds_until_lost(), left), "{seconds}");
        }
    }

    #[test]
    fn a_slot_that_keeps_up_is_never_about_to_be_lost_however_much_is_written() {
        // It moves every 15 s, and retains up to a third of the limit in between.
        let forecast = forecast(
            600,
            |second| 20 * MIB * second,
            |second| 20 * MIB * (second % 15),
            Some(1_000 * MIB),
        );
        assert!(is_about(forecast.wal_bytes_per_second(), 20.0 * MIB as f64));
        assert_eq!(forecast.seconds_until_lost(), None);
    }

    #[test]
    fn a_slot_that_falls_behind_by_leaps_is_lost_in_time() {
        let forecast = forecast(
            600,
            |second| 2 * MIB * second,
            |second| MIB * second + MIB * (second % 15),
            Some(2_000 * MIB),
        );
        let left = forecast.seconds_until_lost();
        assert!(left.is_some_and(|left| (1_200.0..1_600.0).contains(&left)));
    }

    #[test]
    fn without_a_limit_or_enough_samples_nothing_is_said_and_what_is_used_up_is_lost_now() {
        let stuck = |second| MIB * second;
        let unlimited = forecast(60, stuck, stuck, None);
        assert_eq!(unlimited.seconds_until_lost(), None);
        assert!(unlimited.wal_bytes_per_second().is_some());
        let short = forecast(18, stuck, stuck, Some(1_000 * MIB));
        assert_eq!(short.seconds_until_lost(), None);
        assert_eq!(short.wal_bytes_per_second(), None);
        let over = forecast(60, stuck, stuck, Some(60 * MIB));
        assert_eq!(over.seconds_until_lost(), Some(0.0));
    }

    #[test]
    fn the_wal_of_another_server_is_not_compared_with_that_of_the_one_before() {
        let mut forecast = forecast(60, |second| MIB * second, |second| MIB * second, None);
        let promoted = Slot {
            wal_bytes: MIB,
            ..Slot::at(Lsn::INVALID)
        };
        forecast.read(Duration::from_secs(62), &promoted);
        assert_eq!(forecast.wal_bytes_per_second(), None);
    }

    #[test]
    fn the_samples_are_bounded_however_often_the_slot_is_read() {
        let mut forecast = SlotForecast::default();
        for reads in 0..100_000 {
            forecast.read(Duration::from_millis(20 * reads), &Slot::at(Lsn::INVALID));
        }
        let most = WINDOW.as_secs() / SAMPLE_EVERY.as_secs() + 1;
        assert!(forecast.samples.len() as u64 <= most);
    }
}
