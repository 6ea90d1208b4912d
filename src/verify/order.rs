//! Finds the records that came behind a later event of their key. Pure.
//!
//! The entries of a bucket come in the order of their offsets in each partition, and all of a key
//! are in one bucket. A copy of an event does not count: whether a suspect is one is known only by
//! its id, and judged elsewhere. A copy never hides a suspect either, since it is no later than its
//! event.

use std::collections::HashMap;

use crate::verify::store::entry::{OrderEntry, SuspectEntry};

/// Transactions take their commit time before their place in the WAL, and so may have them in
/// different orders. An event with an earlier position and a time that is later by more than this,
/// in microseconds, is of a server that took the place of the other one.
const COMMITS_OVERLAP: i64 = 1_000_000;

/// The latest event of a key.
struct Latest {
    place: (u64, u32),
    committed: Option<i64>,
}

/// The suspects of a bucket.
pub(super) fn suspects(entries: &[OrderEntry]) -> Vec<SuspectEntry> {
    let mut keys: HashMap<(u64, u32, i32), Latest> = HashMap::new();
    let mut suspects = Vec::new();
    for entry in entries {
        let place = (entry.lsn, entry.index);
        let this = || Latest {
            place,
            committed: entry.committed,
        };
        let key = (entry.place, entry.at.topic, entry.at.partition);
        let latest = keys.entry(key).or_insert_with(this);
        if place >= latest.place {
            *latest = this();
            continue;
        }
        let times = entry.committed.zip(latest.committed);
        let is_of_another_server =
            times.is_some_and(|(this, latest)| this > latest.saturating_add(COMMITS_OVERLAP));
        suspects.push(SuspectEntry {
            id: entry.id,
            at: entry.at,
            is_doubtful: is_of_another_server || entry.is_early,
        });
        if is_of_another_server {
            *latest = this();
        }
    }
    suspects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::store::entry::Position;

    fn entry(offset: i64, lsn: u64, committed: i64) -> OrderEntry {
        OrderEntry {
            id: [lsn as u8; 16],
            place: 7,
            at: Position {
                topic: 0,
                partition: 0,
                offset,
            },
            lsn,
            index: 0,
            committed: Some(committed),
            is_early: false,
        }
    }

    fn suspected(entries: &[OrderEntry]) -> Vec<(i64, bool)> {
        let suspects = suspects(entries);
        let suspects = suspects.iter();
        suspects.map(|it| (it.at.offset, it.is_doubtful)).collect()
    }

    #[test]
    fn an_earlier_event_behind_a_later_one_is_a_suspect_and_nothing_else_is() {
        let ordered = [entry(0, 1, 0), entry(1, 2, 0), entry(2, 2, 0)];
        assert_eq!(suspected(&ordered), []);
        let swapped = [entry(0, 1, 0), entry(1, 3, 0), entry(2, 2, 0)];
        assert_eq!(suspected(&swapped), [(2, false)]);
        let mut other_key = swapped.clone();
        other_key[1].place = 8;
        assert_eq!(suspected(&other_key), []);
        let mut other_partition = swapped.clone();
        other_partition[1].at.partition = 1;
        assert_eq!(suspected(&other_partition), []);
    }

    #[test]
    fn a_server_that_took_the_place_of_another_begins_a_new_order() {
        let second = 1_000_000;
        let entries = [
            entry(0, 9, second),
            entry(1, 2, 9 * second),
            entry(2, 3, 9 * second),
            entry(3, 1, 8 * second),
        ];
        assert_eq!(suspected(&entries), [(1, true), (3, false)]);
    }

    #[test]
    fn a_record_that_may_be_a_copy_of_one_that_is_gone_is_doubtful() {
        let mut early = entry(1, 1, 0);
        early.is_early = true;
        assert_eq!(suspected(&[entry(0, 2, 0), early]), [(1, true)]);
    }
}
