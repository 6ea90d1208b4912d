//! Audits the slot with the table: finds the rows whose events the slot skipped. Pure.
//!
//! Confirmed means marked: the slot moves only past events whose rows are marked as published. So
//! once the slot has confirmed a position behind the commits of rows that are unpublished now, all
//! of them must be marked. A row that is not was missed by the slot, for any reason: the slot was
//! recreated or moved, the table was out of the publication, the server was restored under a
//! running publisher, or the mark was removed.
//!
//! A row that the engine has not settled is not missed, wherever it came from: its mark will
//! follow. A row with an open dead letter is not a candidate: it waits for a request. Missed rows
//! are published like any event of the table, and never while the stream could still deliver them,
//! since it has passed them.
//!
//! One audit at a time, over the lowest ids: published rows leave the list, so a later audit
//! reaches every missed row.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{AfterPublish, Backlog, Config, OnSlotLoss};
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::{MissedRows, RowId, RowName, RowSet};
use crate::postgres::TableShape;

/// The most rows of one audit.
pub(crate) const CANDIDATES: usize = 10_000;
/// More missed rows than this need a person's decision.
const MISSED_MAX: usize = 1_000;
/// The time from sending the missed rows to the audit that confirms it.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// The delay after a failed query.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The most ids in an error.
const NAMED: usize = 10;

/// The queries of the audit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuditQuery {
    /// The first unpublished rows, and a WAL position read after them.
    List,
    /// Which of these are still unpublished.
    StillUnpublished(Vec<RowName>),
}

#[derive(Debug)]
enum State {
    Resting,
    Listing,
    /// Until the slot has confirmed the position.
    Waiting {
        rows: Vec<RowName>,
        behind: Lsn,
    },
    Checking {
        rows: Vec<RowName>,
    },
    Sending,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Audit {
    /// `None` with `keep`: the table does not show which rows are published.
    interval: Option<Duration>,
    halts: bool,
    missed_max: usize,
    state: State,
    due: Duration,
    /// Missed rows that are not confirmed as published yet.
    open: BTreeSet<RowName>,
    missed_total: u64,
    audits_total: u64,
}

/// The result of an audit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuditResult {
    /// No row was missed.
    Clean,
    /// These have to be published from the table.
    Publish(Vec<RowName>),
    /// These need a person's decision.
    Halt(Vec<RowName>),
}

impl Audit {
    /// An audit by this configuration; the first one is due at once.
    pub(crate) fn new(config: &Config) -> Self {
        let marks = config.after_publish != AfterPublish::Keep;
        let asked_for = config.backlog == Backlog::Publish;
        Audit {
            interval: marks.then_some(config.audit_interval),
            halts: config.on_slot_loss == OnSlotLoss::Halt,
            missed_max: if asked_for { usize::MAX } else { MISSED_MAX },
            state: State::Resting,
            due: Duration::ZERO,
            open: BTreeSet::new(),
            missed_total: 0,
            audits_total: 0,
        }
    }

    /// A session begins, or a problem has ended that kept events from the slot: an audit is due at
    /// once. Drops one that is under way.
    pub(crate) fn at_once(&mut self, now: Duration) {
        self.state = State::Resting;
        self.due = now;
    }

    /// The query to start now, if any. `confirmed` is the position that the server was sent last.
    pub(crate) fn query(&mut self, now: Duration, confirmed: Lsn) -> Option<AuditQuery> {
        self.interval?;
        match &mut self.state {
            State::Resting if now >= self.due => {
                self.state = State::Listing;
                Some(AuditQuery::List)
            }
            State::Waiting { rows, behind } if confirmed >= *behind => {
                let rows = std::mem::take(rows);
                let query = AuditQuery::StillUnpublished(rows.clone());
                self.state = State::Checking { rows };
                Some(query)
            }
            _ => None,
        }
    }

    /// The answer to [`AuditQuery::List`]: the first rows in the order of a read, at most
    /// [`CANDIDATES`].
    pub(crate) fn listed(&mut self, now: Duration, mut rows: Vec<RowName>, behind: Lsn) {
        if !matches!(self.state, State::Listing) {
            return;
        }
        let last = rows.last().filter(|_| rows.len() >= CANDIDATES);
        let last = last.map(|row| row.id.clone());
        // In a partitioned table, two partitions may have the same id.
        rows.sort_unstable();
        // Ids that are no numbers have an order of their own in the table.
        let is_behind = |row: &RowName| match (&last, &row.id) {
            (Some(RowId::Number(last)), RowId::Number(id)) => id > last,
            (last, _) => last.is_some(),
        };
        let still_there = |row: &RowName| is_behind(row) || rows.binary_search(row).is_ok();
        self.open.retain(still_there);
        if rows.is_empty() {
            self.clean(now);
        } else {
            self.state = State::Waiting { rows, behind };
        }
    }

    /// The answer to [`AuditQuery::StillUnpublished`]; `unsettled` are the rows that the engine has
    /// not settled.
    pub(crate) fn left(
        &mut self,
        now: Duration,
        left: impl Iterator<Item = RowName>,
        unsettled: &RowSet,
    ) -> AuditResult {
        let State::Checking { rows } = &self.state else {
            return AuditResult::Clean;
        };
        // A row that was given the id of one on the list is still to come in the stream.
        let missed = left.filter(|row| rows.binary_search(row).is_ok());
        let mut missed: Vec<RowName> = missed.filter(|row| !unsettled.contains(row)).collect();
        missed.sort_unstable();
        if missed.is_empty() {
            self.clean(now);
            return AuditResult::Clean;
        }
        self.audits_total += 1;
        self.missed_total += missed.len() as u64;
        self.open.extend(missed.iter().cloned());
        self.state = State::Sending;
        if self.halts || missed.len() > self.missed_max {
            return AuditResult::Halt(missed);
        }
        AuditResult::Publish(missed)
    }

    fn clean(&mut self, now: Duration) {
        self.audits_total += 1;
        self.rest(now);
    }

    fn rest(&mut self, now: Duration) {
        let interval = self.interval.unwrap_or_default();
        let pause = if self.open.is_empty() {
            interval
        } else {
            CONFIRM_AFTER.min(interval)
        };
        self.state = State::Resting;
        self.due = now + pause;
    }

    /// All missed rows were sent to Kafka.
    pub(crate) fn sent(&mut self, now: Duration) {
        self.rest(now);
    }

    /// A query has failed.
    pub(crate) fn failed(&mut self, now: Duration) {
        self.state = State::Resting;
        self.due = now + RETRY_AFTER;
    }

    /// Missed events that are not confirmed as published yet.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Missed events since the start.
    pub(crate) fn missed_total(&self) -> u64 {
        self.missed_total
    }

    /// Finished audits.
    pub(crate) fn audits_total(&self) -> u64 {
        self.audits_total
    }

    /// The error for [`AuditResult::Halt`].
    pub(crate) fn halt(config: &Config, shape: &TableShape, missed: &[RowName]) -> Error {
        let table = &config.table;
        let missed: Vec<RowId> = missed.iter().map(|row| row.id.clone()).collect();
        let mut named: Vec<String> = missed.iter().take(NAMED).map(RowId::to_string).collect();
        if missed.len() > NAMED {
            named.push("…".to_owned());
        }
        let message = format!(
            "slot {} skipped {} events of {table}: ids {}",
            config.slot,
            missed.len(),
            named.join(", ")
        );
        let mut send = "outboxd run --on-slot-loss heal".to_owned();
        if missed.len() > MISSED_MAX {
            send.push_str(" --backlog publish");
        }
        let leave_out = MissedRows::leave_out_sql(shape, config.after_publish, &missed);
        Error::fatal(Code::Slot, message).with_hint(format!(
            "to send them from the table: {send}; to leave them out: {leave_out}"
        ))
    }
}

#[cfg(test)]
#[path = "../tests/audit.rs"]
mod tests;
