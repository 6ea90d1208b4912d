//! Present and imminent problems of slot, publication and table while the stream goes on, each with
//! a hint. Pure.
//!
//! A slot does not report events that it does not deliver: a table that left its publication, or
//! was dropped and recreated, is simply silent. So the catalogs are read every few seconds and
//! compared with the read before. A problem is logged once when it begins and once when it ends;
//! until then, status, metrics and readiness show it.

use std::time::Duration;

use crate::postgres::ServerProblem;
use crate::postgres::slot::Slot;
use crate::status::Problem;

/// How often the catalogs are read.
pub(crate) const READ_INTERVAL: Duration = Duration::from_secs(8);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    catalogs: Vec<Problem>,
    slot: Option<Problem>,
    missed: Option<Problem>,
    parked: Option<Problem>,
}

/// The changes since the last read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) begun: Vec<Problem>,
    pub(crate) ended: Vec<Problem>,
}

impl Change {
    /// Whether a problem has ended that kept events from the slot: the audit then searches for
    /// them.
    pub(crate) fn ends_gap(&self) -> bool {
        self.ended.iter().any(|problem| problem.loses_events)
    }

    fn between(before: &[Problem], after: &[Problem]) -> Change {
        let without = |all: &[Problem], others: &[Problem]| {
            let is_new = |problem: &&Problem| others.iter().all(|other| other.name != problem.name);
            all.iter().filter(is_new).cloned().collect()
        };
        Change {
            begun: without(after, before),
            ended: without(before, after),
        }
    }
}

impl Problems {
    /// Takes in the problems that the catalogs show.
    pub(crate) fn catalogs(&mut self, problems: &[ServerProblem]) -> Change {
        let now = problems.iter().map(|problem| Problem {
            name: problem.name,
            detail: problem.problem.clone(),
            hint: problem.hint.clone(),
            loses_events: problem.loses_events,
        });
        let now: Vec<Problem> = now.collect();
        let change = Change::between(&self.catalogs, &now);
        self.catalogs = now;
        change
    }

    /// Takes in the slot as the server shows it.
    pub(crate) fn slot(&mut self, slot: Option<&Slot>) -> Change {
        let now = slot.filter(|slot| slot.is_near_loss()).map(|slot| {
            let status = slot.wal_status.as_deref().unwrap_or("unknown");
            let left = slot.safe_wal_size.unwrap_or(0).max(0);
            Problem {
                name: "slot-nearly-lost",
                detail: format!(
                    "the server retains {} bytes of WAL for slot {} ({status}); \
                     after {left} more the slot is lost",
                    slot.retained_bytes, slot.name
                ),
                hint: "raise max_slot_wal_keep_size (a reload is enough), and fix what delays \
                outboxd"
                    .to_owned(),
                loses_events: false,
            }
        });
        replace(&mut self.slot, now)
    }

    /// Takes in how many missed events are not published yet.
    pub(crate) fn missed(&mut self, count: usize) -> Change {
        let now = (count > 0).then(|| Problem {
            name: "missed-events",
            detail: format!("the slot skipped {count} events"),
            hint: "they are being published from the table; find out what moved or recreated the \
                     slot, changed the publication, restored the server, or set published_at to \
                     null"
                .to_owned(),
            loses_events: true,
        });
        replace(&mut self.missed, now)
    }

    /// Takes in how many topics are parked whole; the highest number if all are.
    pub(crate) fn parked(&mut self, topics: usize) -> Change {
        let which = match topics {
            usize::MAX => "every topic".to_owned(),
            topics => format!("{topics} topics"),
        };
        let now = (topics > 0).then(|| Problem {
            name: "topics-parked",
            detail: format!("more keys are parked than are kept apart: every key of {which} is"),
            hint: "fix the cause, then `outboxd dead-letter retry` or `discard`; until then every \
                   later event with a key becomes a dead letter there"
                .to_owned(),
            loses_events: false,
        });
        replace(&mut self.parked, now)
    }

    /// All present problems.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let others = self.slot.iter().chain(&self.missed).chain(&self.parked);
        self.catalogs.iter().chain(others).cloned().collect()
    }

    /// The first problem of the catalogs that keeps events from the slot.
    pub(crate) fn gap(&self) -> Option<&Problem> {
        self.catalogs.iter().find(|problem| problem.loses_events)
    }
}

fn replace(standing: &mut Option<Problem>, now: Option<Problem>) -> Change {
    let change = Change::between(standing.as_slice(), now.as_slice());
    *standing = now;
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.name).collect()
    }

    #[test]
    fn a_problem_is_logged_when_it_begins_and_ends_and_shown_in_between() {
        let mut monitored = Problems::default();
        let left =
            ServerProblem::slot("it left the publication", "put it back").gap("not-published");
        let change = monitored.catalogs(std::slice::from_ref(&left));
        assert_eq!(names(&change.begun), ["not-published"]);
        assert!(monitored.gap().is_some());
        assert_eq!(monitored.catalogs(&[left]), Change::default());
        assert_eq!(names(&monitored.problems()), ["not-published"]);
        let change = monitored.catalogs(&[]);
        assert_eq!(names(&change.ended), ["not-published"]);
        assert!(change.ends_gap() && monitored.problems().is_empty() && monitored.gap().is_none());
    }

    #[test]
    fn what_hides_no_events_is_no_gap() {
        let mut monitored = Problems::default();
        monitored.catalogs(&[ServerProblem::config("a right is missing", "grant it")]);
        assert!(monitored.gap().is_none());
        assert!(!monitored.catalogs(&[]).ends_gap());
    }

    #[test]
    fn missed_events_stand_until_they_are_mended() {
        let mut monitored = Problems::default();
        assert_eq!(names(&monitored.missed(3).begun), ["missed-events"]);
        assert_eq!(monitored.missed(2), Change::default());
        assert!(monitored.problems()[0].detail.contains("2 events"));
        assert_eq!(names(&monitored.missed(0).ended), ["missed-events"]);
    }

    #[test]
    fn topics_that_are_parked_whole_are_a_problem_until_their_keys_fit_again() {
        let mut monitored = Problems::default();
        assert_eq!(monitored.parked(0), Change::default());
        assert_eq!(names(&monitored.parked(2).begun), ["topics-parked"]);
        assert!(monitored.problems()[0].detail.contains("2 topics"));
        assert_eq!(monitored.parked(usize::MAX), Change::default());
        let all = &monitored.problems()[0];
        assert!(all.detail.contains("every topic") && !all.loses_events);
        assert_eq!(names(&monitored.parked(0).ended), ["topics-parked"]);
    }

    #[test]
    fn a_slot_that_is_nearly_lost_is_a_warning() {
        let mut slot = Slot {
            name: "outboxd_orders".to_owned(),
            active_pid: None,
            confirmed_flush: None,
            restart: None,
            wal_status: Some("unreserved".to_owned()),
            safe_wal_size: Some(0),
            temporary: false,
            failover: None,
            invalidation_reason: None,
            lag_bytes: 0,
            retained_bytes: 7,
            wal_bytes: 0,
        };
        let mut monitored = Problems::default();
        let change = monitored.slot(Some(&slot));
        assert_eq!(names(&change.begun), ["slot-nearly-lost"]);
        assert!(!change.begun[0].loses_events);
        slot.wal_status = Some("reserved".to_owned());
        slot.safe_wal_size = None;
        assert_eq!(
            names(&monitored.slot(Some(&slot)).ended),
            ["slot-nearly-lost"]
        );
    }
}
