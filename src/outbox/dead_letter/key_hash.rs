//! What is kept of a topic and a key. Pure.

use openssl::sha::Sha256;
use tokio_postgres::Row;

use crate::outbox::OwnedRecord;

/// A topic and a key: the beginnings of SHA-256 sums, since both may be long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash {
    /// Of the topic's name.
    pub topic: u64,
    /// Of the topic's name, a zero byte, and the key.
    pub key: u64,
}

impl KeyHash {
    /// The hash of this key in this topic, as the server computes it.
    pub fn of(topic: &str, key: &[u8]) -> Self {
        let mut sum = Sha256::new();
        sum.update(topic.as_bytes());
        let topic = beginning(&sum.clone().finish());
        sum.update(b"\0");
        sum.update(key);
        let key = beginning(&sum.finish());
        KeyHash { topic, key }
    }

    /// The hash of the record's topic and key, if it has a key.
    pub fn of_record(record: &OwnedRecord) -> Option<Self> {
        Some(KeyHash::of(record.topic(), record.key()?))
    }

    /// The hash in two columns of a row, from this one on; `None` for a record without a key.
    pub(super) fn of_row(row: &Row, at: usize) -> Result<Option<Self>, tokio_postgres::Error> {
        let topic: Option<&[u8]> = row.try_get(at)?;
        let key: Option<&[u8]> = row.try_get(at + 1)?;
        let hash = topic.zip(key).map(|(topic, key)| KeyHash {
            topic: beginning(topic),
            key: beginning(key),
        });
        Ok(hash)
    }
}

/// The first eight bytes of a SHA-256 sum as a number.
pub(crate) fn beginning(sum: &[u8]) -> u64 {
    let beginning = sum.first_chunk().copied();
    u64::from_be_bytes(beginning.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_and_key_are_distinguished() {
        let hash = KeyHash::of("orders", b"a");
        assert_eq!(hash, KeyHash::of("orders", b"a"));
        assert_ne!(hash.key, KeyHash::of("order", b"sa").key);
        assert_ne!(hash.key, KeyHash::of("orders", b"b").key);
        assert_eq!(hash.topic, KeyHash::of("orders", b"b").topic);
        // The beginning of SHA-256 of the letters alone.
        let abc = KeyHash::of("abc", b"").topic;
        assert_eq!(abc, 0xba78_16bf_8f01_cfea);
    }
}
