//! The world around the engine: a server with its slot and walsender, a broker, the outbox table.
//!
//! Everything is a step that the schedule may take; nothing happens by itself. The model may do
//! whatever a real server or broker may do; what these never do (send transactions out of commit
//! order, acknowledge a partition out of order), it never does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;

use crate::config::{AfterPublish, OnPoison};
use crate::engine::output::{DatabaseWork, PendingRequests};
use crate::engine::record_checks::RecordFacts;
use crate::engine::simulation::dead_letters::DeadLetterTable;
use crate::engine::simulation::row_ids::{RowIds, number};
use crate::engine::simulation::seeds::Seen;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{Outcome, OwnedRecord, RetentionStep, RowId};

/// The index of a row in [`World::rows`], which its id is.
pub(crate) fn index(id: &RowId) -> usize {
    number(id) as usize
}

/// A row of the outbox table, identified by its index in [`World::rows`]; rows are numbered in
/// commit order.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) partition: usize,
    pub(crate) key: u8,
    pub(crate) bytes: u32,
    /// The transaction that inserted it; `None` if the slot never delivers it and only the table
    /// has it.
    pub(crate) transaction: Option<usize>,
    pub(crate) marked: bool,
    /// The position of the WAL behind its mark or its dead letter, whichever came first.
    pub(crate) settled_at: u64,
    /// With synchronous replication an event arrives before its row is visible.
    pub(crate) visible: bool,
    pub(crate) locked: bool,
    pub(crate) appended: u32,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) commit: u64,
    pub(crate) end: u64,
    /// For each change the outbox row, or `None` for another table.
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
    /// The transaction to send next, and the number of its messages sent.
    next: usize,
    part: usize,
    /// All WAL below was decoded and written to the socket.
    sent: u64,
    start: u64,
    /// Decodes changes that are not published to this client.
    pub(crate) busy: bool,
}

/// A connection as the publisher sees it; its walsender may have ended already.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) walsender: Option<Walsender>,
    pub(crate) to_client: VecDeque<Message>,
    pub(crate) to_server: VecDeque<Status>,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) topic: usize,
    in_flight: VecDeque<(Ticket, usize)>,
    pub(crate) reports: VecDeque<Reported>,
    pub(crate) log: Vec<usize>,
    /// Delivery reports return their records.
    suspect: bool,
    last_failure: u64,
}

impl Partition {
    /// `last` is the number of the topic's last failure, this one included.
    fn report(&mut self, ticket: Ticket, row: usize, appended: Appended, last: u64) {
        let failed = appended != Appended::Yes;
        if failed {
            (self.suspect, self.last_failure) = (true, last);
        }
        self.reports.push_back(Reported {
            ticket,
            row,
            appended,
            failure: if failed { last } else { 0 },
            suspicion: if self.suspect { last } else { 0 },
        });
    }
}

/// A delivery report that the publisher has not read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reported {
    pub(crate) ticket: Ticket,
    pub(crate) row: usize,
    pub(crate) appended: Appended,
    pub(crate) failure: u64,
    /// The number of the topic's last failure, if the report returns its record.
    pub(crate) suspicion: u64,
}

/// How the broker treated a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    Yes,
    Refused,
    /// An outage, reported as an error.
    Later,
    NoTopic,
    /// The producer gave it back, appended or not.
    Withdrawn,
}

#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) work: DatabaseWork,
    pub(crate) generation: u64,
    /// The result, once the statement has run or failed.
    pub(crate) result: Option<Result<Option<PendingRequests>, ()>>,
    /// The position of the WAL behind it.
    pub(crate) position: Option<Lsn>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) ids: RowIds,
    pub(crate) after_publish: AfterPublish,
    /// Old rows are deleted.
    pub(crate) retain: Option<Duration>,
    pub(crate) on_poison: OnPoison,
    /// Few, so that topics are parked whole.
    pub(crate) parked_keys_max: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) log: Vec<Transaction>,
    pub(crate) wal: u64,
    pub(crate) confirmed: u64,
    /// The confirmed position that survives a crash of the server.
    durable: u64,
    /// The number of transactions whose confirmation was checked.
    checked: usize,
    pub(crate) stopping: bool,
    /// A person has requested a pause.
    pub(crate) is_paused: bool,
    /// The slot is a failover slot: the walsender sends nothing beyond what the standby has.
    pub(crate) is_failover: bool,
    standby: u64,
    pub(crate) link: Option<Link>,
    /// The positions that may be confirmed: those that the server has sent.
    pub(crate) named: BTreeSet<u64>,
    pub(crate) partitions: Vec<Partition>,
    /// The number of records that were not delivered.
    failures: u64,
    /// How many more times the broker rejects a row.
    pub(crate) poison: BTreeMap<usize, u32>,
    /// Which topics exist.
    pub(crate) topics: Vec<bool>,
    /// The largest record that each topic takes, if that is limited.
    pub(crate) limits: Vec<Option<usize>>,
    pub(crate) question: Option<Vec<String>>,
    pub(crate) batches: VecDeque<Batch>,
    pub(crate) dead_letter_table: DeadLetterTable,
    pub(crate) seen: Seen,
}

impl World {
    pub(crate) fn new(mut rng: Rng, ids: RowIds) -> Self {
        let modes = [AfterPublish::Mark, AfterPublish::Delete, AfterPublish::Keep];
        let after_publish = modes[rng.usize(0..3)];
        let policies = [OnPoison::DeadLetter, OnPoison::ParkKey, OnPoison::Halt];
        let on_poison = policies[rng.usize(0..3)];
        let topics: Vec<bool> = (0..rng.usize(1..3)).map(|_| rng.u8(0..4) > 0).collect();
        let partitions: Vec<_> = (0..rng.usize(1..4))
            .map(|number| Partition {
                topic: number % topics.len(),
                ..Partition::default()
            })
            .collect();
        World {
            ids,
            after_publish,
            retain: rng.clone().bool().then_some(Duration::from_secs(3_600)),
            on_poison,
            parked_keys_max: rng.clone().usize(0..5),
            limits: vec![None; topics.len()],
            topics,
            question: None,
            dead_letter_table: DeadLetterTable::default(),
            rows: Vec::new(),
            log: Vec::new(),
            wal: 1_000,
            confirmed: 1_000,
            durable: 1_000,
            checked: 0,
            stopping: false,
            is_paused: false,
            is_failover: rng.u8(0..3) == 0,
            standby: 1_000,
            link: None,
            named: BTreeSet::from([1_000]),
            partitions,
            failures: 0,
            poison: BTreeMap::new(),
            batches: VecDeque::new(),
            seen: Seen::new(),
            rng,
        }
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn insert(&mut self, transaction: Option<usize>) -> usize {
        let row = Row {
            partition: self.rng.usize(0..self.partitions.len()),
            key: self.rng.u8(0..3),
            bytes: self.rng.u32(1..200),
            transaction,
            marked: false,
            settled_at: u64::MAX,
            visible: self.rng.u8(0..4) > 0 || transaction.is_none(),
            locked: self.rng.u8(0..20) == 0,
            appended: 0,
        };
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// A service commits events, changes of other tables, or nothing, often right behind the last
    /// commit; or only other databases of the server write.
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

    /// START_REPLICATION: a position below the slot's is raised to it, one above is used.
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

    /// Up to where the walsender may send.
    fn sendable(&self) -> u64 {
        match self.is_failover {
            true => self.standby.min(self.wal),
            false => self.wal,
        }
    }

    /// The standby replays some more of the WAL.
    pub(crate) fn replicate(&mut self) -> bool {
        let before = self.standby;
        self.standby = self.rng.u64(before..=self.wal);
        self.is_failover && self.standby > before
    }

    /// Sends one message; false if there is nothing to send.
    pub(crate) fn send(&mut self) -> bool {
        let (wal, mut rng) = (self.sendable(), self.rng.fork());
        let log = std::mem::take(&mut self.log);
        let mut named = None;
        let sent = self.sender().is_some_and(|(walsender, pipe)| {
            if walsender.busy {
                return false;
            }
            let number = walsender.next;
            let next = log.get(number);
            let Some(transaction) = next.filter(|transaction| transaction.end <= wal) else {
                let upto = next.map_or(wal, |transaction| transaction.commit.min(wal));
                let sent = walsender.sent.max(upto);
                return std::mem::replace(&mut walsender.sent, sent) < sent;
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

    /// A server that shuts down requests replies repeatedly, and ends once the client has confirmed
    /// what was sent.
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

    /// The walsender reads one standby status update.
    pub(crate) fn hear(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let (Some(walsender), Some(status)) = (&mut link.walsender, link.to_server.pop_front())
        else {
            return false;
        };
        let known = walsender.sent.max(walsender.start);
        assert!(
            status.flush <= known,
            "the server never sent {}",
            status.flush
        );
        self.confirmed = self.confirmed.max(status.flush);
        self.check_confirmed(self.confirmed);
        if status.ask_reply {
            self.keepalive(false);
        }
        true
    }

    /// Ends the connection. After a `clean` end the server reads all status updates, otherwise only
    /// the first few.
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

    /// Reverts the position to that of the last checkpoint.
    pub(crate) fn roll_back(&mut self) {
        if self.durable < self.confirmed {
            self.saw("rolled back");
        }
        self.confirmed = self.durable;
    }

    /// I1: a transaction that will not be sent again is in the broker's log, and the table shows
    /// it.
    pub(crate) fn check_confirmed(&mut self, position: u64) {
        while let Some(transaction) = self.log.get(self.checked)
            && transaction.commit < position
        {
            for row in transaction.changes.iter().flatten() {
                let keep = self.after_publish == AfterPublish::Keep;
                let settled = self.rows[*row].settled_at <= self.standby;
                let standby = !self.is_failover || keep || settled;
                assert!(
                    standby,
                    "row {row} is confirmed and not settled on the standby"
                );
                if self.dead_letter_table.holds(*row) {
                    continue;
                }
                assert!(self.rows[*row].appended > 0, "row {row} is lost");
                let marked = self.rows[*row].marked || self.after_publish == AfterPublish::Keep;
                assert!(marked, "row {row} is confirmed and not marked");
            }
            self.checked += 1;
        }
    }

    /// The record as it is sent to Kafka: its value is the row's number.
    pub(crate) fn record(&self, row: usize) -> OwnedRecord {
        let Row { partition, key, .. } = self.rows[row];
        let topic = topic_name(self.partitions[partition].topic);
        // Each key belongs to one partition.
        let key = [partition as u8, key];
        let value = row.to_string();
        let place = self.place(row).map(|(lsn, index)| {
            let headers = [
                ("outbox_lsn", lsn.to_string()),
                ("outbox_index", index.to_string()),
            ];
            headers.map(|(name, value)| (name, value.into_bytes()))
        });
        let headers = place.iter().flatten();
        OwnedRecord::new(
            &topic,
            Some(&key),
            Some(value.as_bytes()),
            headers.map(|(name, value)| (*name, value.as_slice())),
        )
    }

    /// Its position in the WAL, if it is there.
    pub(crate) fn place(&self, row: usize) -> Option<(Lsn, u32)> {
        let transaction = &self.log[self.rows[row].transaction?];
        let changes = transaction.changes.iter();
        let index = changes.clone().position(|change| *change == Some(row))?;
        Some((Lsn::new(transaction.commit), index as u32))
    }

    pub(crate) fn produce(&mut self, ticket: Ticket, row: usize) {
        let partition = self.rows[row].partition;
        self.partitions[partition]
            .in_flight
            .push_back((ticket, row));
    }

    /// The broker appends the next record of a partition, or rejects it and perhaps others of its
    /// batch.
    pub(crate) fn append(&mut self, number: usize) -> bool {
        let topic = self.partitions[number].topic;
        let (there, outage) = (self.topics[topic], self.rng.u8(0..60) == 0);
        let last = self.last_failure(topic);
        let too_large = |row| {
            let limit = self.limits[topic];
            limit.is_some_and(|limit| RecordFacts::of_held(&self.record(row)).wire_bytes > limit)
        };
        let next = self.partitions[number].in_flight.front();
        let is_too_large = next.is_some_and(|(_, row)| too_large(*row));
        let partition = &mut self.partitions[number];
        let Some((ticket, row)) = partition.in_flight.pop_front() else {
            return false;
        };
        let refusals = self.poison.entry(row).or_default();
        let appended = match *refusals {
            _ if !there => Appended::NoTopic,
            0 if is_too_large => Appended::Refused,
            0 if outage => Appended::Later,
            0 => Appended::Yes,
            _ => Appended::Refused,
        };
        *refusals = refusals.saturating_sub(u32::from(appended == Appended::Refused));
        if appended == Appended::Yes {
            partition.log.push(row);
            self.rows[row].appended += 1;
        }
        let failed = appended != Appended::Yes;
        self.failures += u64::from(failed);
        let last = if failed { self.failures } else { last };
        partition.report(ticket, row, appended, last);
        if appended != Appended::Yes {
            *self.seen.entry("refused by the broker").or_default() += 1;
        }
        if appended == Appended::Refused && self.rng.u8(0..3) == 0 {
            let innocent = self.rng.usize(0..=partition.in_flight.len());
            let batch: Vec<_> = partition.in_flight.drain(..innocent).collect();
            for (ticket, row) in batch {
                self.failures += 1;
                partition.report(ticket, row, Appended::Refused, self.failures);
            }
        }
        true
    }

    /// The number of the topic's last failure, 0 if there was none.
    fn last_failure(&self, topic: usize) -> u64 {
        let of_topic = self.partitions.iter().filter(|one| one.topic == topic);
        of_topic.map(|one| one.last_failure).max().unwrap_or(0)
    }

    /// Ends the suspicion of a topic, unless a later failure than this one occurred.
    pub(crate) fn trust(&mut self, topic: usize, failure: u64) {
        if self.last_failure(topic) > failure {
            *self.seen.entry("trust from before a failure").or_default() += 1;
            return;
        }
        let of_topic = self.partitions.iter_mut();
        of_topic
            .filter(|partition| partition.topic == topic)
            .for_each(|partition| partition.suspect = false);
    }

    /// The producer is lost: each partition may still append the first few of its records in
    /// flight.
    pub(crate) fn lose_producer(&mut self) {
        self.lose_records();
        self.question = None;
        self.batches.clear();
    }

    /// As [`lose_producer`](World::lose_producer), for its records alone.
    pub(crate) fn lose_records(&mut self) {
        for number in 0..self.partitions.len() {
            for _ in 0..self.rng.usize(0..=self.partitions[number].in_flight.len()) {
                self.append(number);
            }
            self.partitions[number].in_flight.clear();
            self.partitions[number].reports.clear();
            self.partitions[number].suspect = false;
        }
    }

    /// The producer gives its records in flight back. Each partition may have appended the first
    /// few of them.
    pub(crate) fn withdraw(&mut self) {
        for partition in &mut self.partitions {
            let is_appended = |(_, row): &&(Ticket, usize)| {
                self.topics[partition.topic] && self.poison.get(row).is_none_or(|times| *times == 0)
            };
            let most = partition.in_flight.iter().take_while(is_appended).count();
            let appended = self.rng.usize(0..=most);
            for (at, (ticket, row)) in partition.in_flight.drain(..).enumerate() {
                if at < appended {
                    partition.log.push(row);
                    self.rows[row].appended += 1;
                }
                partition.reports.push_back(Reported {
                    ticket,
                    row,
                    appended: Appended::Withdrawn,
                    failure: 0,
                    suspicion: 0,
                });
            }
        }
    }

    /// Whether the producer holds no record, and every report was taken in.
    pub(crate) fn has_reported_all(&self) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.all(|partition| partition.in_flight.is_empty() && partition.reports.is_empty())
    }

    /// Runs a statement in the database. With `rejection` it fails as a whole, before or after it
    /// took effect.
    pub(crate) fn perform(&mut self, rejection: bool) -> bool {
        let Some(at) = self.batches.iter().position(|batch| batch.result.is_none()) else {
            return false;
        };
        let without_effect = rejection && self.rng.bool();
        let mut pending = None;
        let keep = self.after_publish == AfterPublish::Keep;
        let reads = matches!(
            self.batches[at].work,
            DatabaseWork::ReadRequests { .. } | DatabaseWork::ReadPause { .. }
        );
        if self.is_failover && !without_effect && !reads {
            self.wal += 2;
        }
        let settled_at = self.wal;
        match &mut self.batches[at].work {
            DatabaseWork::Mark(marks) => {
                for mark in marks {
                    let row = &mut self.rows[index(&mark.row.id)];
                    assert!(
                        row.appended > 0,
                        "row {} marked, never published",
                        mark.row.id
                    );
                    if !without_effect && row.visible && !row.locked {
                        row.marked = true;
                        row.settled_at = row.settled_at.min(settled_at);
                        if !rejection {
                            mark.outcome = Outcome::Settled;
                        }
                    } else if !rejection && !row.visible {
                        mark.outcome = Outcome::Hidden;
                    }
                }
            }
            _ if without_effect => {}
            DatabaseWork::File(dead_letters) => {
                for dead_letter in &*dead_letters {
                    let row = dead_letter.row.as_ref().map_or(0, |row| index(&row.id));
                    let row = &mut self.rows[row];
                    row.settled_at = row.settled_at.min(settled_at);
                }
                self.dead_letter_table.file(dead_letters);
            }
            DatabaseWork::Close(closings) => {
                for closing in closings {
                    let row = self.dead_letter_table.close(closing);
                    self.rows[row].marked = !keep;
                    self.rows[row].settled_at = self.rows[row].settled_at.min(settled_at);
                }
            }
            DatabaseWork::CountAttempts(_) | DatabaseWork::ReadPause { .. } => {}
            DatabaseWork::Retain(step) => {
                *step = Some(RetentionStep {
                    ends_pass: self.rng.u8(0..4) == 0,
                    is_overdue: self.rng.bool(),
                    ..RetentionStep::default()
                });
            }
            DatabaseWork::ReadRequests { with_keys } => {
                let with_keys = *with_keys;
                let event = |row| (self.record(row), self.place(row));
                let keys_max = with_keys.then_some(self.parked_keys_max);
                pending = Some(self.dead_letter_table.look(self.ids, keys_max, event));
            }
        }
        if let DatabaseWork::ReadPause { stands_still } = self.batches[at].work {
            let is_still = self.partitions.iter().all(|it| it.in_flight.is_empty());
            assert!(!stands_still || is_still, "a record is in flight");
            pending = Some(PendingRequests {
                paused: Some(self.is_paused),
                ..PendingRequests::default()
            });
        }
        self.batches[at].position = Some(Lsn::new(settled_at));
        self.batches[at].result = Some(if rejection { Err(()) } else { Ok(pending) });
        true
    }

    /// Kafka answers a metadata request, or the request fails.
    pub(crate) fn answer(
        &mut self,
        rejection: bool,
    ) -> Option<Option<Vec<(String, MetadataAnswer)>>> {
        let names = self.question.take()?;
        let answers = names.into_iter().map(|name| {
            let number: usize = name[1..].parse().expect("a name of ours");
            let answer = match self.topics[number] {
                true => MetadataAnswer::Known(TopicLimits {
                    batch_bytes_max: Some(self.limits[number].unwrap_or(1 << 20)),
                    ..TopicLimits::default()
                }),
                false => MetadataAnswer::Missing,
            };
            (name, answer)
        });
        Some((!rejection).then(|| answers.collect()))
    }

    pub(crate) fn heal(&mut self) {
        self.is_paused = false;
        self.poison.clear();
        self.topics.iter_mut().for_each(|there| *there = true);
        self.limits.iter_mut().for_each(|limit| *limit = None);
        for row in &mut self.rows {
            (row.visible, row.locked) = (true, false);
        }
        if let Some(walsender) = self.walsender() {
            walsender.busy = false;
        }
    }

    pub(crate) fn is_published(&self) -> bool {
        let keep = self.after_publish == AfterPublish::Keep;
        let done = |(number, row): (usize, &Row)| {
            let discarded = self.dead_letter_table.is_discarded(number);
            (row.appended > 0 || discarded) && (row.marked || keep)
        };
        let rows = self.rows.iter().enumerate();
        self.confirmed == self.wal
            && rows.into_iter().all(done)
            && self.dead_letter_table.is_closed()
    }

    /// For each key, the `first` deliveries, or else the last ones, are in commit order. A dead
    /// letter is delivered late where its key is not parked.
    pub(crate) fn check_order(&self, first: bool) {
        for partition in &self.partitions {
            for key in 0..3 {
                let late = |row: usize| {
                    self.on_poison != OnPoison::ParkKey && self.dead_letter_table.was_dead(row)
                };
                // The copy of a discarded event that Kafka took before it refused the next one may
                // lie anywhere: the event was given up.
                let from_slot = |row: &usize| {
                    let known = &self.rows[*row];
                    let excused = late(*row) || self.dead_letter_table.is_discarded(*row);
                    known.transaction.is_some() && known.key == key && !excused
                };
                let mut seen = BTreeSet::new();
                let mut rows: Vec<usize> =
                    partition.log.iter().copied().filter(from_slot).collect();
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
}

pub(crate) fn topic_name(number: usize) -> String {
    format!("t{number}")
}
