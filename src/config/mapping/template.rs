//! A text with the values of columns in it, such as `outbox.event.${aggregatetype}`.

use std::fmt;

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
