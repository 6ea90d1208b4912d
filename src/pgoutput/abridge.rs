//! Shortens a message of changes while it arrives, for a message that is too long to be kept.
//!
//! A row's values are kept as far as they fit, and each other value is replaced by an unchanged
//! one: a kind of column that no insert has. What is left is again one message, which
//! [`Message::decode`](crate::pgoutput::Message::decode) checks; here only lengths are read. Short
//! values are always kept, so that the row's id is among them.

/// A value up to this length is kept although the others have used up the limit.
const SHORT: usize = 256;

/// The column kinds; see [`Column`](crate::pgoutput::Column).
const NULL: u8 = b'n';
const UNCHANGED: u8 = b'u';

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Letter,
    RelationId,
    TupleKind,
    ColumnCount,
    ColumnKind,
    /// The length of a value of this kind.
    Length(u8),
    /// This many bytes to keep.
    Keep(usize),
    /// This many bytes to throw away.
    Skip(usize),
}

/// No message of changes: only those can be shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAbridgeable;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Abridger {
    kept: Vec<u8>,
    /// Bytes of values that may still be kept.
    room: usize,
    /// Bytes of the message that have not arrived.
    left: usize,
    columns_left: u16,
    part: Part,
    /// The bytes of the part that have arrived, if it has a fixed length.
    piece: [u8; 4],
    piece_length: usize,
}

impl Abridger {
    /// For a message of `length` bytes, the first `prefix` of which are kept as they are. Keeps
    /// `limit` bytes of values, and short ones, behind what `kept` holds already.
    pub(crate) fn new(kept: Vec<u8>, prefix: usize, length: usize, limit: usize) -> Self {
        Abridger {
            kept,
            room: limit,
            left: length,
            columns_left: 0,
            part: Part::Keep(prefix),
            piece: [0; 4],
            piece_length: 0,
        }
    }

    /// Bytes of the message that have not arrived.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Takes in the next bytes, at most those of the message; returns how many.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, NotAbridgeable> {
        let mut rest = bytes.get(..self.left).unwrap_or(bytes);
        let count = rest.len();
        while !rest.is_empty() {
            let taken = match self.part {
                Part::Keep(wanted) => {
                    let (now, behind) = rest.split_at(wanted.min(rest.len()));
                    self.kept.extend_from_slice(now);
                    self.part = Part::Keep(wanted - now.len());
                    behind
                }
                Part::Skip(wanted) => {
                    let (now, behind) = rest.split_at(wanted.min(rest.len()));
                    self.part = Part::Skip(wanted - now.len());
                    behind
                }
                _ => self.feed_piece(rest)?,
            };
            self.left -= rest.len() - taken.len();
            rest = taken;
            if matches!(self.part, Part::Keep(0) | Part::Skip(0)) {
                self.part = self.behind_bytes();
            }
        }
        Ok(count)
    }

    /// The message, shortened, once nothing is left.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.kept
    }

    /// Takes bytes of a part with a fixed length; returns the others.
    fn feed_piece<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], NotAbridgeable> {
        let wanted = match self.part {
            Part::RelationId | Part::Length(_) => 4,
            Part::ColumnCount => 2,
            _ => 1,
        };
        let (now, behind) = bytes.split_at((wanted - self.piece_length).min(bytes.len()));
        let end = self.piece_length + now.len();
        if let Some(piece) = self.piece.get_mut(self.piece_length..end) {
            piece.copy_from_slice(now);
        }
        self.piece_length = end;
        if end == wanted {
            self.piece_length = 0;
            self.part = self.behind_piece(wanted)?;
        }
        Ok(behind)
    }

    /// A part of fixed length is complete: keeps it, and returns the next.
    fn behind_piece(&mut self, length: usize) -> Result<Part, NotAbridgeable> {
        let [a, b, c, d] = self.piece;
        if let Part::Length(kind) = self.part {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > self.room && length > SHORT {
                self.kept.push(UNCHANGED);
                return Ok(Part::Skip(length));
            }
            self.room = self.room.saturating_sub(length);
            self.kept.push(kind);
            self.kept.extend_from_slice(&self.piece);
            return Ok(Part::Keep(length));
        }
        let is_length_ahead = self.part == Part::ColumnKind && !matches!(a, NULL | UNCHANGED);
        if !is_length_ahead {
            self.kept.extend(self.piece.iter().take(length));
        }
        Ok(match self.part {
            Part::Letter if matches!(a, b'I' | b'U' | b'D') => Part::RelationId,
            Part::Letter => return Err(NotAbridgeable),
            Part::RelationId => Part::TupleKind,
            Part::TupleKind => Part::ColumnCount,
            Part::ColumnCount => {
                self.columns_left = u16::from_be_bytes([a, b]);
                self.next_column()
            }
            _ if is_length_ahead => Part::Length(a),
            _ => self.behind_column(),
        })
    }

    /// The prefix or a value is complete; returns the next part.
    fn behind_bytes(&mut self) -> Part {
        if self.columns_left == 0 {
            return Part::Letter;
        }
        self.behind_column()
    }

    fn behind_column(&mut self) -> Part {
        self.columns_left = self.columns_left.saturating_sub(1);
        self.next_column()
    }

    /// The next column, or the second tuple of an update.
    fn next_column(&self) -> Part {
        match self.columns_left {
            0 => Part::TupleKind,
            _ => Part::ColumnKind,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::pgoutput::{Column, Message};
    use proptest::prelude::*;

    fn tuple(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
        for value in values {
            match value {
                Some(value) => {
                    bytes.push(b't');
                    bytes.extend((value.len() as u32).to_be_bytes());
                    bytes.extend(*value);
                }
                None => bytes.push(b'n'),
            }
        }
        bytes
    }

    /// The message in pieces of this size, behind a prefix of three bytes.
    fn abridged(message: &[u8], limit: usize, size: usize) -> Result<Vec<u8>, NotAbridgeable> {
        let whole = [b"pre", message].concat();
        let mut abridger = Abridger::new(Vec::new(), 3, whole.len(), limit);
        let wire = [whole.as_slice(), b"next message"].concat();
        let mut at = 0;
        while abridger.left() > 0 {
            let end = (at + size).min(wire.len());
            at += abridger.feed(&wire[at..end])?;
        }
        assert_eq!(at, whole.len());
        let kept = abridger.finish();
        assert_eq!(&kept[..3], b"pre");
        Ok(kept[3..].to_vec())
    }

    fn columns(message: &[u8]) -> Vec<String> {
        let new = match Message::decode(message).unwrap() {
            Message::Insert(insert) => insert.new,
            Message::Update(update) => update.new,
            other => panic!("{other:?}"),
        };
        let shown = new.iter().map(|column| match column {
            Column::Text(text) if text.len() < 9 => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        });
        shown.collect()
    }

    #[test]
    fn long_values_are_left_out_and_what_identifies_the_row_is_kept() {
        let (long, longer) = (vec![b'x'; 5_000], vec![b'y'; 70_000]);
        let row = [
            Some(long.as_slice()),
            None,
            Some(b"7".as_slice()),
            Some(longer.as_slice()),
            Some(b"orders"),
        ];
        let insert = [b"I\0\0\0\x01N".as_slice(), &tuple(&row)].concat();
        for size in [1, 7, 4_096, 100_000] {
            let kept = abridged(&insert, 6_000, size).unwrap();
            let expected = ["Text(5000 bytes)", "Null", "7", "Unchanged", "orders"];
            assert_eq!(columns(&kept), expected, "{size}");
            let kept = abridged(&insert, 100, size).unwrap();
            let expected = ["Unchanged", "Null", "7", "Unchanged", "orders"];
            assert_eq!(columns(&kept), expected, "{size}");
        }
        let update = [b"U\0\0\0\x01O".as_slice(), &tuple(&row), b"N", &tuple(&row)].concat();
        let kept = abridged(&update, 6_000, 1_000).unwrap();
        let expected = ["Unchanged", "Null", "7", "Unchanged", "orders"];
        assert_eq!(columns(&kept), expected);
    }

    #[test]
    fn only_changes_can_be_shortened() {
        assert_eq!(abridged(b"C\0\0\0", 10, 2), Err(NotAbridgeable));
    }

    proptest! {
        #[test]
        fn a_message_that_fits_is_unchanged_however_it_arrives(
            lengths in prop::collection::vec(prop::option::of(0..2_000_usize), 0..8),
            size in 1..3_000_usize,
        ) {
            let values: Vec<Option<Vec<u8>>> = lengths.iter()
                .map(|length| length.map(|length| vec![b'v'; length]))
                .collect();
            let row: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
            let insert = [b"I\0\0\0\x01N".as_slice(), &tuple(&row)].concat();
            prop_assert_eq!(abridged(&insert, 20_000, size), Ok(insert));
        }

        #[test]
        fn any_bytes_come_to_an_end(
            bytes in prop::collection::vec(any::<u8>(), 1..4_000),
            size in 1..500_usize,
        ) {
            let mut abridger = Abridger::new(Vec::new(), 0, bytes.len(), 64);
            let mut rest = bytes.as_slice();
            while abridger.left() > 0 {
                match abridger.feed(rest.get(..size).unwrap_or(rest)) {
                    Ok(count) => rest = &rest[count..],
                    Err(NotAbridgeable) => break,
                }
            }
            prop_assert!(abridger.finish().len() <= bytes.len());
        }
    }
}
