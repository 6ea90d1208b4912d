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
    /// The same for a time before the broker's.
    pub(crate) before_limit: Option<Duration>,
    /// The same for a time behind the broker's.
    pub(crate) after_limit: Option<Duration>,
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
    before_limit: Option<Duration>,
    after_limit: Option<Duration>,
}

/// The settings that limit how far a record's time may be from the broker's, in milliseconds. The
/// last one is of brokers before Kafka 4, and counts where the other is not set.
const BEFORE_LIMIT: &str = "message.timestamp.before.max.ms";
const AFTER_LIMIT: &str = "message.timestamp.after.max.ms";
const DIFFERENCE_LIMIT: &str = "message.timestamp.difference.max.ms";

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
    // Otherwise the time of a record is the broker's.
    let is_ours = value("message.timestamp.type") == Some("CreateTime");
    let limit = |name| {
        let millis = value(name).and_then(|text| text.parse().ok());
        // The largest value stands for none.
        let millis = millis.filter(|millis| is_ours && *millis < i64::MAX as u64);
        millis.map(Duration::from_millis)
    };
    TopicSettings {
        max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
        compacted: value("cleanup.policy")
            .is_some_and(|list| list.split(',').any(|policy| policy.trim() == "compact")),
        min_in_sync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
        before_limit: limit(BEFORE_LIMIT).or(limit(DIFFERENCE_LIMIT)),
        after_limit: limit(AFTER_LIMIT).or(limit(DIFFERENCE_LIMIT)),
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
        clock_limit: [settings.before_limit, settings.after_limit]
            .into_iter()
            .flatten()
            .min(),
        before_limit: settings.before_limit,
        after_limit: settings.after_limit,
        leaderless: named(&|it| !it.has_leader),
        under_replicated: named(&|it| it.in_sync < least),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

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

    #[test]
    fn the_time_of_a_record_is_limited_by_what_the_topic_sets_and_otherwise_by_the_older_setting() {
        let of = |entries: &[(&str, &str)]| {
            let entries = entries.iter().map(|(name, value)| ConfigEntry {
                name: (*name).to_owned(),
                value: Some((*value).to_owned()),
                source: ConfigSource::Default,
                is_read_only: false,
                is_default: true,
                is_sensitive: false,
            });
            let settings = read(&ConfigResource {
                specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
                entries: entries.collect(),
            });
            let facts = facts(&[], &settings);
            let millis = |limit: Option<Duration>| limit.map(|limit| limit.as_millis());
            let limits = [facts.before_limit, facts.after_limit, facts.clock_limit];
            limits.map(millis)
        };
        let none = i64::MAX.to_string();
        let ours = ("message.timestamp.type", "CreateTime");
        let (before, after) = ((BEFORE_LIMIT, "5"), (AFTER_LIMIT, "7"));
        let (no_before, no_after) = ((BEFORE_LIMIT, &*none), (AFTER_LIMIT, &*none));
        let difference = (DIFFERENCE_LIMIT, "9");
        assert_eq!(of(&[ours, before, after]), [Some(5), Some(7), Some(5)]);
        assert_eq!(of(&[ours, no_before, after]), [None, Some(7), Some(7)]);
        let older = [ours, no_before, after, difference];
        assert_eq!(of(&older), [Some(9), Some(7), Some(7)]);
        assert_eq!(of(&[ours, difference]), [Some(9), Some(9), Some(9)]);
        assert_eq!(of(&[ours, no_before, no_after]), [None; 3]);
        let brokers = ("message.timestamp.type", "LogAppendTime");
        assert_eq!(of(&[brokers, before, after]), [None; 3]);
    }
}
