//! Reads a topic from the last record of each partition towards older ones, in growing steps.
//!
//! Decides nothing about a record: the caller says which one is the last that matters in its
//! partition.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::Message as _;
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
    /// A partition that was read to its first record, which is not the first that it had.
    cut: Option<i32>,
}

impl<'a> Backwards<'a> {
    /// Of a topic's partitions, each from its first offset to the one behind its last record:
    /// `ends` says which they are.
    ///
    /// # Errors
    /// Those of `ends`. Transient: no broker answers. Fatal: the user may not describe the topic.
    pub(super) fn new(
        reader: &'a TopicReader,
        topic: &'a str,
        ends: impl Fn(i32) -> Result<(i64, i64)>,
    ) -> Result<Self> {
        let mut backwards = Backwards {
            reader,
            topic,
            left: BTreeMap::new(),
            step: FIRST_STEP,
            cut: None,
        };
        for partition in reader.readable(topic)? {
            let ends = ends(partition)?;
            backwards.left.insert(partition, ends);
            backwards.end_if_exhausted(partition);
        }
        Ok(backwards)
    }

    fn end_if_exhausted(&mut self, partition: i32) {
        if let Some((low, to)) = self.left.get(&partition)
            && to <= low
        {
            self.cut = self.cut.or((*low > 0).then_some(partition));
            self.left.remove(&partition);
        }
    }

    /// A partition that was read to its first record, while older ones are deleted.
    pub(super) fn cut(&self) -> Option<i32> {
        self.cut
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
            } else if let Some((_, to)) = self.left.get_mut(&partition) {
                *to = from;
                self.end_if_exhausted(partition);
            }
        }
        self.step = (self.step * 4).min(STEP_MAX);
        Ok(())
    }
}
