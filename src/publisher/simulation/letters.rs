//! The table of dead letters in the simulation. It belongs to the server's files: a restored copy
//! has the dead letters of its time.

use std::collections::BTreeMap;

use crate::engine::output::PendingRequests;
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, KeyHash, NewDeadLetter, OwnedRecord, ParkedKey, ParkedKeyList, Resolution,
    ResolveRequest, RowName,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Dead,
    Parked,
    Retry,
    Discard,
    NotMarked,
    Retried,
    Discarded,
}

#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) row: Option<RowName>,
    /// The event, if its record was there.
    pub(super) event: Option<usize>,
    record: Option<OwnedRecord>,
    place: Option<(Lsn, u32)>,
    parks_key: bool,
    pub(super) state: State,
}

impl Letter {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Retried | State::Discarded)
    }

    fn is_about(&self, row: &RowName) -> bool {
        self.row.as_ref() == Some(row)
    }

    fn hash(&self) -> Option<KeyHash> {
        KeyHash::of_record(self.record.as_ref()?)
    }
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Letters {
    letters: BTreeMap<i64, Letter>,
    /// The last number of the table's identity.
    number: i64,
}

impl Letters {
    pub(super) fn all(&self) -> impl Iterator<Item = &Letter> {
        self.letters.values()
    }

    /// Whether every reader of the table leaves the row out.
    pub(super) fn hides(&self, row: &RowName) -> bool {
        self.all()
            .any(|letter| letter.is_open() && letter.is_about(row))
    }

    /// Whether the event has a dead letter, open or discarded.
    pub(super) fn has(&self, event: usize) -> bool {
        let counts = |letter: &&Letter| letter.is_open() || letter.state == State::Discarded;
        self.all()
            .filter(counts)
            .any(|letter| letter.event == Some(event))
    }

    /// Gives this many numbers; returns the first.
    pub(super) fn draw(&mut self, count: i64) -> i64 {
        self.number += count;
        self.number - count + 1
    }

    pub(super) fn file(&mut self, new: &NewDeadLetter, event: Option<usize>) {
        let number = self.draw(1);
        let place = new.record.as_deref().and_then(OwnedRecord::place);
        let same = |letter: &Letter| {
            let by_row = new.row.as_ref().is_some_and(|row| letter.is_about(row));
            letter.is_open() && (by_row || (new.row.is_none() && letter.place == place))
        };
        let found = self.letters.iter().find(|(_, letter)| same(letter));
        let id = new.known.or(found.map(|(id, _)| *id));
        let state = if new.parked {
            State::Parked
        } else {
            State::Dead
        };
        let before = id.and_then(|id| self.letters.get(&id));
        // An event that is only delivered again keeps its request, and a dead one its state.
        let keeps = |letter: &&Letter| new.known.is_none() && letter.state != State::Parked;
        let state = before.filter(keeps).map_or(state, |letter| letter.state);
        let letter = Letter {
            row: before
                .and_then(|letter| letter.row.clone())
                .or(new.row.clone()),
            event: event.or(before.and_then(|letter| letter.event)),
            record: match &new.record {
                Some(record) => Some(OwnedRecord::clone(record)),
                None => before.and_then(|letter| letter.record.clone()),
            },
            place: place.or(before.and_then(|letter| letter.place)),
            parks_key: new.parks_key,
            state,
        };
        self.letters.insert(id.unwrap_or(number), letter);
    }

    /// Files that Kafka has the event of this row, and its mark was refused.
    pub(super) fn file_not_marked(&mut self, row: RowName, event: Option<usize>) {
        if self.hides(&row) {
            return;
        }
        let letter = Letter {
            row: Some(row),
            event,
            record: None,
            place: None,
            parks_key: false,
            state: State::NotMarked,
        };
        let id = self.draw(1);
        self.letters.insert(id, letter);
    }

    /// Closes a dead letter; returns its row.
    pub(super) fn close(&mut self, closing: &CloseDeadLetter) -> Option<RowName> {
        let letter = self.letters.get_mut(&closing.dead_letter)?;
        letter.state = match closing.published {
            true => State::Retried,
            false => State::Discarded,
        };
        letter.row.clone()
    }

    /// A person requests a retry or a discard of every dead letter; false if there is none.
    pub(super) fn resolve_all(&mut self, discard: bool) -> bool {
        let dead = self.letters.values_mut();
        let mut dead: Vec<_> = dead.filter(|it| it.state == State::Dead).collect();
        for letter in &mut dead {
            letter.state = if discard {
                State::Discard
            } else {
                State::Retry
            };
        }
        !dead.is_empty()
    }

    /// The rows of the stream from `since` on that are filed.
    pub(super) fn filed(&self, since: Lsn) -> Vec<(String, Lsn)> {
        let filed = |letter: &Letter| {
            let (lsn, _) = letter.place.filter(|(lsn, _)| *lsn >= since)?;
            Some((letter.row.as_ref()?.id.to_string(), lsn))
        };
        self.all().filter_map(filed).collect()
    }

    /// Whether this one is to be retried or discarded.
    fn is_due(&self, letter: &Letter) -> bool {
        let blocks = |other: &Letter| other.parks_key && other.state == State::Dead;
        match letter.state {
            State::Retry | State::Discard => true,
            State::Parked => {
                let is_blocked = |other| blocks(other) && other.hash() == letter.hash();
                !self.all().any(is_blocked)
            }
            State::Dead | State::NotMarked | State::Retried | State::Discarded => false,
        }
    }

    /// Whether any is to be retried or discarded.
    pub(super) fn has_due(&self) -> bool {
        self.all().any(|letter| self.is_due(letter))
    }

    /// The pending requests; with `keys_max` the parked keys as well.
    pub(super) fn read(
        &self,
        keys_max: Option<usize>,
        now: impl Fn(&RowName) -> Option<OwnedRecord>,
    ) -> PendingRequests {
        let due = self
            .letters
            .iter()
            .filter(|(_, letter)| self.is_due(letter));
        let request = |(id, letter): (&i64, &Letter)| {
            let present = letter.row.as_ref().and_then(&now);
            let record = present.or_else(|| letter.record.clone());
            let parked_key = letter.record.as_ref().filter(|_| letter.parks_key);
            ResolveRequest {
                dead_letter: *id,
                row: letter.row.as_ref().map(|row| row.id.clone()),
                resolution: match letter.state {
                    State::Discard => Resolution::Discard,
                    _ => Resolution::Retry,
                },
                place: letter.place,
                parked_key: parked_key
                    .and_then(|record| Some((record.topic().into(), KeyHash::of_record(record)?))),
                record: record.map(Box::new),
                rejection: None,
            }
        };
        PendingRequests {
            paused: None,
            requests: due.map(request).take(5).collect(),
            parked: keys_max.map(|limit| self.parked_keys(limit)),
        }
    }

    pub(super) fn parked_keys(&self, limit: usize) -> ParkedKeyList {
        let mut keys: BTreeMap<KeyHash, ParkedKey> = BTreeMap::new();
        for letter in self
            .all()
            .filter(|letter| letter.is_open() && letter.parks_key)
        {
            let Some(hash) = letter.hash() else { continue };
            let parked = keys.entry(hash).or_insert(ParkedKey {
                hash,
                rows: 0,
                blocked: false,
            });
            parked.rows += 1;
            parked.blocked |= letter.state == State::Dead;
        }
        let mut list = ParkedKeyList::new(limit);
        keys.into_values().for_each(|key| list.push(key));
        list
    }
}
