//! A copy of a streamed event in a topic, and what tells its event from every other.

use crate::fnv::fnv1a_64;
use crate::lsn::Lsn;

/// What a streamed event has alone: its place in the WAL, and a digest of its id, of the time of
/// its commit, and of the source's id. Another history of the same server, or another server, has
/// other times at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Signature {
    commit_lsn: Lsn,
    index: u32,
    digest: u64,
}

impl Signature {
    /// That of a record with these headers; `None` if they do not say it: the record was read from
    /// the table or from a dead letter, or has headers of another style.
    pub(crate) fn of<'a>(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Option<Signature> {
        Signature::read(headers, None)
    }

    /// The same for a record of this source; `None` for one of another.
    pub(crate) fn of_source<'a>(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        source_id: &[u8],
    ) -> Option<Signature> {
        Signature::read(headers, Some(source_id))
    }

    fn read<'a>(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        wanted: Option<&[u8]>,
    ) -> Option<Signature> {
        let [mut lsn, mut index, mut id, mut committed_at, mut source_id] = [None; 5];
        for (name, value) in headers {
            let found = match name {
                "outbox_lsn" => &mut lsn,
                "outbox_index" => &mut index,
                "outbox_id" => &mut id,
                "outbox_committed_at" => &mut committed_at,
                "outbox_source_id" => &mut source_id,
                "outbox_source" => return None,
                _ => continue,
            };
            // A row may have headers of these names, behind those of outboxd.
            *found = found.or(value);
        }
        let (commit_lsn, index) = stated_place(lsn, index)?;
        let (id, source_id) = (id.unwrap_or_default(), source_id.unwrap_or_default());
        if wanted.is_some_and(|wanted| wanted != source_id) {
            return None;
        }
        Some(Signature {
            commit_lsn,
            index,
            digest: fnv1a_64(&[id, b"\0", committed_at?, b"\0", source_id]),
        })
    }

    /// Its place in the WAL: the commit position of its transaction, and its index there.
    pub(crate) fn place(&self) -> (Lsn, u32) {
        (self.commit_lsn, self.index)
    }
}

/// The place in the WAL that the headers `outbox_lsn` and `outbox_index` state.
pub(crate) fn stated_place(lsn: Option<&[u8]>, index: Option<&[u8]>) -> Option<(Lsn, u32)> {
    let text = |value| std::str::from_utf8(value).ok();
    let (lsn, index) = (text(lsn?)?, text(index?)?);
    Some((lsn.parse().ok()?, index.parse().ok()?))
}

/// A copy of a streamed event, as it was read from a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamedCopy {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// `None` for a record without a key.
    pub(crate) key: Option<KeyDigest>,
    pub(crate) signature: Signature,
}

/// A digest of a record's key, for one topic in memory. `KeyHash` is the one that the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyDigest(u64);

impl KeyDigest {
    /// That of these bytes.
    pub(crate) fn of(key: &[u8]) -> KeyDigest {
        KeyDigest(fnv1a_64(&[key]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HEADERS: [(&str, Option<&[u8]>); 5] = [
        ("outbox_id", Some(b"7")),
        ("outbox_lsn", Some(b"16/B374D848")),
        ("outbox_index", Some(b"3")),
        ("outbox_committed_at", Some(b"2026-01-02T03:04:05.000006Z")),
        ("outbox_source_id", Some(b"shop")),
    ];

    #[test]
    fn each_of_the_headers_tells_one_event_from_another() {
        let whole = Signature::of(HEADERS.into_iter()).unwrap();
        assert_eq!(whole.place(), ("16/B374D848".parse().unwrap(), 3));
        for (at, other) in [(0, "8"), (1, "16/0"), (2, "4"), (3, "later"), (4, "mine")] {
            let mut headers = HEADERS;
            headers[at].1 = Some(other.as_bytes());
            assert_ne!(Signature::of(headers.into_iter()), Some(whole), "{other}");
        }
    }

    #[test]
    fn a_record_of_another_source_has_none_for_this_one() {
        let of = |source_id: &[u8]| Signature::of_source(HEADERS.into_iter(), source_id);
        assert_eq!(of(b"shop"), Signature::of(HEADERS.into_iter()));
        assert_eq!(of(b"mine"), None);
    }

    #[test]
    fn headers_of_the_row_change_nothing() {
        let forged: [(&str, Option<&[u8]>); 3] = [
            ("outbox_lsn", Some(b"0/1")),
            ("outbox_id", Some(b"9")),
            ("trace", None),
        ];
        let with = HEADERS.into_iter().chain(forged);
        assert_eq!(Signature::of(with), Signature::of(HEADERS.into_iter()));
    }

    #[test]
    fn a_record_that_was_not_streamed_has_none() {
        for left_out in [1, 2, 3] {
            let headers = HEADERS.into_iter().enumerate();
            let rest = headers.filter(|(at, _)| *at != left_out);
            let rest = rest.map(|(_, header)| header);
            assert_eq!(Signature::of(rest), None, "{left_out}");
        }
        assert_eq!(Signature::of(std::iter::empty()), None);
    }
}
