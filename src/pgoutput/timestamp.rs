//! A timestamp of the replication protocol.
//!
//! Postgres counts microseconds from 2000-01-01 UTC in a signed 64-bit integer, without leap
//! seconds (<https://www.postgresql.org/docs/current/datatype-datetime.html>). Every value of that
//! integer can be printed.

use std::fmt;

/// Microseconds between 1970-01-01 and 2000-01-01.
const UNIX_TO_POSTGRES_MICROS: i64 = 946_684_800_000_000;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Microseconds since 2000-01-01 00:00 UTC. Prints as RFC 3339 in UTC, always with six decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Takes the integer of the wire format.
    pub(crate) const fn from_postgres_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// The integer of the wire format.
    #[cfg(test)]
    pub(crate) const fn postgres_micros(self) -> i64 {
        self.0
    }

    /// Microseconds since 1970-01-01 UTC, the Unix epoch.
    pub(crate) const fn unix_micros(self) -> i64 {
        self.0.saturating_add(UNIX_TO_POSTGRES_MICROS)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.0.div_euclid(MICROS_PER_DAY));
        let within_day = self.0.rem_euclid(MICROS_PER_DAY);
        let micros = within_day % MICROS_PER_SECOND;
        let seconds = within_day / MICROS_PER_SECOND;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// Year, month and day of a day number counted from 2000-01-01, in the Gregorian calendar extended
/// both ways.
///
/// Years start on 1 March here, so that the leap day is a year's last and one formula gives the
/// month lengths.
fn civil_date(day: i64) -> (i64, i64, i64) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    // From 0000-03-01, the start of such a period, to 2000-01-01.
    let day = day + 730_425;
    let period = day.div_euclid(DAYS_PER_400_YEARS);
    let day = day.rem_euclid(DAYS_PER_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year + 400 * period;
    if month < 10 {
        (year, month + 3, day_of_month)
    } else {
        (year + 1, month - 9, day_of_month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The right-hand sides come from `SELECT to_char(timestamptz '2000-01-01 00:00Z' +
    /// make_interval(secs => …), …)`.
    #[test]
    fn moments_print_as_postgres_prints_them() {
        for (micros, text) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (5_097_600_000_000, "2000-02-29T00:00:00.000000Z"),
            (5_184_000_000_000, "2000-03-01T00:00:00.000000Z"),
            (768_294_489_123_456, "2024-05-06T07:08:09.123456Z"),
            (-946_684_800_000_000, "1970-01-01T00:00:00.000000Z"),
            (3_160_857_599_999_999, "2100-02-28T23:59:59.999999Z"),
            (3_160_857_600_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), text);
        }
    }

    #[test]
    fn the_unix_epoch_is_zero() {
        assert_eq!(Timestamp(-UNIX_TO_POSTGRES_MICROS).unix_micros(), 0);
    }

    proptest! {
        #[test]
        fn every_value_prints(micros: i64) {
            prop_assert!(Timestamp(micros).to_string().ends_with('Z'));
        }

        #[test]
        fn days_follow_one_another(day in -1_000_000_i64..1_000_000) {
            let (year, month, date) = civil_date(day);
            let next = civil_date(day + 1);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&date));
            prop_assert!(
                next == (year, month, date + 1)
                    || (date >= 28 && next == (year, month + 1, 1))
                    || ((month, date) == (12, 31) && next == (year + 1, 1, 1))
            );
        }
    }
}
