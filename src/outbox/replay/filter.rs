//! What a person asks of a replay: which of the published rows.
//!
//! A progress record holds the filter of a replay that is sent exactly once, so its form there may
//! not change. A later form is refused: without a condition that it does not know, a replay would
//! send too much.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::mapping::RowFilter;
use crate::config::time;

/// The longest time ago.
const AGO_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// All conditions must hold. Without one, every published row is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayFilter {
    /// The lowest id.
    pub from_id: Option<String>,
    /// The highest id.
    pub to_id: Option<String>,
    /// The earliest time of creation.
    pub since: Option<ReplayTime>,
    /// Before this time of creation.
    pub until: Option<ReplayTime>,
    /// One of these topics; none means any.
    pub topics: Vec<String>,
    /// One of these types of events; none means any.
    pub types: Vec<String>,
    /// Conditions on further columns.
    pub conditions: RowFilter,
    /// Rows that come behind the one with this id, in the order of reading.
    pub after: Option<String>,
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayTime {
    /// RFC 3339.
    At(String),
    /// So long before the server's clock.
    Ago(Duration),
}

impl FromStr for ReplayTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_rfc3339(text) {
            return Ok(ReplayTime::At(text.to_owned()));
        }
        let ago = time(text, Duration::ZERO..=AGO_MAX);
        ago.map(ReplayTime::Ago).map_err(|_| {
            "is no time; write one such as 2026-01-31T12:00:00Z, or how long ago, such as 2h"
                .to_owned()
        })
    }
}

/// Whether a text has the form of RFC 3339. The server checks the numbers.
fn is_rfc3339(text: &str) -> bool {
    let Some((date_time, zone)) = text.split_at_checked(19) else {
        return false;
    };
    let fits = |text: &str, form: &str| {
        let fits = |(it, form): (u8, u8)| match form {
            b'0' => it.is_ascii_digit(),
            other => it == other,
        };
        text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let zone = match zone.strip_prefix('.') {
        None => zone,
        Some(rest) => {
            let end = rest.find(|it: char| !it.is_ascii_digit());
            let (fraction, zone) = rest.split_at(end.unwrap_or(rest.len()));
            match digits(fraction) {
                true => zone,
                false => return false,
            }
        }
    };
    let is_zone = zone == "Z" || fits(zone, "+00:00") || fits(zone, "-00:00");
    let (upper, space) = ("0000-00-00T00:00:00", "0000-00-00 00:00:00");
    is_zone && (fits(date_time, upper) || fits(date_time, space))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_with_its_zone_or_how_long_ago() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31 12:00:00+02:00",
            "2026-01-31T12:00:00.123456-11:30",
        ] {
            assert_eq!(text.parse(), Ok(ReplayTime::At(text.to_owned())), "{text}");
        }
        let ago = |seconds| Ok(ReplayTime::Ago(Duration::from_secs(seconds)));
        assert_eq!("2h".parse(), ago(7_200));
        assert_eq!("0s".parse(), ago(0));
        for text in [
            "",
            "yesterday",
            "now",
            "infinity",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+2",
            "2026-01-31T12:00:00Z'",
            "-2h",
            "2",
            "ä026-01-31T12:00:00Z",
        ] {
            let parsed: Result<ReplayTime, _> = text.parse();
            assert!(parsed.is_err(), "{text}: {parsed:?}");
        }
    }
}
