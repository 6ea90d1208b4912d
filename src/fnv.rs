//! FNV-1a, a digest that is the same in every version and build of outboxd, which std's hashers do
//! not promise. Names of slots and numbers of locks are derived from it.
//!
//! <http://www.isthe.com/chongo/tech/comp/fnv/>

/// The 32-bit digest of these parts, one after another.
pub(crate) fn fnv1a_32(parts: &[&[u8]]) -> u32 {
    bytes(parts).fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The 64-bit digest of these parts, one after another.
pub(crate) fn fnv1a_64(parts: &[&[u8]]) -> u64 {
    bytes(parts).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn bytes(parts: &[&[u8]]) -> impl Iterator<Item = u8> {
    parts.iter().flat_map(|part| part.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digests_are_those_of_the_published_test_vectors() {
        assert_eq!(fnv1a_32(&[]), 0x811c_9dc5);
        assert_eq!(fnv1a_32(&[b"foo", b"bar"]), 0xbf9c_f968);
        assert_eq!(fnv1a_64(&[b"foobar"]), 0x8594_4171_f739_67e8);
    }
}
