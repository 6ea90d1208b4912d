//! The id of a row: a number where the table's id is one integer column, and otherwise the text
//! that Postgres prints, which stands for a uuid, a text, a numeric, or a composite key.
//!
//! The text of a composite key is a JSON array of the texts of its columns, as
//! `jsonb_build_array(a::text, b::text)::text` prints it.
//!
//! Numbers have the order of their values, texts that of their bytes, which is the collation `C`.

use std::cmp::Ordering;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// See the module's head. Every value of the id's type is an id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// Of a table whose id is an integer.
    Number(i64),
    /// Of any other table.
    Text(IdText),
}

/// The most bytes of a text without memory of its own: a uuid has 36.
const SHORT_MAX: usize = 38;

/// The text of an id.
#[derive(Clone)]
pub struct IdText(Bytes);

#[derive(Clone)]
enum Bytes {
    /// So many of these.
    Short(u8, [u8; SHORT_MAX]),
    Long(Arc<str>),
}

impl IdText {
    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Bytes::Long(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        // It was made of text.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl From<&str> for IdText {
    #[inline]
    fn from(text: &str) -> Self {
        let mut short = [0; SHORT_MAX];
        let length = text.len();
        IdText(match short.get_mut(..length) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Bytes::Short(length as u8, short)
            }
            None => Bytes::Long(text.into()),
        })
    }
}

impl PartialEq for IdText {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for IdText {}

impl PartialOrd for IdText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for IdText {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for IdText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for IdText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What the ids of one table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Integers.
    Number,
    /// Anything else.
    Text,
}

impl IdKind {
    /// That of a table whose id is one integer, or anything else.
    pub fn of(is_integer: bool) -> Self {
        match is_integer {
            true => IdKind::Number,
            false => IdKind::Text,
        }
    }

    /// The id that Postgres prints like this; `None` if that is no id of such a table.
    pub fn id_of(self, text: &str) -> Option<RowId> {
        match self {
            IdKind::Number => text.parse().ok().map(RowId::Number),
            IdKind::Text => Some(RowId::from(text)),
        }
    }
}

impl RowId {
    /// The number, where ids are integers.
    pub fn number(&self) -> Option<i64> {
        match self {
            RowId::Number(number) => Some(*number),
            RowId::Text(_) => None,
        }
    }
}

/// For comparisons in tests.
#[cfg(test)]
impl PartialEq<i64> for RowId {
    fn eq(&self, other: &i64) -> bool {
        self.number() == Some(*other)
    }
}

impl From<i64> for RowId {
    fn from(number: i64) -> Self {
        RowId::Number(number)
    }
}

impl From<&str> for RowId {
    fn from(text: &str) -> Self {
        RowId::Text(text.into())
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowId::Number(number) => write!(f, "{number}"),
            RowId::Text(text) => f.write_str(text.as_str()),
        }
    }
}

impl ToSql for RowId {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (self, kind) {
            (RowId::Number(number), kind) if *kind == Type::INT8 => out.put_i64(*number),
            (RowId::Text(text), kind) if *kind == Type::TEXT => out.put_slice(text.as_bytes()),
            _ => return Err(format!("an id of another kind than {kind}").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT].contains(kind)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for RowId {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        if *kind == Type::INT8 {
            return Ok(RowId::Number(i64::from_be_bytes(raw.try_into()?)));
        }
        Ok(RowId::from(std::str::from_utf8(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT].contains(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Texts of every length around the longest short one, with bytes of both halves of a byte's
    /// range.
    fn texts() -> Vec<String> {
        let mut texts: Vec<String> = (0..SHORT_MAX + 3)
            .map(|length| "x".repeat(length))
            .collect();
        texts.extend(texts.clone().iter().map(|text| format!("{text}ö")));
        texts.push("0190163d-8694-739b-aea5-966c26f8ad91".to_owned());
        texts
    }

    #[test]
    fn a_text_of_any_length_stays_as_it_is() {
        for text in texts() {
            let id = RowId::from(text.as_str());
            assert_eq!(id.to_string(), text);
            assert_eq!(id.number(), None);
            let mut sent = BytesMut::new();
            id.to_sql(&Type::TEXT, &mut sent).expect("a text");
            assert_eq!(sent, text.as_bytes());
            let read = RowId::from_sql(&Type::TEXT, &sent);
            assert_eq!(read.expect("a text"), id);
        }
    }

    #[test]
    fn texts_have_the_order_of_their_bytes() {
        let texts = texts();
        for a in &texts {
            for b in &texts {
                let ids = (RowId::from(a.as_str()), RowId::from(b.as_str()));
                assert_eq!(ids.0.cmp(&ids.1), a.as_bytes().cmp(b.as_bytes()), "{a} {b}");
                assert_eq!(ids.0 == ids.1, a == b);
            }
        }
        let ids: HashSet<RowId> = texts.iter().map(|text| text.as_str().into()).collect();
        assert_eq!(ids.len(), texts.len());
        assert!(texts.iter().all(|text| ids.contains(&text.as_str().into())));
    }

    /// An event in flight keeps one.
    #[test]
    fn an_id_takes_no_more_memory_than_a_short_text() {
        assert_eq!(size_of::<RowId>(), 2 + SHORT_MAX);
    }
}
