//! Compares what was read of both sides, bucket by bucket, and counts what it finds.
//!
//! The order comes first, since its suspects are judged by their ids; then the ids; then, if there
//! are records without one, the content. Rows without a record and records without a row are put
//! aside until all is compared: the oldest row that has arrived tells about them.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::verify::by_value::{self, Verdict as ByValue};
use crate::verify::join::{self, Bucket, Change, Rules, Verdict};
use crate::verify::judge::{Judgement, Proof, TopicState, judge};
use crate::verify::order;
use crate::verify::progress::Progress;
use crate::verify::records::Records;
use crate::verify::report::{Finding, Kind, Report};
use crate::verify::rows::Rows;
use crate::verify::store::entry::{Entry, OrderEntry, RecordEntry, RowEntry};
use crate::verify::store::spill::Spill;
use crate::verify::store::{ahead, digest};

/// How the comparison is made.
#[derive(Debug, Clone)]
pub(super) struct Options<'o> {
    pub(super) folder: &'o Path,
    pub(super) rules: Rules,
    /// The window is the whole table.
    pub(super) is_whole: bool,
    /// The most events of a kind that are named.
    pub(super) events_max: usize,
}

/// The oldest row that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Oldest {
    /// In microseconds since 1970.
    pub(super) time: Option<i64>,
    /// Where ids are integers.
    pub(super) number: Option<i64>,
}

/// See the module's head.
pub(super) struct Comparison<'c> {
    options: Options<'c>,
    /// The names of the rows' topics, by their numbers.
    row_topics: Vec<String>,
    /// The topics of the records, by their numbers.
    topics: Vec<TopicState>,
    pub(super) report: Report,
    pub(super) oldest: Oldest,
    absent: Spill,
    /// Rows for the comparison of content.
    contents: Option<Spill>,
    pub(super) strays: Spill,
}

/// What is compared: the entries of both sides.
pub(super) struct Sides {
    rows: Spill,
    by_id: Spill,
    by_key: Spill,
    plain: Spill,
    letters: Spill,
}

impl<'c> Comparison<'c> {
    pub(super) fn new(
        options: Options<'c>,
        rows: Rows,
        records: Records,
        letters: Spill,
    ) -> Result<(Self, Sides)> {
        let buckets = rows.spill.buckets();
        let spill = || Spill::new(options.folder, buckets);
        let contents = match records.plain.entries() {
            0 => None,
            _ => Some(spill()?),
        };
        let mut report = Report::default();
        report.rows = rows.spill.entries();
        report.records = records.records;
        report.foreign = records.foreign;
        report.order_unknown = records.unordered;
        let comparison = Comparison {
            report,
            oldest: Oldest::default(),
            absent: spill()?,
            strays: spill()?,
            contents,
            options,
            row_topics: rows.topics,
            topics: records.topics,
        };
        let sides = Sides {
            rows: rows.spill,
            by_id: records.by_id,
            by_key: records.by_key,
            plain: records.plain,
            letters,
        };
        Ok((comparison, sides))
    }

    /// Compares all that can be compared without a further question.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn compare(
        &mut self,
        sides: &Sides,
        proof: &Proof,
        progress: &Progress,
    ) -> Result<()> {
        let suspects = self.suspects(&sides.by_key)?;
        let buckets = sides.rows.buckets();
        let read = |bucket| {
            let mut bucket = Bucket {
                rows: all(&sides.rows, bucket)?,
                records: all(&sides.by_id, bucket)?,
                letters: all(&sides.letters, bucket)?,
                suspects: all(&suspects, bucket)?,
            };
            bucket.sort();
            Ok(bucket)
        };
        ahead::each(buckets, read, |number, bucket| {
            progress.compared(number as u64, buckets as u64);
            for verdict in join::join(&bucket, self.options.rules) {
                self.take(verdict)?;
            }
            Ok(())
        })?;
        self.by_content(&sides.plain)?;
        progress.compared(buckets as u64, buckets as u64);
        let mut proof = proof.clone();
        proof.first_start = proof.first_start.map(|_| self.oldest.time);
        self.judge_absent(&proof)
    }

    fn suspects(&self, by_key: &Spill) -> Result<Spill> {
        let mut suspects = Spill::new(self.options.folder, by_key.buckets())?;
        let read = |bucket| by_key.read(bucket);
        ahead::each(by_key.buckets(), read, |_, bytes| {
            for suspect in order::suspects(&OrderEntry::all(&bytes)) {
                let number = digest::bucket(&suspect.id);
                suspects.push(number, |bytes| suspect.write(bytes))?;
            }
            Ok(())
        })?;
        Ok(suspects)
    }

    fn take(&mut self, verdict: Verdict<'_>) -> Result<()> {
        let copy = "another record of the event is there";
        match verdict {
            Verdict::Matched(row) => {
                self.arrived(row);
                self.keep_content(row, true)?;
            }
            Verdict::Absent(row) if self.contents.is_some() => self.keep_content(row, false)?,
            Verdict::Absent(row) => {
                let number = digest::bucket(&row.id);
                self.absent.push(number, |bytes| row.write(bytes))?;
            }
            Verdict::DeadLettered(_) => self.report.dead_lettered += 1,
            Verdict::Replayed(_) => self.report.replayed += 1,
            Verdict::Stray(record) => {
                let number = digest::bucket(&record.id);
                self.strays.push(number, |bytes| record.write(bytes))?;
            }
            Verdict::Duplicate(record) => self.found(Kind::Duplicate, record, copy),
            Verdict::Altered(record, change) => self.found(Kind::Altered, record, altered(change)),
            Verdict::OutOfOrder(record) => {
                let reason = "a later event of its key has a smaller offset";
                self.found(Kind::OutOfOrder, record, reason);
            }
            Verdict::OrderUnknown(_) => self.report.order_unknown += 1,
            Verdict::Unclear(record) => {
                let reason = "it names no source, and its content is another row's";
                self.found(Kind::Unknown, record, reason);
            }
            Verdict::OfAnotherRow(record) => {
                let reason = "the row with its id was created at another time";
                self.found(Kind::Unknown, record, reason);
            }
        }
        Ok(())
    }

    fn arrived(&mut self, row: &RowEntry) {
        self.report.matched += 1;
        let time = self.oldest.time.into_iter().chain(row.time);
        let number = row.name.parse::<i64>().ok();
        let number = self.oldest.number.into_iter().chain(number);
        self.oldest = Oldest {
            time: time.min(),
            number: number.min(),
        };
    }

    fn keep_content(&mut self, row: &RowEntry, matched: bool) -> Result<()> {
        let Some(contents) = &mut self.contents else {
            return Ok(());
        };
        let mut row = row.clone();
        row.facts.matched = matched;
        contents.push(row.place, |bytes| row.write(bytes))
    }

    fn by_content(&mut self, plain: &Spill) -> Result<()> {
        let Some(contents) = self.contents.take() else {
            return Ok(());
        };
        for bucket in 0..contents.buckets() {
            let mut rows: Vec<RowEntry> = all(&contents, bucket)?;
            let mut records: Vec<RecordEntry> = all(plain, bucket)?;
            for verdict in by_value::join(&mut rows, &mut records) {
                self.take_content(verdict)?;
            }
        }
        Ok(())
    }

    fn take_content(&mut self, verdict: ByValue<'_>) -> Result<()> {
        let (exclusive, is_whole) = (self.options.rules.exclusive, self.options.is_whole);
        match verdict {
            ByValue::Matched(row) => self.arrived(row),
            ByValue::Absent(row) => {
                let number = digest::bucket(&row.id);
                self.absent.push(number, |bytes| row.write(bytes))?;
            }
            ByValue::Replayed(_) => self.report.replayed += 1,
            ByValue::Surplus(record) if is_whole => {
                let reason = "it has no id, and every row of its content has a record";
                self.found(Kind::Duplicate, record, reason);
            }
            ByValue::Stray(record) if is_whole && exclusive => {
                self.found(Kind::Phantom, record, "no row has its content");
            }
            ByValue::Surplus(record) | ByValue::Stray(record) => {
                let reason = "it has no id, and no row of the window is left for its content";
                self.found(Kind::Unknown, record, reason);
            }
        }
        Ok(())
    }

    fn judge_absent(&mut self, proof: &Proof) -> Result<()> {
        let states: HashMap<String, TopicState> = self
            .topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.clone()))
            .collect();
        for bucket in 0..self.absent.buckets() {
            let rows: Vec<RowEntry> = all(&self.absent, bucket)?;
            for row in rows {
                let name = self.row_topics.get(row.topic as usize);
                let topic = name.and_then(|name| states.get(name));
                let (kind, reason) = match judge(&row, topic, proof) {
                    Judgement::Pending => {
                        self.report.pending += 1;
                        continue;
                    }
                    Judgement::Missing(reason) => (Kind::Missing, reason),
                    Judgement::Unknown(reason) => (Kind::Unknown, reason),
                };
                let finding = Finding {
                    kind,
                    id: Some(row.name.into()),
                    topic: name.cloned().unwrap_or_default(),
                    place: None,
                    reason: reason.to_owned(),
                };
                self.report.add(finding, self.options.events_max);
            }
        }
        Ok(())
    }

    /// Counts a record that is wrong, or of which nothing can be said.
    pub(super) fn found(&mut self, kind: Kind, record: &RecordEntry, reason: &str) {
        let topic = self.topics.get(record.at.topic as usize);
        let finding = Finding {
            kind,
            id: Some(record.name.to_string()).filter(|name| !name.is_empty()),
            topic: topic.map(|topic| topic.name.clone()).unwrap_or_default(),
            place: Some((record.at.partition, record.at.offset)),
            reason: reason.to_owned(),
        };
        self.report.add(finding, self.options.events_max);
    }
}

/// All entries of a bucket.
pub(super) fn all<T: Entry>(spill: &Spill, bucket: usize) -> Result<Vec<T>> {
    Ok(T::all(&spill.read(bucket)?))
}

fn altered(change: Change) -> &'static str {
    match change {
        Change::Value => "its value is not that of the row",
        Change::Place => "its topic or key is not that of the row",
        Change::Both => "its value and its topic or key are not those of the row",
    }
}
