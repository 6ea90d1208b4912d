//! What kind of text a column's type prints, and how a mark of that kind is recognised.
//!
//! The stream names types by their numbers, and the catalog by their names: both give the same
//! kind. Neither tells what a domain is made of in the stream, so a domain has no known kind.

use crate::config::mapping::MarkedColumn;

/// What a value prints as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrintedKind {
    Text,
    Hex,
    Json,
    Integer,
    /// A number that may have a fraction.
    Number,
    Boolean,
    Time,
    Unknown,
}

impl PrintedKind {
    /// Of a type's object id, which is fixed for built-in types.
    pub(super) fn of_type_id(id: u32) -> Self {
        match id {
            16 => PrintedKind::Boolean,
            17 => PrintedKind::Hex,
            20 | 21 | 23 => PrintedKind::Integer,
            700 | 701 | 1700 => PrintedKind::Number,
            25 | 1042 | 1043 => PrintedKind::Text,
            114 | 3802 => PrintedKind::Json,
            1082 | 1114 | 1184 => PrintedKind::Time,
            _ => PrintedKind::Unknown,
        }
    }

    /// Of a type's name as `format_type` writes it.
    pub(super) fn of_type_name(name: &str) -> Self {
        match name {
            "boolean" => PrintedKind::Boolean,
            "bytea" => PrintedKind::Hex,
            "bigint" | "integer" | "smallint" => PrintedKind::Integer,
            "real" | "double precision" | "numeric" => PrintedKind::Number,
            "text" | "character" | "character varying" => PrintedKind::Text,
            "json" | "jsonb" => PrintedKind::Json,
            "date" | "timestamp without time zone" | "timestamp with time zone" => {
                PrintedKind::Time
            }
            _ => PrintedKind::Unknown,
        }
    }
}

/// How the column of the mark shows that a row is published. A null never does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Any value.
    Present,
    /// A value that is neither false nor zero.
    Set,
    /// This text.
    Constant(String),
}

impl Mark {
    pub(super) fn of(kind: PrintedKind, column: &MarkedColumn) -> Self {
        match (&column.constant, kind) {
            (Some(constant), _) => Mark::Constant(constant.clone()),
            // A domain may be made of either.
            (None, PrintedKind::Boolean | PrintedKind::Integer | PrintedKind::Unknown) => Mark::Set,
            (None, _) => Mark::Present,
        }
    }

    /// Whether this text marks a row as published.
    pub(super) fn is_set(&self, text: &[u8]) -> bool {
        match self {
            Mark::Present => true,
            Mark::Set => !matches!(text, b"f" | b"0"),
            Mark::Constant(constant) => text == constant.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_descriptions_of_a_type_give_the_same_kind() {
        for (id, name) in [
            (16, "boolean"),
            (17, "bytea"),
            (20, "bigint"),
            (21, "smallint"),
            (23, "integer"),
            (25, "text"),
            (114, "json"),
            (700, "real"),
            (701, "double precision"),
            (1042, "character"),
            (1043, "character varying"),
            (1082, "date"),
            (1114, "timestamp without time zone"),
            (1184, "timestamp with time zone"),
            (1700, "numeric"),
            (2950, "uuid"),
            (3802, "jsonb"),
            (16_400, "app.moment"),
        ] {
            let kind = PrintedKind::of_type_id(id);
            assert_eq!(kind, PrintedKind::of_type_name(name), "{name}");
        }
    }
}
