//! What is kept of ids, keys and values: the beginnings of SHA-256 sums. Pure.
//!
//! OpenSSL's function for one text looks its algorithm up at each call, which takes longer than the
//! sum of a short text; a [`Sha256`] does not.

use openssl::sha::Sha256;

use crate::outbox::beginning;

/// A sum of an id: two ids of an outbox never share one.
pub(in crate::verify) type IdDigest = [u8; 16];

/// The sum of an id.
pub(in crate::verify) fn id(text: &[u8]) -> IdDigest {
    let sum = sum(text);
    sum.first_chunk().copied().unwrap_or_default()
}

fn sum(text: &[u8]) -> [u8; 32] {
    let mut sum = Sha256::new();
    sum.update(text);
    sum.finish()
}

/// The sum of a topic and a key; a record without a key differs from one with an empty key.
pub(in crate::verify) fn place(topic: &str, key: Option<&[u8]>) -> u64 {
    let mut sum = Sha256::new();
    sum.update(topic.as_bytes());
    if let Some(key) = key {
        sum.update(b"\0");
        sum.update(key);
    }
    beginning(&sum.finish())
}

/// The sum of a value; a record without a value differs from one with an empty value.
pub(in crate::verify) fn value(value: Option<&[u8]>) -> u64 {
    value.map_or(1, |value| beginning(&sum(value)))
}

/// The sum of a text that may be missing, which is 0.
pub(in crate::verify) fn text(text: Option<&[u8]>) -> u64 {
    text.map_or(0, |text| beginning(&sum(text)).max(1))
}

/// A number by which an id is put into a bucket.
pub(in crate::verify) fn bucket(id: &IdDigest) -> u64 {
    beginning(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_another_sum() {
        let places = [
            place("a", None),
            place("a", Some(b"")),
            place("a", Some(b"b")),
            place("ab", None),
        ];
        let values = [value(None), value(Some(b"")), value(Some(b"x"))];
        let texts = [text(None), text(Some(b"")), text(Some(b"x"))];
        for sums in [&places[..], &values, &texts] {
            for (at, sum) in sums.iter().enumerate() {
                assert!(!sums[..at].contains(sum), "{at}");
            }
        }
        assert_eq!(texts[0], 0);
        assert_ne!(id(b"1"), id(b"2"));
    }
}
