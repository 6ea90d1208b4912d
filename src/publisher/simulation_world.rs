//! The world around the engine, as far as it can hurt: a server with its slot and walsender, a broker, the outbox table.
//!
//! Everything is a step that the schedule takes or does not take; nothing happens by itself. What a real server or broker may do,
//! the model may do; what they never do (send transactions out of commit order, acknowledge a partition out of order), it never
//! does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;

use crate::config::AfterPublish;
use crate::outbox::Mark;
use crate::publisher::tracker::Ticket;

/// A row of the outbox table, named by its place in [`World::rows`]; rows are numbered in commit order.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) partition: usize,
    pub(crate) bytes: u32,
    /// Transaction that inserted it, or `None` where the slot never delivers it and only the table knows.
    pub(crate) transaction: Option<usize>,
    pub(crate) marked: bool,
    /// Under synchronous replication an event arrives before its row can be seen.
    pub(crate) visible: bool,
    pub(crate) locked: bool,
    pub(crate) appended: u32,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) commit: u64,
    pub(crate) end: u64,
    /// A row of ours, or a change of another table.
    pub(crate) changes: Vec<Option<usize>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Message {
    Begin(usize),
    Change(usize, u32),
    Commit(usize),
    Keepalive { wal_end: u64, reply: bool },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) flush: u64,
    pub(crate) ask_reply: bool,
}

#[derive(Debug)]
pub(crate) struct Walsender {
    /// The transaction to send next, and how much of it was sent.
    next: usize,
    part: usize,
    /// Everything below was decoded and handed to the socket.
    sent: u64,
    start: u64,
    /// Decodes something that sends us nothing.
    pub(crate) busy: bool,
}

/// A connection as the publisher sees it; the walsender behind it may be gone already.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) walsender: Option<Walsender>,
    pub(crate) to_client: VecDeque<Message>,
    pub(crate) to_server: VecDeque<Status>,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    in_flight: VecDeque<(Ticket, usize)>,
    pub(crate) reports: VecDeque<(Ticket, usize, bool)>,
    pub(crate) log: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) marks: Vec<Mark>,
    pub(crate) generation: u64,
    pub(crate) performed: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) after_publish: AfterPublish,
    pub(crate) rows: Vec<Row>,
    pub(crate) log: Vec<Transaction>,
    pub(crate) wal: u64,
    pub(crate) confirmed: u64,
    /// What a crash of the server brings back.
    durable: u64,
    /// Transactions whose confirmation was checked.
    checked: usize,
    pub(crate) stopping: bool,
    pub(crate) link: Option<Link>,
    /// Every position that may be confirmed: those that the server has named.
    pub(crate) named: BTreeSet<u64>,
    pub(crate) partitions: Vec<Partition>,
    /// How often the broker still refuses a row.
    pub(crate) poison: BTreeMap<usize, u32>,
    pub(crate) batches: VecDeque<Batch>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(mut rng: Rng) -> Self {
        let modes = [AfterPublish::Mark, AfterPublish::Delete, AfterPublish::Keep];
        let after_publish = modes[rng.usize(0..3)];
        let partitions = (0..rng.usize(1..4)).map(|_| Partition::default());
        World {
            after_publish,
            rows: Vec::new(),
            log: Vec::new(),
            wal: 1_000,
            confirmed: 1_000,
            durable: 1_000,
            checked: 0,
            stopping: false,
            link: None,
            named: BTreeSet::from([1_000]),
            partitions: partitions.collect(),
            poison: BTreeMap::new(),
            batches: VecDeque::new(),
            seen: BTreeMap::new(),
            rng,
        }
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn insert(&mut self, transaction: Option<usize>) -> usize {
        let row = Row {
            partition: self.rng.usize(0..self.partitions.len()),
            bytes: self.rng.u32(1..200),
            transaction,
            marked: false,
            visible: self.rng.u8(0..4) > 0 || transaction.is_none(),
            locked: self.rng.u8(0..20) == 0,
            appended: 0,
        };
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// A service commits: events, changes of other tables, or nothing; often right behind the last commit. Or only other
    /// databases of the server write.
    pub(crate) fn write(&mut self) {
        if self.rng.u8(0..3) == 0 {
            self.wal += self.rng.u64(1..50);
            if self.rng.bool() {
                return;
            }
        }
        let (most, number) = (if self.rng.u8(0..10) == 0 { 40 } else { 6 }, self.log.len());
        let changes = (0..self.rng.usize(0..most))
            .map(|_| (self.rng.u8(0..4) > 0).then(|| self.insert(Some(number))))
            .collect();
        let commit = self.wal;
        self.wal += self.rng.u64(1..40);
        self.log.push(Transaction {
            commit,
            end: self.wal,
            changes,
        });
        if self.rng.u8(0..12) == 0 && self.after_publish != AfterPublish::Keep {
            self.insert(None);
        }
    }

    /// START_REPLICATION: forwarded to the slot's position if below it, honoured if above.
    pub(crate) fn start(&mut self, at: u64) {
        let start = at.max(self.confirmed);
        self.link = Some(Link {
            walsender: Some(Walsender {
                next: self
                    .log
                    .partition_point(|transaction| transaction.commit < start),
                part: 0,
                sent: self.confirmed,
                start,
                busy: false,
            }),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
        });
    }

    fn sender(&mut self) -> Option<(&mut Walsender, &mut VecDeque<Message>)> {
        let link = self.link.as_mut()?;
        Some((link.walsender.as_mut()?, &mut link.to_client))
    }

    pub(crate) fn walsender(&mut self) -> Option<&mut Walsender> {
        self.sender().map(|(walsender, _)| walsender)
    }

    /// Sends one message. False if there is nothing to send.
    pub(crate) fn send(&mut self) -> bool {
        let (wal, mut rng) = (self.wal, self.rng.fork());
        let log = std::mem::take(&mut self.log);
        let mut named = None;
        let sent = self.sender().is_some_and(|(walsender, pipe)| {
            if walsender.busy {
                return false;
            }
            let number = walsender.next;
            let Some(transaction) = log.get(number) else {
                return std::mem::replace(&mut walsender.sent, wal) < wal;
            };
            let part = walsender.part;
            walsender.part += 1;
            if part == 0 {
                walsender.sent = rng.u64(walsender.sent..=transaction.commit);
                pipe.push_back(Message::Begin(number));
            } else if part <= transaction.changes.len() {
                pipe.push_back(Message::Change(number, part as u32 - 1));
            } else {
                pipe.push_back(Message::Commit(number));
                (walsender.next, walsender.part) = (number + 1, 0);
                walsender.sent = transaction.end;
                named = Some(transaction.end);
            }
            true
        });
        self.log = log;
        self.named.extend(named);
        sent
    }

    pub(crate) fn keepalive(&mut self, reply: bool) {
        let Some((walsender, pipe)) = self.sender() else {
            return;
        };
        let wal_end = walsender.sent;
        pipe.push_back(Message::Keepalive { wal_end, reply });
        self.named.insert(wal_end);
    }

    /// A server that shuts down asks without end, and leaves when the client has confirmed what was sent.
    pub(crate) fn shut_down(&mut self) {
        let (wal, confirmed) = (self.wal, self.confirmed);
        let Some(walsender) = self.walsender() else {
            return;
        };
        if walsender.sent < wal || walsender.part > 0 {
            return;
        }
        if confirmed == wal {
            self.saw("server left");
            self.close(false);
        } else {
            self.keepalive(true);
        }
    }

    /// The walsender reads one report of the publisher.
    pub(crate) fn hear(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let (Some(walsender), Some(status)) = (&mut link.walsender, link.to_server.pop_front())
        else {
            return false;
        };
        let known = walsender.sent.max(walsender.start);
        assert!(status.flush <= known, "{} was never sent", status.flush);
        self.confirmed = self.confirmed.max(status.flush);
        self.check_confirmed(self.confirmed);
        if status.ask_reply {
            self.keepalive(false);
        }
        true
    }

    /// The connection ends; a `clean` end lets the server read what was sent to it, another one only the beginning of that.
    pub(crate) fn close(&mut self, clean: bool) {
        let waiting = self.link.as_ref().map_or(0, |link| link.to_server.len());
        let read = if clean {
            waiting
        } else {
            self.rng.usize(0..=waiting)
        };
        for _ in 0..read {
            self.hear();
        }
        self.link = None;
        if std::mem::take(&mut self.stopping) {
            self.roll_back();
        }
    }

    pub(crate) fn checkpoint(&mut self) {
        self.durable = self.confirmed;
    }

    /// Positions that were confirmed since the last checkpoint are forgotten.
    pub(crate) fn roll_back(&mut self) {
        if self.durable < self.confirmed {
            self.saw("rolled back");
        }
        self.confirmed = self.durable;
    }

    /// I1: a transaction that will not be sent again is in the log of the broker, and in the table it shows.
    pub(crate) fn check_confirmed(&mut self, position: u64) {
        while let Some(transaction) = self.log.get(self.checked)
            && transaction.commit < position
        {
            for row in transaction.changes.iter().flatten() {
                assert!(self.rows[*row].appended > 0, "row {row} is lost");
                let marked = self.rows[*row].marked || self.after_publish == AfterPublish::Keep;
                assert!(marked, "row {row} is confirmed and not marked");
            }
            self.checked += 1;
        }
    }

    pub(crate) fn produce(&mut self, ticket: Ticket, row: usize) {
        let partition = self.rows[row].partition;
        self.partitions[partition]
            .in_flight
            .push_back((ticket, row));
    }

    /// The broker takes the next record of a partition, or refuses it and perhaps others of its batch.
    pub(crate) fn append(&mut self, number: usize) -> bool {
        let partition = &mut self.partitions[number];
        let Some((ticket, row)) = partition.in_flight.pop_front() else {
            return false;
        };
        let refusals = self.poison.entry(row).or_default();
        let refused = *refusals > 0;
        *refusals -= u32::from(refused);
        if !refused {
            partition.log.push(row);
            self.rows[row].appended += 1;
        }
        partition.reports.push_back((ticket, row, !refused));
        if refused {
            *self.seen.entry("refused by the broker").or_default() += 1;
        }
        if refused && self.rng.u8(0..3) == 0 {
            let innocent = self.rng.usize(0..=partition.in_flight.len());
            let batch = partition.in_flight.drain(..innocent);
            let refused = batch.map(|(ticket, row)| (ticket, row, false));
            partition.reports.extend(refused);
        }
        true
    }

    /// The producer dies: of what is in flight, each partition still takes a beginning.
    pub(crate) fn lose_producer(&mut self) {
        for number in 0..self.partitions.len() {
            for _ in 0..self.rng.usize(0..=self.partitions[number].in_flight.len()) {
                self.append(number);
            }
            self.partitions[number].in_flight.clear();
            self.partitions[number].reports.clear();
        }
        self.batches.clear();
    }

    /// The statement runs in the table. With `fault` it fails as a whole, before or after it took effect.
    pub(crate) fn perform(&mut self, fault: bool) -> bool {
        let Some(batch) = self.batches.iter_mut().find(|batch| !batch.performed) else {
            return false;
        };
        batch.performed = true;
        let without_effect = fault && self.rng.bool();
        for mark in &mut batch.marks {
            let row = &mut self.rows[mark.row as usize];
            assert!(row.appended > 0, "row {} marked, never published", mark.row);
            if !without_effect && row.visible && !row.locked {
                row.marked = true;
                mark.settled = !fault;
            }
        }
        true
    }

    pub(crate) fn heal(&mut self) {
        self.poison.clear();
        for row in &mut self.rows {
            (row.visible, row.locked) = (true, false);
        }
        if let Some(walsender) = self.walsender() {
            walsender.busy = false;
        }
    }

    pub(crate) fn is_published(&self) -> bool {
        let keep = self.after_publish == AfterPublish::Keep;
        let published = |row: &Row| row.appended > 0 && (row.marked || keep);
        self.confirmed == self.wal && self.rows.iter().all(published)
    }

    /// Within a partition, `first` deliveries, or else the last ones, are in commit order.
    pub(crate) fn check_order(&self, first: bool) {
        for partition in &self.partitions {
            let mut seen = BTreeSet::new();
            let from_slot = partition
                .log
                .iter()
                .filter(|row| self.rows[**row].transaction.is_some());
            let mut rows: Vec<usize> = from_slot.copied().collect();
            if !first {
                rows.reverse();
            }
            rows.retain(|row| seen.insert(*row));
            if !first {
                rows.reverse();
            }
            assert!(rows.is_sorted(), "order (first: {first}): {rows:?}");
        }
    }
}
