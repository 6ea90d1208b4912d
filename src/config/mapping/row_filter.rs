//! Which rows of the table are messages.
//!
//! A filter compares what Postgres prints. The stream has that text, and a statement casts to it,
//! so both decide alike, and the publication needs no filter of its own.

use serde::{Deserialize, Serialize};

/// All conditions must hold. Without one, every row is a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowFilter {
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// A condition on the text of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The column.
    pub column: String,
    /// What has to hold.
    pub test: Test,
}

/// What has to hold for the text of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Test {
    /// It is one of these; null is none of them.
    OneOf(Vec<String>),
    /// It is none of these, and not null.
    NoneOf(Vec<String>),
    /// The column is null.
    Null,
    /// The column is not null.
    NotNull,
}

impl Test {
    /// Whether this text, or null, passes.
    pub(crate) fn holds(&self, text: Option<&[u8]>) -> bool {
        let is_one = |list: &[String], text: &[u8]| list.iter().any(|it| it.as_bytes() == text);
        match (self, text) {
            (Test::OneOf(list), Some(text)) => is_one(list, text),
            (Test::NoneOf(list), Some(text)) => !is_one(list, text),
            (Test::Null, text) => text.is_none(),
            (Test::NotNull, text) => text.is_some(),
            (Test::OneOf(_) | Test::NoneOf(_), None) => false,
        }
    }
}
