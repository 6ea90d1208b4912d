//! An event as it is shown: owned, bounded in length, and the same for the slot and the table.

use serde::{Serialize, Serializer};

use crate::lsn::Lsn;

/// One event that would be sent, or would be refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeekedEvent {
    /// The id of its row, as Postgres prints it; empty if it has none.
    pub id: String,
    /// Its topic; empty if no rule gives one.
    pub topic: String,
    /// The partition, where a rule gives one; otherwise the key decides.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Shown>,
    /// The value; a record without one is a tombstone.
    pub value: Option<Shown>,
    /// The length of the value in bytes.
    pub value_bytes: Option<usize>,
    /// Whether key, value or a header is shown in part.
    pub is_cut: bool,
    /// The headers, in their order. A value may be null.
    pub headers: Vec<(String, Option<Shown>)>,
    /// The position of its commit; `None` of the table.
    #[serde(serialize_with = "as_text")]
    pub lsn: Option<Lsn>,
    /// Its index among the changes of its transaction; `None` of the table.
    pub index: Option<u32>,
    /// The time of its commit, RFC 3339; `None` of the table.
    pub committed_at: Option<String>,
    /// Why it would be refused, if it would be.
    pub refused: Option<Refusal>,
    /// Its open dead letter: the event is not sent until that is retried.
    pub dead_letter: Option<OpenDeadLetter>,
}

/// Why an event would be refused before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The code of the dead letter that it would become.
    pub code: String,
    /// The reason.
    pub reason: String,
}

/// An open dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenDeadLetter {
    /// Its id, for `outboxd dead-letter show`.
    pub id: i64,
    /// Its state.
    pub state: String,
    /// Why the event could not be published.
    pub error_code: String,
}

/// Bytes of an event: text as it is, and other bytes in hexadecimal digits. In JSON the latter are
/// `{"hex": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Text.
    Text(String),
    /// Bytes that are no text.
    Hex(String),
}

impl Shown {
    /// These bytes, cut to the length in characters if there is a limit; and whether they were.
    pub(super) fn of(bytes: &[u8], length_max: Option<usize>) -> (Shown, bool) {
        let most = length_max.unwrap_or(usize::MAX);
        match std::str::from_utf8(bytes) {
            // Postgres has no zero byte in text.
            Ok(text) if !text.contains('\0') => {
                let end = text.char_indices().nth(most).map(|(at, _)| at);
                let shown = &text[..end.unwrap_or(text.len())];
                (Shown::Text(shown.to_owned()), end.is_some())
            }
            _ => {
                let shown = &bytes[..bytes.len().min(most / 2)];
                let hex = shown.iter().map(|byte| format!("{byte:02x}")).collect();
                (Shown::Hex(hex), shown.len() < bytes.len())
            }
        }
    }

    /// About how many bytes it takes in memory.
    pub(super) fn len(&self) -> usize {
        match self {
            Shown::Text(text) | Shown::Hex(text) => text.len(),
        }
    }
}

impl PeekedEvent {
    /// About how many bytes it takes in memory.
    pub(super) fn size(&self) -> usize {
        let parts = [&self.key, &self.value].into_iter().flatten();
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| name.len() + value.as_ref().map_or(0, Shown::len));
        parts.map(Shown::len).sum::<usize>() + headers.sum::<usize>()
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Hex<'a> {
            hex: &'a str,
        }
        match self {
            Shown::Text(text) => serializer.serialize_str(text),
            Shown::Hex(hex) => Hex { hex }.serialize(serializer),
        }
    }
}

fn as_text<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
    lsn.map(|lsn| lsn.to_string()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_bytes_between_pairs_of_digits() {
        let shown = |bytes: &[u8], most| Shown::of(bytes, most);
        let text = |text: &str| Shown::Text(text.to_owned());
        assert_eq!(shown("öäü".as_bytes(), Some(3)), (text("öäü"), false));
        assert_eq!(shown("öäü".as_bytes(), Some(2)), (text("öä"), true));
        assert_eq!(shown("öäü".as_bytes(), None), (text("öäü"), false));
        let hex = |hex: &str| Shown::Hex(hex.to_owned());
        assert_eq!(shown(&[0xff, 0, 1], Some(6)), (hex("ff0001"), false));
        assert_eq!(shown(&[0xff, 0, 1], Some(5)), (hex("ff00"), true));
        assert_eq!(shown(b"a\0", None), (hex("6100"), false));
    }

    #[test]
    fn bytes_that_are_no_text_cannot_be_taken_for_text_in_json() -> serde_json::Result<()> {
        let json = |bytes: &[u8]| serde_json::to_string(&Shown::of(bytes, None).0);
        assert_eq!(json(b"a\"b")?, r#""a\"b""#);
        assert_eq!(json(&[0xff])?, r#"{"hex":"ff"}"#);
        Ok(())
    }
}
