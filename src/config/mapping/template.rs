//! A text with the values of columns in it, such as `outbox.event.${aggregatetype}`.

use std::fmt;

use crate::config::error::InvalidValue;
use crate::config::parse::name_of;
use crate::error::shown;

/// What begins the name of a column, which ends with `}`.
const COLUMN: &str = "${";

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// Text that is the same for every row.
    Text(String),
    /// The value of this column, as Postgres prints it.
    Column(String),
}

/// See the module's head. Null for a row in which one of the columns is null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The parts, in order.
    pub pieces: Vec<Piece>,
}

impl Template {
    /// Whether a text has columns in it.
    pub(super) fn is_one(text: &str) -> bool {
        text.contains(COLUMN)
    }

    /// Takes a text apart.
    pub(super) fn parse(text: &str) -> Result<Template, InvalidValue> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(COLUMN) {
            let Some((name, behind)) = after.split_once('}') else {
                return Err(InvalidValue::new(
                    format!("{} has a ${{ without a }}", shown(text)),
                    "write ${column}, with the name of the column as in the catalog",
                ));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Column(name_of("column", name)?));
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template { pieces })
    }

    /// The text of every row, if no column is in it.
    pub(super) fn constant(&self) -> Option<String> {
        self.columns().next().is_none().then(|| self.to_string())
    }

    /// The text with the same value in each column.
    pub(super) fn with_each(&self, value: &str) -> String {
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Column(_) => value,
        });
        texts.collect()
    }

    /// The columns, in order; one may come twice.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Column(name) => write!(f, "${{{name}}}"),
        })
    }
}
