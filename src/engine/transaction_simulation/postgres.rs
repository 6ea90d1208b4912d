//! A model of Postgres: the WAL, the slot, the table, and one replication session.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::engine::transaction_simulation::broker::log_of;
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Resolution, ResolveRequest};

/// The header that says where an event was read.
pub(super) const SOURCE: &str = "outbox_source";

/// A transaction. Its rows have numbers.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) commit: u64,
    pub(super) end: u64,
    pub(super) xid: u32,
    pub(super) rows: Vec<usize>,
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) key: usize,
    /// Kafka refuses its event.
    pub(super) is_poison: bool,
    /// Kafka refused its event when it was new.
    pub(super) was_poison: bool,
    /// It was committed while the table was out of the publication: no slot brings it.
    pub(super) is_missed: bool,
    pub(super) is_marked: bool,
}

/// The next message of the stream.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Begin(Transaction),
    Row(usize),
    Commit(Transaction),
    Keepalive(u64),
}

#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) transactions: Vec<Transaction>,
    pub(super) rows: Vec<Row>,
    /// Rows that have a dead letter, which may be closed. A dead letter has the number of its row.
    pub(super) letters: BTreeSet<usize>,
    /// Those that are to be retried.
    pub(super) requests: BTreeSet<usize>,
    pub(super) wal_end: u64,
    pub(super) has_slot: bool,
    pub(super) confirmed: u64,
    /// What a crash of the server leaves.
    pub(super) durable: u64,
    /// Where the session stands: a transaction, and what of it was sent.
    at: (usize, usize),
    /// What was sent in a keepalive.
    told: u64,
}

impl Postgres {
    pub(super) fn new() -> Self {
        Postgres {
            transactions: Vec::new(),
            rows: Vec::new(),
            letters: BTreeSet::new(),
            requests: BTreeSet::new(),
            wal_end: 100,
            has_slot: true,
            confirmed: 100,
            durable: 100,
            at: (0, 0),
            told: 0,
        }
    }

    /// Commits a transaction with rows of these keys.
    pub(super) fn commit(&mut self, keys: &[(usize, bool)], gap: u64, is_missed: bool) {
        let commit = self.wal_end + gap;
        let first = self.rows.len();
        let of = |(key, is_poison): &(usize, bool)| Row {
            key: *key,
            is_poison: *is_poison,
            was_poison: *is_poison,
            is_missed,
            is_marked: false,
        };
        self.rows.extend(keys.iter().map(of));
        self.transactions.push(Transaction {
            commit,
            end: commit + 1,
            xid: 700 + self.transactions.len() as u32,
            rows: (first..self.rows.len()).collect(),
        });
        self.wal_end = commit + 1;
    }

    /// A session begins at this position.
    pub(super) fn start(&mut self, from: u64) {
        let first = self.transactions.iter().position(|it| it.end > from);
        self.at = (first.unwrap_or(self.transactions.len()), 0);
        self.told = 0;
    }

    /// What the session sends next, if there is anything.
    pub(super) fn next(&mut self, rng: &mut Rng) -> Option<Message> {
        let Some(transaction) = self.transactions.get(self.at.0) else {
            let news = self.told < self.wal_end;
            self.told = self.wal_end;
            return news.then_some(Message::Keepalive(self.wal_end));
        };
        let sent = self.at.1;
        // All before the next transaction was sent.
        if sent == 0 && self.told < transaction.commit && rng.u8(0..4) == 0 {
            self.told = transaction.commit;
            return Some(Message::Keepalive(self.told));
        }
        self.at.1 += 1;
        if sent == 0 {
            return Some(Message::Begin(transaction.clone()));
        }
        if let Some(row) = transaction.rows.get(sent - 1)
            && !self.rows[*row].is_missed
        {
            return Some(Message::Row(*row));
        }
        let commit = Message::Commit(transaction.clone());
        self.at = (self.at.0 + 1, 0);
        Some(commit)
    }

    /// The dead letters that are open, in any state.
    pub(super) fn open(&self) -> Vec<usize> {
        let letters = self.letters.iter().copied();
        letters.filter(|row| !self.rows[*row].is_marked).collect()
    }

    /// A person asks to send the event of this dead letter again, whose row may be mended.
    pub(super) fn retry(&mut self, row: usize, is_mended: bool) {
        self.requests.insert(row);
        self.rows[row].is_poison &= !is_mended;
    }

    /// The requests, as the publisher reads them.
    pub(super) fn requests(&self) -> Vec<ResolveRequest> {
        let place = |row: usize| {
            let of = |it: &&Transaction| it.rows.contains(&row);
            let transaction = self.transactions.iter().find(of)?;
            let index = transaction.rows.iter().position(|it| *it == row)?;
            Some((Lsn::new(transaction.commit), index as u32))
        };
        let request = |row: usize| ResolveRequest {
            dead_letter: row as i64,
            row: Some((row as i64).into()),
            resolution: Resolution::Retry,
            place: place(row),
            parked_key: None,
            record: Some(Box::new(self.record(row, "dead-letter"))),
            rejection: None,
        };
        self.requests.iter().copied().map(request).collect()
    }

    /// Where the transaction of a row was committed.
    pub(super) fn commit_of(&self, row: usize) -> u64 {
        let of = |it: &&Transaction| it.rows.contains(&row);
        let transaction = self.transactions.iter().find(of);
        transaction.map_or(0, |it| it.commit)
    }

    /// The first row behind `after` that is neither marked nor filed.
    pub(super) fn unpublished(&self, after: Option<usize>) -> Option<usize> {
        let from = after.map_or(0, |row| row + 1);
        (from..self.rows.len())
            .find(|row| !self.rows[*row].is_marked && !self.letters.contains(row))
    }

    /// The record of a row: its value is the row's number. `source` says where the row was read, if
    /// that is not the stream.
    pub(super) fn record(&self, row: usize, source: &str) -> OwnedRecord {
        let key = self.rows[row].key;
        let topic = format!("t{}", log_of(0, key));
        let (key, value) = (key.to_string(), row.to_string());
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let header = Some((SOURCE, source.as_bytes())).filter(|_| !source.is_empty());
        OwnedRecord::new(&topic, Some(key), Some(value), header.into_iter())
    }

    /// The server crashes: what was confirmed since the last checkpoint is forgotten.
    pub(super) fn crash(&mut self) {
        self.confirmed = self.durable;
    }
}
