//! The ends of topics that are read back: their names, and the held events that were found there.
//!
//! Owns nothing; see [`read_back`](crate::engine::topics::read_back).

use std::time::Duration;

use crate::engine::topics::topic::{Topic, TopicState};
use crate::engine::topics::{TopicId, Topics};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Signature, StreamedCopy};

impl Topics {
    /// The names of the topics whose ends are to be read now, if any, and the position behind which
    /// this source's events are sought there. A topic is read once Kafka is known to have it.
    pub(crate) fn ends_to_read(&mut self, now: Duration) -> Option<(Vec<String>, Lsn)> {
        let topic = |id: TopicId| self.list.get(id as usize);
        let is_known = |topic: &Topic| matches!(topic.state, TopicState::Known { .. });
        let (topics, from) = self
            .read_back
            .due(now, |id| topic(id).is_some_and(is_known))?;
        let name = |id| Some(topic(id)?.name.to_string());
        Some((topics.into_iter().filter_map(name).collect(), from))
    }

    /// The read has ended: with these copies of events in each topic. Returns the topics that were
    /// read.
    pub(crate) fn ends_read(&mut self, copies: Vec<(String, Vec<StreamedCopy>)>) -> Vec<TopicId> {
        let copies = copies.into_iter();
        let copies = copies.filter_map(|(name, copies)| Some((self.find(&name)?, copies)));
        let copies = copies.collect();
        self.read_back.answered(copies)
    }

    /// Takes the held events of a topic that were found in it.
    pub(crate) fn take_found(&mut self, id: TopicId) -> Vec<Ticket> {
        let topic = self.list.get_mut(id as usize);
        let queue = topic.and_then(|topic| topic.queue.as_mut());
        let is_found = |record: &OwnedRecord| {
            let signature = || Signature::of(record.headers());
            let place = record.place();
            place.is_some_and(|place| self.read_back.has(id, place, record.key(), signature))
        };
        queue.map_or_else(Vec::new, |queue| queue.take_held(is_found))
    }
}
