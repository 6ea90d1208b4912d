//! Which partitions have had a failure since somebody last looked after them.
//!
//! librdkafka goes on with a partition behind a refused batch by itself, before anybody has heard
//! of the refusal, so what it appends there may stand behind records that are older. From the
//! first failure on every report of that partition therefore brings its record back, so that all of
//! it can be sent again in order. Nearly always nothing is suspect, and then the question costs one
//! comparison.
//!
//! Trust comes from somebody who has seen the reports up to some failure. A failure that came after that one, and lies
//! unread among the reports, keeps its topic suspect: failures are numbered for that.

use std::collections::HashMap;

/// See the module's head. Bounded by what is in flight: only its reports come here.
#[derive(Debug, Default)]
pub(crate) struct SuspectPartitions {
    /// The number of the last failure of each suspect topic, and its suspect partitions.
    topics: HashMap<Box<str>, (u64, Vec<i32>)>,
    failures: u64,
}

impl SuspectPartitions {
    /// A record of this partition has failed. -1 stands for records that had not got one. The number of this failure, from 1 on.
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

    /// No partition at all is suspect.
    pub(crate) fn is_none(&self) -> bool {
        self.topics.is_empty()
    }

    /// This partition is suspect.
    pub(crate) fn holds(&self, topic: &str, partition: i32) -> bool {
        let known = self.topics.get(topic);
        known.is_some_and(|(_, partitions)| partitions.contains(&partition))
    }

    pub(crate) fn failure_count(&self) -> u64 {
        self.failures
    }

    pub(crate) fn count_on_from(&mut self, failures: u64) {
        self.failures = failures;
    }

    /// All partitions of this topic are in order again, unless there was a failure after this one.
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
