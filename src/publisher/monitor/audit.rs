//! The table audits the slot: which rows did it pass without bringing them? Pure.
//!
//! Confirmed means marked: the slot moves only past events whose rows are marked. So of the rows that are unpublished now, none may be so
//! any more once the slot has confirmed a position that lies behind all their commits. What still is was missed by the slot, whatever
//! the reason: it was made anew or moved by somebody, the table was out of the publication, the server was restored under a living
//! publisher, or somebody took the mark away. No other tool can tell its user this.
//!
//! A row that the engine has in hand is not missed, wherever it came from: it is on its way, and its mark will come. A row with an open dead
//! letter is no candidate: it waits for a person. What was missed goes out by the same way as every event of the table, and never while
//! the stream could still bring it, since the stream has passed it.
//!
//! One audit at a time, over the lowest ids: what was missed sinks to the bottom of what is unpublished, so a later audit comes to it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::config::{AfterPublish, Backlog, Config, OnSlotLoss};
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::MissedRows;

/// Rows that one audit looks at.
pub(crate) const CANDIDATES: usize = 10_000;
/// More than this missed at once is no accident of the slot's: a person decides.
const MISSED_MAX: usize = 1_000;
/// From the mending to the look that shows it.
const MENDED_AFTER: Duration = Duration::from_secs(2);
/// After a look that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Ids that an error names.
const NAMED: usize = 10;

/// What the audit wants to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuditQuery {
    /// The lowest unpublished ids, and a position read after them.
    List,
    /// Which of these are unpublished still.
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
    Looking,
    Mending,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Audit {
    /// `None` where nothing is marked: the table knows nothing.
    interval: Option<Duration>,
    halts: bool,
    missed_max: usize,
    state: State,
    due: Duration,
    /// Found as missed, and not seen as published yet.
    open: BTreeSet<i64>,
    missed_total: u64,
    audits_total: u64,
}

/// What an audit has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuditResult {
    /// Nothing is missing.
    Clean,
    /// These are to be published from the table.
    Mend(Vec<i64>),
    /// These are for a person to decide about.
    Halt(Vec<i64>),
}

impl Audit {
    /// As the configuration wants it; the first one is due at once.
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

    /// A session begins, or something has ended that kept events from the slot. Drops an audit that is under way.
    pub(crate) fn at_once(&mut self, now: Duration) {
        self.state = State::Resting;
        self.due = now;
    }

    /// What is to be asked now, if anything. `confirmed` is the last position that was reported to the slot.
    pub(crate) fn question(&mut self, now: Duration, confirmed: Lsn) -> Option<AuditQuery> {
        self.interval?;
        match &mut self.state {
            State::Resting if now >= self.due => {
                self.state = State::Listing;
                Some(AuditQuery::List)
            }
            State::Waiting { ids, behind } if confirmed >= *behind => {
                let ids = std::mem::take(ids);
                self.state = State::Looking;
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

    /// The answer to [`AuditQuery::StillUnpublished`]; `in_hand` are the rows that the engine has not settled.
    pub(crate) fn left(
        &mut self,
        now: Duration,
        left: impl Iterator<Item = i64>,
        in_hand: &HashSet<i64>,
    ) -> AuditResult {
        if !matches!(self.state, State::Looking) {
            return AuditResult::Clean;
        }
        let missed: Vec<i64> = left.filter(|id| !in_hand.contains(id)).collect();
        if missed.is_empty() {
            self.clean(now);
            return AuditResult::Clean;
        }
        self.audits_total += 1;
        self.missed_total += missed.len() as u64;
        self.open.extend(&missed);
        self.state = State::Mending;
        if self.halts || missed.len() > self.missed_max {
            return AuditResult::Halt(missed);
        }
        AuditResult::Mend(missed)
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
            MENDED_AFTER.min(interval)
        };
        self.state = State::Resting;
        self.due = now + pause;
    }

    /// Everything that was to be mended has been handed to Kafka.
    pub(crate) fn mended(&mut self, now: Duration) {
        self.rest(now);
    }

    /// A question could not be answered.
    pub(crate) fn failed(&mut self, now: Duration) {
        self.state = State::Resting;
        self.due = now + AGAIN_AFTER;
    }

    /// Missed events that are not seen as published yet.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Missed events since the start.
    pub(crate) fn missed_total(&self) -> u64 {
        self.missed_total
    }

    /// Audits that came to an end.
    pub(crate) fn audits_total(&self) -> u64 {
        self.audits_total
    }

    /// Why it ends with [`AuditResult::Halt`].
    pub(crate) fn halt(config: &Config, missed: &[i64]) -> Error {
        let table = &config.table;
        let mut named: Vec<String> = missed.iter().take(NAMED).map(i64::to_string).collect();
        if missed.len() > NAMED {
            named.push("…".to_owned());
        }
        let message = format!(
            "slot {} has passed {} events of {table} without bringing them: ids {}",
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
        assert_eq!(audit.question(now, lsn(0)), Some(AuditQuery::List));
        audit.listed(now, listed.to_vec(), lsn(100));
        if listed.is_empty() {
            return AuditResult::Clean;
        }
        assert_eq!(audit.question(now, lsn(99)), None);
        let ids = listed.to_vec();
        assert_eq!(
            audit.question(now, lsn(100)),
            Some(AuditQuery::StillUnpublished(ids))
        );
        audit.left(now, left.iter().copied(), &HashSet::new())
    }

    #[test]
    fn a_row_that_is_unpublished_behind_the_confirmed_position_was_missed() {
        let mut audit = audit();
        assert_eq!(
            run(&mut audit, S, &[3, 4, 5], &[4]),
            AuditResult::Mend(vec![4])
        );
        assert_eq!((audit.open_count(), audit.missed_total()), (1, 1));
        audit.mended(S * 2);
        assert_eq!(audit.question(S * 3, lsn(100)), None);
        assert_eq!(run(&mut audit, S * 4, &[], &[]), AuditResult::Clean);
        assert_eq!((audit.open_count(), audit.missed_total()), (0, 1));
        assert_eq!(audit.question(S * 63, lsn(100)), None);
        assert_eq!(audit.question(S * 64, lsn(100)), Some(AuditQuery::List));
        assert_eq!(audit.audits_total(), 2);
    }

    #[test]
    fn nothing_is_judged_before_the_slot_has_confirmed_the_position() {
        let mut audit = audit();
        assert_eq!(audit.question(S, lsn(500)), Some(AuditQuery::List));
        audit.listed(S, vec![1], lsn(501));
        assert_eq!(audit.question(S * 1_000, lsn(500)), None);
        assert_eq!(
            audit.question(S * 1_000, lsn(501)),
            Some(AuditQuery::StillUnpublished(vec![1]))
        );
    }

    #[test]
    fn a_row_in_hand_is_not_missed_and_one_that_is_being_mended_not_twice() {
        let mut audit = audit();
        assert_eq!(run(&mut audit, S, &[7], &[7]), AuditResult::Mend(vec![7]));
        audit.mended(S);
        // Somebody has locked it, so its mark waits.
        let now = S * 3;
        assert_eq!(audit.question(now, lsn(0)), Some(AuditQuery::List));
        audit.listed(now, vec![7], lsn(200));
        assert_eq!(
            audit.question(now, lsn(200)),
            Some(AuditQuery::StillUnpublished(vec![7]))
        );
        let in_hand = HashSet::from([7]);
        assert_eq!(
            audit.left(now, [7].into_iter(), &in_hand),
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
        assert_eq!(run(&mut one, S, &many, &few), AuditResult::Mend(few));
        let mut asked = Audit {
            missed_max: usize::MAX,
            ..audit()
        };
        assert_eq!(run(&mut asked, S, &many, &many), AuditResult::Mend(many));
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
        assert_eq!(audit.question(S, lsn(0)), Some(AuditQuery::List));
        audit.listed(S, low.iter().map(|id| id * 2).collect(), lsn(9));
        assert_eq!(audit.open, BTreeSet::from([]));
        audit.open = BTreeSet::from([5, 20_001]);
        audit.at_once(S);
        assert_eq!(audit.question(S, lsn(0)), Some(AuditQuery::List));
        audit.listed(S, low.iter().map(|id| id * 2).collect(), lsn(9));
        assert_eq!(audit.open, BTreeSet::from([20_001]));
    }

    #[test]
    fn a_session_begins_anew_and_a_failed_look_is_repeated() {
        let mut audit = audit();
        assert_eq!(audit.question(S, lsn(0)), Some(AuditQuery::List));
        audit.failed(S);
        assert_eq!(audit.question(S * 5, lsn(0)), None);
        assert_eq!(audit.question(S * 6, lsn(0)), Some(AuditQuery::List));
        audit.at_once(S * 7);
        // What was under way is of the session before.
        audit.listed(S * 7, vec![1], lsn(1));
        assert_eq!(audit.question(S * 7, lsn(1)), Some(AuditQuery::List));
    }

    #[test]
    fn where_nothing_is_marked_nothing_is_audited() {
        let mut audit = Audit {
            interval: None,
            ..audit()
        };
        assert_eq!(audit.question(S * 1_000, lsn(1)), None);
    }
}
