//! The world of the simulation: a server and its copies, Kafka, the wires between server and
//! processes, and the account of what may be sent twice.
//!
//! Nothing happens by itself: everything is a step that the schedule may take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::config::{AfterPublish, Config, Source};
use crate::engine::row_ids::{RowIds, number};
use crate::engine::seeds::Seen;
use crate::lsn::Lsn;
use crate::outbox::{KeyDigest, OwnedRecord, Signature, StreamedCopy};
use crate::publisher::simulation::broker::{Appended, Broker, TOPICS};
use crate::publisher::simulation::server::{Files, Insert, Row, Server};

/// A message of the stream.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Begin {
        commit: u64,
        xid: u32,
        micros: i64,
    },
    Change(Option<Insert>),
    Commit {
        commit: u64,
        end: u64,
    },
    Keepalive {
        wal_end: u64,
        reply: bool,
    },
    /// The server ends the stream with this SQLSTATE.
    /// A SQLSTATE, and the function of the server's source that reported it.
    Failed(&'static str, Option<&'static str>),
}

/// A connection on its way: what the other side has not read.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_client: VecDeque<Message>,
    /// Flushed positions, each with whether a reply is asked for.
    pub(super) to_server: VecDeque<(u64, bool)>,
    /// The client can see that the server has ended it.
    pub(super) is_closed: bool,
}

/// A record's key and partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) partition: usize,
    pub(super) key: u8,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) config: Arc<Config>,
    pub(super) now: Duration,
    pub(super) server: Server,
    pub(super) is_up: bool,
    /// A person has requested a pause.
    pub(super) is_paused: bool,
    pub(super) backup: Option<Files>,
    /// The tenure of the lock at the time of the backup.
    pub(super) backup_tenure: u64,
    /// The server started on files that lack the number of a process that had the lock since: no
    /// other process can know of it.
    pub(super) forgot_holder: bool,
    /// The server that a standby has replaced is still there.
    pub(super) has_old_primary: bool,
    /// The ids of the rows that another program has marked.
    pub(super) foreign_marks: BTreeSet<i64>,
    pub(super) broker: Broker,
    pub(super) events: Vec<Event>,
    pub(super) wires: BTreeMap<i32, Wire>,
    /// The process that held the lock last.
    pub(super) holder: Option<u64>,
    /// Grows whenever another process takes the lock.
    pub(super) tenure: u64,
    /// Events that need not arrive.
    pub(super) lost: BTreeSet<usize>,
    /// Events that were ever filed. An older copy of the files may lack their dead letters; the
    /// audit then publishes their rows.
    pub(super) filed: BTreeSet<usize>,
    /// Events whose rows are gone, so that only the slot can deliver them.
    slot_only: BTreeSet<usize>,
    /// Events that the slot may have missed, so that only their rows bring them.
    table_only: BTreeSet<usize>,
    /// Whether first deliveries are in commit order.
    pub(super) is_ordered: bool,
    /// Whether the newest event of a key is its last word.
    pub(super) keeps_last_words: bool,
    /// Events of a new table that arrived in a session that knew only the dropped one.
    pub(super) unknown_rows: BTreeSet<usize>,
    /// Marks were removed: by a person, or with files that lack them.
    pub(super) unmarks: bool,
    /// Commits wait for a synchronous standby now and then.
    pub(super) hides_rows: bool,
    /// Where there was no publication, the server sends a warning and not an error, and passes by.
    warns_of_publications: bool,
    /// Every step is taken in its turn.
    pub(super) is_fair: bool,
    /// The standby receives nothing.
    pub(super) is_standby_away: bool,
    pub(super) seen: Seen,
    /// Each step is printed.
    pub(super) trace: bool,
}

impl World {
    pub(super) fn new(mut rng: Rng, ids: RowIds, config: Arc<Config>, trace: bool) -> Self {
        World {
            warns_of_publications: rng.bool(),
            rng,
            config,
            now: Duration::from_secs(1),
            server: Server::new(ids),
            is_up: true,
            is_paused: false,
            backup: None,
            backup_tenure: 0,
            forgot_holder: false,
            has_old_primary: false,
            foreign_marks: BTreeSet::new(),
            broker: Broker {
                trace,
                ..Broker::default()
            },
            events: Vec::new(),
            wires: BTreeMap::new(),
            holder: None,
            tenure: 0,
            lost: BTreeSet::new(),
            filed: BTreeSet::new(),
            slot_only: BTreeSet::new(),
            table_only: BTreeSet::new(),
            is_ordered: true,
            keeps_last_words: true,
            unknown_rows: BTreeSet::new(),
            unmarks: false,
            hides_rows: false,
            is_fair: false,
            is_standby_away: false,
            seen: Seen::new(),
            trace,
        }
    }

    /// Prints this, if each step is printed.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("        {}", what());
        }
    }

    /// Time passes. True if the server has ended a silent session.
    pub(super) fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.server.now = self.now;
        self.server.expire(self.now)
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        self.note(|| what.to_owned());
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn marks(&self) -> bool {
        self.config.after_publish != AfterPublish::Keep
    }

    pub(super) fn polls(&self) -> bool {
        self.config.source == Source::Poll
    }

    /// A service begins a transaction, most often to commit it at once.
    pub(super) fn write(&mut self, stays_open: bool) {
        if !self.is_up {
            return;
        }
        let count = match self.rng.u8(0..12) {
            0 => self.rng.usize(5..12),
            _ => self.rng.usize(0..3),
        };
        let first = self.events.len();
        for _ in 0..count {
            let partition = self.rng.usize(0..TOPICS.len());
            let key = self.rng.u8(0..3);
            self.events.push(Event { partition, key });
            self.broker.add();
        }
        self.server.begin(first..self.events.len());
        if !stays_open {
            self.commit();
        }
    }

    /// The synchronous standby confirms every commit.
    pub(super) fn show_rows(&mut self) {
        for row in self.server.files.rows.values_mut() {
            row.is_visible = true;
        }
    }

    /// An open transaction commits.
    pub(super) fn commit(&mut self) -> bool {
        if self.server.open.is_empty() || !self.is_up {
            return false;
        }
        let number = self.rng.usize(0..self.server.open.len());
        let xid = self.server.open[number].xid;
        // A table is read by id.
        let is_visible = !self.hides_rows || self.rng.u8(0..4) > 0;
        if !is_visible || self.server.files.log.iter().any(|it| it.xid > xid) {
            self.unorder();
        }
        let mut rng = self.rng.fork();
        self.server.commit(number, is_visible, &mut rng);
        true
    }

    /// Nothing is promised about what was committed before a slot where no row is marked.
    pub(super) fn excuse_committed(&mut self) {
        let log = self.server.files.log.iter();
        let inserts = log.flat_map(|it| it.changes.iter().flatten());
        self.lost.extend(inserts.map(|insert| insert.event));
    }

    /// A person empties the table, and ids begin again.
    pub(super) fn truncate(&mut self) {
        let files = &mut self.server.files;
        let has_slot = files.slot.is_some_and(|slot| !slot.is_lost);
        let unpublished = files.log.iter();
        let unpublished = unpublished.filter(|it| !it.is_published || !it.has_publication);
        let inserts = unpublished.flat_map(|it| it.changes.iter().flatten());
        self.table_only.extend(inserts.map(|insert| insert.event));
        for row in std::mem::take(&mut files.rows).into_values() {
            if has_slot && !self.table_only.contains(&row.event) {
                self.slot_only.insert(row.event);
            } else {
                self.lost.insert(row.event);
            }
        }
        files.next_id = 1;
        self.server.open.clear();
    }

    /// The table is dropped and created again, which waits for every transaction that uses it. The
    /// publication has the new one if it is for all tables.
    pub(super) fn recreate(&mut self, is_published: bool) -> bool {
        let in_use = |row: &Row| row.is_locked || !row.is_visible;
        let files = &self.server.files;
        if !self.server.open.is_empty() || files.rows.values().any(in_use) {
            return false;
        }
        self.truncate();
        self.server.files.table += 1;
        self.server.files.is_published &= is_published;
        self.server.files.wal += 5;
        true
    }

    /// The standby receives WAL and the slot's position. What its slot has passed is settled there.
    pub(super) fn replicate(&mut self) -> bool {
        let did = !self.is_standby_away && self.server.replicate();
        did | self.sync_slot()
    }

    pub(super) fn sync_slot(&mut self) -> bool {
        let Some(passed) = self.server.sync_slot() else {
            return false;
        };
        if let Some(standby) = &self.server.standby {
            self.check_settled(standby, passed);
        }
        true
    }

    /// The slot begins here, and what was committed before was not read by the session.
    pub(super) fn only_rows_bring(&mut self, until: u64) {
        let log = self.server.files.log.iter();
        let before = log.take_while(|it| it.commit < until);
        let inserts = before.flat_map(|it| it.changes.iter().flatten());
        self.table_only.extend(inserts.map(|insert| insert.event));
    }

    /// The slot will not deliver what it has not delivered yet.
    pub(super) fn slot_misses(&mut self) {
        let log = self.server.files.log.iter();
        let inserts = log.flat_map(|it| it.changes.iter().flatten());
        self.table_only.extend(inserts.map(|insert| insert.event));
        self.lost.append(&mut self.slot_only);
        self.server.unchecked = self.server.files.wal;
        self.unorder();
    }

    /// Nothing is promised about the order of events any more.
    pub(super) fn unorder(&mut self) {
        (self.is_ordered, self.keeps_last_words) = (false, false);
    }

    /// The table alone is read. Rows that were sent and could not be marked come behind later ones
    /// that were.
    pub(super) fn repeats_from_table(&mut self) {
        let mut rows = self.server.files.rows.values();
        let is_repeated = rows.any(|row| !row.is_marked && self.broker.has(row.event));
        self.keeps_last_words &= !is_repeated;
    }

    /// The unsettled events of the files may be passed on once more: those that the stream delivers
    /// from `start` on, and those whose rows are unpublished. With an invalid `start` the table
    /// alone is read. `is_handled` are left out.
    pub(super) fn may_repeat(
        &mut self,
        start: u64,
        cause: &'static str,
        is_handled: impl Fn(u64, &Insert) -> bool,
    ) {
        let files = &self.server.files;
        let copies = &mut self.broker.copies;
        if start > 0 {
            let log = files.log.iter().rev();
            let log = log.take_while(|it| it.commit >= start);
            for transaction in log {
                for insert in transaction.changes.iter().flatten() {
                    if !is_handled(transaction.commit, insert) {
                        copies.may_repeat(insert.event, cause);
                    }
                }
            }
        }
        for row in files.rows.values() {
            if !row.is_marked && !files.letters.hides(&row.name) {
                copies.may_repeat(row.event, cause);
            }
        }
    }

    /// The server ends its side of a connection. `tells`: the client can see it.
    pub(super) fn end_session(&mut self, pid: i32, tells: bool) {
        self.server.end(pid);
        if let Some(wire) = self.wires.get_mut(&pid)
            && tells
        {
            wire.is_closed = true;
        }
    }

    /// The server stops and starts, perhaps on a copy of the files.
    pub(super) fn restart(&mut self, files: Option<Files>) {
        self.is_up = true;
        if let Some(files) = files.as_ref().filter(|_| self.server.standby.is_some()) {
            self.server.standby = Some(Box::new(files.clone()));
        }
        for wire in self.wires.values_mut() {
            wire.is_closed = true;
        }
        self.server.start_on(files);
        // A crash leaves numbers out.
        let skipped = self.rng.i64(0..=32);
        self.server.files.letters.draw(skipped);
    }

    /// The walsender sends its next message.
    pub(super) fn send(&mut self, pid: i32) -> bool {
        let decodable = self.server.decodable();
        let files = &self.server.files;
        let session = self.server.sessions.get_mut(&pid);
        let Some(walsender) = session.and_then(|session| session.walsender.as_mut()) else {
            return false;
        };
        let Some(wire) = self.wires.get_mut(&pid) else {
            return false;
        };
        let Some(transaction) = files.log.get(walsender.next) else {
            let sent = walsender.sent.max(files.wal.min(decodable));
            walsender.waits = sent < files.wal;
            return std::mem::replace(&mut walsender.sent, sent) < sent;
        };
        walsender.waits = transaction.end > decodable;
        if walsender.waits {
            return false;
        }
        if !transaction.has_publication && !transaction.changes.is_empty() {
            if self.warns_of_publications {
                let warning = Message::Failed("55000", Some("LoadPublications"));
                wire.to_client.push_back(warning);
                (walsender.next, walsender.part) = (walsender.next + 1, 0);
                walsender.sent = transaction.end;
                self.saw("passed by without a publication");
                return true;
            }
            wire.to_client.push_back(Message::Failed("42704", None));
            self.end_session(pid, true);
            self.saw("decoded without a publication");
            return true;
        }
        let changes = match transaction.is_published {
            true => &transaction.changes[..],
            false => &[],
        };
        let (commit, end) = (transaction.commit, transaction.end);
        let message = match walsender.part {
            0 => Message::Begin {
                commit,
                xid: transaction.xid,
                micros: transaction.micros,
            },
            part if part <= changes.len() => Message::Change(changes[part - 1].clone()),
            _ => Message::Commit { commit, end },
        };
        walsender.part += 1;
        // Everything before a transaction is decoded before it is sent.
        walsender.sent = walsender.sent.max(commit);
        if matches!(message, Message::Commit { .. }) {
            (walsender.next, walsender.part) = (walsender.next + 1, 0);
            walsender.sent = end;
        }
        wire.to_client.push_back(message);
        true
    }

    pub(super) fn keepalive(&mut self, pid: i32, reply: bool) -> bool {
        let session = self.server.sessions.get(&pid);
        let Some(walsender) = session.and_then(|session| session.walsender.as_ref()) else {
            return false;
        };
        let Some(wire) = self.wires.get_mut(&pid) else {
            return false;
        };
        let wal_end = walsender.sent;
        wire.to_client
            .push_back(Message::Keepalive { wal_end, reply });
        true
    }

    /// The walsender reads a standby status update.
    pub(super) fn hear(&mut self, pid: i32) -> bool {
        let (now, files) = (self.now, &mut self.server.files);
        let (Some(session), Some(wire)) =
            (self.server.sessions.get_mut(&pid), self.wires.get_mut(&pid))
        else {
            return false;
        };
        let Some((flush, asks)) = wire.to_server.pop_front() else {
            return false;
        };
        session.heard_at = now;
        let mut confirms = None;
        if let (Some(slot), Some(walsender)) = (&mut files.slot, &session.walsender) {
            let known = walsender.sent.max(walsender.start);
            assert!(flush <= known, "the server never sent {flush}");
            let before = slot.confirmed;
            slot.confirmed = before.max(flush);
            confirms = Some(before..slot.confirmed);
        }
        if let Some(positions) = confirms {
            self.check_settled(&self.server.files, positions);
        }
        if asks {
            self.keepalive(pid, false);
        }
        true
    }

    /// Whether the slot delivers the event.
    pub(super) fn comes_by_stream(&self, event: usize) -> bool {
        let log = self.server.files.log.iter();
        let mut log = log.filter(|it| it.is_published && it.has_publication);
        let has = |insert: &Insert| insert.event == event;
        !self.table_only.contains(&event) && log.any(|it| it.changes.iter().flatten().any(has))
    }

    /// Whether nothing has to be done about an event any more.
    pub(super) fn is_settled(&self, event: usize) -> bool {
        let letters = &self.server.files.letters;
        let row = self.server.row_of(event);
        let is_marked = |row: &Row| row.is_marked || letters.hides(&row.name);
        let is_there = self.broker.has(event) || letters.has(event);
        is_there && (!self.marks() || row.is_none_or(is_marked))
    }

    /// The slot will deliver no transaction in this range of positions any more: its events are in
    /// Kafka or filed, and its rows are marked.
    pub(super) fn check_settled(&self, files: &Files, positions: Range<u64>) {
        let log = files.log.iter();
        let behind = log.filter(|it| it.is_published && positions.contains(&it.commit));
        for Insert { event, row, .. } in behind.flat_map(|it| it.changes.iter().flatten()) {
            if self.lost.contains(event) {
                continue;
            }
            let is_there = self.broker.has(*event) || files.letters.has(*event);
            let is_left = self.unmarks && self.filed.contains(event);
            assert!(
                is_there || is_left,
                "event {event} is confirmed and nowhere"
            );
            let found = files
                .rows
                .get(&number(&row.id))
                .filter(|it| it.name == *row);
            let is_marked = |row: &Row| row.is_marked || files.letters.hides(&row.name);
            let is_exempt = self.unmarks || self.unknown_rows.contains(event);
            let is_settled = !self.marks() || is_exempt || found.is_none_or(is_marked);
            assert!(
                is_settled,
                "event {event} is confirmed and its row not marked: {found:?} {:?}",
                files
                    .letters
                    .all()
                    .filter(|it| it.event == Some(*event))
                    .collect::<Vec<_>>()
            );
        }
    }

    pub(super) fn record(&self, event: usize, place: Option<(Lsn, u32)>) -> OwnedRecord {
        let Event { partition, key } = self.events[event];
        let topic = format!("t{}", TOPICS[partition]);
        let value = event.to_string();
        let place = place.map(|(lsn, index)| {
            let headers = [
                ("outbox_lsn", lsn.to_string()),
                ("outbox_index", index.to_string()),
                ("outbox_id", event.to_string()),
                ("outbox_committed_at", "a time".to_owned()),
            ];
            headers.map(|(name, value)| (name, value.into_bytes()))
        });
        let headers = place.iter().flatten();
        OwnedRecord::new(
            &topic,
            Some(&[partition as u8, key]),
            Some(value.as_bytes()),
            headers.map(|(name, value)| (*name, value.as_slice())),
        )
    }
}

/// Some of the records of a topic, from the last one on, as far as they are of the stream.
pub(super) fn read_back(world: &mut World, topic: usize) -> Vec<StreamedCopy> {
    let mut copies = Vec::new();
    for partition in (0..TOPICS.len()).filter(|it| TOPICS[*it] == topic) {
        let end = world.broker.logs[partition].len();
        let unread = match world.rng.bool() {
            true => 0,
            false => world.rng.usize(0..=end),
        };
        let log = world.broker.logs[partition].iter().enumerate();
        let read = log.skip(unread).filter(|(_, it)| it.place.is_some());
        copies.extend(read.map(|(offset, Appended { event, place })| {
            let record = world.record(*event, *place);
            StreamedCopy {
                partition: partition as i32,
                offset: offset as i64,
                key: record.key().map(KeyDigest::of),
                signature: Signature::of(record.headers()).expect("it was streamed"),
            }
        }));
    }
    copies
}

/// The event of a record: its value is the event's number.
pub(super) fn event_of(record: &OwnedRecord) -> usize {
    let value = std::str::from_utf8(record.value().unwrap_or_default());
    value.expect("a number").parse().expect("a number")
}
