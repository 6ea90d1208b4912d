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

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::config::{AfterPublish, Backlog, Config, OnSlotLoss};
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::MissedRows;

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
    /// The lowest unpublished ids, and a WAL position read after them.
    List,
    /// Which of these are still unpublished.
    StillUnpublished(Vec<i64>),
}

#[derive(Debug)]
enum State {
    Resting,
    Listing,
    /// Until the slot has confirmed the position.
    Waiting {
        ids: Vec<i64>,
        behind: Lsn,
    },
    Checking,
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
    open: BTreeSet<i64>,
    missed_total: u64,
    audits_total: u64,
}

/// The result of an audit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuditResult {
    /// No row was missed.
    Clean,
    /// These have to be published from the table.
    Publish(Vec<i64>),
    /// These need a person's decision.
    Halt(Vec<i64>),
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
            State::Waiting { ids, behind } if confirmed >= *behind => {
                let ids = std::mem::take(ids);
                self.state = State::Checking;
                Some(AuditQuery::StillUnpublished(ids))
            }
            _ => None,
        }
    }

    /// The answer to [`AuditQuery::List`]: ids in ascending order, at most [`CANDIDATES`].
    pub(crate) fn listed(&mut self, now: Duration, ids: Vec<i64>, behind: Lsn) {
        if !matches!(self.state, State::Listing) {
            return;
        }
        let seen_up_to = match ids.last() {
            Some(last) if ids.len() >= CANDIDATES => *last,
            _ => i64::MAX,
        };
        let still_there = |id: &i64| *id > seen_up_to || ids.binary_search(id).is_ok();
        self.open.retain(still_there);
        if ids.is_empty() {
            self.clean(now);
        } else {
            self.state = State::Waiting { ids, behind };
        }
    }

    /// The answer to [`AuditQuery::StillUnpublished`]; `unsettled` are the rows that the engine has
    /// not settled.
    pub(crate) fn left(
        &mut self,
        now: Duration,
        left: impl Iterator<Item = i64>,
        unsettled: &HashSet<i64>,
    ) -> AuditResult {
        if !matches!(self.state, State::Checking) {
            return AuditResult::Clean;
        }
        let missed: Vec<i64> = left.filter(|id| !unsettled.contains(id)).collect();
        if missed.is_empty() {
            self.clean(now);
            return AuditResult::Clean;
        }
        self.audits_total += 1;
        self.missed_total += missed.len() as u64;
        self.open.extend(&missed);
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
    pub(crate) fn halt(config: &Config, missed: &[i64]) -> Error {
        let table = &config.table;
        let mut named: Vec<String> = missed.iter().take(NAMED).map(i64::to_string).collect();
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
        let leave_out = MissedRows::leave_out_sql(table, config.after_publish, missed);
        Error::fatal(Code::Slot, message).with_hint(format!(
            "to send them from the table: {send}; to leave them out: {leave_out}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn audit() -> Audit {
        Audit {
            interval: Some(S * 60),
            halts: false,
            missed_max: MISSED_MAX,
            state: State::Resting,
            due: Duration::ZERO,
            open: BTreeSet::new(),
            missed_total: 0,
            audits_total: 0,
        }
    }

    fn lsn(position: u64) -> Lsn {
        Lsn::new(position)
    }

    /// An audit at `now` that lists these and finds those of them left.
    fn run(audit: &mut Audit, now: Duration, listed: &[i64], left: &[i64]) -> AuditResult {
        assert_eq!(audit.query(now, lsn(0)), Some(AuditQuery::List));
        audit.listed(now, listed.to_vec(), lsn(100));
        if listed.is_empty() {
            return AuditResult::Clean;
        }
        assert_eq!(audit.query(now, lsn(99)), None);
        let ids = listed.to_vec();
        assert_eq!(
            audit.query(now, lsn(100)),
            Some(AuditQuery::StillUnpublished(ids))
        );
        audit.left(now, left.iter().copied(), &HashSet::new())
    }

    #[test]
    fn a_row_that_is_unpublished_behind_the_confirmed_position_was_missed() {
        let mut audit = audit();
        assert_eq!(
            run(&mut audit, S, &[3, 4, 5], &[4]),
            AuditResult::Publish(vec![4])
        );
        assert_eq!((audit.open_count(), audit.missed_total()), (1, 1));
        audit.sent(S * 2);
        assert_eq!(audit.query(S * 3, lsn(100)), None);
        assert_eq!(run(&mut audit, S * 4, &[], &[]), AuditResult::Clean);
        assert_eq!((audit.open_count(), audit.missed_total()), (0, 1));
        assert_eq!(audit.query(S * 63, lsn(100)), None);
        assert_eq!(audit.query(S * 64, lsn(100)), Some(AuditQuery::List));
        assert_eq!(audit.audits_total(), 2);
    }

    #[test]
    fn nothing_is_judged_before_the_slot_has_confirmed_the_position() {
        let mut audit = audit();
        assert_eq!(audit.query(S, lsn(500)), Some(AuditQuery::List));
        audit.listed(S, vec![1], lsn(501));
        assert_eq!(audit.query(S * 1_000, lsn(500)), None);
        assert_eq!(
            audit.query(S * 1_000, lsn(501)),
            Some(AuditQuery::StillUnpublished(vec![1]))
        );
    }

    #[test]
    fn a_row_unsettled_is_not_missed_and_one_that_is_being_mended_not_twice() {
        let mut audit = audit();
        assert_eq!(
            run(&mut audit, S, &[7], &[7]),
            AuditResult::Publish(vec![7])
        );
        audit.sent(S);
        // The row is locked, so its mark waits.
        let now = S * 3;
        assert_eq!(audit.query(now, lsn(0)), Some(AuditQuery::List));
        audit.listed(now, vec![7], lsn(200));
        assert_eq!(
            audit.query(now, lsn(200)),
            Some(AuditQuery::StillUnpublished(vec![7]))
        );
        let unsettled = HashSet::from([7]);
        assert_eq!(
            audit.left(now, [7].into_iter(), &unsettled),
            AuditResult::Clean
        );
        assert_eq!((audit.open_count(), audit.missed_total()), (1, 1));
    }

    #[test]
    fn too_many_halt_unless_they_were_asked_for() {
        let many: Vec<i64> = (1..=1_001).collect();
        let mut one = audit();
        assert_eq!(
            run(&mut one, S, &many, &many),
            AuditResult::Halt(many.clone())
        );
        let mut one = audit();
        let few = many[..1_000].to_vec();
        assert_eq!(run(&mut one, S, &many, &few), AuditResult::Publish(few));
        let mut asked = Audit {
            missed_max: usize::MAX,
            ..audit()
        };
        assert_eq!(run(&mut asked, S, &many, &many), AuditResult::Publish(many));
    }

    #[test]
    fn with_halt_one_is_enough() {
        let mut audit = Audit {
            halts: true,
            ..audit()
        };
        assert_eq!(run(&mut audit, S, &[9], &[9]), AuditResult::Halt(vec![9]));
    }

    #[test]
    fn of_a_list_that_is_cut_off_only_what_it_reaches_is_seen_as_published() {
        let mut audit = audit();
        let low: Vec<i64> = (1..=10_000).collect();
        audit.open = BTreeSet::from([5, 10_001]);
        assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
        audit.listed(S, low.iter().map(|id| id * 2).collect(), lsn(9));
        assert_eq!(audit.open, BTreeSet::from([]));
        audit.open = BTreeSet::from([5, 20_001]);
        audit.at_once(S);
        assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
        audit.listed(S, low.iter().map(|id| id * 2).collect(), lsn(9));
        assert_eq!(audit.open, BTreeSet::from([20_001]));
    }

    #[test]
    fn a_session_begins_anew_and_a_failed_look_is_repeated() {
        let mut audit = audit();
        assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
        audit.failed(S);
        assert_eq!(audit.query(S * 5, lsn(0)), None);
        assert_eq!(audit.query(S * 6, lsn(0)), Some(AuditQuery::List));
        audit.at_once(S * 7);
        // The audit under way belongs to the session before.
        audit.listed(S * 7, vec![1], lsn(1));
        assert_eq!(audit.query(S * 7, lsn(1)), Some(AuditQuery::List));
    }

    #[test]
    fn where_nothing_is_marked_nothing_is_audited() {
        let mut audit = Audit {
            interval: None,
            ..audit()
        };
        assert_eq!(audit.query(S * 1_000, lsn(1)), None);
    }
}
