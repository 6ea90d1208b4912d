//! The partitions that had a failure which the caller has not processed yet.
//!
//! After a refused batch librdkafka goes on with the partition before the caller has seen the
//! refusal, so later records may be appended before older ones are. From the first failure on,
//! every report of that partition therefore includes its record, so that all of them can be sent
//! again in order. Nearly always no partition is suspect, and the check costs one comparison.
//!
//! `trust` names the last failure that the caller has processed. A later failure, still unread
//! among the reports, keeps its topic suspect; failures are numbered for that. A report names the
//! last failure of its topic, so that one made before `trust` and read after it can be told apart.

use std::collections::HashMap;

/// See the module's head. Bounded by the records in flight: only their reports add to it.
#[derive(Debug, Default)]
pub(crate) struct SuspectPartitions {
    /// The number of the last failure of each suspect topic, and its suspect partitions.
    topics: HashMap<Box<str>, (u64, Vec<i32>)>,
    failures: u64,
}

impl SuspectPartitions {
    /// Records a failure of this partition and returns the failure's number, from 1. Partition -1
    /// stands for records that had none yet.
    pub(crate) fn suspect(&mut self, topic: &str, partition: i32) -> u64 {
        self.failures += 1;
        let known = match self.topics.get_mut(topic) {
            Some(known) => known,
            None => self.topics.entry(topic.into()).or_default(),
        };
        known.0 = self.failures;
        if !known.1.contains(&partition) {
            known.1.push(partition);
        }
        self.failures
    }

    /// Whether no partition is suspect.
    pub(crate) fn is_none(&self) -> bool {
        self.topics.is_empty()
    }

    /// The number of the topic's last failure, if this partition is suspect.
    pub(crate) fn suspicion(&self, topic: &str, partition: i32) -> Option<u64> {
        let (last, partitions) = self.topics.get(topic)?;
        partitions.contains(&partition).then_some(*last)
    }

    pub(crate) fn failure_count(&self) -> u64 {
        self.failures
    }

    pub(crate) fn count_on_from(&mut self, failures: u64) {
        self.failures = failures;
    }

    /// Trusts all partitions of this topic again, unless it had a failure after this one.
    pub(crate) fn trust(&mut self, topic: &str, failure: u64) {
        if self
            .topics
            .get(topic)
            .is_some_and(|(last, _)| *last <= failure)
        {
            self.topics.remove(topic);
        }
    }
}
