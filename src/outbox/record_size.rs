//! How large a record is for a broker: pure arithmetic on the format of record batches.
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

/// The bytes that a broker counts for a batch of this record alone, uncompressed.
pub(crate) fn wire_size<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in headers {
        count += 1;
        bytes += field(Some(name.as_bytes())) + field(Some(value));
    }
    let body = ATTRIBUTES_AND_DELTAS_BYTES + field(key) + field(value) + varint(count) + bytes;
    BATCH_BYTES + varint(body) + body
}

/// The bytes of a length, which is -1 for a null, and of the value.
fn field(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint(bytes.len()) + bytes.len(),
        None => 1,
    }
}

/// The bytes of a non-negative varint: seven bits each, after one bit for the sign.
fn varint(number: usize) -> usize {
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
        assert_eq!(wire_size(None, None, [].into_iter()), 61 + 7);
    }
}
