//! What is wrong, or about to be, with slot, publication and table while the stream goes on: named, with what to do. Pure.
//!
//! A slot says nothing of what it does not bring: a table that left its publication, or was dropped and made anew, is simply silent. So the
//! catalogs are read every few seconds, and what was seen is held against what was seen before. A trouble is told once when it comes and once
//! when it goes; what stands shows in status, metrics and readiness.

use std::time::Duration;

use crate::postgres::Fault;
use crate::postgres::slot::Slot;
use crate::status::Trouble;

/// How often the catalogs are read.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(8);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    catalogs: Vec<Trouble>,
    slot: Option<Trouble>,
    missed: Option<Trouble>,
}

/// What is new since the look before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) come: Vec<Trouble>,
    pub(crate) gone: Vec<Trouble>,
}

impl Change {
    /// Whether something has ended that kept events from the slot: what was committed meanwhile is to be looked for.
    pub(crate) fn ends_gap(&self) -> bool {
        self.gone.iter().any(|trouble| trouble.loses_events)
    }

    fn between(before: &[Trouble], after: &[Trouble]) -> Change {
        let without = |all: &[Trouble], others: &[Trouble]| {
            let is_new = |trouble: &&Trouble| others.iter().all(|other| other.name != trouble.name);
            all.iter().filter(is_new).cloned().collect()
        };
        Change {
            come: without(after, before),
            gone: without(before, after),
        }
    }
}

impl Watchdog {
    /// What the catalogs show.
    pub(crate) fn catalogs(&mut self, faults: &[Fault]) -> Change {
        let now = faults.iter().map(|fault| Trouble {
            name: fault.name,
            detail: fault.problem.clone(),
            remedy: fault.remedy.clone(),
            loses_events: fault.loses_events,
        });
        let now: Vec<Trouble> = now.collect();
        let change = Change::between(&self.catalogs, &now);
        self.catalogs = now;
        change
    }

    /// What the server says of the slot.
    pub(crate) fn slot(&mut self, slot: Option<&Slot>) -> Change {
        let now = slot.filter(|slot| slot.is_near_loss()).map(|slot| {
            let status = slot.wal_status.as_deref().unwrap_or("unknown");
            let left = slot.safe_wal_size.unwrap_or(0).max(0);
            Trouble {
                name: "slot-nearly-lost",
                detail: format!(
                    "the server keeps {} bytes of log for slot {} ({status}) and may write {left} more before it is lost",
                    slot.retained_bytes, slot.name
                ),
                remedy: "raise max_slot_wal_keep_size (a reload is enough), and mend what holds \
                         outboxd up"
                    .to_owned(),
                loses_events: false,
            }
        });
        replace(&mut self.slot, now)
    }

    /// How many events the slot has missed that are not mended.
    pub(crate) fn missed(&mut self, count: usize) -> Change {
        let now = (count > 0).then(|| Trouble {
            name: "missed-events",
            detail: format!("the slot has passed {count} events without bringing them"),
            remedy: "they are being published from the table; find out who moved or made anew the \
                     slot, changed the publication, restored the server, or set published_at to null"
                .to_owned(),
            loses_events: true,
        });
        replace(&mut self.missed, now)
    }

    /// All that stands.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        let others = self.slot.iter().chain(&self.missed);
        self.catalogs.iter().chain(others).cloned().collect()
    }

    /// The first of the catalogs' troubles that keeps events from the slot.
    pub(crate) fn gap(&self) -> Option<&Trouble> {
        self.catalogs.iter().find(|trouble| trouble.loses_events)
    }
}

fn replace(standing: &mut Option<Trouble>, now: Option<Trouble>) -> Change {
    let change = Change::between(standing.as_slice(), now.as_slice());
    *standing = now;
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(troubles: &[Trouble]) -> Vec<&str> {
        troubles.iter().map(|trouble| trouble.name).collect()
    }

    #[test]
    fn a_trouble_is_told_when_it_comes_and_when_it_goes_and_stands_in_between() {
        let mut dog = Watchdog::default();
        let left = Fault::slot("it left the publication", "put it back").gap("not-published");
        let change = dog.catalogs(std::slice::from_ref(&left));
        assert_eq!(names(&change.come), ["not-published"]);
        assert!(dog.gap().is_some());
        assert_eq!(dog.catalogs(&[left]), Change::default());
        assert_eq!(names(&dog.troubles()), ["not-published"]);
        let change = dog.catalogs(&[]);
        assert_eq!(names(&change.gone), ["not-published"]);
        assert!(change.ends_gap() && dog.troubles().is_empty() && dog.gap().is_none());
    }

    #[test]
    fn what_hides_no_events_is_no_gap() {
        let mut dog = Watchdog::default();
        dog.catalogs(&[Fault::config("a right is missing", "grant it")]);
        assert!(dog.gap().is_none());
        assert!(!dog.catalogs(&[]).ends_gap());
    }

    #[test]
    fn missed_events_stand_until_they_are_mended() {
        let mut dog = Watchdog::default();
        assert_eq!(names(&dog.missed(3).come), ["missed-events"]);
        assert_eq!(dog.missed(2), Change::default());
        assert!(dog.troubles()[0].detail.contains("2 events"));
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
        let mut dog = Watchdog::default();
        let change = dog.slot(Some(&slot));
        assert_eq!(names(&change.come), ["slot-nearly-lost"]);
        assert!(!change.come[0].loses_events);
        slot.wal_status = Some("reserved".to_owned());
        slot.safe_wal_size = None;
        assert_eq!(names(&dog.slot(Some(&slot)).gone), ["slot-nearly-lost"]);
    }
}
