//! The columns of a row, from a server that may answer with others than the statement selects.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::error::{Code, Error, Result};

/// Reads columns by their place. `Row::get` panics, and a panic ends the process.
pub trait Columns {
    /// The column at this place.
    ///
    /// # Errors
    /// Transient: the row has no such column, or one of another type.
    fn column<'a, T: FromSql<'a>>(&'a self, at: usize) -> Result<T>;
}

impl Columns for Row {
    fn column<'a, T: FromSql<'a>>(&'a self, at: usize) -> Result<T> {
        self.try_get(at)
            .map_err(|error| other_shape().with_source(error))
    }
}

/// The error of a row that is none of the statement's.
pub(super) fn other_shape() -> Error {
    Error::transient(
        Code::Connect,
        "Postgres answered with a row of another shape",
    )
    .with_hint("is it Postgres that listens there, or a proxy that garbles its bytes?")
}
