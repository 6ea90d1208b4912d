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
use crate::engine::seeds::Seen;
use crate::lsn::Lsn;
use crate::outbox::OwnedRecord;
use crate::publisher::simulation::broker::{Broker, TOPICS};
use crate::publisher::simulation::server::{Files, Insert, Row, Server};

/// A message of the stream.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Begin { commit: u64, xid: u32, micros: i64 },
    Change(Option<Insert>),
    Commit { commit: u64, end: u64 },
    Keepalive { wal_end: u64, reply: bool },
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
    pub(super) backup: Option<Files>,
    pub(super) broker: Broker,
    pub(super) events: Vec<Event>,
    pub(super) wires: BTreeMap<i32, Wire>,
    /// The process that held the lock last.
    pub(super) holder: Option<u64>,
    /// Events that need not arrive.
    pub(super) lost: BTreeSet<usize>,
    /// Events that were ever filed. An older copy of the files may lack their dead letters; the
    /// audit then publishes their rows.
    pub(super) filed: BTreeSet<usize>,
    /// Events whose rows are gone, so that only the slot can deliver them.
    slot_only: BTreeSet<usize>,
    /// Events that the slot may have missed, so that only their rows bring them.
    table_only: BTreeSet<usize>,
    /// How many more times than once an event may be sent.
    pub(super) excuses: u32,
    /// Whether first deliveries are in commit order.
    pub(super) is_ordered: bool,
    /// Marks were removed: by a person, or with files that lack them.
    pub(super) unmarks: bool,
    /// Commits wait for a synchronous standby now and then.
    pub(super) hides_rows: bool,
    pub(super) seen: Seen,
    /// Each step is printed.
    pub(super) trace: bool,
}

impl World {
    pub(super) fn new(rng: Rng, config: Arc<Config>, trace: bool) -> Self {
        World {
            rng,
            config,
            now: Duration::from_secs(1),
            server: Server::new(),
            is_up: true,
            backup: None,
            broker: Broker::default(),
            events: Vec::new(),
            wires: BTreeMap::new(),
            holder: None,
            lost: BTreeSet::new(),
            filed: BTreeSet::new(),
            slot_only: BTreeSet::new(),
            table_only: BTreeSet::new(),
            excuses: 0,
            is_ordered: true,
            unmarks: false,
            hides_rows: false,
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
            self.broker.appended.push(0);
        }
        self.server.begin(first..self.events.len());
        if !stays_open {
            self.commit();
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
        self.is_ordered &= !self.server.files.log.iter().any(|it| it.xid > xid);
        let is_visible = !self.hides_rows || self.rng.u8(0..4) > 0;
        self.is_ordered &= is_visible;
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
        let unpublished = files.log.iter().filter(|it| !it.is_published);
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

    /// The slot will not deliver what it has not delivered yet.
    pub(super) fn slot_misses(&mut self) {
        let log = self.server.files.log.iter();
        let inserts = log.flat_map(|it| it.changes.iter().flatten());
        self.table_only.extend(inserts.map(|insert| insert.event));
        self.lost.append(&mut self.slot_only);
        self.is_ordered = false;
    }

    /// A fault that excuses this many more copies of an event.
    pub(super) fn excuse(&mut self, what: &'static str, copies: u32) {
        self.saw(what);
        self.excuses += copies;
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
        let files = &self.server.files;
        let session = self.server.sessions.get_mut(&pid);
        let Some(walsender) = session.and_then(|session| session.walsender.as_mut()) else {
            return false;
        };
        let Some(wire) = self.wires.get_mut(&pid) else {
            return false;
        };
        let Some(transaction) = files.log.get(walsender.next) else {
            let sent = walsender.sent.max(files.wal);
            return std::mem::replace(&mut walsender.sent, sent) < sent;
        };
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
            part if part <= changes.len() => Message::Change(changes[part - 1]),
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
            self.check_settled(positions);
        }
        if asks {
            self.keepalive(pid, false);
        }
        true
    }

    /// The slot will deliver no transaction in this range of positions any more: its events are in
    /// Kafka or filed, and its rows are marked.
    pub(super) fn check_settled(&self, positions: Range<u64>) {
        let files = &self.server.files;
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
            let found = files.rows.get(&row.id).filter(|it| it.name == *row);
            let is_marked = |row: &Row| row.is_marked || files.letters.hides(row.name);
            let is_settled = !self.marks() || self.unmarks || found.is_none_or(is_marked);
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

/// The event of a record: its value is the event's number.
pub(super) fn event_of(record: &OwnedRecord) -> usize {
    let value = std::str::from_utf8(record.value().unwrap_or_default());
    value.expect("a number").parse().expect("a number")
}
