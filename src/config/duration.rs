//! Times as Go writes them (`1m30s`, `1.5s`, `100ms`), which the poller's settings were written in.

use std::time::Duration;

/// The units in nanoseconds: Go's, and `min` and `d`.
const UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// The sum of numbers with their units; `None` if the text is no time.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut nanos: u128 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_of_number(c))?);
        let after = after.trim_start();
        let end = after.find(|c: char| is_of_number(c) || c.is_whitespace());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanos = nanos.checked_add(scaled(number, *unit)?)?;
        rest = after.trim_start();
    }
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Some(Duration::new(seconds.try_into().ok()?, nanos as u32))
}

/// A number that may have a fraction, times the unit, rounded down.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // No unit has more than 17 digits in nanoseconds, and more do not count.
    let digits = &fraction[..fraction.len().min(17)];
    let part: u128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let part = part * unit / 10_u128.pow(digits.len() as u32);
    whole
        .checked_mul(unit)?
        .checked_add(part)
        .filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_and_as_people_write_them() {
        for (text, millis) in [
            ("5s", 5_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("2h", 7_200_000),
            ("1h0.5m", 3_630_000),
            ("1m 30s", 90_000),
            ("5 s", 5_000),
            ("3min", 180_000),
            ("30d", 2_592_000_000),
            ("1500000us", 1_500),
            ("1500000µs", 1_500),
            ("0.0000000000000000000001s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            " ",
            "5",
            "s",
            ".s",
            "1.2.3s",
            "-5s",
            "5 minutes",
            "5S",
            "1m30",
            "1e3s",
            "5s,",
            "ä",
            "99999999999999999999999999999999999999999d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
