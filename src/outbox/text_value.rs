//! A value of a column, with what is known of its text.

use std::fmt;

/// A value as Postgres prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TextValue<'a> {
    /// The text is the value.
    Verbatim(&'a [u8]),
    /// The same, known to be UTF-8.
    Text(&'a str),
    /// A `bytea`: `\x` and two digits a byte
    /// (<https://www.postgresql.org/docs/current/datatype-binary.html>).
    Hex(&'a [u8]),
    /// JSON.
    Json(&'a [u8]),
    /// A number, or `NaN` or an infinity.
    Number(&'a [u8]),
    /// `t` or `f`.
    Boolean(&'a [u8]),
}

impl<'a> TextValue<'a> {
    /// The text.
    pub fn text(self) -> &'a [u8] {
        match self {
            TextValue::Verbatim(text)
            | TextValue::Hex(text)
            | TextValue::Json(text)
            | TextValue::Number(text)
            | TextValue::Boolean(text) => text,
            TextValue::Text(text) => text.as_bytes(),
        }
    }

    /// The text, if it is UTF-8.
    #[inline(always)]
    pub(crate) fn as_str(self) -> Option<&'a str> {
        match self {
            TextValue::Text(text) => Some(text),
            other => std::str::from_utf8(other.text()).ok(),
        }
    }
}

// Payloads and keys are the users' data: debug output in a log must not show them.
impl fmt::Debug for TextValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.text().len())
    }
}
