//! The table of dead letters in the simulation, and the operators who resolve them.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use crate::engine::output::PendingRequests;
use crate::engine::simulation::row_ids::RowIds;
use crate::engine::simulation::world::index;
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, KeyHash, NewDeadLetter, OwnedRecord, ParkedKey, ParkedKeyList, Resolution,
    ResolveRequest,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dead,
    Parked,
    Retry,
    Discard,
    Retried,
    Discarded,
}

#[derive(Debug)]
struct Filed {
    row: usize,
    key: (String, Vec<u8>),
    parks_key: bool,
    state: State,
}

#[derive(Debug, Default)]
pub(crate) struct DeadLetterTable {
    dead_letters: BTreeMap<i64, Filed>,
    dead: BTreeSet<usize>,
}

impl DeadLetterTable {
    pub(crate) fn file(&mut self, dead_letters: &[NewDeadLetter]) {
        for dead_letter in dead_letters {
            let row = dead_letter.row.as_ref().map_or(0, |row| index(&row.id));
            let record = dead_letter
                .record
                .as_ref()
                .expect("every row can be read here");
            let open = self
                .dead_letters
                .iter()
                .find(|(_, filed)| filed.row == row && filed.is_open());
            let known = dead_letter.known.or(open.map(|(id, _)| *id));
            let id = known.unwrap_or_else(|| self.dead_letters.len() as i64 + 1);
            self.dead.insert(row);
            let state = if dead_letter.parked {
                State::Parked
            } else {
                State::Dead
            };
            let key = record.key().unwrap_or_default().to_vec();
            let filed = Filed {
                row,
                key: (record.topic().to_owned(), key),
                parks_key: dead_letter.parks_key,
                state,
            };
            self.dead_letters.insert(id, filed);
        }
    }

    /// Closes a dead letter; returns its row.
    pub(crate) fn close(&mut self, closing: &CloseDeadLetter) -> usize {
        let filed = self
            .dead_letters
            .get_mut(&closing.dead_letter)
            .expect("a dead letter");
        filed.state = match closing.published {
            true => State::Retried,
            false => State::Discarded,
        };
        filed.row
    }

    /// The pending requests in WAL order: requested ones, and parked ones that nothing blocks any
    /// more. With `keys_max`, also the parked keys.
    pub(crate) fn look(
        &self,
        ids: RowIds,
        keys_max: Option<usize>,
        event: impl Fn(usize) -> (OwnedRecord, Option<(Lsn, u32)>),
    ) -> PendingRequests {
        let blocked = |key: &(String, Vec<u8>)| {
            let mut dead_letters = self.dead_letters.values();
            dead_letters
                .any(|filed| filed.key == *key && filed.parks_key && filed.state == State::Dead)
        };
        // A parked key never overtakes its dead letter.
        let passes = |filed: &Filed| {
            let mut dead_letters = self.dead_letters.values();
            dead_letters.any(|head| {
                let dead = head.state == State::Dead && head.parks_key;
                dead && head.key == filed.key && head.row < filed.row
            })
        };
        let due = self
            .dead_letters
            .iter()
            .filter(|(_, filed)| match filed.state {
                State::Retry => !(filed.parks_key && passes(filed)),
                State::Discard => true,
                State::Parked => !blocked(&filed.key),
                State::Dead | State::Retried | State::Discarded => false,
            });
        let request = |(id, filed): (&i64, &Filed)| {
            let (record, place) = event(filed.row);
            ResolveRequest {
                dead_letter: *id,
                row: Some(ids.id(filed.row as i64)),
                resolution: match filed.state {
                    State::Discard => Resolution::Discard,
                    _ => Resolution::Retry,
                },
                place,
                parked_key: filed.parks_key.then(|| filed.hashed()),
                record: Some(Box::new(record)),
                rejection: None,
            }
        };
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(_, filed)| filed.row);
        let requests = due.into_iter().map(request).take(5).collect();
        PendingRequests {
            paused: None,
            requests,
            parked: keys_max.map(|limit| self.parked_keys(limit)),
        }
    }

    pub(crate) fn parked_keys(&self, limit: usize) -> ParkedKeyList {
        let mut keys: BTreeMap<KeyHash, ParkedKey> = BTreeMap::new();
        let open = self
            .dead_letters
            .values()
            .filter(|filed| filed.is_open() && filed.parks_key);
        for filed in open {
            let (_, hash) = filed.hashed();
            let parked = keys.entry(hash).or_insert(ParkedKey {
                hash,
                rows: 0,
                blocked: false,
            });
            parked.rows += 1;
            parked.blocked |= filed.state == State::Dead;
        }
        let mut list = ParkedKeyList::new(limit);
        keys.into_values().for_each(|key| list.push(key));
        list
    }

    /// An operator requests a retry or a discard of some dead letter; false if there is none.
    pub(crate) fn ask(&mut self, rng: &mut Rng) -> bool {
        let dead = self.dead_letters.values_mut();
        let mut dead: Vec<_> = dead.filter(|filed| filed.state == State::Dead).collect();
        if dead.is_empty() {
            return false;
        }
        let at = rng.usize(0..dead.len());
        dead[at].state = match rng.u8(0..4) {
            0 => State::Discard,
            _ => State::Retry,
        };
        true
    }

    /// `dead-letter retry --all`.
    pub(crate) fn retry_all(&mut self) {
        for filed in self.dead_letters.values_mut() {
            if filed.state == State::Dead {
                filed.state = State::Retry;
            }
        }
    }

    /// Whether every reader of the table skips the row.
    pub(crate) fn holds(&self, row: usize) -> bool {
        let mut dead_letters = self.dead_letters.values();
        dead_letters
            .any(|filed| filed.row == row && (filed.is_open() || filed.state == State::Discarded))
    }

    pub(crate) fn is_discarded(&self, row: usize) -> bool {
        let mut dead_letters = self.dead_letters.values();
        dead_letters.any(|filed| filed.row == row && filed.state == State::Discarded)
    }

    pub(crate) fn was_dead(&self, row: usize) -> bool {
        self.dead.contains(&row)
    }

    pub(crate) fn is_closed(&self) -> bool {
        !self.dead_letters.values().any(Filed::is_open)
    }
}

impl Filed {
    fn hashed(&self) -> (Box<str>, KeyHash) {
        let (topic, key) = &self.key;
        (topic.as_str().into(), KeyHash::of(topic, key))
    }

    fn is_open(&self) -> bool {
        !matches!(self.state, State::Retried | State::Discarded)
    }
}
