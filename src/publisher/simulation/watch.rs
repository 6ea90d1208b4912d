//! What a process shows while events wait, and what it has to show. `waits` and `readiness` decide.
//!
//! For some time every step is taken in its turn, while the faults stay as they are. A process that
//! has a session and holds an event for longer than normal work takes must name a wait then, and is
//! not ready if that lasts. One that holds nothing names none, and is ready.

use std::collections::VecDeque;
use std::time::Duration;

use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::world::World;
use crate::publisher::sink::waits::{WaitFacts, waiting};
use crate::publisher::sink::work_errors::WorkErrors;
use crate::status::readiness::readiness;
use crate::status::{Phase, Status, WAIT_MATTERS, Waiting};

/// Longer than an event waits without any fault: for its acknowledgement, and for a batch to be
/// written back.
const NAMED_AFTER: Duration = Duration::from_secs(12);
/// Longer than the time between two looks.
const PASSES: Duration = Duration::from_secs(1);
/// Nothing is held and nothing named after this time.
const SILENT_AFTER: Duration = Duration::from_secs(2);
const STATEMENT: Duration = Duration::from_secs(25);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) work_errors: WorkErrors,
    /// The events that were passed on, and when.
    held: VecDeque<(Duration, usize)>,
    /// Since when every step was taken in its turn, with one session.
    since: Option<Duration>,
    /// Since when nothing is held.
    idle_since: Option<Duration>,
    /// The wait that is shown, and since when.
    shown: Option<(&'static str, Duration)>,
    status: Option<Box<Status>>,
}

impl Watch {
    pub(super) fn passed_on(&mut self, now: Duration, event: usize) {
        self.held.push_back((now, event));
    }

    /// Memory is dropped.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.work_errors = WorkErrors::default();
    }

    /// Since when the oldest event is held.
    fn held_since(&mut self, world: &World) -> Option<Duration> {
        while let Some((_, event)) = self.held.front()
            && world.is_settled(*event)
        {
            self.held.pop_front();
        }
        self.held.front().map(|(at, _)| *at)
    }
}

impl Process {
    /// Looks at what the process shows; see the module's head.
    pub(super) fn watch(&mut self, world: &World) {
        let has_session = matches!(self.state, State::Streaming(_) | State::Polling(_));
        if !world.is_fair || !has_session || !self.is_connected(world) {
            (self.watch.since, self.watch.idle_since) = (None, None);
            return;
        }
        let now = self.now;
        let since = *self.watch.since.get_or_insert(now);
        self.show(world);
        let held = self.watch.held_since(world).map(|at| now - at.max(since));
        // A row whose mark was removed waits for the audit.
        let waits = held.filter(|held| *held > NAMED_AFTER && !world.unmarks);
        if let Some(held) = waits {
            let front = self.watch.held.front();
            assert!(
                self.watch.shown.is_some(),
                "{front:?} is held for {held:?}, and no wait is named: {:?}",
                self.engine.stats()
            );
            // Each wait counts by itself: one may follow another.
            let shown = self.watch.shown.map(|(_, since)| now - since);
            let matters = shown.is_some_and(|shown| shown > WAIT_MATTERS + PASSES);
            let is_ready = matters && self.is_ready();
            assert!(
                !is_ready,
                "{front:?} is held for {held:?}: {:?}",
                self.watch
            );
        }
        if held.is_some() || !self.is_idle(world) {
            self.watch.idle_since = None;
            return;
        }
        let idle_since = *self.watch.idle_since.get_or_insert(now);
        if now > idle_since + SILENT_AFTER {
            assert_eq!(self.watch.shown, None, "named, and nothing is held");
            assert!(self.is_ready(), "nothing is held: {:?}", self.watch);
        }
    }

    /// Whether there is nothing to wait for.
    fn is_idle(&self, world: &World) -> bool {
        let session = self.pid.and_then(|pid| world.server.sessions.get(&pid));
        let walsender = session.and_then(|session| session.walsender.as_ref());
        self.engine.is_drained()
            && self.engine.replacement_reason().is_none()
            && self.problems.problems().is_empty()
            && self.watch.work_errors.oldest(self.now, STATEMENT).is_none()
            && walsender.is_none_or(|walsender| !walsender.waits)
    }

    /// As the board does it: a wait of the same name keeps its start.
    fn show(&mut self, world: &World) {
        let stats = self.engine.stats();
        let wait = waiting(&WaitFacts {
            now: self.now,
            stats: &stats,
            producer_problem: self.engine.replacement_reason(),
            unreached: None,
            kafka_problem: None,
            write_back: self.watch.work_errors.oldest(self.now, STATEMENT),
        });
        let before = self.watch.shown;
        self.watch.shown = wait.as_ref().map(|wait| {
            let begun = before.filter(|(on, _)| *on == wait.on);
            let since = wait.since.or(begun.map(|(_, since)| since));
            (wait.on, since.unwrap_or(self.now))
        });
        let status = self.watch.status.get_or_insert_with(|| {
            let status = Status::new(String::new(), None, "outbox.outbox");
            Box::new(status)
        });
        status.phase = match world.polls() {
            true => Phase::Polling,
            false => Phase::Streaming,
        };
        status.kafka_has_answered = true;
        status.problems = self.problems.problems();
        status.waiting = self.watch.shown.map(|(on, since)| Waiting {
            on,
            detail: String::new(),
            seconds: (self.now - since).as_secs_f64(),
        });
    }

    fn is_ready(&self) -> bool {
        self.watch
            .status
            .as_ref()
            .is_none_or(|it| readiness(it).is_ok())
    }
}
