//! How large a record is: for a broker, by arithmetic on the format of record batches, and in
//! memory while it is in flight. Pure.
//!
//! A broker compares a topic's `max.message.bytes` with the whole batch, header included. A record
//! that is refused alone in its batch can never be delivered, so the batch of one record decides,
//! and its size is known exactly before anything is sent. With compression the broker sees fewer
//! bytes, and this is an upper limit.
//!
//! <https://kafka.apache.org/documentation/#recordbatch>

/// The header of a batch: offset, length, epochs, checksum, times, producer, count.
const BATCH_BYTES: usize = 61;

/// A record's attributes, and its deltas of time and offset to the batch's first record, which it
/// is itself: each a zero in one byte.
const ATTRIBUTES_AND_DELTAS_BYTES: usize = 3;

/// The memory of a record in flight beside its own bytes: librdkafka's message and the entry for
/// its delivery report.
const RECORD_OVERHEAD: usize = 512;

/// The memory of a header beside its own bytes: librdkafka allocates each one by itself.
const HEADER_OVERHEAD: usize = 64;

/// The headers of a record, added up in one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HeaderSums {
    /// How many they are.
    pub(crate) count: usize,
    /// The bytes of names and values.
    pub(crate) bytes: usize,
    /// The bytes with the lengths before them.
    wire_bytes: usize,
}

impl HeaderSums {
    /// The sums of these headers.
    pub(crate) fn of<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Self {
        let mut sums = HeaderSums::default();
        headers.for_each(|(name, value)| sums.add(name, value));
        sums
    }

    /// Adds a header.
    #[inline(always)]
    pub(crate) fn add(&mut self, name: &str, value: Option<&[u8]>) {
        self.count += 1;
        self.bytes += name.len() + value.map_or(0, <[u8]>::len);
        self.wire_bytes += field(Some(name.as_bytes())) + field(value);
    }
}

/// The bytes that a broker counts for a batch of this record alone, uncompressed.
pub(crate) fn wire_size(key: Option<&[u8]>, value: Option<&[u8]>, headers: &HeaderSums) -> usize {
    let headers = varint(headers.count) + headers.wire_bytes;
    let body = ATTRIBUTES_AND_DELTAS_BYTES + field(key) + field(value) + headers;
    BATCH_BYTES + varint(body) + body
}

/// The memory that a record takes while it is in flight.
pub(super) fn footprint(key: Option<&[u8]>, value: Option<&[u8]>, headers: &HeaderSums) -> usize {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = headers.bytes + headers.count * HEADER_OVERHEAD;
    length(key) + length(value) + headers + RECORD_OVERHEAD
}

/// The bytes of a length, which is -1 for a null, and of the value.
#[inline(always)]
fn field(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint(bytes.len()) + bytes.len(),
        None => 1,
    }
}

/// The bytes of a non-negative varint: seven bits each, after one bit for the sign.
#[inline(always)]
fn varint(number: usize) -> usize {
    // As long as nearly every name and value of a header.
    if number < 1 << 6 {
        return 1;
    }
    let bits = usize::BITS as usize - number.leading_zeros() as usize + 1;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_a_byte_more_from_each_power_of_128_halved() {
        for (number, bytes) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (8_191, 2),
            (8_192, 3),
            (1_048_575, 3),
            (1_048_576, 4),
            (134_217_727, 4),
            (134_217_728, 5),
        ] {
            assert_eq!(varint(number), bytes, "{number}");
        }
    }

    #[test]
    fn a_record_without_anything_has_its_frame() {
        // Length, attributes, two deltas, two nulls and the count of headers.
        assert_eq!(wire_size(None, None, &HeaderSums::default()), 61 + 7);
    }

    #[test]
    fn a_header_without_a_value_takes_its_name_and_a_length() {
        let null = HeaderSums::of([("name", None)].into_iter());
        let empty = HeaderSums::of([("name", Some([].as_slice()))].into_iter());
        assert_eq!((null.count, null.bytes, null.wire_bytes), (1, 4, 6));
        assert_eq!(null, empty);
    }
}
