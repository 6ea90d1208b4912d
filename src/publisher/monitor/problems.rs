//! What is wrong, or about to be, with slot, publication and table while the stream goes on: named, with what to do. Pure.
//!
//! A slot says nothing of what it does not bring: a table that left its publication, or was dropped and made anew, is simply silent. So the
//! catalogs are read every few seconds, and what was seen is held against what was seen before. A trouble is told once when it comes and once
//! when it goes; what stands shows in status, metrics and readiness.

use std::time::Duration;

use crate::postgres::ServerProblem;
use crate::postgres::slot::Slot;
use crate::status::Problem;

/// How often the catalogs are read.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(8);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    catalogs: Vec<Problem>,
    slot: Option<Problem>,
    missed: Option<Problem>,
}

/// What is new since the look before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) come: Vec<Problem>,
    pub(crate) gone: Vec<Problem>,
}

impl Change {
    /// Whether something has ended that kept events from the slot: what was committed meanwhile is to be looked for.
    pub(crate) fn ends_gap(&self) -> bool {
        self.gone.iter().any(|problem| problem.loses_events)
    }

    fn between(before: &[Problem], after: &[Problem]) -> Change {
        let without = |all: &[Problem], others: &[Problem]| {
            let is_new = |problem: &&Problem| others.iter().all(|other| other.name != problem.name);
            all.iter().filter(is_new).cloned().collect()
        };
        Change {
            come: without(after, before),
            gone: without(before, after),
        }
    }
}

impl Problems {
    /// What the catalogs show.
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

    /// What the server says of the slot.
    pub(crate) fn slot(&mut self, slot: Option<&Slot>) -> Change {
        let now = slot.filter(|slot| slot.is_near_loss()).map(|slot| {
            let status = slot.wal_status.as_deref().unwrap_or("unknown");
            let left = slot.safe_wal_size.unwrap_or(0).max(0);
            Problem {
                name: "slot-nearly-lost",
                detail: format!(
                    "the server keeps {} bytes of log for slot {} ({status}) and may write {left} more before it is lost",
                    slot.retained_bytes, slot.name
                ),
                hint: "raise max_slot_wal_keep_size (a reload is enough), and mend what holds \
                         outboxd up"
                    .to_owned(),
                loses_events: false,
            }
        });
        replace(&mut self.slot, now)
    }

    /// How many events the slot has missed that are not mended.
    pub(crate) fn missed(&mut self, count: usize) -> Change {
        let now = (count > 0).then(|| Problem {
            name: "missed-events",
            detail: format!("the slot has passed {count} events without bringing them"),
            hint: "they are being published from the table; find out who moved or made anew the \
                     slot, changed the publication, restored the server, or set published_at to null"
                .to_owned(),
            loses_events: true,
        });
        replace(&mut self.missed, now)
    }

    /// All that stands.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let others = self.slot.iter().chain(&self.missed);
        self.catalogs.iter().chain(others).cloned().collect()
    }

    /// The first of the catalogs' troubles that keeps events from the slot.
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
    fn a_trouble_is_told_when_it_comes_and_when_it_goes_and_stands_in_between() {
        let mut dog = Problems::default();
        let left =
            ServerProblem::slot("it left the publication", "put it back").gap("not-published");
        let change = dog.catalogs(std::slice::from_ref(&left));
        assert_eq!(names(&change.come), ["not-published"]);
        assert!(dog.gap().is_some());
        assert_eq!(dog.catalogs(&[left]), Change::default());
        assert_eq!(names(&dog.problems()), ["not-published"]);
        let change = dog.catalogs(&[]);
        assert_eq!(names(&change.gone), ["not-published"]);
        assert!(change.ends_gap() && dog.problems().is_empty() && dog.gap().is_none());
    }

    #[test]
    fn what_hides_no_events_is_no_gap() {
        let mut dog = Problems::default();
        dog.catalogs(&[ServerProblem::config("a right is missing", "grant it")]);
        assert!(dog.gap().is_none());
        assert!(!dog.catalogs(&[]).ends_gap());
    }

    #[test]
    fn missed_events_stand_until_they_are_mended() {
        let mut dog = Problems::default();
        assert_eq!(names(&dog.missed(3).come), ["missed-events"]);
        assert_eq!(dog.missed(2), Change::default());
        assert!(dog.problems()[0].detail.contains("2 events"));
        assert_eq!(names(&dog.missed(0).gone), ["missed-events"]);
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
        };
        let mut dog = Problems::default();
        let change = dog.slot(Some(&slot));
        assert_eq!(names(&change.come), ["slot-nearly-lost"]);
        assert!(!change.come[0].loses_events);
        slot.wal_status = Some("reserved".to_owned());
        slot.safe_wal_size = None;
        assert_eq!(names(&dog.slot(Some(&slot)).gone), ["slot-nearly-lost"]);
    }
}
