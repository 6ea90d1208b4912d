//! One topic: its state according to Kafka, and how an answer changes it. Pure.
//!
//! See [`topics`](crate::engine::topics) for why a topic counts as missing only after a second
//! answer.

use std::time::Duration;

use crate::engine::topics::placing::{PlacingLimits, Turn};
use crate::engine::topics::refused_topics::Refusals;
use crate::engine::topics::topic_queue::TopicQueue;

/// The time between the two answers that make a topic missing.
const VERIFY_AFTER: Duration = Duration::from_secs(5);
/// The same where Kafka lists no topic at all, as it does for a user without any right.
const VERIFY_AFTER_NONE_LISTED: Duration = Duration::from_secs(60);
/// How often a topic that gets events is queried.
const REFRESH: Duration = Duration::from_secs(30);

/// The limits of an existing topic. A limit that Kafka does not report is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicLimits {
    /// The largest batch, in bytes.
    pub(crate) batch_bytes_max: Option<usize>,
    /// The topic accepts no record without a key.
    pub(crate) compacted: bool,
    /// The partitions and times that it takes.
    pub(crate) placing: PlacingLimits,
    /// Why some of its partitions accept no records, in words.
    pub(crate) problem: Option<String>,
}

impl TopicLimits {
    /// The most bytes in flight, if the topic's batches are smaller than the producer's, which
    /// have at most `batch_bytes`.
    pub(in crate::engine) fn in_flight_max(&self, batch_bytes: usize) -> Option<usize> {
        self.batch_bytes_max.filter(|limit| *limit < batch_bytes)
    }
}

/// Kafka's answer about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetadataAnswer {
    Known(TopicLimits),
    Missing,
    /// Kafka lists no topic at all.
    NoneListed,
    /// One broker does not list it, and the others did not answer.
    Unconfirmed,
}

#[derive(Debug)]
pub(super) enum TopicState {
    /// Not queried, or not answered.
    Unknown,
    Known {
        topic_limits: TopicLimits,
        at: Duration,
    },
    /// An answer did not contain it, which has to be confirmed.
    MaybeMissing {
        since: Duration,
        query_at: Duration,
        doubt: Option<&'static str>,
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
    pub(crate) refusals: Refusals,
    /// An answer contained it.
    pub(super) was_known: bool,
    /// A record was sent to it, and Kafka did not create it.
    pub(super) is_not_created: bool,
    /// The partition of the next record, where records are spread over all.
    pub(super) turn: Turn,
    /// The failures up to this number are processed: their records were sent again in order.
    pub(crate) trusted: u64,
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
            refusals: Refusals::default(),
            was_known: false,
            is_not_created: false,
            turn: Turn::default(),
            trusted: 0,
        }
    }

    /// All known failures are processed: the producer need not bring records back because of them.
    pub(crate) fn trust(&mut self) -> (String, u64) {
        self.trusted = self.last_failure;
        (self.name.to_string(), self.last_failure)
    }

    /// The state after this answer. With `auto_creates_topics`, a missing topic counts as known
    /// until a record was sent to it.
    pub(super) fn state_after(
        &self,
        now: Duration,
        answer: MetadataAnswer,
        auto_creates_topics: bool,
    ) -> TopicState {
        let (verify_after, doubt) = match answer {
            MetadataAnswer::Known(topic_limits) => return self.known(now, topic_limits),
            _ if auto_creates_topics && !self.is_not_created => {
                return self.known(now, TopicLimits::default());
            }
            MetadataAnswer::Missing => (VERIFY_AFTER, None),
            MetadataAnswer::NoneListed => {
                let doubt = "Kafka lists no topic for this user, who may have lost all rights";
                (VERIFY_AFTER_NONE_LISTED, Some(doubt))
            }
            MetadataAnswer::Unconfirmed => {
                let doubt = "one broker does not list it, and no other broker answers";
                (Duration::MAX, Some(doubt))
            }
        };
        let since = match self.state {
            TopicState::Missing { .. } => return TopicState::Missing { since: now },
            TopicState::MaybeMissing { since, .. } => since,
            TopicState::Unknown | TopicState::Known { .. } => now,
        };
        if now.saturating_sub(since) >= verify_after {
            return TopicState::Missing { since: now };
        }
        self.maybe_missing(now, since, doubt)
    }

    /// The topic is not proved to be missing: it is queried again.
    pub(super) fn maybe_missing(
        &self,
        now: Duration,
        since: Duration,
        doubt: Option<&'static str>,
    ) -> TopicState {
        let first = since + VERIFY_AFTER;
        let query_at = if now < first {
            first
        } else {
            now + VERIFY_AFTER
        };
        TopicState::MaybeMissing {
            since,
            query_at,
            doubt,
        }
    }

    fn known(&self, now: Duration, mut topic_limits: TopicLimits) -> TopicState {
        if let TopicState::Known {
            topic_limits: known,
            ..
        } = &self.state
        {
            let has_settings = topic_limits.batch_bytes_max.is_some();
            topic_limits.placing = topic_limits.placing.or(known.placing, has_settings);
            if !has_settings {
                // This answer has no limits: keep those of the last.
                (topic_limits.batch_bytes_max, topic_limits.compacted) =
                    (known.batch_bytes_max, known.compacted);
            }
        }
        TopicState::Known {
            topic_limits,
            at: now,
        }
    }

    /// The state of a topic that counts as missing, while others fare the same.
    pub(super) fn missing_with_others(&self, now: Duration) -> TopicState {
        let doubt = "Kafka lists none of the topics that it listed before";
        self.maybe_missing(now, now.saturating_sub(VERIFY_AFTER), Some(doubt))
    }

    /// Why it is not certain that the topic is missing.
    pub(crate) fn doubt(&self) -> Option<&'static str> {
        match self.state {
            TopicState::MaybeMissing { doubt, .. } => doubt,
            _ => None,
        }
    }

    /// The delivered records that came back, if records of the topic are in the producer or its
    /// queue waits for Kafka.
    pub(crate) fn delivered_in_order(&self) -> Option<u64> {
        let queue = self.queue.as_ref();
        let waits = self.in_flight > 0 || queue.is_some_and(|queue| queue.is_outage());
        waits.then(|| queue.map_or(0, |queue| queue.delivered_count()))
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
            TopicState::MaybeMissing { query_at, .. } => Some(query_at),
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
