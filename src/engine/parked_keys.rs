//! Which keys are parked: an event of theirs is a dead letter, and the later ones wait for it.
//! Pure.
//!
//! The table is the truth, and this copy follows it: read at the start, updated with every dead
//! letter that is filed, retried and closed, and read again from time to time while keys are
//! parked. The rows of a key are retried in order. Once the last of them is being retried, new
//! events of the key are held in their topic's queue and no longer parked; once the last dead
//! letter is closed they are sent: if they were sent before, a crash in between would send the
//! retried ones again, behind them.
//!
//! Only hashes are kept, and a limited number of them. Beyond it a topic is parked whole: each new
//! event of it is filed behind the others, which keeps every order. Such a topic is parked until
//! the table shows that its keys fit again. While the table is read, its new events are held: an
//! event that was filed meanwhile would be missing from what was read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::outbox::{KeyHash, ParkedKeyList};

/// The pause between two reads of the table for each key that it has: reading a thousand keys a
/// second is no burden.
const PAUSE_PER_KEY: Duration = Duration::from_millis(1);

/// What to do with an event because of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Its key does not matter.
    Free,
    /// File it behind the others of its key.
    Parked,
    /// Hold it until the dead letters before it are closed.
    Wait,
}

/// The dead letters of a key.
#[derive(Debug, Default, Clone, Copy)]
struct KeyRows {
    /// Rows of the key that are filed and not being resolved.
    parked: u64,
    /// Rows that are being resolved: their dead letters are not closed.
    resolving: u64,
    /// The first event was refused, and no retry or discard was requested since.
    blocked: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ParkedKeys {
    /// The most keys, and the most topics.
    limit: usize,
    keys: HashMap<KeyHash, KeyRows>,
    /// Topics that are parked whole.
    topics: HashSet<u64>,
    /// All topics are.
    everything: bool,
    /// Keys of such topics of which events are being resolved. Dropped before requests are read,
    /// as are the next.
    resolving: HashSet<KeyHash>,
    /// Those of them of which an event was filed meanwhile: it was refused again, or comes from
    /// before the others. The others of the key are parked again.
    filed: HashSet<KeyHash>,
    /// Grows with each change. A read of the table that began before a change is out of date.
    version: u64,
    /// The table is being read.
    is_reading: bool,
}

impl ParkedKeys {
    /// No keys yet, and room for `limit` of them.
    pub(crate) fn new(limit: usize) -> Self {
        ParkedKeys {
            limit,
            keys: HashMap::new(),
            topics: HashSet::new(),
            everything: false,
            resolving: HashSet::new(),
            filed: HashSet::new(),
            version: 0,
            is_reading: false,
        }
    }

    /// Drops all keys.
    pub(crate) fn reset(&mut self) {
        *self = ParkedKeys {
            version: self.version + 1,
            ..ParkedKeys::new(self.limit)
        };
    }

    /// Replaces the keys by those of the table.
    pub(crate) fn load(&mut self, list: ParkedKeyList) {
        self.reset();
        let rows = list.keys.into_iter().map(|key| {
            let key_rows = KeyRows {
                parked: key.rows,
                resolving: 0,
                blocked: key.blocked,
            };
            (key.hash, key_rows)
        });
        self.keys = rows.collect();
        self.topics = list.topics.into_iter().collect();
        self.everything = list.everything;
    }

    /// Whether no key is parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.has_whole_topics()
    }

    /// How many topics are parked whole; the highest number if all are.
    pub(crate) fn whole_topics(&self) -> usize {
        match self.everything {
            true => usize::MAX,
            false => self.topics.len(),
        }
    }

    fn has_whole_topics(&self) -> bool {
        self.everything || !self.topics.is_empty()
    }

    /// A read of the requests begins, `with_keys` or without. Returns the version of the keys.
    pub(crate) fn begin_read(&mut self, with_keys: bool) -> u64 {
        self.resolving.clear();
        self.filed.clear();
        self.is_reading = with_keys;
        self.version
    }

    /// The read has ended. Whether no key has changed since it began.
    pub(crate) fn end_read(&mut self, version: u64) -> bool {
        self.is_reading = false;
        self.version == version
    }

    /// The shortest time between two reads of all keys.
    pub(crate) fn pause(&self) -> Duration {
        let count = match self.has_whole_topics() {
            true => self.limit,
            false => self.keys.len(),
        };
        PAUSE_PER_KEY * u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What to do with an event of this key. A new event stays behind all that are filed, one that
    /// `is_resolving` only behind an event that was refused again.
    pub(crate) fn state(&self, hash: KeyHash, is_resolving: bool) -> KeyState {
        if self.is_whole(hash) {
            return match (is_resolving, self.filed.contains(&hash)) {
                (true, false) => KeyState::Free,
                (true, true) => KeyState::Parked,
                (false, _) if self.is_reading => KeyState::Wait,
                (false, _) => KeyState::Parked,
            };
        }
        match self.keys.get(&hash) {
            None => KeyState::Free,
            Some(KeyRows { blocked: true, .. }) => KeyState::Parked,
            Some(_) if is_resolving => KeyState::Free,
            Some(KeyRows { parked: 0, .. }) => KeyState::Wait,
            Some(_) => KeyState::Parked,
        }
    }

    /// A row of this key is filed, which `was_resolving`; `blocks` if it is the one that the others
    /// wait for.
    pub(crate) fn file(&mut self, hash: KeyHash, blocks: bool, was_resolving: bool) {
        self.version += 1;
        let is_full = self.keys.len() >= self.limit && !self.keys.contains_key(&hash);
        if is_full && !self.is_whole(hash) {
            self.park_topic(hash.topic);
        }
        if self.is_whole(hash) {
            if was_resolving || self.resolving.contains(&hash) {
                self.filed.insert(hash);
            }
            return;
        }
        let key_rows = self.keys.entry(hash).or_default();
        key_rows.parked += 1;
        key_rows.blocked |= blocks;
    }

    /// A row of this key is being resolved from now on. Whether the key is parked.
    pub(crate) fn start_resolving(&mut self, hash: KeyHash) -> bool {
        let Some(key_rows) = self.keys.get_mut(&hash) else {
            let is_whole = self.is_whole(hash);
            if is_whole {
                self.resolving.insert(hash);
            }
            return is_whole;
        };
        self.version += 1;
        key_rows.blocked = false;
        key_rows.parked = key_rows.parked.saturating_sub(1);
        key_rows.resolving += 1;
        true
    }

    /// How many rows of this key are being resolved, unless its whole topic is parked.
    pub(crate) fn resolving_of(&self, hash: KeyHash) -> u64 {
        self.keys.get(&hash).map_or(0, |it| it.resolving)
    }

    /// One of the rows that were being resolved is closed, or filed again.
    pub(crate) fn resolved(&mut self, hash: KeyHash) {
        if let Some(key_rows) = self.keys.get_mut(&hash) {
            self.version += 1;
            key_rows.resolving = key_rows.resolving.saturating_sub(1);
            if key_rows.parked == 0 && key_rows.resolving == 0 {
                self.keys.remove(&hash);
            }
        }
    }

    fn is_whole(&self, hash: KeyHash) -> bool {
        self.everything || self.topics.contains(&hash.topic)
    }

    fn park_topic(&mut self, topic: u64) {
        self.topics.insert(topic);
        if self.topics.len() > self.limit {
            self.everything = true;
            self.topics = HashSet::new();
        }
        let everything = self.everything;
        let is_whole = |hash: &KeyHash, _: &mut KeyRows| everything || hash.topic == topic;
        let dropped = self.keys.extract_if(is_whole);
        let resolving = dropped.filter(|(_, key_rows)| key_rows.resolving > 0);
        self.resolving.extend(resolving.map(|(hash, _)| hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::ParkedKey;

    fn hash(topic: u64, key: u64) -> KeyHash {
        KeyHash { topic, key }
    }

    fn keys(limit: usize, list: &[(u64, u64)]) -> ParkedKeys {
        let mut loaded = ParkedKeyList::new(limit);
        for (topic, key) in list {
            loaded.push(ParkedKey {
                hash: hash(*topic, *key),
                rows: 1,
                blocked: true,
            });
        }
        let mut keys = ParkedKeys::new(limit);
        keys.load(loaded);
        keys
    }

    #[test]
    fn beyond_the_limit_a_topic_is_parked_whole_and_no_key_is_forgotten() {
        let mut parked = keys(2, &[]);
        for key in 0..1_000 {
            parked.file(hash(key % 2, key), true, false);
        }
        parked.file(hash(7, 1), true, false);
        assert!(parked.keys.len() <= 2 && parked.topics.len() <= 2);
        assert_eq!(parked.whole_topics(), 2);
        for key in 0..1_000 {
            let state = parked.state(hash(key % 2, key), false);
            assert_eq!(state, KeyState::Parked, "{key}");
        }
        assert_eq!(parked.state(hash(0, 5_000), false), KeyState::Parked);
        assert_eq!(parked.state(hash(7, 1), false), KeyState::Parked);
        assert_eq!(parked.state(hash(8, 1), false), KeyState::Free);
        parked.file(hash(8, 1), true, false);
        parked.file(hash(8, 2), true, false);
        parked.file(hash(9, 1), true, false);
        assert_eq!(
            parked.state(hash(10, 1), false),
            KeyState::Parked,
            "all are"
        );
        assert_eq!(parked.whole_topics(), usize::MAX);
    }

    #[test]
    fn a_whole_topic_resolves_in_order_and_is_free_once_the_table_is() {
        let mut parked = keys(1, &[(1, 1), (1, 2)]);
        assert!(parked.has_whole_topics());
        assert!(parked.start_resolving(hash(1, 1)));
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Free);
        parked.file(hash(1, 1), true, true);
        assert_eq!(
            parked.state(hash(1, 1), true),
            KeyState::Parked,
            "refused again"
        );
        assert_eq!(parked.state(hash(1, 2), true), KeyState::Free);
        let version = parked.begin_read(true);
        assert_eq!(parked.state(hash(1, 3), false), KeyState::Wait);
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Free);
        assert!(parked.end_read(version));
        parked.load(ParkedKeyList::new(1));
        assert_eq!(parked.state(hash(1, 3), false), KeyState::Free);
        assert!(parked.is_empty());
    }

    #[test]
    fn an_event_that_is_refused_again_parks_those_of_its_key_behind_it_again() {
        let mut parked = keys(10, &[]);
        parked.file(hash(1, 1), true, false);
        parked.file(hash(1, 1), false, false);
        assert!(parked.start_resolving(hash(1, 1)) && parked.start_resolving(hash(1, 1)));
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Free);
        parked.file(hash(1, 1), true, true);
        parked.resolved(hash(1, 1));
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Parked);
    }

    #[test]
    fn an_event_that_is_filed_late_parks_those_of_its_key_again_that_are_being_resolved() {
        let mut parked = keys(1, &[(1, 1), (1, 2)]);
        assert!(parked.start_resolving(hash(1, 1)) && parked.start_resolving(hash(1, 2)));
        // It was refused before, and is sent again only now.
        assert_eq!(parked.state(hash(1, 1), false), KeyState::Parked);
        parked.file(hash(1, 1), false, false);
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Parked);
        assert_eq!(
            parked.state(hash(1, 2), true),
            KeyState::Free,
            "another key"
        );
        // The same if the topic was parked whole after they were requested.
        let mut parked = keys(1, &[(1, 1)]);
        assert!(parked.start_resolving(hash(1, 1)));
        parked.file(hash(1, 2), true, false);
        assert!(parked.has_whole_topics());
        parked.file(hash(1, 1), false, false);
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Parked);
        parked.begin_read(true);
        assert_eq!(parked.state(hash(1, 1), true), KeyState::Free);
    }

    #[test]
    fn the_more_keys_there_are_the_seldomer_they_are_read() {
        assert_eq!(keys(10, &[]).pause(), Duration::ZERO);
        let three = keys(10, &[(1, 1), (1, 2), (1, 3)]);
        assert_eq!(three.pause(), Duration::from_millis(3));
        let whole = keys(2, &[(1, 1), (1, 2), (1, 3)]);
        assert_eq!(whole.pause(), Duration::from_millis(2));
    }
}
