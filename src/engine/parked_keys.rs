//! Which keys are parked: an event of theirs is a dead letter, and the later ones wait for it.
//! Pure.
//!
//! The table is the truth, and this copy follows it: read at the start, updated with every dead
//! letter that is filed, retried and closed, and read again from time to time while keys are
//! parked. The rows of a key are retried in order. Once the last of them is being retried, new
//! events of the key are held in their topic's queue and no longer parked; once the last dead
//! letter is closed they are sent: if they were sent before, a crash in between would send the
//! retried ones again, behind them.

use std::collections::HashMap;

use crate::outbox::{OwnedRecord, ParkedKey};

/// A topic and a key.
pub(crate) type Key = (Box<str>, Box<[u8]>);

/// The dead letters of a key.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct KeyRows {
    /// Rows of the key that are filed and not being resolved.
    pub(crate) parked: u64,
    /// Rows that are being resolved: their dead letters are not closed.
    pub(crate) resolving: u64,
    /// The first event was refused, and no retry or discard was requested since.
    pub(crate) blocked: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct ParkedKeys {
    keys: HashMap<Key, KeyRows>,
    /// Grows with each change. A read of the table that began before a change is out of date.
    version: u64,
}

impl ParkedKeys {
    /// Drops all keys.
    pub(crate) fn reset(&mut self) {
        self.version += 1;
        self.keys.clear();
    }

    /// Replaces the keys by those of the table.
    pub(crate) fn load(&mut self, keys: Vec<ParkedKey>) {
        self.reset();
        for parked in keys {
            let Some(key) = parked.key else { continue };
            let key_rows = KeyRows {
                parked: parked.rows,
                resolving: 0,
                blocked: parked.blocked,
            };
            self.keys
                .insert((parked.topic.into(), key.into()), key_rows);
        }
    }

    /// Whether no key is parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Grows with each change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The dead letters of this key, if it is parked.
    pub(crate) fn get(&self, topic: &str, key: &[u8]) -> Option<KeyRows> {
        self.keys.get(&(Box::from(topic), Box::from(key))).copied()
    }

    /// A row of this record's key is filed; `blocks` if it is the one that the others wait for.
    pub(crate) fn file(&mut self, record: &OwnedRecord, blocks: bool) {
        self.version += 1;
        let key_rows = self.keys.entry(key_of(record)).or_default();
        key_rows.parked += 1;
        key_rows.blocked |= blocks;
    }

    /// A row of this record's key is being resolved from now on. Returns the key, if it is parked.
    pub(crate) fn start_resolving(&mut self, record: &OwnedRecord) -> Option<Key> {
        let key = key_of(record);
        let key_rows = self.keys.get_mut(&key)?;
        self.version += 1;
        key_rows.blocked = false;
        key_rows.parked = key_rows.parked.saturating_sub(1);
        key_rows.resolving += 1;
        Some(key)
    }

    /// One of the rows that were being resolved is closed, or filed again.
    pub(crate) fn resolved(&mut self, key: &Key) {
        if let Some(key_rows) = self.keys.get_mut(key) {
            self.version += 1;
            key_rows.resolving = key_rows.resolving.saturating_sub(1);
            if key_rows.parked == 0 && key_rows.resolving == 0 {
                self.keys.remove(key);
            }
        }
    }
}

fn key_of(record: &OwnedRecord) -> Key {
    let key = record.key().unwrap_or_default();
    (record.topic().into(), key.into())
}
