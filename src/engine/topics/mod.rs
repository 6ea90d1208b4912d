//! The state of each topic according to Kafka, and when to query it. Pure.
//!
//! Owns the names, each with a number so that an event in flight needs no string, and each with its
//! last metadata: records are sent only to a topic that is known to exist, since a producer that is
//! given a wrong name keeps it and requests its metadata without end. One answer without the topic
//! proves nothing: the topic may be new, or its brokers unavailable. It counts as missing when a
//! second answer, some seconds later, does not have it either; an answer that does not come proves
//! nothing at all. Known topics are queried again from time to time while they get events.
//!
//! Memory is bounded: by the topics that the cluster has, by the events that wait for an answer,
//! and by a limited number of missing names.

pub(crate) mod topic;
pub(crate) mod topic_queue;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::topics::topic::{MetadataAnswer, Topic, TopicAccess, TopicState};
use crate::outbox::TopicName;

/// The number of a topic.
pub(crate) type TopicId = u32;

/// The number of an event whose name cannot be a topic's.
pub(crate) const NO_TOPIC: TopicId = TopicId::MAX;

/// An answer older than this is not enough to reject an event.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How often a topic whose records wait too long is queried.
const REFRESH_WHEN_WAITING: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Names in one query.
const QUERY_NAMES_MAX: usize = 10_000;
/// The most missing topics that are kept.
const MISSING_MAX: usize = 1_000;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Topics {
    list: Vec<Topic>,
    by_name: HashMap<Box<str>, TopicId>,
    free: Vec<TopicId>,
    missing: VecDeque<TopicId>,
    /// Kafka creates a missing topic when a record is sent to it.
    auto_creates_topics: bool,
    query_running: bool,
    /// When the next query is due, if one is.
    query_at: Option<Duration>,
    retry: Backoff,
    last_id: TopicId,
}

impl Topics {
    /// No topics yet. With `auto_creates_topics`, Kafka creates a missing topic when a record is
    /// sent to it.
    pub(crate) fn new(auto_creates_topics: bool) -> Self {
        Topics {
            list: Vec::new(),
            by_name: HashMap::new(),
            free: Vec::new(),
            missing: VecDeque::new(),
            auto_creates_topics,
            query_running: false,
            query_at: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            last_id: NO_TOPIC,
        }
    }

    /// The number of this name.
    pub(crate) fn id(&mut self, name: TopicName<'_>) -> TopicId {
        let name = name.as_str();
        if let Some(topic) = self.get(self.last_id)
            && *topic.name == *name
        {
            return self.last_id;
        }
        self.last_id = match self.by_name.get(name) {
            Some(id) => *id,
            None => self.add(name),
        };
        self.last_id
    }

    /// The number of a name that has one.
    pub(crate) fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    fn add(&mut self, name: &str) -> TopicId {
        let topic = Topic::new(name);
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
        self.query_by(Duration::ZERO);
        id
    }

    fn query_by(&mut self, at: Duration) {
        self.query_at = Some(self.query_at.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.list.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.list.get_mut(id as usize)
    }

    /// Whether an event may be sent to this topic now.
    pub(crate) fn access(&mut self, id: TopicId) -> TopicAccess<'_> {
        let Some(topic) = self.list.get_mut(id as usize) else {
            return TopicAccess::Missing;
        };
        if !std::mem::replace(&mut topic.used_since_query, true)
            && let Some(due) = topic.due_at()
        {
            self.query_by(due);
        }
        match &self.list[id as usize].state {
            TopicState::Known { topic_limits, .. } => TopicAccess::Open(topic_limits),
            TopicState::Unknown | TopicState::MaybeMissing { .. } => TopicAccess::Wait,
            TopicState::Missing { .. } => TopicAccess::Missing,
        }
    }

    /// Whether the topic's state is too old to reject an event because of it; the topic is queried
    /// then. A limit may have been raised, or the topic created, since the last query.
    pub(crate) fn is_stale(&mut self, now: Duration, id: TopicId) -> bool {
        let Some(topic) = self.list.get_mut(id as usize) else {
            return false;
        };
        let (TopicState::Known { at, .. } | TopicState::Missing { since: at }) = topic.state else {
            return false;
        };
        if now < at + FRESH_FOR && !topic.query_at_once {
            return false;
        }
        topic.query_at_once = true;
        self.query_by(now);
        true
    }

    /// A retry was requested: refreshes the topic's metadata first, since the problem may just have
    /// been fixed.
    pub(crate) fn refresh(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize) {
            if matches!(topic.state, TopicState::Missing { .. }) {
                topic.state = TopicState::Unknown;
            }
            topic.query_at_once = true;
            self.query_by(now);
        }
    }

    /// The broker reports the topic as unknown, which a query has to confirm.
    pub(crate) fn verify(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize)
            && let TopicState::Known { .. } | TopicState::Unknown = topic.state
        {
            topic.state = TopicState::Unknown;
            self.query_by(now);
        }
    }

    /// Records of this topic wait: queries it sooner, for the reason.
    pub(crate) fn query_soon(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize)
            && let TopicState::Known { at, .. } = topic.state
        {
            topic.used_since_query = true;
            let due = at + REFRESH_WHEN_WAITING;
            if due <= now {
                topic.query_at_once = true;
            }
            self.query_by(due.max(now));
        }
    }

    /// The names to query now, if any. [`answered`](Topics::answered) has to follow.
    pub(crate) fn query(&mut self, now: Duration) -> Option<Vec<String>> {
        if self.query_running || self.query_at.is_none_or(|due| now < due) {
            return None;
        }
        let due = self.list.iter().filter(|topic| topic.due(now));
        let names: Vec<String> = due
            .map(|topic| topic.name.to_string())
            .take(QUERY_NAMES_MAX)
            .collect();
        self.query_running = !names.is_empty();
        self.schedule(now);
        self.query_running.then_some(names)
    }

    /// Kafka's answer, or `None` if there was none. Returns the topics that it named.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        answers: Option<Vec<(String, MetadataAnswer)>>,
    ) -> Vec<TopicId> {
        self.query_running = false;
        let Some(answers) = answers else {
            self.query_at = Some(now + self.retry.next_delay());
            return Vec::new();
        };
        self.retry.reset();
        let mut changed = Vec::new();
        for (name, answer) in answers {
            let Some(id) = self.by_name.get(name.as_str()).copied() else {
                continue;
            };
            let topic = &mut self.list[id as usize];
            let was_missing = matches!(topic.state, TopicState::Missing { .. });
            (topic.used_since_query, topic.query_at_once) = (false, false);
            topic.state = topic.state_after(now, answer, self.auto_creates_topics);
            if !was_missing && matches!(topic.state, TopicState::Missing { .. }) {
                self.missing.push_back(id);
            }
            changed.push(id);
        }
        self.schedule(now);
        changed
    }

    /// Sets when the next query is due, over all topics.
    fn schedule(&mut self, now: Duration) {
        let due = self.list.iter().filter_map(Topic::due_at).min();
        self.query_at = due.map(|due| due.max(now));
    }

    /// Drops the oldest missing topics beyond the limit.
    pub(crate) fn evict_missing(&mut self) {
        let mut seen = 0;
        while self.missing.len() > MISSING_MAX && seen < self.missing.len() {
            seen += 1;
            let Some(id) = self.missing.pop_front() else {
                return;
            };
            let topic = &mut self.list[id as usize];
            if topic.name.is_empty() || !matches!(topic.state, TopicState::Missing { .. }) {
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

    /// Drops all records in flight or held; the metadata stays.
    pub(crate) fn clear_in_flight(&mut self) {
        for topic in &mut self.list {
            (topic.in_flight, topic.in_flight_bytes, topic.queue) = (0, 0, None);
        }
    }

    /// When [`query`](Topics::query) is due even if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.query_at.filter(|_| !self.query_running)
    }

    /// Why some of this topic's partitions accept no records, according to Kafka.
    pub(crate) fn problem(&self, id: TopicId) -> Option<&str> {
        match &self.get(id)?.state {
            TopicState::Known { topic_limits, .. } => topic_limits.problem.as_deref(),
            _ => None,
        }
    }
}
