//! Which events of the stream are in Kafka already, after memory was dropped. Pure.
//!
//! A slot brings every event again that was not confirmed, and some of them are in Kafka: an
//! earlier process, or this one, has sent them. Only transactions that were committed before this
//! session held the lock can be such: the window. While it is open, the end of each topic is read
//! before the first event is sent there, and an event whose record is found is not sent again.
//!
//! **Order.** The last record of a key has to be its newest event. So a record counts as found only
//! if no older event of its key lies behind it, as one does when a refused record was sent again
//! with all that its partition had taken since. And once an event of a key is sent, all later ones
//! of the key are.
//!
//! What is not found is sent. So a read that fails, or ends early, costs duplicates and no event.
//! Topics that come late are not read, since events wait meanwhile. What an earlier process still
//! had on its way when the topic was read can come behind it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::engine::topics::topic_id::TopicId;
use crate::lsn::Lsn;
use crate::outbox::{KeyDigest, Signature, StreamedCopy};

/// How long after the first read another one may begin. Events wait meanwhile.
const TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Window {
    /// The slot's position.
    from: Lsn,
    /// The end of the WAL when the lock was held.
    to: Lsn,
    /// When the last read may begin.
    last_read_at: Option<Duration>,
}

#[derive(Debug)]
enum End {
    /// To be read.
    Due,
    /// Being read.
    Asked,
    Read(Found),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct ReadBack {
    window: Option<Window>,
    ends: HashMap<TopicId, End>,
}

impl ReadBack {
    /// The stream begins at `from`, with no memory, and the WAL ended at `to` when the lock was
    /// held.
    pub(crate) fn open(&mut self, from: Lsn, to: Lsn) {
        self.close();
        self.window = (from < to).then_some(Window {
            from,
            to,
            last_read_at: None,
        });
    }

    /// Forgets all that was found.
    pub(crate) fn close(&mut self) {
        *self = ReadBack::default();
    }

    /// Everything before `position` has come, and at this position the window may end.
    #[inline(always)]
    pub(crate) fn passed(&mut self, position: Lsn) {
        if self.window.is_some_and(|window| position >= window.to) {
            self.close_unless_awaited();
        }
    }

    #[cold]
    fn close_unless_awaited(&mut self) {
        let is_awaited = |end: &End| !matches!(end, End::Read(_));
        if !self.ends.values().any(is_awaited) {
            self.close();
        }
    }

    /// Whether events are sought.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.window.is_some()
    }

    /// Whether this topic is to be read before anything is sent to it.
    #[inline(always)]
    pub(crate) fn is_awaited(&self, topic: TopicId) -> bool {
        self.is_open() && matches!(self.ends.get(&topic), Some(End::Due | End::Asked))
    }

    /// Whether Kafka has the event of this topic, at this place of the WAL and with this key.
    /// `signature` is that of its record. If the topic has to be read first, the answer is no, and
    /// the topic is [awaited](ReadBack::is_awaited).
    pub(crate) fn has(
        &mut self,
        topic: TopicId,
        place: (Lsn, u32),
        key: Option<&[u8]>,
        signature: impl FnOnce() -> Option<Signature>,
    ) -> bool {
        let Some(window) = self.window else {
            return false;
        };
        match self.ends.get_mut(&topic) {
            Some(End::Read(found)) => found.has(place, key, signature),
            Some(End::Due | End::Asked) => false,
            None => {
                // Nothing in Kafka is behind the window, or has no signature.
                if place.0 < window.to && signature().is_some() {
                    self.ends.insert(topic, End::Due);
                }
                false
            }
        }
    }

    /// The number belongs to another topic from now on.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.ends.remove(&topic);
    }

    /// The topics to read now, of those that are ready, and the place behind which everything of
    /// this source is sought.
    pub(crate) fn due(
        &mut self,
        now: Duration,
        is_ready: impl Fn(TopicId) -> bool,
    ) -> Option<(Vec<TopicId>, Lsn)> {
        let is_running = self.ends.values().any(|end| matches!(end, End::Asked));
        if is_running || self.is_late(now) {
            return None;
        }
        let window = self.window.as_mut()?;
        let mut topics = Vec::new();
        for (topic, end) in &mut self.ends {
            if matches!(end, End::Due) && is_ready(*topic) {
                *end = End::Asked;
                topics.push(*topic);
            }
        }
        topics.sort_unstable();
        if topics.is_empty() {
            return None;
        }
        window.last_read_at.get_or_insert(now + TIME);
        Some((topics, window.from))
    }

    /// The topics that are not read any more. Their events are sent.
    pub(crate) fn given_up(&mut self, now: Duration) -> Vec<TopicId> {
        let mut topics = Vec::new();
        if self.is_late(now) {
            for (topic, end) in &mut self.ends {
                if matches!(end, End::Due) {
                    *end = End::Read(Found::default());
                    topics.push(*topic);
                }
            }
        }
        topics
    }

    /// Whether no further read may begin.
    fn is_late(&self, now: Duration) -> bool {
        let last_read_at = self.window.and_then(|window| window.last_read_at);
        last_read_at.is_some_and(|last| now > last)
    }

    /// The read has ended: with these records of each topic. Returns the topics that were read for.
    pub(crate) fn answered(
        &mut self,
        mut copies: HashMap<TopicId, Vec<StreamedCopy>>,
    ) -> Vec<TopicId> {
        let mut topics = Vec::new();
        for (topic, end) in &mut self.ends {
            if matches!(end, End::Asked) {
                let copies = copies.remove(topic).unwrap_or_default();
                *end = End::Read(Found::new(copies));
                topics.push(*topic);
            }
        }
        topics
    }
}

/// What was found in a topic.
#[derive(Debug, Default)]
struct Found {
    events: HashSet<Signature>,
    /// The place of the last of them. Nothing behind it is found, so nothing of it is kept.
    last: (Lsn, u32),
    /// Keys of which an event is sent.
    sent: HashSet<KeyDigest>,
}

impl Found {
    fn new(mut copies: Vec<StreamedCopy>) -> Self {
        copies.sort_unstable_by_key(|copy| Reverse((copy.partition, copy.offset)));
        let mut oldest_behind = HashMap::new();
        let mut found = Found::default();
        for copy in copies {
            let place = copy.signature.place();
            // Records without a key have no order.
            let is_in_order = copy.key.is_none_or(|key| {
                let oldest = oldest_behind.entry((copy.partition, key)).or_insert(place);
                *oldest = place.min(*oldest);
                *oldest == place
            });
            if is_in_order {
                found.events.insert(copy.signature);
                found.last = found.last.max(place);
            }
        }
        found
    }

    fn has(
        &mut self,
        place: (Lsn, u32),
        key: Option<&[u8]>,
        signature: impl FnOnce() -> Option<Signature>,
    ) -> bool {
        if self.events.is_empty() {
            return false;
        }
        if place > self.last {
            *self = Found::default();
            return false;
        }
        let is_found = signature().is_some_and(|signature| self.events.contains(&signature));
        let Some(key) = key.map(KeyDigest::of) else {
            return is_found;
        };
        if is_found && !self.sent.contains(&key) {
            return true;
        }
        self.sent.insert(key);
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TOPIC: TopicId = 3;

    fn signature(at: u64) -> Signature {
        let (lsn, id) = (Lsn::new(at).to_string(), at.to_string());
        let headers = [
            ("outbox_lsn", lsn.as_str()),
            ("outbox_index", "0"),
            ("outbox_id", id.as_str()),
            ("outbox_committed_at", "a time"),
        ];
        let headers = headers.into_iter();
        Signature::of(headers.map(|(name, value)| (name, Some(value.as_bytes())))).unwrap()
    }

    /// Records of one partition: the keys and places of their events.
    fn partition(partition: i32, records: &[(Option<&str>, u64)]) -> Vec<StreamedCopy> {
        let records = (0..).zip(records);
        let copy = |(offset, (key, at)): (i64, &(Option<&str>, u64))| StreamedCopy {
            partition,
            offset,
            key: key.map(|key| KeyDigest::of(key.as_bytes())),
            signature: signature(*at),
        };
        records.map(copy).collect()
    }

    fn has(read_back: &mut ReadBack, key: Option<&str>, at: u64) -> bool {
        let place = (Lsn::new(at), 0);
        read_back.has(TOPIC, place, key.map(str::as_bytes), || Some(signature(at)))
    }

    /// A window from 10 to 90, whose topic has these records.
    fn read(copies: Vec<StreamedCopy>) -> ReadBack {
        let mut read_back = ReadBack::default();
        read_back.open(Lsn::new(10), Lsn::new(90));
        assert!(!has(&mut read_back, Some("a"), 10));
        assert!(read_back.is_awaited(TOPIC));
        let due = read_back.due(Duration::ZERO, |_| true);
        assert_eq!(due, Some((vec![TOPIC], Lsn::new(10))));
        let copies = HashMap::from([(TOPIC, copies)]);
        assert_eq!(read_back.answered(copies), [TOPIC]);
        assert!(!read_back.is_awaited(TOPIC));
        read_back
    }

    #[test]
    fn what_a_topic_has_is_found_there_and_nothing_else() {
        let (a, b) = (Some("a"), Some("b"));
        let mut copies = partition(0, &[(a, 10), (a, 20)]);
        copies.extend(partition(1, &[(b, 12), (None, 30)]));
        let mut read_back = read(copies);
        for (key, at, expected) in [
            (a, 10, true),
            (b, 12, true),
            (b, 14, false),
            (a, 20, true),
            (None, 25, false),
            (None, 30, true),
            (a, 40, false),
        ] {
            assert_eq!(has(&mut read_back, key, at), expected, "{at}");
        }
    }

    #[test]
    fn once_an_event_of_a_key_is_sent_all_later_ones_of_it_are() {
        let (a, b) = (Some("a"), Some("b"));
        let mut read_back = read(partition(0, &[(a, 20), (b, 21), (a, 30), (b, 31)]));
        assert!(!has(&mut read_back, a, 10), "it was refused");
        for at in [20, 30] {
            assert!(!has(&mut read_back, a, at), "{at}");
            assert!(has(&mut read_back, b, at + 1), "{at}");
        }
    }

    #[test]
    fn a_record_with_an_older_one_of_its_key_behind_it_is_sent_again() {
        let (a, b) = (Some("a"), Some("b"));
        // The event at 10 was refused at first, so all of the partition was to be sent again.
        let mut read_back = read(partition(0, &[(a, 20), (b, 15), (a, 10), (b, 15)]));
        assert!(has(&mut read_back, a, 10));
        assert!(has(&mut read_back, b, 15));
        assert!(!has(&mut read_back, a, 20));
        // An older event that is confirmed counts as well.
        let mut read_back = read(partition(0, &[(a, 20), (a, 5)]));
        assert!(!has(&mut read_back, a, 20));
        // Other partitions have an order of their own.
        let mut copies = partition(0, &[(a, 20)]);
        copies.extend(partition(1, &[(a, 10)]));
        let mut read_back = read(copies);
        assert!(has(&mut read_back, a, 10) && has(&mut read_back, a, 20));
    }

    #[test]
    fn nothing_is_sought_behind_the_window_and_nothing_is_kept_for_it() {
        let mut read_back = ReadBack::default();
        read_back.open(Lsn::new(10), Lsn::new(90));
        assert!(!has(&mut read_back, Some("a"), 90));
        assert!(!read_back.is_awaited(TOPIC));
        let mut read_back = read(partition(0, &[(Some("a"), 20)]));
        read_back.passed(Lsn::new(89));
        assert!(read_back.is_open());
        read_back.passed(Lsn::new(90));
        assert!(!read_back.is_open());
        read_back.open(Lsn::new(10), Lsn::new(10));
        assert!(!read_back.is_open(), "the slot is at the end");
    }

    #[test]
    fn a_window_stays_open_while_a_topic_is_awaited() {
        let mut read_back = ReadBack::default();
        read_back.open(Lsn::new(10), Lsn::new(90));
        has(&mut read_back, Some("a"), 10);
        assert_eq!(
            read_back.due(Duration::ZERO, |_| false),
            None,
            "it may not exist"
        );
        read_back.passed(Lsn::new(95));
        assert!(read_back.is_open());
        read_back.forget(TOPIC);
        read_back.passed(Lsn::new(95));
        assert!(!read_back.is_open());
    }

    #[test]
    fn topics_are_read_together_and_one_read_at_a_time() {
        let mut read_back = ReadBack::default();
        read_back.open(Lsn::new(10), Lsn::new(90));
        let ask = |read_back: &mut ReadBack, topic| {
            read_back.has(topic, (Lsn::new(10), 0), None, || Some(signature(10)));
        };
        ask(&mut read_back, 7);
        ask(&mut read_back, 5);
        assert_eq!(
            read_back.due(Duration::ZERO, |_| true),
            Some((vec![5, 7], Lsn::new(10)))
        );
        ask(&mut read_back, 9);
        assert_eq!(read_back.due(Duration::ZERO, |_| true), None);
        assert_eq!(read_back.answered(HashMap::new()).len(), 2);
        assert_eq!(
            read_back.due(Duration::ZERO, |_| true),
            Some((vec![9], Lsn::new(10)))
        );
    }

    #[test]
    fn a_topic_that_comes_late_is_not_read_any_more() {
        let mut read_back = read(Vec::new());
        let other = TOPIC + 1;
        let place = (Lsn::new(11), 0);
        assert!(!read_back.has(other, place, None, || Some(signature(11))));
        assert!(read_back.given_up(TIME).is_empty());
        let late = TIME + Duration::from_millis(1);
        assert_eq!(read_back.due(late, |_| true), None);
        assert_eq!(read_back.given_up(late), [other]);
        assert!(!read_back.is_awaited(other));
        assert!(!read_back.has(other, place, None, || Some(signature(11))));
        read_back.passed(Lsn::new(90));
        assert!(!read_back.is_open());
    }
}
