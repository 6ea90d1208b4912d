//! A copy of a row's event in a topic, as far as the row shows what it is.

use crate::fnv::fnv1a_64;

/// What the record of a row has whether it was streamed or read from the table: digests of its id,
/// and of its key and value. Another row that was given the same id has other contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowCopy {
    id: u64,
    content: u64,
}

impl RowCopy {
    /// That of a record with this id, key and value.
    pub(crate) fn of(id: &[u8], key: Option<&[u8]>, value: Option<&[u8]>) -> RowCopy {
        let part = |part: Option<&[u8]>| part.map_or(u64::MAX, |bytes| bytes.len() as u64);
        let (key_length, value_length) = (part(key).to_le_bytes(), part(value).to_le_bytes());
        let content = [
            &key_length[..],
            key.unwrap_or_default(),
            &value_length[..],
            value.unwrap_or_default(),
        ];
        RowCopy {
            id: fnv1a_64(&[id]),
            content: fnv1a_64(&content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_key_and_value_tell_rows_apart_and_none_is_not_empty() {
        let some: fn(&'static str) -> Option<&'static [u8]> = |text| Some(text.as_bytes());
        let all = [
            RowCopy::of(b"1", some("ab"), some("c")),
            RowCopy::of(b"2", some("ab"), some("c")),
            RowCopy::of(b"1", some("a"), some("bc")),
            RowCopy::of(b"1", some(""), some("abc")),
            RowCopy::of(b"1", None, some("abc")),
            RowCopy::of(b"1", some("abc"), some("")),
            RowCopy::of(b"1", some("abc"), None),
        ];
        for (at, one) in all.iter().enumerate() {
            let same = all.iter().position(|it| it == one);
            assert_eq!(same, Some(at));
        }
    }
}
