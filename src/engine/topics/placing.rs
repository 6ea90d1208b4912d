//! Where in a topic a record goes and which time it has, as far as its row or a setting decides
//! that, and what the topic takes. Pure: the wall clock is an input.

use std::time::Duration;

/// The partitions of a topic, and the times that it takes. A limit that Kafka does not report is
/// not checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PlacingLimits {
    /// The number of its partitions.
    pub(crate) partition_count: Option<i32>,
    /// How far before the broker's time a record's may be.
    pub(crate) before_max: Option<Duration>,
    /// How far behind it.
    pub(crate) after_max: Option<Duration>,
}

/// The place and the time that a record has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placing {
    pub(crate) partition: Option<i32>,
    /// In milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

impl Placing {
    /// `None` if neither is given.
    pub(crate) fn of(partition: Option<i32>, timestamp: Option<i64>) -> Option<Self> {
        let placing = Placing {
            partition,
            timestamp,
        };
        (partition.is_some() || timestamp.is_some()).then_some(placing)
    }
}

/// Why a topic does not take a record at its place and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// The topic has this many partitions.
    Partition(i32),
    /// The record is older than this.
    TooOld(Duration),
    /// The record is further ahead than this.
    TooNew(Duration),
}

impl PlacingLimits {
    /// Whether the topic takes a record there. `wall` is the time in milliseconds since 1970.
    pub(crate) fn check(&self, placing: Placing, wall: Option<i64>) -> Result<(), Misplaced> {
        if let (Some(partition), Some(count)) = (placing.partition, self.partition_count)
            && partition >= count
        {
            return Err(Misplaced::Partition(count));
        }
        let (Some(time), Some(wall)) = (placing.timestamp, wall) else {
            return Ok(());
        };
        let exceeds = |distance: i64, limit: &Duration| {
            u128::try_from(distance).is_ok_and(|distance| distance > limit.as_millis())
        };
        let (age, lead) = (wall.saturating_sub(time), time.saturating_sub(wall));
        let too_old = self.before_max.filter(|limit| exceeds(age, limit));
        let too_new = self.after_max.filter(|limit| exceeds(lead, limit));
        match (too_old, too_new) {
            (Some(limit), _) => Err(Misplaced::TooOld(limit)),
            (None, Some(limit)) => Err(Misplaced::TooNew(limit)),
            (None, None) => Ok(()),
        }
    }

    /// The same limits, with those of an earlier answer in place of what is not known.
    pub(super) fn or(self, earlier: PlacingLimits, has_settings: bool) -> Self {
        let settings = if has_settings { self } else { earlier };
        PlacingLimits {
            partition_count: self.partition_count.or(earlier.partition_count),
            before_max: settings.before_max,
            after_max: settings.after_max,
        }
    }
}

/// The wall clock when the driver last read it. It serves the comparison with a topic's limits
/// alone, and nothing waits for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WallClock {
    /// The engine's time, and the milliseconds since 1970.
    read: Option<(Duration, i64)>,
}

impl WallClock {
    /// The clock shows this at `now`.
    pub(crate) fn shows(now: Duration, millis: i64) -> Self {
        WallClock {
            read: Some((now, millis)),
        }
    }

    /// What it shows at `now`, in milliseconds since 1970; `None` if it was never read.
    pub(crate) fn at(&self, now: Duration) -> Option<i64> {
        let (at, millis) = self.read?;
        let passed = i64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
        Some(millis.saturating_add(passed))
    }
}

/// How long partitions that were added get no record: the producer notices them within half a
/// minute, and refuses a record for one that it does not know.
const NEW_FOR: Duration = Duration::from_secs(60);

/// Chooses the partitions of a topic in turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    next: i32,
    /// The number of partitions that have their turn; 0 at first.
    used: i32,
    /// Since when there are more.
    grown_at: Option<Duration>,
}

impl Turn {
    /// The next of so many partitions.
    pub(crate) fn next_of(&mut self, now: Duration, count: i32) -> i32 {
        if count != self.used {
            self.resize(now, count);
        }
        let chosen = if self.next < self.used { self.next } else { 0 };
        self.next = chosen + 1;
        chosen
    }

    fn resize(&mut self, now: Duration, count: i32) {
        let has_grown = self.used > 0 && count > self.used;
        let grown_at = *self.grown_at.get_or_insert(now);
        if !has_grown || now.saturating_sub(grown_at) >= NEW_FOR {
            (self.used, self.grown_at) = (count, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn placing(partition: Option<i32>, timestamp: Option<i64>) -> Placing {
        Placing {
            partition,
            timestamp,
        }
    }

    #[test]
    fn a_partition_has_to_be_one_of_the_topics() {
        let limits = PlacingLimits {
            partition_count: Some(3),
            ..PlacingLimits::default()
        };
        for (partition, expected) in [
            (0, Ok(())),
            (2, Ok(())),
            (3, Err(Misplaced::Partition(3))),
            (i32::MAX, Err(Misplaced::Partition(3))),
        ] {
            assert_eq!(limits.check(placing(Some(partition), None), None), expected);
        }
        let unknown = PlacingLimits::default();
        assert_eq!(unknown.check(placing(Some(7), Some(1)), Some(9)), Ok(()));
        assert_eq!(limits.check(placing(None, None), None), Ok(()));
    }

    #[test]
    fn a_time_may_be_as_far_from_the_clock_as_the_topic_takes_it() {
        let limits = PlacingLimits {
            partition_count: None,
            before_max: Some(HOUR),
            after_max: Some(HOUR / 60),
        };
        let now = 1_714_979_289_123;
        for (time, expected) in [
            (now, Ok(())),
            (now - 3_600_000, Ok(())),
            (now - 3_600_001, Err(Misplaced::TooOld(HOUR))),
            (now + 60_000, Ok(())),
            (now + 60_001, Err(Misplaced::TooNew(HOUR / 60))),
            (1, Err(Misplaced::TooOld(HOUR))),
            (i64::MAX, Err(Misplaced::TooNew(HOUR / 60))),
        ] {
            assert_eq!(
                limits.check(placing(None, Some(time)), Some(now)),
                expected,
                "{time}"
            );
            assert_eq!(
                limits.check(placing(None, Some(time)), None),
                Ok(()),
                "no clock"
            );
        }
    }

    #[test]
    fn an_answer_without_settings_keeps_those_of_the_last() {
        let earlier = PlacingLimits {
            partition_count: Some(3),
            before_max: Some(HOUR),
            after_max: None,
        };
        let grown = PlacingLimits {
            partition_count: Some(6),
            ..PlacingLimits::default()
        };
        let unknown = PlacingLimits::default();
        assert_eq!(unknown.or(earlier, false), earlier);
        assert_eq!(grown.or(earlier, true), grown);
        let merged = grown.or(earlier, false);
        assert_eq!(
            (merged.partition_count, merged.before_max),
            (Some(6), Some(HOUR))
        );
    }

    #[test]
    fn the_wall_clock_goes_on_with_the_engines() {
        let clock = WallClock::shows(Duration::from_millis(10), 1_000);
        assert_eq!(clock.at(Duration::from_millis(25)), Some(1_015));
        assert_eq!(clock.at(Duration::from_millis(5)), Some(1_000));
        assert_eq!(WallClock::default().at(Duration::ZERO), None);
    }

    #[test]
    fn every_partition_has_its_turn() {
        let mut turn = Turn::default();
        let mut chosen = |at: u64, count, times: usize| -> Vec<i32> {
            let at = Duration::from_secs(at);
            (0..times).map(|_| turn.next_of(at, count)).collect()
        };
        assert_eq!(chosen(0, 3, 5), [0, 1, 2, 0, 1]);
        assert_eq!(
            chosen(1, 2, 3),
            [0, 1, 0],
            "a topic that was made again has fewer"
        );
        assert_eq!(
            chosen(10, 4, 3),
            [1, 0, 1],
            "the producer does not know the new ones yet"
        );
        assert_eq!(chosen(69, 4, 1), [0]);
        assert_eq!(chosen(70, 4, 4), [1, 2, 3, 0]);
        assert_eq!(chosen(80, 1, 2), [0, 0]);
    }
}
