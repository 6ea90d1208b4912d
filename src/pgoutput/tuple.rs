//! The columns of one row, read from the message in place.
//!
//! [`Tuple::decode`] walks the row once and borrows it only if every length in it is valid.
//! Iterating therefore cannot fail and allocates nothing.

use std::fmt;

use crate::pgoutput::DecodeError;
use crate::pgoutput::reader::Reader;

/// A row in place in its message: iterate over its columns, in the order of the last
/// [`Relation`](crate::pgoutput::Relation).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    columns: &'a [u8],
}

/// One column of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL null.
    Null,
    /// An out-of-line (TOAST) value that an update left unchanged, so the WAL does not contain it.
    /// In an insert a value that was not received, because the message was too long.
    Unchanged,
    /// The output of the type's output function, in the client encoding.
    Text(&'a [u8]),
    /// The value in the type's binary format, sent only with the option `binary`.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.column_count()?;
        let start = reader.rest();
        for _ in 0..count {
            Column::decode(reader)?;
        }
        let length = start.len() - reader.rest().len();
        let columns = start.get(..length).ok_or(DecodeError::Truncated)?;
        Ok(Tuple { count, columns })
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns from first to last.
    pub fn iter(&self) -> TupleColumns<'a> {
        TupleColumns {
            left: self.count,
            reader: Reader::new(self.columns),
        }
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Column<'a>;
    type IntoIter = TupleColumns<'a>;

    fn into_iter(self) -> TupleColumns<'a> {
        self.iter()
    }
}

/// Iterates over the columns of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct TupleColumns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for TupleColumns<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Cannot fail: `Tuple::decode` has checked these bytes.
        Column::decode(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for TupleColumns<'_> {}

impl<'a> Column<'a> {
    #[inline(always)]
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.text() {
            Some(text) => Ok(Column::Text(text)),
            None => Column::decode_any(reader),
        }
    }

    fn decode_any(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            b't' => {
                let length = reader.length()?;
                Ok(Column::Text(reader.bytes(length)?))
            }
            b'n' => Ok(Column::Null),
            b'u' => Ok(Column::Unchanged),
            b'b' => {
                let length = reader.length()?;
                Ok(Column::Binary(reader.bytes(length)?))
            }
            kind => Err(DecodeError::UnknownColumnKind(kind)),
        }
    }
}

// Rows are payloads: a debug print must not show them, since it may end up in a log.
impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Null => f.write_str("Null"),
            Column::Unchanged => f.write_str("Unchanged"),
            Column::Text(value) => write!(f, "Text({} bytes)", value.len()),
            Column::Binary(value) => write!(f, "Binary({} bytes)", value.len()),
        }
    }
}

impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
