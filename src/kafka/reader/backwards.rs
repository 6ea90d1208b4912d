//! Reads a topic from the last record of each partition towards older ones, in growing steps.
//!
//! Decides nothing about a record: the caller says which one is the last that matters in its
//! partition.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::message::BorrowedMessage;

use crate::error::Result;
use crate::kafka::reader::{Span, TopicReader};

/// How many records of a partition are read first; each time after that, four times as many.
const FIRST_STEP: i64 = 64;
const STEP_MAX: i64 = 1 << 20;

/// See the module's head.
pub(super) struct Backwards<'a> {
    reader: &'a TopicReader,
    topic: &'a str,
    /// Of each partition, the first offset and the one behind the last that is not read.
    left: BTreeMap<i32, (i64, i64)>,
    step: i64,
    /// Partitions that were read to their first record.
    pub(super) exhausted: Vec<i32>,
}

impl<'a> Backwards<'a> {
    /// Of these partitions, each from its first offset to the one behind its last record.
    pub(super) fn new(
        reader: &'a TopicReader,
        topic: &'a str,
        partitions: impl Iterator<Item = (i32, (i64, i64))>,
    ) -> Self {
        let (left, exhausted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            partitions.partition(|(_, (low, to))| low < to);
        Backwards {
            reader,
            topic,
            left,
            step: FIRST_STEP,
            exhausted: exhausted.into_keys().collect(),
        }
    }

    /// Whether nothing is left to be read.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Reads one step of every partition that is left, each in the order of its offsets. `look`
    /// returns whether nothing before the record matters in its partition.
    ///
    /// # Errors
    /// Those of [`TopicReader::read`], and that of `look`.
    pub(super) fn step(
        &mut self,
        mut look: impl FnMut(&BorrowedMessage<'_>) -> Result<bool>,
    ) -> Result<()> {
        use rdkafka::Message as _;
        let spans = self.left.iter().map(|(partition, (low, to))| Span {
            partition: *partition,
            from: (*low).max(to - self.step),
            to: *to,
        });
        let spans: Vec<Span> = spans.collect();
        let mut done = BTreeSet::new();
        self.reader.read(self.topic, &spans, |record| {
            if look(record)? {
                done.insert(record.partition());
            }
            Ok(())
        })?;
        for Span {
            partition, from, ..
        } in spans
        {
            if done.contains(&partition) {
                self.left.remove(&partition);
                continue;
            }
            if let Some((low, to)) = self.left.get_mut(&partition) {
                *to = from;
                if from <= *low {
                    self.left.remove(&partition);
                    self.exhausted.push(partition);
                }
            }
        }
        self.step = (self.step * 4).min(STEP_MAX);
        Ok(())
    }
}
