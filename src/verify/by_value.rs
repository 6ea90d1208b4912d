//! Compares the rows and the records of one bucket that have no id, as multisets of content. Pure.
//!
//! The records of an old poller have the topic, the key and the value of their row and nothing
//! else. So many rows of one content as there are such records have arrived.

use crate::verify::store::entry::{RecordEntry, RowEntry};

/// What the comparison says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict<'b> {
    /// The row has arrived.
    Matched(&'b RowEntry),
    /// No record is left for the row.
    Absent(&'b RowEntry),
    /// All rows of this content have arrived already.
    Surplus(&'b RecordEntry),
    /// No row has this content.
    Stray(&'b RecordEntry),
    /// A replay has sent it.
    Replayed(&'b RecordEntry),
}

/// All verdicts about a bucket. Rows that have matched by their ids only bear witness to their
/// content.
pub(super) fn join<'b>(
    rows: &'b mut [RowEntry],
    records: &'b mut [RecordEntry],
) -> Vec<Verdict<'b>> {
    // Of rows with one content, those that ought to have arrived come first.
    rows.sort_by_key(|row| {
        let is_due = row.facts.marked;
        (row.place, row.value, row.facts.matched, !is_due, row.time)
    });
    records.sort_by_key(|record| (record.place, record.value, record.is_replayed, record.at));
    let mut verdicts = Vec::new();
    let (mut rows, mut records) = (&*rows, &*records);
    loop {
        let row = rows.first().map(|row| (row.place, row.value));
        let record = records.first().map(|record| (record.place, record.value));
        let Some(content) = row.into_iter().chain(record).min() else {
            return verdicts;
        };
        let end = rows.partition_point(|row| (row.place, row.value) <= content);
        let (alike, rest) = rows.split_at(end);
        rows = rest;
        let end = records.partition_point(|record| (record.place, record.value) <= content);
        let (copies, rest) = records.split_at(end);
        records = rest;
        let mut left = copies.iter();
        for row in alike.iter().filter(|row| !row.facts.matched) {
            let is_comparable = !row.facts.unreadable && !row.facts.any_value;
            let record = if is_comparable { left.next() } else { None };
            verdicts.push(match record {
                Some(_) => Verdict::Matched(row),
                None => Verdict::Absent(row),
            });
        }
        verdicts.extend(left.map(|record| match record.is_replayed {
            true => Verdict::Replayed(record),
            false if alike.is_empty() => Verdict::Stray(record),
            false => Verdict::Surplus(record),
        }));
    }
}
