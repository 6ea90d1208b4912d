//! One topic: its state according to Kafka, and how an answer changes it. Pure.
//!
//! See [`topics`](crate::engine::topics) for why a topic counts as missing only after a second answer.

use std::time::Duration;

use crate::engine::topic_queue::TopicQueue;

/// Between the two answers that make a topic missing.
const VERIFY_AFTER: Duration = Duration::from_secs(5);
/// A topic is queried this often while events come.
const REFRESH: Duration = Duration::from_secs(30);

/// What Kafka says of a topic that is there; a limit that it does not tell is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicLimits {
    /// The largest batch, in bytes.
    pub(crate) batch_bytes_max: Option<usize>,
    /// Takes no record without a key.
    pub(crate) compacted: bool,
    /// In words, what keeps some of its partitions from taking records.
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
    /// Not asked, or not answered.
    Unknown,
    Known {
        topic_limits: TopicLimits,
        at: Duration,
    },
    /// One answer did not have it.
    MaybeMissing {
        since: Duration,
    },
    Missing {
        since: Duration,
    },
}

/// What may be done with an event for a topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TopicAccess<'a> {
    Open(&'a TopicLimits),
    /// Kafka has not said yet whether it is there.
    Wait,
    Missing,
}

/// A topic, and what of it is on its way.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Box<str>,
    pub(super) state: TopicState,
    /// An event came since it was last asked about.
    pub(super) used_since_query: bool,
    /// It is to be asked about at once.
    pub(super) query_at_once: bool,
    pub(crate) in_flight: u32,
    pub(crate) in_flight_bytes: usize,
    pub(crate) queue: Option<Box<TopicQueue>>,
    /// The last failure of the producer that is known.
    pub(crate) last_failure: u64,
}

impl Topic {
    /// Kafka was not asked about it yet.
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

    /// Its state after this answer. With `auto_creates_topics`, a missing topic counts as known.
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
                    // This time the broker did not tell.
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

    /// When it is to be asked about; never, while nobody uses it.
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

    /// What is waited for, if Kafka has not said whether it is there.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.state,
            TopicState::Unknown | TopicState::MaybeMissing { .. }
        )
    }
}
