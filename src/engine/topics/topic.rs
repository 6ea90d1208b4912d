//! One topic: its state according to Kafka, and how an answer changes it. Pure.
//!
//! See [`topics`](crate::engine::topics) for why a topic counts as missing only after a second
//! answer.

use std::time::Duration;

use crate::engine::topics::topic_queue::TopicQueue;

/// The time between the two answers that make a topic missing.
const VERIFY_AFTER: Duration = Duration::from_secs(5);
/// How often a topic that gets events is queried.
const REFRESH: Duration = Duration::from_secs(30);

/// The limits of an existing topic. A limit that Kafka does not report is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicLimits {
    /// The largest batch, in bytes.
    pub(crate) batch_bytes_max: Option<usize>,
    /// The topic accepts no record without a key.
    pub(crate) compacted: bool,
    /// Why some of its partitions accept no records, in words.
    pub(crate) problem: Option<String>,
}

/// Kafka's answer about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetadataAnswer {
    Known(TopicLimits),
    Missing,
}

#[derive(Debug)]
pub(super) enum TopicState {
    /// Not queried, or not answered.
    Unknown,
    Known {
        topic_limits: TopicLimits,
        at: Duration,
    },
    /// One answer did not contain it.
    MaybeMissing {
        since: Duration,
    },
    Missing {
        since: Duration,
    },
}

/// Whether an event may be sent to a topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TopicAccess<'a> {
    Open(&'a TopicLimits),
    /// Kafka has not answered yet whether the topic exists.
    Wait,
    Missing,
}

/// A topic and its records that are in flight or held.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Box<str>,
    pub(super) state: TopicState,
    /// An event came since the last query.
    pub(super) used_since_query: bool,
    /// The next query is due at once.
    pub(super) query_at_once: bool,
    pub(crate) in_flight: u32,
    pub(crate) in_flight_bytes: usize,
    pub(crate) queue: Option<Box<TopicQueue>>,
    /// The number of the topic's last known delivery failure.
    pub(crate) last_failure: u64,
}

impl Topic {
    /// A topic that was never queried.
    pub(super) fn new(name: &str) -> Self {
        Topic {
            name: name.into(),
            state: TopicState::Unknown,
            used_since_query: true,
            query_at_once: false,
            in_flight: 0,
            in_flight_bytes: 0,
            queue: None,
            last_failure: 0,
        }
    }

    /// The state after this answer. With `auto_creates_topics`, a missing topic counts as known.
    pub(super) fn state_after(
        &self,
        now: Duration,
        answer: MetadataAnswer,
        auto_creates_topics: bool,
    ) -> TopicState {
        match (answer, &self.state) {
            (MetadataAnswer::Known(mut topic_limits), state) => {
                if let (
                    None,
                    TopicState::Known {
                        topic_limits: known,
                        ..
                    },
                ) = (topic_limits.batch_bytes_max, state)
                {
                    // This answer has no limits: keep those of the last.
                    (topic_limits.batch_bytes_max, topic_limits.compacted) =
                        (known.batch_bytes_max, known.compacted);
                }
                TopicState::Known {
                    topic_limits,
                    at: now,
                }
            }
            (MetadataAnswer::Missing, _) if auto_creates_topics => TopicState::Known {
                topic_limits: TopicLimits::default(),
                at: now,
            },
            (MetadataAnswer::Missing, TopicState::MaybeMissing { since })
                if now >= *since + VERIFY_AFTER =>
            {
                TopicState::Missing { since: now }
            }
            (MetadataAnswer::Missing, TopicState::MaybeMissing { since }) => {
                TopicState::MaybeMissing { since: *since }
            }
            (MetadataAnswer::Missing, TopicState::Missing { .. }) => {
                TopicState::Missing { since: now }
            }
            (MetadataAnswer::Missing, _) => TopicState::MaybeMissing { since: now },
        }
    }

    /// When the next query is due; `None` while no event uses the topic.
    pub(super) fn due_at(&self) -> Option<Duration> {
        if self.name.is_empty() {
            return None;
        }
        if self.query_at_once {
            return Some(Duration::ZERO);
        }
        match self.state {
            TopicState::Unknown => Some(Duration::ZERO),
            TopicState::MaybeMissing { since } => Some(since + VERIFY_AFTER),
            TopicState::Known { at, .. } => self.used_since_query.then_some(at + REFRESH),
            TopicState::Missing { since } => self.used_since_query.then_some(since + REFRESH),
        }
    }

    pub(super) fn due(&self, now: Duration) -> bool {
        self.due_at().is_some_and(|due| due <= now)
    }

    /// Whether Kafka has not confirmed yet that the topic exists, or that it is missing.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.state,
            TopicState::Unknown | TopicState::MaybeMissing { .. }
        )
    }
}
