//! How many events may become dead letters in a minute. Pure.
//!
//! A few failures are the events' own; a flood points to a wrong setting or a revoked right. The
//! limit is exact: the event that would exceed it is not filed. Rows whose marks the table refuses
//! count too; they are in Kafka, so those of the batch that exceeds the limit are filed. The count
//! covers the last minute and begins with what the table shows, so a restart does not raise the
//! limit.

use std::time::Duration;

/// The code of the rejection that stops the publisher at the limit.
pub(crate) const DEAD_LETTER_FLOOD: &str = "DEAD_LETTER_FLOOD";

/// The code of the rejection that stops the publisher when the table refuses marks at the limit.
pub(crate) const MARKS_REFUSED: &str = "MARKS_REFUSED";

/// The seconds that count.
const SECONDS: usize = 60;

/// See the module's head.
#[derive(Debug, Clone)]
pub(crate) struct FilingLimit {
    per_minute: u32,
    /// The events filed in each second, by the second modulo a minute.
    filed: [u32; SECONDS],
    /// The last second that was counted.
    second: u64,
}

impl FilingLimit {
    pub(crate) fn new(per_minute: u32) -> Self {
        FilingLimit {
            per_minute,
            filed: [0; SECONDS],
            second: 0,
        }
    }

    pub(crate) fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// The table has this many dead letters of the last minute, those of this process included.
    pub(crate) fn table_has(&mut self, now: Duration, count: u32) {
        self.pass_to(now);
        let earlier = count.saturating_sub(self.sum());
        *self.current() += earlier;
    }

    /// Counts one more event, unless it would exceed the limit.
    pub(crate) fn admits(&mut self, now: Duration) -> bool {
        self.pass_to(now);
        if self.sum() >= self.per_minute {
            return false;
        }
        *self.current() += 1;
        true
    }

    fn sum(&self) -> u32 {
        self.filed
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn current(&mut self) -> &mut u32 {
        &mut self.filed[(self.second % SECONDS as u64) as usize]
    }

    fn pass_to(&mut self, now: Duration) {
        let passed = now
            .as_secs()
            .saturating_sub(self.second)
            .min(SECONDS as u64);
        self.second = self.second.max(now.as_secs());
        for ago in 0..passed {
            self.filed[((self.second - ago) % SECONDS as u64) as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limit: &mut FilingLimit, second: u64, tries: u32) -> u32 {
        let now = Duration::from_secs(second);
        (0..tries).map(|_| u32::from(limit.admits(now))).sum()
    }

    #[test]
    fn the_limit_holds_for_any_sixty_seconds_and_not_for_each_minute_of_the_clock() {
        let mut limit = FilingLimit::new(5);
        assert_eq!(admitted(&mut limit, 58, 3), 3);
        assert_eq!(admitted(&mut limit, 61, 3), 2);
        assert_eq!(admitted(&mut limit, 117, 3), 0);
        assert_eq!(admitted(&mut limit, 118, 9), 3);
        assert_eq!(admitted(&mut limit, 1_000, 9), 5);
    }

    #[test]
    fn what_an_earlier_process_has_filed_counts_and_nothing_counts_twice() {
        let mut limit = FilingLimit::new(5);
        limit.table_has(Duration::from_secs(2), 4);
        assert_eq!(admitted(&mut limit, 3, 9), 1);
        limit.table_has(Duration::from_secs(4), 5);
        assert_eq!(admitted(&mut limit, 4, 9), 0);
        assert_eq!(admitted(&mut limit, 62, 9), 4);
    }
}
