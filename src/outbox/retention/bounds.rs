//! The partitions of a table that is partitioned by time: which are to be made ahead, and which may
//! be old. Pure.
//!
//! A time is the number of seconds since 1970 in the column's own convention, so that a `timestamp`
//! without a zone stays what its writers mean. Only bounds that are regular are continued: the last
//! two partitions have the same length, of four weeks at most. Months are not of one length.

use crate::postgres::table_shape::TIMESTAMP;

const DAY: i64 = 86_400;
const PERIOD_MAX: i64 = 28 * DAY;

/// A writer in another time zone may give a time without a zone that is ahead by this much.
const OTHER_ZONES: i64 = 26 * 3_600;

/// More partitions than this are not made at a time: a table that was not written for long gets
/// those of the present.
const MADE_MAX: i64 = 100;

/// How many periods ahead there is a partition.
const AHEAD: i64 = 2;

/// A partition of the first level.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Partition {
    /// Its name, quoted.
    pub(super) name: String,
    pub(super) is_default: bool,
    /// Its bounds, where they are finite.
    pub(super) from: Option<i64>,
    pub(super) to: Option<i64>,
    /// The object ids of its leaves.
    pub(super) leaves: Vec<u32>,
}

/// A partition that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// Why no partition can be made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Irregular {
    /// There is no partition with two finite bounds.
    Empty,
    /// The last two partitions have other lengths, or are longer than four weeks.
    Lengths,
}

/// The partitions that are missing at `now`, for a column of this type.
pub(super) fn missing(
    partitions: &[Partition],
    now: i64,
    column: &str,
) -> Result<Vec<Wanted>, Irregular> {
    // Nothing lies behind a partition without an end.
    if partitions
        .iter()
        .any(|it| !it.is_default && it.to.is_none())
    {
        return Ok(Vec::new());
    }
    let mut bounded: Vec<(i64, i64)> = partitions
        .iter()
        .filter_map(|it| Some((it.from?, it.to?)))
        .collect();
    bounded.sort_unstable();
    let (from, to) = *bounded.last().ok_or(Irregular::Empty)?;
    let period = to - from;
    let before = bounded.len().checked_sub(2).map(|at| bounded[at]);
    let is_regular = before.is_none_or(|(from, to)| to - from == period);
    if !is_regular || !(1..=PERIOD_MAX).contains(&period) {
        return Err(Irregular::Lengths);
    }
    let zones = if column == TIMESTAMP { OTHER_ZONES } else { 0 };
    let wanted = now + (AHEAD * period).max(period + zones);
    let mut from = to;
    if (wanted - from) / period > MADE_MAX {
        from += (now - from) / period * period;
    }
    let mut missing = Vec::new();
    while from < wanted {
        let to = from + period;
        missing.push(Wanted { from, to });
        from = to;
    }
    Ok(missing)
}

/// Those that end before `cutoff`. The default partition is never one.
pub(super) fn ended(partitions: &[Partition], cutoff: i64) -> impl Iterator<Item = &Partition> {
    let has_ended = move |it: &&Partition| !it.is_default && it.to.is_some_and(|to| to <= cutoff);
    partitions.iter().filter(has_ended)
}

impl Wanted {
    /// The name of the partition of this table.
    pub(super) fn name(self, table: &str) -> String {
        let Civil {
            date: [year, month, day],
            time: [hour, minute, _],
        } = civil(self.from);
        let mut name = format!("{table}_p{year:04}{month:02}{day:02}");
        if self.from % DAY != 0 || self.to % DAY != 0 {
            name += &format!("{hour:02}");
        }
        if self.from % 3_600 != 0 || self.to % 3_600 != 0 {
            name += &format!("{minute:02}");
        }
        name
    }
}

/// A time as a literal for a column of this type.
pub(super) fn literal(seconds: i64, column: &str) -> String {
    let Civil {
        date: [year, month, day],
        time: [hour, minute, second],
    } = civil(seconds);
    let zone = if column == TIMESTAMP { "" } else { "+00" };
    format!("'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{zone}'")
}

struct Civil {
    date: [i64; 3],
    time: [i64; 3],
}

/// The date in the Gregorian calendar.
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn civil(seconds: i64) -> Civil {
    let (days, of_day) = (seconds.div_euclid(DAY) + 719_468, seconds.rem_euclid(DAY));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    Civil {
        date: [year, month, day],
        time: [of_day / 3_600, of_day / 60 % 60, of_day % 60],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::table_shape::TIMESTAMPTZ;

    const NOW: i64 = 1_764_590_400; // 2025-12-01 12:00:00

    fn of(from: Option<i64>, to: Option<i64>) -> Partition {
        Partition {
            name: String::new(),
            is_default: false,
            from,
            to,
            leaves: Vec::new(),
        }
    }

    fn days(range: std::ops::Range<i64>) -> Vec<Partition> {
        let midnight = NOW - NOW % DAY;
        let day = |n: i64| of(Some(midnight + n * DAY), Some(midnight + (n + 1) * DAY));
        range.map(day).collect()
    }

    #[test]
    fn two_periods_are_made_ahead_and_none_twice() {
        let midnight = NOW - NOW % DAY;
        let made = |partitions: &[Partition]| {
            let made = missing(partitions, NOW, TIMESTAMPTZ).unwrap_or_default();
            made.iter()
                .map(|it| (it.from - midnight) / DAY)
                .collect::<Vec<_>>()
        };
        assert_eq!(made(&days(-3..1)), [1, 2]);
        assert_eq!(made(&days(-3..3)), [0; 0]);
        assert_eq!(made(&days(-5..-2)), [-2, -1, 0, 1, 2]);
        // A gap of years is not filled.
        assert_eq!(made(&days(-901..-900)), [0, 1, 2]);
        let mut endless = days(-3..-2);
        endless.push(of(Some(midnight), None));
        assert_eq!(made(&endless), [0; 0]);
    }

    #[test]
    fn a_time_without_a_zone_may_be_that_of_a_writer_in_another_zone() {
        let hour = NOW - NOW % 3_600;
        let partitions = [of(Some(hour), Some(hour + 3_600))];
        let count = |column| missing(&partitions, NOW, column).map(|it| it.len());
        assert_eq!(count(TIMESTAMPTZ), Ok(1));
        assert_eq!(count(TIMESTAMP), Ok(26));
    }

    #[test]
    fn bounds_that_are_not_regular_are_not_continued() {
        let mut partitions = days(-3..1);
        partitions[2].from = partitions[2].from.map(|from| from + 60);
        assert_eq!(
            missing(&partitions, NOW, TIMESTAMPTZ),
            Err(Irregular::Lengths)
        );
        let months = [
            of(Some(NOW - 62 * DAY), Some(NOW - 31 * DAY)),
            of(Some(NOW - 31 * DAY), Some(NOW)),
        ];
        assert_eq!(missing(&months, NOW, TIMESTAMPTZ), Err(Irregular::Lengths));
        assert_eq!(missing(&[], NOW, TIMESTAMPTZ), Err(Irregular::Empty));
    }

    #[test]
    fn only_partitions_that_have_ended_are_old_and_never_the_default_one() {
        let mut partitions = days(-5..2);
        partitions.push(Partition {
            is_default: true,
            ..of(None, None)
        });
        partitions.push(of(Some(NOW), None));
        assert_eq!(ended(&partitions, NOW).count(), 5);
        assert_eq!(ended(&partitions, NOW - 30 * DAY).count(), 0);
    }

    #[test]
    fn names_and_literals_are_those_of_the_calendar() {
        let day = Wanted {
            from: 1_709_164_800,
            to: 1_709_251_200,
        };
        assert_eq!(day.name("outbox"), "outbox_p20240229");
        assert_eq!(literal(day.from, TIMESTAMP), "'2024-02-29 00:00:00'");
        let hour = Wanted {
            from: 1_709_247_600,
            to: 1_709_251_200,
        };
        assert_eq!(hour.name("outbox"), "outbox_p2024022923");
        assert_eq!(literal(hour.to, TIMESTAMPTZ), "'2024-03-01 00:00:00+00'");
        assert_eq!(literal(-1, TIMESTAMP), "'1969-12-31 23:59:59'");
    }
}
