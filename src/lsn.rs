//! A position in the WAL.
//!
//! An [`Lsn`] can be parsed, printed and compared. There is no arithmetic on purpose: only
//! positions that the server itself has sent may be confirmed, and one byte too far loses a
//! transaction.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte position in the WAL, printed as `X/X` in hexadecimal.
///
/// See <https://www.postgresql.org/docs/current/datatype-pg-lsn.html>. Two positions may be
/// compared only if they come from the same system identifier and timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, which Postgres uses for "no position".
    pub const INVALID: Lsn = Lsn(0);

    /// Takes the eight bytes of the wire format, already read as a big-endian integer.
    pub const fn new(raw: u64) -> Self {
        Lsn(raw)
    }

    /// The integer that goes on the wire.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether this is `0/0`.
    pub(crate) const fn is_invalid(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text does not have the form `X/X` with one to eight hexadecimal digits on either side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log sequence number such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let well_formed =
                (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            well_formed
                .then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_position(raw: u64) {
            prop_assert_eq!(Lsn::new(raw).to_string().parse::<Lsn>(), Ok(Lsn::new(raw)));
        }

        #[test]
        fn positions_order_as_unsigned_integers(a: u64, b: u64) {
            prop_assert_eq!(Lsn::new(a).cmp(&Lsn::new(b)), a.cmp(&b));
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/0/0",
            "0/+1",
            "G/0",
            "100000000/0",
            "0/ 1",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
