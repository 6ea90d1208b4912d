//! The state of each topic according to Kafka, and when to query it. Pure.
//!
//! Owns the names, each with a number so that an event in flight needs no string, and each with its
//! last metadata: records are sent only to a topic that is known to exist, since a producer that is
//! given a wrong name keeps it and requests its metadata without end. One answer without the topic
//! proves nothing: the topic may be new, or its brokers unavailable. It counts as missing when a
//! second answer, some seconds later, does not have it either; an answer that does not come proves
//! nothing at all, and neither do topics that vanish together. Known topics are queried again from
//! time to time while they get events.
//!
//! Memory is bounded: by the topics that the cluster has, by the events that wait for an answer,
//! and by a limited number of missing names.

mod ends;
pub(crate) mod placing;
pub(crate) mod read_back;
pub(crate) mod refused_topics;
pub(crate) mod stalled_topics;
pub(crate) mod topic;
mod topic_id;
pub(crate) mod topic_queue;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::topics::read_back::ReadBack;
use crate::engine::topics::refused_topics::RefusedTopics;
use crate::engine::topics::topic::{MetadataAnswer, Topic, TopicAccess, TopicState};
use crate::outbox::TopicName;

pub(crate) use crate::engine::topics::topic_id::{NO_TOPIC, TopicId};

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
    refused: RefusedTopics,
    pub(crate) read_back: ReadBack,
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
            refused: RefusedTopics::default(),
            read_back: ReadBack::default(),
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
        sooner(&mut self.query_at, at);
    }

    pub(crate) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.list.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.list.get_mut(id as usize)
    }

    /// The partition whose turn it is, if the number of the topic's partitions is known.
    pub(crate) fn next_partition(&mut self, now: Duration, id: TopicId) -> Option<i32> {
        let topic = self.list.get_mut(id as usize)?;
        let TopicState::Known { topic_limits, .. } = &topic.state else {
            return None;
        };
        let count = topic_limits.placing.partition_count?;
        Some(topic.turn.next_of(now, count))
    }

    /// Whether an event may be sent to this topic now.
    pub(crate) fn access(&mut self, id: TopicId) -> TopicAccess<'_> {
        let Some(topic) = self.list.get_mut(id as usize) else {
            return TopicAccess::Missing;
        };
        if !std::mem::replace(&mut topic.used_since_query, true)
            && let Some(due) = topic.due_at()
        {
            sooner(&mut self.query_at, due);
        }
        match &topic.state {
            TopicState::Known { .. } if self.read_back.is_awaited(id) => TopicAccess::Wait,
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
            topic.is_not_created = false;
            topic.query_at_once = true;
            self.query_by(now);
        }
    }

    /// The broker reports the topic as unknown after a record was sent. A query has to confirm it.
    pub(crate) fn verify(&mut self, now: Duration, id: TopicId) {
        if let Some(topic) = self.list.get_mut(id as usize)
            && let TopicState::Known { .. } | TopicState::Unknown = topic.state
        {
            topic.is_not_created = true;
            topic.state = TopicState::Unknown;
            self.query_by(now);
        }
    }

    /// The Kafka user may not write to this topic. True if that is the topic's fault.
    pub(crate) fn is_at_fault(&mut self, now: Duration, id: TopicId) -> bool {
        let topic = self.list.get_mut(id as usize);
        topic.is_none_or(|topic| self.refused.refused(now, id, &mut topic.refusals))
    }

    /// Whether [`delivered`](Topics::delivered) matters.
    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// A record was delivered to any topic.
    pub(crate) fn delivered(&mut self, now: Duration) {
        for id in self.refused.delivered(now) {
            if let Some(topic) = self.list.get_mut(id as usize) {
                topic.refusals.begin_again(now);
            }
        }
    }

    /// Whether Kafka has shown that every partition of the topic can be written to.
    pub(crate) fn is_healthy(&self, id: TopicId) -> bool {
        let topic = self.get(id).filter(|topic| topic.was_known);
        topic.is_some_and(|topic| match &topic.state {
            TopicState::Known { topic_limits, .. } => topic_limits.problem.is_none(),
            _ => false,
        })
    }

    /// The topics that hold records.
    pub(crate) fn with_queues(&self) -> Vec<TopicId> {
        let topics = (0..).zip(&self.list);
        let held = topics.filter(|(_, topic)| topic.queue.is_some());
        held.map(|(id, _)| id).collect()
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
        let (mut changed, mut has_vanished) = (Vec::new(), false);
        for (name, answer) in answers {
            let Some(id) = self.by_name.get(name.as_str()).copied() else {
                continue;
            };
            let topic = &mut self.list[id as usize];
            let was_missing = matches!(topic.state, TopicState::Missing { .. });
            (topic.used_since_query, topic.query_at_once) = (false, false);
            let is_listed = matches!(answer, MetadataAnswer::Known(_));
            topic.state = topic.state_after(now, answer, self.auto_creates_topics);
            if is_listed {
                (topic.was_known, topic.is_not_created) = (true, false);
            } else if topic.was_known && !was_missing {
                has_vanished |= topic.refusals.since().is_none();
                self.refused.refused(now, id, &mut topic.refusals);
                self.wait_if_all_vanished(now, id);
            }
            let topic = &self.list[id as usize];
            if !was_missing && matches!(topic.state, TopicState::Missing { .. }) {
                self.missing.push_back(id);
            }
            changed.push(id);
        }
        if has_vanished {
            // The other topics show whether this one was deleted.
            let known = |topic: &&mut Topic| matches!(topic.state, TopicState::Known { .. });
            let known = self.list.iter_mut().filter(known);
            known.for_each(|topic| topic.query_at_once = true);
        }
        self.schedule(now);
        changed
    }

    /// A topic counts as missing. When all topics that were listed have vanished, none of them was
    /// deleted: it waits.
    fn wait_if_all_vanished(&mut self, now: Duration, id: TopicId) {
        let topic = &self.list[id as usize];
        let is_missing = matches!(topic.state, TopicState::Missing { .. });
        let since = topic.refusals.since().unwrap_or(now);
        let is_listed = |topic: &Topic| match topic.state {
            TopicState::Known { at, .. } => topic.was_known && at >= since,
            _ => false,
        };
        if is_missing
            && self.refused.are_all_alike(&topic.refusals)
            && !self.list.iter().any(is_listed)
        {
            let state = topic.missing_with_others(now);
            self.list[id as usize].state = state;
        }
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
            self.read_back.forget(id);
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

/// Makes something due no later than `at`.
fn sooner(due: &mut Option<Duration>, at: Duration) {
    *due = Some(due.map_or(at, |due| due.min(at)));
}
