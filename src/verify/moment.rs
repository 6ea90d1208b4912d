//! Moments as people and headers write them. Pure.

use std::time::Duration;

use crate::config::duration;
use crate::outbox::CreatedAt;

/// A moment that a person names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So many microseconds since 1970.
    At(i64),
    /// So long before the present by the server's clock.
    Ago(Duration),
}

impl Moment {
    /// Reads RFC 3339, a time as Postgres prints it in UTC, or a time ago (`2h`, `1d12h`).
    pub fn parse(text: &str) -> Option<Moment> {
        let ago = duration::parse(text).map(Moment::Ago);
        ago.or_else(|| absolute(text).map(Moment::At))
    }

    /// The microseconds since 1970, where the present is `now`.
    pub(super) fn at(self, now: i64) -> i64 {
        match self {
            Moment::At(at) => at,
            Moment::Ago(ago) => now.saturating_sub(ago.as_micros().try_into().unwrap_or(i64::MAX)),
        }
    }
}

/// A length of time that a person names (`30s`, `5m`).
pub fn length(text: &str) -> Option<Duration> {
    duration::parse(text)
}

/// The microseconds since 1970 of a moment that the text names by itself.
pub(super) fn absolute(text: &str) -> Option<i64> {
    let mut text = text.trim().to_owned();
    if text.is_ascii() && text.as_bytes().get(10) == Some(&b'T') {
        text.replace_range(10..11, " ");
    }
    if text.len() == 10 {
        text.push_str(" 00:00:00");
    }
    let (local, east) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => zone(&text)?,
    };
    let micros = CreatedAt::of_text(local).unix_micros()?;
    micros.checked_sub(east * 60_000_000)
}

/// The text without its offset, and the offset in minutes east of UTC; without one it is UTC.
fn zone(text: &str) -> Option<(&str, i64)> {
    let Some(at) = text.rfind(['+', '-']).filter(|at| *at > 10) else {
        return Some((text, 0));
    };
    let (local, offset) = text.split_at_checked(at)?;
    let (sign, digits) = offset.split_at_checked(1)?;
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let part = |text: &str| text.parse::<i64>().ok().filter(|it| (0..60).contains(it));
    let minutes = part(hours)? * 60 + part(minutes)?;
    Some((local, if sign == "-" { -minutes } else { minutes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_in_every_form_in_which_it_is_written() {
        let at = |text: &str, now| Moment::parse(text).map(|moment| moment.at(now));
        let expected = Some(1_798_761_599_500_000);
        for text in [
            "2026-12-31T23:59:59.5Z",
            "2026-12-31 23:59:59.500000+00",
            "2027-01-01T01:29:59.5+01:30",
            "2026-12-31T22:59:59.5-01:00",
        ] {
            assert_eq!(at(text, 0), expected, "{text}");
        }
        assert_eq!(at("1970-01-02", 0), Some(86_400_000_000));
        assert_eq!(at("2h", 7_200_000_001), Some(1));
        for text in ["", "yesterday", "2026-12-31T23:59:59+25:61", "12:00", "-5m"] {
            assert_eq!(at(text, 0), None, "{text}");
        }
    }
}
