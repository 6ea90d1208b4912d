//! A value of one column, as either source gives it.

use std::error::Error as StdError;

use tokio_postgres::types::{FromSql, Type};

use crate::error::Result;
use crate::outbox::TextValue;
use crate::outbox::columns::printed_kind::PrintedKind;

/// A value with what is known of its column.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) at: usize,
    pub(super) kind: PrintedKind,
    pub(super) value: &'a [u8],
}

impl<'a> Cell<'a> {
    /// The value with its kind.
    pub(super) fn printed(self) -> TextValue<'a> {
        match self.kind {
            PrintedKind::Hex => TextValue::Hex(self.value),
            PrintedKind::Json => TextValue::Json(self.value),
            PrintedKind::Integer | PrintedKind::Number => TextValue::Number(self.value),
            PrintedKind::Boolean => TextValue::Boolean(self.value),
            _ => TextValue::Verbatim(self.value),
        }
    }
}

/// A value of type text, which need not be UTF-8: the server checks what it receives, and not what
/// it has stored.
pub(super) struct Printed<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Printed<'a> {
    fn from_sql(_type: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Printed(raw))
    }

    fn accepts(type_of_value: &Type) -> bool {
        *type_of_value == Type::TEXT
    }
}

/// A value of a row.
pub(super) enum Value<'a> {
    Text(&'a [u8]),
    /// SQL null.
    Null,
    /// It is longer than a record can be, and was not received.
    LeftOut,
}
