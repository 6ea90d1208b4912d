//! The account of copies: why an event is passed on, and appended, more than once.
//!
//! A source passes an event on once. Once more needs a cause, which something that happened gave to
//! this event: its memory was dropped before the event was settled, or its mark was removed. What
//! was passed on is appended once. Once more needs a report that brings the record back though it
//! may be in Kafka. So a copy that nothing has caused is found when it is made.

use std::collections::BTreeSet;

/// One event.
#[derive(Debug, Default)]
struct Account {
    /// The process that passed it on last, and the number of its memory.
    by: Option<(u64, u64)>,
    /// The processes that passed it on after they had lost the lock. If no other process takes the
    /// lock before such a one has it again, it still has the event in memory.
    late: BTreeSet<u64>,
    /// Why it may be passed on once more.
    again: Option<&'static str>,
    /// A person has requested a retry, which no record has carried out.
    is_requested: bool,
    /// How many times it may be appended.
    allowed: u32,
    /// What the last copy was allowed for.
    cause: &'static str,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Copies {
    accounts: Vec<Account>,
}

impl Copies {
    /// Another event exists.
    pub(super) fn add(&mut self) {
        self.accounts.push(Account::default());
    }

    /// From now on a source may pass this event on once more, if it was passed on before.
    pub(super) fn may_repeat(&mut self, event: usize, cause: &'static str) {
        let account = &mut self.accounts[event];
        if account.by.is_some() {
            account.again = Some(cause);
        }
    }

    /// A process passes the event on, from the stream or the table.
    pub(super) fn passed_on(&mut self, event: usize, process: u64, memory: u64) {
        let account = &mut self.accounts[event];
        if account.by.replace((process, memory)).is_some() {
            let cause = account.again.take();
            let last = account.cause;
            let unexplained =
                || format!("event {event} is passed on again without a cause: {last}");
            account.cause = cause.unwrap_or_else(|| panic!("{}", unexplained()));
        }
        account.allowed += 1;
    }

    /// A process that has lost the lock, and does not know it yet, passes the event on beside the
    /// one that holds it.
    pub(super) fn passed_on_late(&mut self, event: usize, process: u64, memory: u64) {
        let account = &mut self.accounts[event];
        account.by = account.by.or(Some((process, memory)));
        account.late.insert(process);
        account.allowed += 1;
        account.again = Some("its process had lost the lock");
    }

    /// A process has read the request to retry the event's dead letter. `is_late`: it has lost the
    /// lock, and does not know it yet.
    pub(super) fn requested(&mut self, event: usize, process: u64, memory: u64, is_late: bool) {
        let account = &mut self.accounts[event];
        account.is_requested = true;
        match is_late {
            true => {
                account.late.insert(process);
            }
            false => account.by = Some((process, memory)),
        }
    }

    /// Memory is dropped while a record of this event is in flight, which may be appended beside
    /// one that follows.
    pub(super) fn left_in_flight(&mut self, event: usize) {
        let account = &mut self.accounts[event];
        account.allowed += u32::from(std::mem::take(&mut account.is_requested));
    }

    /// The record comes back, though it may be in Kafka.
    pub(super) fn comes_back(&mut self, event: usize, cause: &'static str) {
        let account = &mut self.accounts[event];
        account.allowed += 1;
        account.cause = cause;
    }

    /// The process that passed the event on last.
    pub(super) fn passed_on_by(&self, event: usize) -> Option<u64> {
        self.accounts[event].by.map(|(process, _)| process)
    }

    /// Whether the process has the event from a source, as the last one or beside it.
    pub(super) fn has_passed_on(&self, event: usize, process: u64) -> bool {
        self.passed_on_by(event) == Some(process) || self.accounts[event].late.contains(&process)
    }

    /// Whether this memory of the process has passed the event on last.
    pub(super) fn is_of(&self, event: usize, process: u64, memory: u64) -> bool {
        self.accounts[event].by == Some((process, memory))
    }

    /// The event is appended for this time.
    pub(super) fn appended(&mut self, event: usize, times: u32) {
        let account = &mut self.accounts[event];
        if times > account.allowed && std::mem::take(&mut account.is_requested) {
            account.allowed += 1;
            account.cause = "retry of a dead letter";
        }
        let Account { allowed, cause, .. } = account;
        assert!(
            times <= *allowed,
            "event {event} is appended {times} times without a cause, the last was: {cause}"
        );
    }
}
