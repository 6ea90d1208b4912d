//! What is known of each topic, and what is asked about it. Pure.
//!
//! Owns the names, each with a number so that an event in flight needs no string, and each with what Kafka has said of it: a topic is
//! sent to only once it is known to be there, since a producer that is given a wrong name keeps it and asks for it for ever. One
//! answer that does not have it proves nothing: a topic may be young, or its brokers in trouble. It counts as missing when a second
//! answer, some seconds later, does not have it either; an answer that does not come says nothing at all. What is known is asked
//! again now and then while events come.
//!
//! Memory is bounded: by the topics that the cluster has, by the events that wait for an answer, and by a limited number of names
//! that were missing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::topic_queue::TopicQueue;
use crate::outbox::TopicName;

/// The number of a topic.
pub(crate) type TopicId = u32;

/// The number of no topic: of an event whose name cannot be a topic's.
pub(crate) const NO_TOPIC: TopicId = TopicId::MAX;

/// Between the two answers that make a topic missing.
const VERIFY: Duration = Duration::from_secs(5);
/// What is known is older than this at most, while events come.
const REFRESH: Duration = Duration::from_secs(30);
/// For so long an answer is good enough to condemn an event for.
const FRESH: Duration = Duration::from_secs(1);
/// The same for a topic on which records wait too long.
const REFRESH_IN_TROUBLE: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Names in one question.
const ASKED_MAX: usize = 10_000;
/// Missing topics that are remembered.
const MISSING_MAX: usize = 1_000;

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
enum TopicState {
    /// Not asked, or not answered.
    Unknown,
    Known {
        topic_limits: TopicLimits,
        at: Duration,
    },
    /// One answer did not have it.
    Doubted {
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
    standing: TopicState,
    /// An event came since it was last asked about.
    used: bool,
    /// It is to be asked about at once.
    wanted: bool,
    pub(crate) in_flight: u32,
    pub(crate) in_flight_bytes: usize,
    pub(crate) queue: Option<Box<TopicQueue>>,
    /// The last failure of the producer that is known.
    pub(crate) last_failure: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Topics {
    list: Vec<Topic>,
    by_name: HashMap<Box<str>, TopicId>,
    free: Vec<TopicId>,
    missing: VecDeque<TopicId>,
    /// A name that is not there is made by sending to it.
    makes_topics: bool,
    asked: bool,
    /// When the next question is due, if one is.
    ask_at: Option<Duration>,
    retry: Backoff,
    last: TopicId,
}

impl Topics {
    /// None known. With `makes_topics`, a topic that is not there comes into being when it is sent to.
    pub(crate) fn new(makes_topics: bool) -> Self {
        Topics {
            list: Vec::new(),
            by_name: HashMap::new(),
            free: Vec::new(),
            missing: VecDeque::new(),
            makes_topics,
            asked: false,
            ask_at: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            last: NO_TOPIC,
        }
    }

    /// The number of this name.
    pub(crate) fn id(&mut self, name: TopicName<'_>) -> TopicId {
        let name = name.as_str();
        if let Some(topic) = self.get(self.last)
            && *topic.name == *name
        {
            return self.last;
        }
        self.last = match self.by_name.get(name) {
            Some(id) => *id,
            None => self.add(name),
        };
        self.last
    }

    /// The number of a name that has one.
    pub(crate) fn known(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    fn add(&mut self, name: &str) -> TopicId {
        let topic = Topic {
            name: name.into(),
            standing: TopicState::Unknown,
            used: true,
            wanted: false,
            in_flight: 0,
            in_flight_bytes: 0,
            queue: None,
            last_failure: 0,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id as usize] = topic;
                id
            }
            None => {
                self.list.push(topic);
                (self.list.len() - 1) as TopicId
            }
        };
        self.by_name.insert(name.into(), id);
        self.ask_by(Duration::ZERO);
        id
    }

    fn ask_by(&mut self, at: Duration) {
        self.ask_at = Some(self.ask_at.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.list.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.list.get_mut(id as usize)
    }

    /// What may be done with an event for this topic now.
    pub(crate) fn access(&mut self, id: TopicId) -> TopicAccess<'_> {
        let Some(topic) = self.list.get_mut(id as usize) else {
            return TopicAccess::Missing;
        };
        if !std::mem::replace(&mut topic.used, true)
            && let Some(due) = topic.due_at()
        {
            self.ask_by(due);
        }
        match &self.list[id as usize].standing {
            TopicState::Known { topic_limits, .. } => TopicAccess::Open(topic_limits),
            TopicState::Unknown | TopicState::Doubted { .. } => TopicAccess::Wait,
            TopicState::Missing { .. } => TopicAccess::Missing,
        }
    }

    /// Whether what is known of the topic is old enough to be asked for again before an event is condemned for it; it is asked for
    /// then. Somebody may have raised a limit, or made the topic, a moment ago.
    pub(crate) fn is_stale(&mut self, now: Duration, id: TopicId) -> bool {
        let Some(topic) = self.list.get_mut(id as usize) else {
            return false;
        };
        let (TopicState::Known { at: said, .. } | TopicState::Missing { since: said }) =
            topic.standing
        else {
            return false;
        };
        if now < said + FRESH && !topic.wanted {
            return false;
        }
        topic.wanted = true;
        self.ask_by(now);
        true
    }

    /// Somebody wants something sent to this topic again, and may just have mended it: whatever is known of it is older than that.
    pub(crate) fn refresh(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize) {
            if matches!(topic.standing, TopicState::Missing { .. }) {
                topic.standing = TopicState::Unknown;
            }
            topic.wanted = true;
            self.ask_by(now);
        }
    }

    /// The broker says that the topic is not there, which has to be verified.
    pub(crate) fn doubt(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize)
            && let TopicState::Known { .. } | TopicState::Unknown = topic.standing
        {
            topic.standing = TopicState::Unknown;
            self.ask_by(now);
        }
    }

    /// Records wait on this topic: what is in their way is worth a question.
    pub(crate) fn look_into(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize)
            && let TopicState::Known { at, .. } = topic.standing
        {
            topic.used = true;
            let due = at + REFRESH_IN_TROUBLE;
            if due <= now {
                topic.wanted = true;
            }
            self.ask_by(due.max(now));
        }
    }

    /// The names to ask about now, if any. [`answered`](Topics::answered) has to follow.
    pub(crate) fn question(&mut self, now: Duration) -> Option<Vec<String>> {
        if self.asked || self.ask_at.is_none_or(|due| now < due) {
            return None;
        }
        let due = self.list.iter().filter(|topic| topic.due(now));
        let names: Vec<String> = due
            .map(|topic| topic.name.to_string())
            .take(ASKED_MAX)
            .collect();
        self.asked = !names.is_empty();
        self.schedule(now);
        self.asked.then_some(names)
    }

    /// Kafka's answer, or `None` where it gave none. The topics whose standing has changed.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        answers: Option<Vec<(String, MetadataAnswer)>>,
    ) -> Vec<TopicId> {
        self.asked = false;
        let Some(answers) = answers else {
            self.ask_at = Some(now + self.retry.next_delay());
            return Vec::new();
        };
        self.retry.reset();
        let mut changed = Vec::new();
        for (name, answer) in answers {
            let Some(id) = self.by_name.get(name.as_str()).copied() else {
                continue;
            };
            let topic = &mut self.list[id as usize];
            let was_missing = matches!(topic.standing, TopicState::Missing { .. });
            (topic.used, topic.wanted) = (false, false);
            topic.standing = match (answer, &topic.standing) {
                (MetadataAnswer::Known(mut topic_limits), standing) => {
                    if let (
                        None,
                        TopicState::Known {
                            topic_limits: known,
                            ..
                        },
                    ) = (topic_limits.batch_bytes_max, standing)
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
                (MetadataAnswer::Missing, _) if self.makes_topics => TopicState::Known {
                    topic_limits: TopicLimits::default(),
                    at: now,
                },
                (MetadataAnswer::Missing, TopicState::Doubted { since })
                    if now >= *since + VERIFY =>
                {
                    TopicState::Missing { since: now }
                }
                (MetadataAnswer::Missing, TopicState::Doubted { since }) => {
                    TopicState::Doubted { since: *since }
                }
                (MetadataAnswer::Missing, TopicState::Missing { .. }) => {
                    TopicState::Missing { since: now }
                }
                (MetadataAnswer::Missing, _) => TopicState::Doubted { since: now },
            };
            if !was_missing && matches!(topic.standing, TopicState::Missing { .. }) {
                self.missing.push_back(id);
            }
            changed.push(id);
        }
        self.schedule(now);
        changed
    }

    /// When the next question may be due, over all topics.
    fn schedule(&mut self, now: Duration) {
        let due = self.list.iter().filter_map(Topic::due_at).min();
        self.ask_at = due.map(|due| due.max(now));
    }

    /// Forgets the oldest of too many missing topics.
    pub(crate) fn clear_missing(&mut self) {
        let mut looked = 0;
        while self.missing.len() > MISSING_MAX && looked < self.missing.len() {
            looked += 1;
            let Some(id) = self.missing.pop_front() else {
                return;
            };
            let topic = &mut self.list[id as usize];
            if topic.name.is_empty() || !matches!(topic.standing, TopicState::Missing { .. }) {
                continue;
            }
            if topic.in_flight > 0 || topic.queue.is_some() {
                self.missing.push_back(id);
                continue;
            }
            self.by_name.remove(&topic.name);
            topic.name = "".into();
            self.free.push(id);
        }
    }

    /// Whatever was on its way is forgotten; what is known of the topics stays.
    pub(crate) fn clear_in_flight(&mut self) {
        for topic in &mut self.list {
            (topic.in_flight, topic.in_flight_bytes, topic.queue) = (0, 0, None);
        }
    }

    /// When [`question`](Topics::question) has to be asked though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.ask_at.filter(|_| !self.asked)
    }

    /// What Kafka said that keeps this topic's partitions from taking records.
    pub(crate) fn problem(&self, id: TopicId) -> Option<&str> {
        match &self.get(id)?.standing {
            TopicState::Known { topic_limits, .. } => topic_limits.problem.as_deref(),
            _ => None,
        }
    }
}

impl Topic {
    /// When it is to be asked about; never, while nobody uses it.
    fn due_at(&self) -> Option<Duration> {
        if self.name.is_empty() {
            return None;
        }
        if self.wanted {
            return Some(Duration::ZERO);
        }
        match self.standing {
            TopicState::Unknown => Some(Duration::ZERO),
            TopicState::Doubted { since } => Some(since + VERIFY),
            TopicState::Known { at, .. } => self.used.then_some(at + REFRESH),
            TopicState::Missing { since } => self.used.then_some(since + REFRESH),
        }
    }

    fn due(&self, now: Duration) -> bool {
        self.due_at().is_some_and(|due| due <= now)
    }

    /// What is waited for, if Kafka has not said whether it is there.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.standing,
            TopicState::Unknown | TopicState::Doubted { .. }
        )
    }
}
