//! Topics whose records the producer does not deliver although Kafka shows nothing wrong. Pure.
//!
//! librdkafka has states that end only with the producer: it ignores the metadata of a topic that
//! was deleted and created again, for its leader epochs are lower, and sends to brokers that no
//! longer lead (<https://github.com/confluentinc/librdkafka/issues/4898>). So a topic is stalled
//! when its oldest record stays unacknowledged for half a minute in which several answers of Kafka
//! showed a leader for every partition. Kafka's answers do not show everything, so a new producer
//! may not help: the time doubles with each one that did not.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::topics::topic_id::TopicId;
use crate::engine::tracker::{State, Ticket, Tracker};

/// How often the topics are checked, and queried while they wait.
const CHECK: Duration = Duration::from_secs(5);
const LIMIT_MIN: Duration = Duration::from_secs(30);
const LIMIT_MAX: Duration = Duration::from_secs(600);
/// The answers without a problem that are needed.
const ANSWERS_MIN: u32 = 3;

/// A topic's progress: any change of it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The oldest record that is not acknowledged.
    pub(crate) oldest: Ticket,
    /// Delivered records that an earlier one holds back.
    pub(crate) delivered: u64,
}

#[derive(Debug)]
struct Stall {
    progress: Progress,
    since: Duration,
    answers: u32,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct StalledTopics {
    topics: HashMap<TopicId, Stall>,
    check_at: Duration,
    limit: Duration,
    /// The record that the last new producer was made for.
    blamed: Option<Ticket>,
}

impl StalledTopics {
    pub(crate) fn new() -> Self {
        StalledTopics {
            topics: HashMap::new(),
            check_at: Duration::ZERO,
            limit: LIMIT_MIN,
            blamed: None,
        }
    }

    /// Whether [`check`](StalledTopics::check) is due.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.check_at
    }

    /// Takes in the topics whose records are in the producer. Returns a stalled one.
    pub(crate) fn check(
        &mut self,
        now: Duration,
        topics: HashMap<TopicId, Progress>,
    ) -> Option<TopicId> {
        self.check_at = now + CHECK;
        let is_blamed = |progress: &Progress| Some(progress.oldest) == self.blamed;
        if self.blamed.is_some() && !topics.values().any(is_blamed) {
            (self.blamed, self.limit) = (None, LIMIT_MIN);
        }
        self.topics
            .retain(|id, stall| topics.get(id) == Some(&stall.progress));
        for (id, progress) in topics {
            self.topics.entry(id).or_insert(Stall {
                progress,
                since: now,
                answers: 0,
            });
        }
        let limit = self.limit;
        let is_stalled = |stall: &Stall| stall.answers >= ANSWERS_MIN && now >= stall.since + limit;
        let (id, stall) = self.topics.iter().find(|(_, stall)| is_stalled(stall))?;
        let (id, oldest) = (*id, stall.progress.oldest);
        self.blamed = Some(oldest);
        self.limit = (self.limit * 2).min(LIMIT_MAX);
        self.topics.clear();
        Some(id)
    }

    /// The topics that wait.
    pub(crate) fn waiting(&self) -> Vec<TopicId> {
        self.topics.keys().copied().collect()
    }

    /// Kafka has answered about this topic.
    pub(crate) fn answered(&mut self, now: Duration, id: TopicId, is_healthy: bool) {
        if let Some(stall) = self.topics.get_mut(&id) {
            if is_healthy {
                stall.answers += 1;
            } else {
                (stall.since, stall.answers) = (now, 0);
            }
        }
    }
}

/// The progress of each topic that `delivered` knows to have records in the producer.
pub(crate) fn progress(
    tracker: &Tracker,
    delivered: impl Fn(TopicId) -> Option<u64>,
) -> HashMap<TopicId, Progress> {
    let mut topics: HashMap<TopicId, Progress> = HashMap::new();
    let entries = (tracker.first_ticket..).zip(&tracker.entries);
    for (oldest, entry) in entries.filter(|(_, entry)| entry.state == State::InFlight) {
        let topic = entry.event.topic;
        if !topics.contains_key(&topic)
            && let Some(delivered) = delivered(topic)
        {
            topics.insert(topic, Progress { oldest, delivered });
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waits(oldest: Ticket) -> HashMap<TopicId, Progress> {
        let progress = Progress {
            oldest,
            delivered: 0,
        };
        HashMap::from([(7, progress)])
    }

    /// Checks every five seconds from `from` on; returns when the topic is stalled.
    fn stalled_after(stalled: &mut StalledTopics, from: u64, healthy: bool) -> Option<u64> {
        (from..from + 1_000).step_by(5).find_map(|second| {
            let found = stalled.check(SECOND * second as u32, waits(1));
            stalled.answered(SECOND * second as u32, 7, healthy);
            found.map(|_| second - from)
        })
    }

    #[test]
    fn a_topic_is_stalled_after_half_a_minute_in_which_kafka_shows_nothing_wrong() {
        let mut stalled = StalledTopics::new();
        assert_eq!(stalled_after(&mut stalled, 100, true), Some(30));
        assert_eq!(stalled_after(&mut StalledTopics::new(), 100, false), None);
    }

    #[test]
    fn without_an_answer_or_with_any_progress_it_is_not() {
        let mut stalled = StalledTopics::new();
        for second in (0..1_000).step_by(5) {
            assert_eq!(stalled.check(SECOND * second, waits(1)), None);
        }
        for second in (1_000..2_000).step_by(5) {
            let oldest = u64::from(second) / 25;
            assert_eq!(stalled.check(SECOND * second, waits(oldest)), None);
            stalled.answered(SECOND * second, 7, true);
        }
    }

    #[test]
    fn a_producer_that_did_not_help_doubles_the_time_and_one_that_did_resets_it() {
        let mut stalled = StalledTopics::new();
        let mut from = 100;
        for expected in [30, 60, 120, 240, 480, 600, 600] {
            let after = stalled_after(&mut stalled, from, true);
            assert_eq!(after, Some(expected));
            from += expected + 5;
        }
        stalled.check(SECOND * from as u32, waits(2));
        assert_eq!(stalled_after(&mut stalled, from + 5, true), Some(30));
    }
}
