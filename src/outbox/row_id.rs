//! The id of a row: a number where the table's id is one integer column, and otherwise the text
//! that Postgres prints, which stands for a uuid, a text, a numeric, or a composite key.
//!
//! The text of a composite key is a JSON array of the texts of its columns, as
//! `jsonb_build_array(a::text, b::text)::text` prints it.
//!
//! Numbers have the order of their values, texts that of their bytes, which is the collation `C`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// See the module's head. Every value of the id's type is an id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// Of a table whose id is an integer.
    Number(i64),
    /// Of any other table.
    Text(Arc<str>),
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
            RowId::Text(text) => f.write_str(text),
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
