//! What Kafka's metadata and settings show about one topic.

use std::time::Duration;

use rdkafka::admin::ConfigResource;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;

/// The most partitions that are named.
const NAMED_MAX: usize = 16;

/// An existing topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicFacts {
    /// The largest batch that it accepts; `None` if unknown.
    pub(crate) max_message_bytes: Option<usize>,
    /// Whether it is compacted and so rejects records without a key; `false` also if unknown.
    pub(crate) compacted: bool,
    pub(crate) partition_count: usize,
    /// The replicas of the partition that has the fewest.
    pub(crate) replicas: usize,
    /// `min.insync.replicas`; `None` if unknown.
    pub(crate) min_in_sync: Option<usize>,
    /// How far a record's time may be from the broker's; `None` without a limit, or if unknown.
    pub(crate) clock_limit: Option<Duration>,
    /// Partitions without a leader, which cannot be written to now. The first 16.
    pub(crate) leaderless: Vec<i32>,
    /// Partitions with fewer in-sync replicas than the topic requires for a write. The first 16;
    /// none if the requirement is unknown.
    pub(crate) under_replicated: Vec<i32>,
}

impl TopicFacts {
    /// The problem with the topic's partitions, for a person; `None` if there is none.
    pub(crate) fn problem(&self) -> Option<String> {
        let list = |partitions: &[i32]| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            partitions.join(", ")
        };
        if !self.leaderless.is_empty() {
            return Some(format!(
                "no leader for partition {}",
                list(&self.leaderless)
            ));
        }
        let short = list(&self.under_replicated);
        (!short.is_empty()).then(|| format!("too few in-sync replicas for partition {short}"))
    }
}

/// A partition in the metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partition {
    id: i32,
    has_leader: bool,
    in_sync: usize,
    replicas: usize,
}

/// The relevant settings, as far as they are known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct TopicSettings {
    max_message_bytes: Option<usize>,
    compacted: bool,
    min_in_sync: Option<usize>,
    clock_limit: Option<Duration>,
}

/// The settings that limit how far a record's time may be from the broker's, in milliseconds.
const CLOCK_LIMITS: [&str; 3] = [
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "message.timestamp.difference.max.ms",
];

/// The topic's partitions, or `None` if it does not exist.
pub(super) fn partitions(topic: &MetadataTopic) -> Option<Vec<Partition>> {
    use RDKafkaRespErr::*;
    match topic.error() {
        Some(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID) => None,
        // The topic exists, but its partitions are unknown now.
        Some(_) => Some(Vec::new()),
        None => {
            let partitions = topic.partitions().iter().map(|partition| Partition {
                id: partition.id(),
                has_leader: partition.leader() >= 0,
                in_sync: partition.isr().len(),
                replicas: partition.replicas().len(),
            });
            Some(partitions.collect())
        }
    }
}

/// The settings as Kafka describes them.
pub(super) fn read(resource: &ConfigResource) -> TopicSettings {
    let value = |name| resource.get(name).and_then(|entry| entry.value.as_deref());
    let limits = CLOCK_LIMITS
        .iter()
        .filter_map(|name| value(name)?.parse().ok());
    // The largest value stands for none.
    let limits = limits.filter(|millis| *millis < i64::MAX as u64);
    // Otherwise the time of a record is the broker's.
    let is_ours = value("message.timestamp.type") == Some("CreateTime");
    TopicSettings {
        max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
        compacted: value("cleanup.policy")
            .is_some_and(|list| list.split(',').any(|policy| policy.trim() == "compact")),
        min_in_sync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
        clock_limit: limits.min().filter(|_| is_ours).map(Duration::from_millis),
    }
}

/// All that is known of a topic.
pub(super) fn facts(partitions: &[Partition], settings: &TopicSettings) -> TopicFacts {
    let named = |chosen: &dyn Fn(&Partition) -> bool| {
        let mut ids: Vec<i32> = partitions
            .iter()
            .filter(|it| chosen(it))
            .map(|it| it.id)
            .collect();
        ids.sort_unstable();
        ids.truncate(NAMED_MAX);
        ids
    };
    let least = settings.min_in_sync.unwrap_or(0);
    TopicFacts {
        max_message_bytes: settings.max_message_bytes,
        compacted: settings.compacted,
        partition_count: partitions.len(),
        replicas: partitions.iter().map(|it| it.replicas).min().unwrap_or(0),
        min_in_sync: settings.min_in_sync,
        clock_limit: settings.clock_limit,
        leaderless: named(&|it| !it.has_leader),
        under_replicated: named(&|it| it.in_sync < least),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_in_trouble_are_named_and_not_more_than_sixteen() {
        let partitions: Vec<Partition> = (0..100)
            .rev()
            .map(|id| Partition {
                id,
                has_leader: id % 2 == 1,
                in_sync: if id == 7 { 1 } else { 2 },
                replicas: 2,
            })
            .collect();
        let settings = TopicSettings {
            min_in_sync: Some(2),
            ..TopicSettings::default()
        };
        let of_all = facts(&partitions, &settings);
        assert_eq!(of_all.leaderless, Vec::from_iter((0..32).step_by(2)));
        assert_eq!(of_all.under_replicated, [7]);
        assert_eq!(of_all.partition_count, 100);
        let unknown = facts(&partitions, &TopicSettings::default());
        assert!(unknown.under_replicated.is_empty());

        let short = TopicFacts {
            under_replicated: vec![1, 3],
            ..TopicFacts::default()
        };
        let problem = short.problem();
        assert_eq!(
            problem.as_deref(),
            Some("too few in-sync replicas for partition 1, 3")
        );
        assert_eq!(TopicFacts::default().problem(), None);
    }
}
