//! A server in the simulation: its files (WAL, table, slot, dead letters), its sessions and the
//! instance lock.
//!
//! A copy of the files is a backup or a standby. The WAL of a copy that goes on has other
//! transactions at the same positions, and gives the same ids to other rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::engine::row_ids::{RowIds, number};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::holder_number::DRAWN;
use crate::outbox::{CreatedAt, HolderNumber, RowName, TableLocation};
use crate::postgres::slot::Slot as FoundSlot;
use crate::postgres::{Lineage, Server as Identity};
use crate::publisher::instance_lock::Tenure;
use crate::publisher::simulation::letters::Letters;

/// An insert into the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Insert {
    pub(super) event: usize,
    pub(super) row: RowName,
    /// The object id of the table.
    pub(super) table: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) commit: u64,
    pub(super) end: u64,
    pub(super) xid: u32,
    pub(super) micros: i64,
    /// `None`: a change of another kind.
    pub(super) changes: Vec<Option<Insert>>,
    /// The publication had the table when it was committed.
    pub(super) is_published: bool,
    /// There was a publication then. Otherwise the server cannot decode it.
    pub(super) has_publication: bool,
}

/// How a trigger keeps a row unpublished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The statement fails.
    Fails,
    Silent,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) event: usize,
    pub(super) name: RowName,
    pub(super) xid: u32,
    pub(super) is_marked: bool,
    /// With synchronous replication an event may arrive before its row is visible.
    pub(super) is_visible: bool,
    pub(super) is_locked: bool,
    /// How a trigger keeps it unpublished, if one does.
    pub(super) refuses: Option<Refusal>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) confirmed: u64,
    /// Where it was created.
    pub(super) since: u64,
    /// What survives a crash of the server.
    durable: u64,
    pub(super) is_lost: bool,
}

/// A transaction that has taken ids and is not committed.
#[derive(Debug, Clone)]
pub(super) struct OpenTransaction {
    pub(super) xid: u32,
    pub(super) inserts: Vec<Insert>,
}

/// See the module's head.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) timeline: u32,
    pub(super) wal: u64,
    pub(super) log: Vec<Transaction>,
    pub(super) rows: BTreeMap<i64, Row>,
    pub(super) next_id: i64,
    next_xid: u32,
    pub(super) slot: Option<Slot>,
    pub(super) letters: Letters,
    pub(super) table: u32,
    pub(super) is_published: bool,
    pub(super) has_publication: bool,
}

#[derive(Debug)]
pub(super) struct Walsender {
    /// The transaction to send next, and how many of its messages were sent.
    pub(super) next: usize,
    pub(super) part: usize,
    /// All WAL below was decoded and sent.
    pub(super) sent: u64,
    pub(super) start: u64,
    /// It waits until the standby has what it is about to send.
    pub(super) waits: bool,
}

/// The replication connection of a process, or the SQL session that polls.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) heard_at: Duration,
    pub(super) walsender: Option<Walsender>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) ids: RowIds,
    pub(super) files: Files,
    /// Grows with each start.
    start: u64,
    pub(super) sessions: BTreeMap<i32, Session>,
    /// The session that holds the instance lock.
    pub(super) lock: Option<i32>,
    /// A standby that the slot waits for, if it is a failover slot.
    pub(super) standby: Option<Box<Files>>,
    pub(super) open: Vec<OpenTransaction>,
    /// Up to here another client may have moved the slot.
    pub(super) unchecked: u64,
    /// The world's time.
    pub(super) now: Duration,
    /// When each session ended.
    pub(super) ended: BTreeMap<i32, Duration>,
    next_pid: i32,
    /// The clock of commits, which goes on whatever files the server runs on.
    commits: i64,
}

/// A time for `created_at` that no other row has.
pub(super) fn created(number: u64) -> CreatedAt {
    let (minutes, seconds) = ((number / 60) % 60, number % 60);
    let hours = number / 3_600;
    CreatedAt::of_text(&format!(
        "2026-01-{:02} {:02}:{minutes:02}:{seconds:02}",
        1 + hours / 24,
        hours % 24
    ))
}

impl Server {
    pub(super) fn new(ids: RowIds) -> Self {
        Server {
            ids,
            files: Files {
                timeline: 1,
                wal: 1_000,
                log: Vec::new(),
                rows: BTreeMap::new(),
                next_id: 1,
                next_xid: 700,
                slot: None,
                letters: Letters::default(),
                table: 16_400,
                is_published: true,
                has_publication: true,
            },
            start: 1,
            sessions: BTreeMap::new(),
            lock: None,
            standby: None,
            open: Vec::new(),
            unchecked: 0,
            now: Duration::ZERO,
            ended: BTreeMap::new(),
            next_pid: 100,
            commits: 0,
        }
    }

    pub(super) fn location(&self) -> TableLocation {
        TableLocation {
            server: Identity {
                lineage: Lineage {
                    system_id: 7,
                    timeline: self.files.timeline,
                },
                postmaster_start: self.start.to_string(),
                version: 170_000,
                in_recovery: false,
            },
            table: self.files.table,
        }
    }

    /// A session begins, and takes the lock if that is free.
    pub(super) fn connect(&mut self, now: Duration) -> (i32, bool) {
        let pid = self.next_pid;
        self.next_pid += 1;
        let session = Session {
            heard_at: now,
            walsender: None,
        };
        self.sessions.insert(pid, session);
        let takes = self.lock.is_none();
        if takes {
            self.lock = Some(pid);
        }
        (pid, takes)
    }

    /// The session that has taken the lock draws its number.
    pub(super) fn draw(&mut self, process: i32) -> Tenure {
        let files = &mut self.files;
        files.wal += 4;
        let number = HolderNumber {
            first: files.letters.draw(DRAWN),
            file: 16_500,
            drawn_at: Lsn::new(files.wal),
        };
        let number = Some(number);
        Tenure { process, number }
    }

    pub(super) fn end(&mut self, pid: i32) {
        if self.sessions.remove(&pid).is_some() {
            self.ended.insert(pid, self.now);
        }
        self.lock = self.lock.filter(|holder| *holder != pid);
    }

    /// Ends the sessions of clients that were silent for too long.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let silent = |session: &Session| now >= session.heard_at + WAL_SENDER_TIMEOUT;
        let silent = self.sessions.iter().filter(|(_, session)| silent(session));
        let silent: Vec<i32> = silent.map(|(pid, _)| *pid).collect();
        silent.iter().for_each(|pid| self.end(*pid));
        !silent.is_empty()
    }

    /// The server starts, on its own files or on a copy.
    pub(super) fn start_on(&mut self, files: Option<Files>) {
        self.start += 1;
        for pid in std::mem::take(&mut self.sessions).into_keys() {
            self.ended.insert(pid, self.now);
        }
        (self.lock, self.open) = (None, Vec::new());
        if let Some(files) = files {
            self.files = files;
        }
        if let Some(slot) = &mut self.files.slot {
            slot.confirmed = slot.durable;
        }
        for row in self.files.rows.values_mut() {
            (row.is_visible, row.is_locked) = (true, false);
        }
    }

    /// A transaction takes ids for these events.
    pub(super) fn begin(&mut self, events: impl Iterator<Item = usize>) {
        let files = &mut self.files;
        let xid = files.next_xid;
        files.next_xid += 1;
        let mut inserts = Vec::new();
        for event in events {
            let row = RowName {
                id: self.ids.id(files.next_id),
                created: created(event as u64),
            };
            files.next_id += 1;
            let table = files.table;
            inserts.push(Insert { event, row, table });
        }
        self.open.push(OpenTransaction { xid, inserts });
    }

    /// The open transaction of this number commits.
    pub(super) fn commit(&mut self, open: usize, is_visible: bool, rng: &mut Rng) {
        let OpenTransaction { xid, inserts } = self.open.remove(open);
        self.commits += 1;
        let files = &mut self.files;
        files.wal += if rng.bool() { 0 } else { rng.u64(1..30) };
        let commit = files.wal;
        files.wal += rng.u64(1..40);
        let mut changes = Vec::new();
        for insert in inserts.iter().filter(|it| it.table == files.table) {
            if files.rows.contains_key(&number(&insert.row.id)) {
                // The id was given again: the key keeps the second row out.
                return;
            }
            if rng.u8(0..5) == 0 {
                changes.push(None);
            }
            changes.push(Some(insert.clone()));
        }
        for insert in changes.iter().flatten() {
            let row = Row {
                event: insert.event,
                name: insert.row.clone(),
                xid,
                is_marked: false,
                is_visible,
                is_locked: false,
                refuses: None,
            };
            files.rows.insert(number(&insert.row.id), row);
        }
        files.log.push(Transaction {
            commit,
            end: files.wal,
            xid,
            micros: self.commits,
            changes,
            is_published: files.is_published,
            has_publication: files.has_publication,
        });
    }

    /// The unpublished rows of a table with an id from `from` on, at most `limit`.
    pub(super) fn unpublished(&self, table: u32, from: i64, limit: usize) -> Vec<RowName> {
        let files = &self.files;
        let is_here = table == files.table;
        let is_due = |row: &&Row| {
            is_here && row.is_visible && !row.is_marked && !files.letters.hides(&row.name)
        };
        let rows = files.rows.range(from..).map(|(_, row)| row).filter(is_due);
        rows.take(limit).map(|row| row.name.clone()).collect()
    }

    /// The row if it is still unpublished.
    pub(super) fn read(&self, table: u32, name: RowName) -> Option<Row> {
        let row = self
            .files
            .rows
            .get(&number(&name.id))
            .filter(|_| table == self.files.table)?;
        let is_due = row.name == name && row.is_visible && !row.is_marked;
        (is_due && !self.files.letters.hides(&name)).then(|| row.clone())
    }

    /// The row of this event.
    pub(super) fn row_of(&self, event: usize) -> Option<&Row> {
        self.files.rows.values().find(|row| row.event == event)
    }

    /// The slot as SQL shows it.
    pub(super) fn slot(&self) -> Option<FoundSlot> {
        let slot = self.files.slot?;
        let wal_status = if slot.is_lost { "lost" } else { "reserved" };
        Some(FoundSlot {
            wal_status: Some(wal_status.to_owned()),
            ..FoundSlot::at(Lsn::new(slot.confirmed))
        })
    }

    /// The temporary slot becomes the slot.
    pub(super) fn copy_slot(&mut self, confirmed: u64) {
        self.files.slot = Some(Slot {
            confirmed,
            since: confirmed,
            durable: confirmed,
            is_lost: false,
        });
    }

    /// The standby receives all WAL; false if it has it.
    pub(super) fn replicate(&mut self) -> bool {
        let Some(standby) = self.standby.as_mut().filter(|it| it.wal < self.files.wal) else {
            return false;
        };
        let slot = standby.slot;
        **standby = self.files.clone();
        standby.slot = slot;
        true
    }

    /// The standby takes over the slot's position, if it has the WAL up to there. Returns the
    /// positions that its slot has passed.
    pub(super) fn sync_slot(&mut self) -> Option<Range<u64>> {
        let standby = self.standby.as_mut()?;
        let slot = self.files.slot.filter(|slot| slot.confirmed <= standby.wal);
        let before = standby.slot.map_or(0, |slot| slot.confirmed);
        standby.slot = slot.or(standby.slot.filter(|_| self.files.slot.is_some()));
        let passed = slot.filter(|slot| slot.confirmed > before)?;
        let from = before.max(passed.since).max(self.unchecked);
        Some(from..passed.confirmed)
    }

    /// Up to where a failover slot may be decoded.
    pub(super) fn decodable(&self) -> u64 {
        self.standby
            .as_ref()
            .map_or(u64::MAX, |standby| standby.wal)
    }

    pub(super) fn checkpoint(&mut self) {
        if let Some(slot) = &mut self.files.slot {
            slot.durable = slot.confirmed;
        }
    }

    /// Whether a session reads from the slot.
    pub(super) fn is_slot_active(&self) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| session.walsender.is_some())
    }

    /// Another client moves the slot; false if it cannot.
    pub(super) fn advance_slot(&mut self) -> bool {
        let (wal, is_active) = (self.files.wal, self.is_slot_active());
        let Some(slot) = self.files.slot.as_mut().filter(|_| !is_active) else {
            return false;
        };
        (slot.confirmed, slot.durable) = (wal, wal);
        true
    }

    /// START_REPLICATION: a position below the slot's is raised to it. False: the slot is not
    /// usable.
    pub(super) fn stream(&mut self, pid: i32, from: u64) -> bool {
        let Some(slot) = self.files.slot.filter(|slot| !slot.is_lost) else {
            return false;
        };
        let Some(session) = self.sessions.get_mut(&pid) else {
            return false;
        };
        let start = from.max(slot.confirmed);
        let before = |transaction: &Transaction| transaction.commit < start;
        session.walsender = Some(Walsender {
            next: self.files.log.partition_point(before),
            part: 0,
            sent: slot.confirmed,
            start,
            waits: false,
        });
        true
    }

    /// The transactions whose rows no snapshot shows yet.
    pub(super) fn running(&self) -> BTreeSet<u32> {
        let hidden = self.files.rows.values().filter(|row| !row.is_visible);
        let open = self.open.iter().map(|transaction| transaction.xid);
        open.chain(hidden.map(|row| row.xid)).collect()
    }
}
