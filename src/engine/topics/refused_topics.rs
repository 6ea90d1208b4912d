//! Whether one topic is refused, or all are alike. Pure.
//!
//! A right that is missing on one topic is that topic's fault, and its events become dead letters.
//! When the rights of the Kafka user are revoked, or the brokers have lost their ACLs, each topic
//! is refused in the same way: an outage, which no event has caused. What tells them apart is what
//! happens to the other topics: a delivery to any of them shows that the rights are there. So a
//! refusal of one topic counts only some seconds after its first, and while several topics are
//! refused and nothing is delivered, none of them counts.

use std::time::Duration;

use crate::engine::topics::topic_id::TopicId;

/// The time for other topics to show how they fare.
const GRACE: Duration = Duration::from_secs(5);
/// The same for a topic that has taken records before, while no other topic has any.
const GRACE_AFTER_DELIVERIES: Duration = Duration::from_secs(60);
/// The most topics that are counted separately.
const TOPICS_MAX: usize = 1_000;

/// The refusals of one topic, without a delivery to it in between.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Refusals {
    since: Option<Duration>,
    /// Its refusals began again after an outage.
    was_in_outage: bool,
    /// It has taken a record.
    has_delivered: bool,
}

/// The topics that were refused since the last delivery to any topic.
#[derive(Debug, Default)]
pub(crate) struct RefusedTopics {
    topics: Vec<TopicId>,
    delivered_at: Duration,
}

impl RefusedTopics {
    /// Takes in a refusal of this topic. True if the topic is at fault.
    pub(crate) fn refused(&mut self, now: Duration, id: TopicId, refusals: &mut Refusals) -> bool {
        let since = *refusals.since.get_or_insert(now);
        if self.topics.len() < TOPICS_MAX && !self.topics.contains(&id) {
            self.topics.push(id);
        }
        if self.are_all_alike(refusals) {
            return false;
        }
        let alone = refusals.has_delivered && self.delivered_at <= since;
        now >= since + if alone { GRACE_AFTER_DELIVERIES } else { GRACE }
    }

    /// Whether several topics are refused, and nothing was delivered since the first refusal of
    /// this one.
    pub(crate) fn are_all_alike(&self, refusals: &Refusals) -> bool {
        let delivered = refusals
            .since
            .is_some_and(|since| self.delivered_at > since);
        self.topics.len() > 1 && !delivered
    }

    /// Whether a delivery has to be taken in.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// A record was delivered. Returns the topics that were refused together until now.
    pub(crate) fn delivered(&mut self, now: Duration) -> Vec<TopicId> {
        self.delivered_at = now;
        let topics = std::mem::take(&mut self.topics);
        if topics.len() > 1 { topics } else { Vec::new() }
    }
}

impl Refusals {
    /// The topic took a record. True if it was refused before.
    pub(crate) fn delivered(&mut self) -> bool {
        (self.has_delivered, self.was_in_outage) = (true, false);
        self.since.take().is_some()
    }

    /// The first refusal since the last record that it took.
    pub(crate) fn since(&self) -> Option<Duration> {
        self.since
    }

    /// The topics that were refused together are not any more. If that was an outage, the refusals
    /// count from now on, since rights come back one after another; but only once.
    pub(crate) fn begin_again(&mut self, now: Duration) {
        let lasted = self.since.is_some_and(|since| now >= since + GRACE);
        if lasted && !self.was_in_outage {
            (self.since, self.was_in_outage) = (None, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_topic_is_at_fault_after_a_while_and_sooner_if_it_never_took_a_record() {
        let (mut all, mut new, mut old) = Default::default();
        RefusedTopics::refused(&mut all, SECOND * 10, 1, &mut new);
        assert!(!all.refused(SECOND * 14, 1, &mut new));
        assert!(all.refused(SECOND * 15, 1, &mut new));
        Refusals::delivered(&mut old);
        let mut all = RefusedTopics::default();
        assert!(!all.refused(SECOND * 10, 2, &mut old));
        assert!(!all.refused(SECOND * 69, 2, &mut old));
        assert!(all.refused(SECOND * 70, 2, &mut old));
    }

    #[test]
    fn topics_that_are_refused_together_are_not_at_fault_however_long_it_takes() {
        let mut all = RefusedTopics::default();
        let (mut one, mut two) = (Refusals::default(), Refusals::default());
        for minute in 1..100 {
            all.refused(SECOND * 60 * minute, 1, &mut one);
            assert!(!all.refused(SECOND * 60 * minute, 2, &mut two));
        }
        assert!(all.are_all_alike(&one));
    }

    #[test]
    fn a_delivery_to_another_topic_shows_whose_fault_it_is() {
        let mut all = RefusedTopics::default();
        let (mut one, mut two) = (Refusals::default(), Refusals::default());
        all.refused(SECOND, 1, &mut one);
        all.refused(SECOND, 2, &mut two);
        assert_eq!(all.delivered(SECOND * 2), [1, 2]);
        one.begin_again(SECOND * 2);
        assert!(!all.refused(SECOND * 5, 1, &mut one));
        assert!(!all.refused(SECOND * 5, 2, &mut two));
        assert!(all.refused(SECOND * 6, 1, &mut one));
    }

    #[test]
    fn after_an_outage_the_refusals_count_from_its_end_and_only_once() {
        let mut all = RefusedTopics::default();
        let (mut one, mut two) = (Refusals::default(), Refusals::default());
        all.refused(SECOND, 1, &mut one);
        all.refused(SECOND, 2, &mut two);
        for minute in 1..3 {
            assert_eq!(all.delivered(SECOND * 60 * minute), [1, 2]);
            for refusals in [&mut one, &mut two] {
                refusals.begin_again(SECOND * 60 * minute);
            }
            let counts = all.refused(SECOND * (60 * minute + 1), 1, &mut one);
            assert_eq!(counts, minute > 1);
            all.refused(SECOND * (60 * minute + 1), 2, &mut two);
        }
    }
}
