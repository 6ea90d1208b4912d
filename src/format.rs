//! Numbers as people read them, the same on the status page, in the commands and in the demo.

/// `1023 bytes`, `1.5 KiB`, up to EiB.
pub fn bytes(count: impl Into<i128>) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let count = count.into();
    if count.abs() < 1024 {
        return format!("{count} bytes");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// 1234567 as 1 234 567, with narrow no-break spaces.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 event`, `2999 events`: a number with its noun, which has a regular plural.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", plural(number))
}

/// The same with groups of three digits: `2 999 events`.
pub fn grouped_count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), plural(number))
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// Events a second: a tenth of one below ten, whole ones above.
pub fn rate(per_second: f64) -> String {
    match per_second {
        ..9.95 => format!("{per_second:.1}"),
        _ => grouped(per_second.round() as u64),
    }
}

/// A short time with two digits: `0.4 ms`, `3 ms`, `68 ms`, `1.2 s`, `75 s`.
pub fn short_time(seconds: f64) -> String {
    let millis = seconds * 1_000.0;
    match millis {
        ..1.0 => format!("{millis:.1} ms"),
        ..1_000.0 => format!("{millis:.0} ms"),
        ..10_000.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// A number of seconds in the largest unit that leaves a whole part: `12 s`, `3 min`, `2 h`,
/// `5 days`.
pub fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_shown_in_the_largest_unit_that_leaves_a_whole_part() {
        let shown = [-1.0, 59.9, 60.0, 3_599.0, 172_799.0, 172_800.0].map(age);
        assert_eq!(shown, ["0 s", "59 s", "1 min", "59 min", "47 h", "2 days"]);
    }

    #[test]
    fn one_thing_is_singular_and_none_is_plural() {
        assert_eq!(
            [0, 1, 2].map(|it| count(it, "row")),
            ["0 rows", "1 row", "2 rows"]
        );
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_leaves_a_whole_part() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(-2048), "-2.0 KiB");
        assert_eq!(bytes(5_i64 << 30), "5.0 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn a_low_rate_keeps_a_decimal() {
        assert_eq!(
            [0.0, 0.24, 9.94, 9.96, 1_234.5].map(rate),
            ["0.0", "0.2", "9.9", "10", "1\u{202f}235"]
        );
    }

    #[test]
    fn a_short_time_keeps_two_digits() {
        let shown = [0.0004, 0.0031, 0.068, 1.23, 75.2].map(short_time);
        assert_eq!(shown, ["0.4 ms", "3 ms", "68 ms", "1.2 s", "75 s"]);
    }

    #[test]
    fn one_is_singular() {
        let shown = [0, 1, 2_999].map(|number| count(number, "event"));
        assert_eq!(shown, ["0 events", "1 event", "2999 events"]);
        assert_eq!(grouped_count(2_999, "event"), "2\u{202f}999 events");
    }

    #[test]
    fn digits_stand_in_groups_of_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
