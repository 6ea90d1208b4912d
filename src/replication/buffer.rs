//! The read buffer: bytes in, whole messages out, in place.
//!
//! A message is returned as a range of the buffer, without a copy or an allocation. Bytes move only
//! when the buffer makes room for the next read, and then only the unfinished tail moves. The
//! buffer grows for a message that does not fit and shrinks when that message was taken, so a large
//! event costs its memory only while it is being processed.
//!
//! A message of changes that is longer than the caller's limit is shortened while it arrives: its
//! long values are thrown away.

use std::ops::Range;

use crate::pgoutput::Abridger;

/// The initial size, to which the buffer returns: the bytes that collect under backlog fit. Pages
/// that no byte reached take no memory.
pub(crate) const INITIAL: usize = 512 * 1024;

/// Above this size the buffer shrinks as soon as it can; below, growing again would cost more than
/// the memory is worth.
const KEPT: usize = 1024 * 1024;

/// Tails up to this length move to the front at each read, so that a read has nearly the whole
/// buffer.
const CHEAP_MOVE: usize = 4 * 1024;

/// The letter of a CopyData.
const COPY_DATA: u8 = b'd';

/// Letter and length; the length counts itself but not the letter.
const HEADER: usize = 5;

/// The server's limit: a field of 1 GiB and the framing. See
/// <https://www.postgresql.org/docs/current/limits.html>.
const COPY_DATA_MAX: usize = (1 << 30) + 1024;

/// The letter, two positions and a time, before the payload of an XLogData.
const X_LOG_DATA_HEADER: usize = 25;

/// All other messages are short, and so is every message before the stream; a longer one means that
/// the message boundaries were lost, or that it is not Postgres that sends.
const OTHER_MAX: usize = 1 << 20;

/// The place of a message in the buffer, valid until the next read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawMessage {
    /// The letter that names its type.
    pub(crate) tag: u8,
    /// The body, without letter and length.
    pub(crate) body: Range<usize>,
}

impl RawMessage {
    /// The message with its letter and length.
    pub(crate) fn whole(&self) -> Range<usize> {
        self.body.start - HEADER..self.body.end
    }
}

/// A length that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message {:?} claims a length of {length} bytes", char::from(*tag))]
pub(crate) struct BadLength {
    tag: u8,
    length: u32,
}

/// A buffer whose bytes read and not yet taken are `start..end`.
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// CopyData may arrive.
    copies: bool,
    /// A CopyData that is longer is shortened.
    data_max: usize,
    /// The message that is being shortened.
    abridger: Option<Box<Abridger>>,
}

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        ReadBuffer {
            bytes: vec![0; INITIAL],
            start: 0,
            end: 0,
            copies: false,
            data_max: COPY_DATA_MAX,
            abridger: None,
        }
    }

    /// From now on CopyData may arrive, which may be long.
    pub(crate) fn begin_copy(&mut self) {
        self.copies = true;
    }

    /// From now on a CopyData of changes keeps at most about this many bytes.
    pub(crate) fn limit_data(&mut self, bytes: usize) {
        self.data_max = bytes.min(COPY_DATA_MAX);
    }

    /// Takes the next message if it is complete.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<RawMessage>, BadLength> {
        if self.abridger.is_some() {
            return self.next_abridged();
        }
        let Some((tag, total)) = self.peek()? else {
            return Ok(None);
        };
        if total > self.data_max && tag == COPY_DATA {
            self.abridge(total);
            return self.next_abridged();
        }
        if self.end - self.start < total {
            return Ok(None);
        }
        let body = self.start + HEADER..self.start + total;
        self.start = body.end;
        Ok(Some(RawMessage { tag, body }))
    }

    /// Begins to shorten the next message.
    #[cold]
    fn abridge(&mut self, total: usize) {
        let header = self.slice(self.start..self.start + HEADER).to_vec();
        self.start += HEADER;
        let abridger = Abridger::new(header, X_LOG_DATA_HEADER, total - HEADER, self.data_max);
        self.abridger = Some(Box::new(abridger));
    }

    /// The message that is being shortened, once all of it was read. It takes the place of what was
    /// read of it.
    #[cold]
    fn next_abridged(&mut self) -> Result<Option<RawMessage>, BadLength> {
        let Some(mut abridger) = self.abridger.take() else {
            return Ok(None);
        };
        let length = u32::try_from(abridger.left()).unwrap_or(u32::MAX);
        let fed = abridger.feed(self.slice(self.start..self.end));
        let tag = COPY_DATA;
        self.start += fed.map_err(|_| BadLength { tag, length })?;
        if abridger.left() > 0 {
            self.abridger = Some(abridger);
            return Ok(None);
        }
        let mut bytes = abridger.finish();
        let body = HEADER..bytes.len();
        bytes.extend_from_slice(self.slice(self.start..self.end));
        (self.start, self.end) = (body.end, bytes.len());
        bytes.resize(bytes.len().next_multiple_of(INITIAL), 0);
        self.bytes = bytes;
        Ok(Some(RawMessage { tag, body }))
    }

    /// The number of bytes read and not taken.
    #[inline]
    pub(crate) fn unread(&self) -> usize {
        self.end - self.start
    }

    /// Whether [`next`](Self::next) would return a message or an error.
    pub(crate) fn has_message(&self) -> bool {
        if let Some(abridger) = &self.abridger {
            return abridger.left() <= self.unread();
        }
        match self.peek() {
            Ok(header) => header.is_some_and(|(_, total)| self.end - self.start >= total),
            Err(_) => true,
        }
    }

    /// The bytes of a range that [`next`](Self::next) returned since the last read.
    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// The space for the next read. Empty only if a whole message is waiting.
    #[inline]
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let next = self.peek().ok().flatten();
        let needed = match next.filter(|_| self.abridger.is_none()) {
            // It is shortened as it arrives, so it needs no room for all of it.
            Some((COPY_DATA, total)) if total > self.data_max => 0,
            Some((_, total)) => total,
            None => 0,
        };
        let filled = self.end - self.start;
        let capacity = self.bytes.len();
        if needed > capacity {
            self.resize(needed.next_multiple_of(INITIAL));
        } else if capacity > KEPT && needed <= INITIAL && filled < INITIAL {
            self.resize(INITIAL);
        } else if self.start > 0
            && (filled <= CHEAP_MOVE || self.end == capacity || needed > capacity - self.start)
        {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, filled);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Records how many bytes were read into [`room`](Self::room).
    #[inline]
    pub(crate) fn filled(&mut self, count: usize) {
        debug_assert!(
            self.end + count <= self.bytes.len(),
            "read {count} bytes into less room"
        );
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// The capacity in bytes.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn peek(&self) -> Result<Option<(u8, usize)>, BadLength> {
        let unread = self.slice(self.start..self.end);
        let Some((&[tag, a, b, c, d], _)) = unread.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        let longest = if tag == COPY_DATA && self.copies {
            COPY_DATA_MAX
        } else {
            OTHER_MAX
        };
        let total = length as usize + 1;
        if total < HEADER || total > longest {
            return Err(BadLength { tag, length });
        }
        Ok(Some((tag, total)))
    }

    fn resize(&mut self, capacity: usize) {
        let mut bytes = vec![0; capacity];
        let unread = self.start..self.end;
        let filled = unread.len();
        if let Some(front) = bytes.get_mut(..filled) {
            front.copy_from_slice(self.slice(unread));
        }
        self.bytes = bytes;
        (self.start, self.end) = (0, filled);
    }
}

impl std::fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadBuffer")
            .field("unread", &(self.end - self.start))
            .field("capacity", &self.bytes.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn copying() -> ReadBuffer {
        let mut buffer = ReadBuffer::new();
        buffer.begin_copy();
        buffer
    }

    /// Feeds `wire` in reads of the given sizes, in turn, and takes messages in between.
    fn read_all(wire: &[u8], sizes: &[usize]) -> (Vec<(u8, Vec<u8>)>, ReadBuffer) {
        let mut buffer = copying();
        let (mut taken, mut rest, mut turn) = (vec![], wire, 0);
        loop {
            while let Some(raw) = buffer.next().unwrap() {
                assert_eq!(buffer.slice(raw.whole())[0], raw.tag);
                taken.push((raw.tag, buffer.slice(raw.body).to_vec()));
            }
            let room = buffer.room();
            assert!(
                !room.is_empty(),
                "every whole message was taken, so there must be room"
            );
            if rest.is_empty() {
                return (taken, buffer);
            }
            let count = sizes[turn % sizes.len()].min(room.len()).min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            buffer.filled(count);
            turn += 1;
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_and_in_order_however_the_bytes_arrive(
            lengths in prop::collection::vec(
                prop_oneof![0..600_usize, 60_000..140_000_usize],
                1..12,
            ),
            sizes in prop::collection::vec(1..90_000_usize, 1..6),
        ) {
            let sent: Vec<_> = lengths.iter().enumerate()
                .map(|(i, &length)| (b'd', vec![i as u8; length]))
                .collect();
            let wire: Vec<u8> = sent.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            // Reads of one byte each are covered by small inputs; here they would only be slow.
            let sizes: Vec<_> = sizes.iter().map(|&size| size.max(wire.len() / 500 + 1)).collect();
            let (taken, _) = read_all(&wire, &sizes);
            prop_assert_eq!(taken, sent);
        }

        #[test]
        fn any_bytes_give_messages_or_an_error(wire: Vec<u8>) {
            let mut buffer = copying();
            buffer.room()[..wire.len()].copy_from_slice(&wire);
            buffer.filled(wire.len());
            while let Ok(Some(_)) = buffer.next() {}
        }
    }

    #[test]
    fn a_message_arrives_byte_by_byte() {
        let wire = [message(b'd', b"abc"), message(b'Z', b"I")].concat();
        let (taken, _) = read_all(&wire, &[1]);
        assert_eq!(taken, [(b'd', b"abc".to_vec()), (b'Z', b"I".to_vec())]);
    }

    #[test]
    fn the_buffer_shrinks_after_a_large_message() {
        let large = message(b'd', &vec![7; 10 << 20]);
        let (_, buffer) = read_all(&large, &[1 << 20]);
        assert_eq!(buffer.capacity(), INITIAL);
        let wire = [large, message(b'd', b"next")].concat();
        let (taken, buffer) = read_all(&wire, &[1 << 20]);
        assert_eq!(taken[1].1, b"next");
        assert_eq!(buffer.capacity(), INITIAL);
    }

    /// An XLogData with an insert of these values.
    fn insert(values: &[&[u8]]) -> Vec<u8> {
        let mut body = vec![b'w'; X_LOG_DATA_HEADER];
        body.extend(b"I\0\0\0\x01N");
        body.extend((values.len() as u16).to_be_bytes());
        for value in values {
            body.push(b't');
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(*value);
        }
        message(b'd', &body)
    }

    #[test]
    fn a_row_beyond_the_limit_is_shortened_and_takes_no_memory_for_what_is_thrown_away() {
        let (long, short) = (vec![7; 50 << 20], vec![8; 1 << 20]);
        let wire = [
            insert(&[b"1", b"{}"]),
            insert(&[b"2", &long, &short]),
            insert(&[b"3", &short]),
            message(b'Z', b"I"),
        ];
        let wire = wire.concat();
        for size in [300_000, 600_000, 64 << 20] {
            let mut buffer = copying();
            buffer.limit_data(4 << 20);
            let mut largest = 0;
            let (mut taken, mut rest) = (Vec::new(), wire.as_slice());
            while !rest.is_empty() {
                let room = buffer.room();
                let count = size.min(room.len()).min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                buffer.filled(count);
                while let Some(raw) = buffer.next().unwrap() {
                    taken.push(buffer.slice(raw.body).len());
                }
                largest = largest.max(buffer.capacity());
            }
            let frame = X_LOG_DATA_HEADER + 8;
            let expected = [
                frame + 6 + 7,
                frame + 6 + 1 + 5 + short.len(),
                frame + 6 + 5 + short.len(),
                1,
            ];
            assert_eq!(taken, expected, "{size}");
            assert!(largest <= 4 << 20, "{largest} bytes");
        }
    }

    #[test]
    fn only_changes_are_shortened() {
        let mut buffer = copying();
        buffer.limit_data(1_000);
        let mut wire = message(b'd', &[b'w'; 2_000]);
        wire.truncate(INITIAL);
        buffer.room()[..wire.len()].copy_from_slice(&wire);
        buffer.filled(wire.len());
        assert!(buffer.next().is_err());
    }

    #[test]
    fn impossible_lengths_are_refused_before_memory_is_taken() {
        for (tag, length) in [
            (b'd', 3_u32),
            (b'd', (1 << 30) + 2048),
            (b'd', u32::MAX),
            (b'T', 1 << 20),
        ] {
            let mut buffer = copying();
            buffer.room()[0] = tag;
            buffer.room()[1..5].copy_from_slice(&length.to_be_bytes());
            buffer.filled(5);
            assert_eq!(buffer.next(), Err(BadLength { tag, length }));
            buffer.room();
            assert_eq!(buffer.capacity(), INITIAL);
        }
    }

    #[test]
    fn before_the_stream_every_message_is_short() {
        for tag in *b"dREZ" {
            let mut buffer = ReadBuffer::new();
            buffer.room()[0] = tag;
            let length = 1_u32 << 30;
            buffer.room()[1..5].copy_from_slice(&length.to_be_bytes());
            buffer.filled(5);
            assert_eq!(buffer.next(), Err(BadLength { tag, length }));
        }
    }

    #[test]
    fn a_reader_that_takes_nothing_fills_the_buffer_and_no_more() {
        let mut buffer = copying();
        let wire = message(b'd', b"event").repeat(100_000);
        let mut rest = wire.as_slice();
        loop {
            let room = buffer.room();
            if room.is_empty() {
                break;
            }
            let count = room.len();
            room.copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            buffer.filled(count);
        }
        assert_eq!(buffer.capacity(), INITIAL);
        assert!(buffer.next().unwrap().is_some());
    }
}
