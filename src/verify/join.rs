//! Compares the rows, records and dead letters of one bucket by their ids. Pure.
//!
//! A record is of a row that has its id and, where both have one, its time of creation: ids begin
//! again. A row has arrived if a record has its topic, key and value. A further one is a duplicate,
//! unless a replay has sent it, and one with other content is altered. Which of the rows that have
//! no record ought to have one is not decided here.

use crate::verify::store::digest::IdDigest;
use crate::verify::store::entry::{LetterEntry, RecordEntry, RowEntry, SuspectEntry};

/// The entries of one bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) rows: Vec<RowEntry>,
    pub(super) records: Vec<RecordEntry>,
    pub(super) letters: Vec<LetterEntry>,
    pub(super) suspects: Vec<SuspectEntry>,
}

/// What the comparison says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict<'b> {
    /// The row has arrived.
    Matched(&'b RowEntry),
    /// No record has the row's id.
    Absent(&'b RowEntry),
    /// The row has no record, since it has a dead letter.
    DeadLettered(&'b RowEntry),
    /// An earlier record has arrived for the same row.
    Duplicate(&'b RecordEntry),
    /// The record has other content than its row.
    Altered(&'b RecordEntry, Change),
    /// The record names no source, and its id is that of a row with other content.
    Unclear(&'b RecordEntry),
    /// No row has the record's id.
    Stray(&'b RecordEntry),
    /// The row with the record's id was created at another time.
    OfAnotherRow(&'b RecordEntry),
    /// A replay has sent it.
    Replayed(&'b RecordEntry),
    /// It came behind a later event of its key.
    OutOfOrder(&'b RecordEntry),
    /// It may have come so; the headers do not tell.
    OrderUnknown(&'b RecordEntry),
}

/// What differs between a record and its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Value,
    Place,
    Both,
}

/// What is known of rows and records as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// The topics have no records of other sources.
    pub(super) exclusive: bool,
    /// Published rows are deleted, so that most records have no row.
    pub(super) is_deleted: bool,
}

impl Bucket {
    /// Puts the entries into the order in which they are compared.
    pub(super) fn sort(&mut self) {
        self.rows.sort_by_key(|row| row.id);
        self.records.sort_by_key(|record| (record.id, record.at));
        self.letters.sort_by_key(|letter| letter.id);
        self.suspects.sort_by_key(|suspect| suspect.id);
    }
}

/// All verdicts about a bucket that is sorted.
pub(super) fn join(bucket: &Bucket, rules: Rules) -> Vec<Verdict<'_>> {
    let mut verdicts = Vec::with_capacity(bucket.rows.len());
    let (mut rows, mut records) = (&bucket.rows[..], &bucket.records[..]);
    loop {
        let first = rows.first().map(|row| row.id);
        let other = records.first().map(|record| record.id);
        let Some(id) = first.into_iter().chain(other).min() else {
            return verdicts;
        };
        let group = Group {
            rows: take(&mut rows, |row| row.id == id),
            records: take(&mut records, |record| record.id == id),
            letters: of(&bucket.letters, &id, |letter| &letter.id),
            suspects: of(&bucket.suspects, &id, |suspect| &suspect.id),
        };
        group.judge(rules, &mut verdicts);
    }
}

/// Takes the entries from the front that belong together.
fn take<'b, T>(entries: &mut &'b [T], belongs: impl Fn(&T) -> bool) -> &'b [T] {
    let end = entries.iter().position(|entry| !belongs(entry));
    let (taken, rest) = entries.split_at(end.unwrap_or(entries.len()));
    *entries = rest;
    taken
}

/// The entries with this id of a sorted list.
fn of<'b, T>(entries: &'b [T], id: &IdDigest, id_of: impl Fn(&T) -> &IdDigest) -> &'b [T] {
    let from = entries.partition_point(|entry| id_of(entry) < id);
    let to = entries.partition_point(|entry| id_of(entry) <= id);
    entries.get(from..to).unwrap_or_default()
}

/// Whether two times of creation may be those of one row.
fn may_be(one: u64, other: u64) -> bool {
    one == other || one == 0 || other == 0
}

/// All entries with one id; the records in the order of their positions.
struct Group<'b> {
    rows: &'b [RowEntry],
    records: &'b [RecordEntry],
    letters: &'b [LetterEntry],
    suspects: &'b [SuspectEntry],
}

impl<'b> Group<'b> {
    fn judge(&self, rules: Rules, verdicts: &mut Vec<Verdict<'b>>) {
        for row in self.rows {
            self.judge_row(row, rules, verdicts);
        }
        for (at, record) in self.records.iter().enumerate() {
            if self.row_of(record).is_none() {
                verdicts.push(self.without_row(at, record));
            }
        }
        for suspect in self.suspects {
            verdicts.extend(self.out_of_order(suspect, rules));
        }
    }

    /// The first row that the record may be of.
    fn row_of(&self, record: &RecordEntry) -> Option<&'b RowEntry> {
        let mut rows = self.rows.iter();
        rows.find(|row| may_be(row.created, record.created))
    }

    fn judge_row(&self, row: &'b RowEntry, rules: Rules, verdicts: &mut Vec<Verdict<'b>>) {
        let is_mine = |record: &&RecordEntry| {
            let mine = self.row_of(record);
            mine.is_some_and(|mine| std::ptr::eq(mine, row))
        };
        let (replayed, sent): (Vec<_>, Vec<_>) = self
            .records
            .iter()
            .filter(is_mine)
            .partition(|record| record.is_replayed);
        let change = |record: &RecordEntry| change(row, record);
        verdicts.extend(replayed.iter().map(|record| Verdict::Replayed(record)));
        let has_arrived = sent.iter().any(|record| change(record).is_none());
        // A copy by a replay stands for a record that is no longer there.
        let was_replayed = replayed.iter().any(|record| change(record).is_none());
        if sent.is_empty() && replayed.is_empty() {
            verdicts.push(self.absent(row));
            return;
        }
        if has_arrived || (sent.is_empty() && was_replayed) {
            verdicts.push(Verdict::Matched(row));
        }
        let mut is_first = true;
        for record in sent {
            match change(record) {
                None if is_first => is_first = false,
                None => verdicts.push(Verdict::Duplicate(record)),
                // Ids of two outboxes may be the same.
                Some(_) if has_arrived && !record.is_ours && !rules.exclusive => {
                    verdicts.push(Verdict::Unclear(record));
                }
                Some(change) => verdicts.push(Verdict::Altered(record, change)),
            }
        }
        if !has_arrived && !was_replayed {
            let wrong = replayed.into_iter().filter_map(|record| {
                let change = change(record)?;
                Some(Verdict::Altered(record, change))
            });
            verdicts.extend(wrong);
        }
    }

    fn absent(&self, row: &'b RowEntry) -> Verdict<'b> {
        let mut letters = self.letters.iter();
        let has_letter = letters.any(|letter| {
            may_be(letter.created, row.created) && !letter.is_sent && !letter.is_retried
        });
        match has_letter {
            true => Verdict::DeadLettered(row),
            false => Verdict::Absent(row),
        }
    }

    /// A record whose row was not read, or is not there.
    fn without_row(&self, at: usize, record: &'b RecordEntry) -> Verdict<'b> {
        if record.is_replayed {
            return Verdict::Replayed(record);
        }
        if !self.rows.is_empty() {
            return Verdict::OfAnotherRow(record);
        }
        let earlier = self.records.get(..at).unwrap_or_default();
        let is_copy = |other: &RecordEntry| {
            !other.is_replayed
                && other.is_ours
                && may_be(other.created, record.created)
                && (other.place, other.value) == (record.place, record.value)
        };
        match record.is_ours && earlier.iter().any(is_copy) {
            true => Verdict::Duplicate(record),
            false => Verdict::Stray(record),
        }
    }

    fn out_of_order(&self, suspect: &SuspectEntry, rules: Rules) -> Option<Verdict<'b>> {
        let in_partition = |record: &&RecordEntry| {
            let (one, other) = (record.at, suspect.at);
            !record.is_replayed && (one.topic, one.partition) == (other.topic, other.partition)
        };
        let suspected = self.records.iter().find(|record| record.at == suspect.at)?;
        if self.row_of(suspected).is_none() && !rules.is_deleted {
            // A phantom, or outside the window.
            return None;
        }
        let same_row = |record: &&RecordEntry| may_be(record.created, suspected.created);
        let mut copies = self.records.iter().filter(in_partition).filter(same_row);
        // A dead letter is sent again behind later events.
        let is_excused = !self.letters.is_empty();
        let is_first = copies.next().is_some_and(|first| first.at == suspect.at);
        if !is_first || is_excused {
            return None;
        }
        Some(match suspect.is_doubtful {
            true => Verdict::OrderUnknown(suspected),
            false => Verdict::OutOfOrder(suspected),
        })
    }
}

/// What differs between a row and a record of it.
fn change(row: &RowEntry, record: &RecordEntry) -> Option<Change> {
    if row.facts.unreadable {
        return None;
    }
    let has_other_value = !row.facts.any_value && row.value != record.value;
    match (row.place != record.place, has_other_value) {
        (true, true) => Some(Change::Both),
        (true, false) => Some(Change::Place),
        (false, true) => Some(Change::Value),
        (false, false) => None,
    }
}

#[cfg(test)]
#[path = "tests/join.rs"]
mod tests;
