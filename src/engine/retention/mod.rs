//! When the next step of retention begins. Pure.
//!
//! Rows that are published and old are deleted in passes over the table, in short steps on the
//! connection of the write-back. Deleting is the work that matters least, so it begins when nothing
//! else is due and nothing is in flight, and then has half of the time. Under load it has a tenth,
//! and a fourth while the oldest row is overdue by more than a pass: less would let a table under
//! steady load grow for ever, so this share is taken before marks and dead letters. A pass begins
//! at most each tenth of the age or each hour, whichever is less often. A step that fails is
//! repeated after a delay. Nothing here concerns an event: no position and no stop waits for it.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::outbox::{RetentionStep, pass_interval};

const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);
/// A step that took less counts as this long: each costs the connection some round trips.
const STEP_MIN: Duration = Duration::from_millis(2);

/// How many times its own length the pause after a step lasts.
const WHILE_IDLE: u32 = 1;
const WHILE_OVERDUE: u32 = 3;
const UNDER_LOAD: u32 = 9;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Retention {
    /// The time between the beginnings of two passes; `None` if nothing is deleted.
    interval: Option<Duration>,
    /// When the last pass began.
    pass_began: Option<Duration>,
    in_pass: bool,
    /// The oldest row that was found in this pass or the last one is overdue.
    is_overdue: bool,
    step_began: Duration,
    step_ended: Duration,
    step_took: Duration,
    retry: Backoff,
    retry_at: Duration,
}

impl Retention {
    /// Deletes what is older than `retain`, if that is given.
    pub(crate) fn new(retain: Option<Duration>) -> Self {
        Retention {
            interval: retain.map(pass_interval),
            pass_began: None,
            in_pass: false,
            is_overdue: false,
            step_began: Duration::ZERO,
            step_ended: Duration::ZERO,
            step_took: Duration::ZERO,
            retry: Backoff::new(RETRY_FIRST, RETRY_CAP),
            retry_at: Duration::ZERO,
        }
    }

    /// The step under way is dropped. The pass goes on.
    pub(crate) fn reset(&mut self) {
        self.step_took = STEP_MIN;
    }

    /// When the next step may begin: while nothing else is to do, or (`under_load`) before
    /// everything else.
    pub(crate) fn due_at(&self, under_load: bool) -> Option<Duration> {
        let interval = self.interval?;
        let pauses = match (under_load, self.is_overdue) {
            (false, _) => WHILE_IDLE,
            (true, true) => WHILE_OVERDUE,
            (true, false) => UNDER_LOAD,
        };
        let paused = self.step_ended + self.step_took * pauses;
        let next_pass = self.pass_began.map_or(Duration::ZERO, |it| it + interval);
        let pass = if self.in_pass { paused } else { next_pass };
        Some(pass.max(paused).max(self.retry_at))
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, now: Duration) {
        if !self.in_pass {
            (self.in_pass, self.pass_began) = (true, Some(now));
        }
        self.step_began = now;
    }

    /// The step has ended with this result; `None` if it failed.
    pub(crate) fn ended(&mut self, now: Duration, step: Option<RetentionStep>) {
        self.step_ended = now;
        self.step_took = now.saturating_sub(self.step_began).max(STEP_MIN);
        let Some(step) = step else {
            self.retry_at = now + self.retry.next_delay();
            return;
        };
        self.retry.reset();
        self.in_pass = !step.ends_pass;
        self.is_overdue = step.is_overdue;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn step(ends_pass: bool, is_overdue: bool) -> Option<RetentionStep> {
        Some(RetentionStep {
            ends_pass,
            is_overdue,
            ..RetentionStep::default()
        })
    }

    /// The share of an hour that the steps take which are each `length` long.
    fn share(length: Duration, under_load: bool, is_overdue: bool) -> f64 {
        let mut retention = Retention::new(Some(HOUR * 24));
        let (mut now, mut busy) = (Duration::ZERO, Duration::ZERO);
        while now < HOUR {
            now = now.max(retention.due_at(under_load).unwrap_or(HOUR));
            retention.begin(now);
            now += length;
            busy += length;
            retention.ended(now, step(false, is_overdue));
        }
        busy.as_secs_f64() / now.as_secs_f64()
    }

    #[test]
    fn steps_have_a_tenth_of_the_time_under_load_and_more_only_while_rows_are_overdue() {
        for length in [MS * 3, MS * 50, MS * 5_000] {
            let shares = [(true, false), (true, true), (false, false)]
                .map(|(under_load, is_overdue)| share(length, under_load, is_overdue));
            for (share, expected) in shares.into_iter().zip([0.1, 0.25, 0.5]) {
                assert!((share - expected).abs() < 0.005, "{length:?}: {share}");
            }
        }
    }

    #[test]
    fn a_pass_begins_at_the_start_and_then_after_a_tenth_of_the_age_or_an_hour() {
        for (retain, interval) in [(HOUR, HOUR), (HOUR * 168, HOUR * 168 / 10)] {
            let mut retention = Retention::new(Some(retain));
            assert_eq!(retention.due_at(true), Some(Duration::ZERO));
            retention.begin(MS);
            retention.ended(MS * 5, step(true, false));
            assert_eq!(retention.due_at(false), Some(MS + interval), "{retain:?}");
            retention.begin(MS + interval);
            retention.ended(MS + interval * 3, step(true, false));
            let due = retention.due_at(true);
            assert!(
                due > Some(MS + interval * 3),
                "a long pass is followed by a pause"
            );
        }
        assert_eq!(Retention::new(None).due_at(false), None);
    }

    #[test]
    fn a_step_that_fails_is_repeated_after_a_growing_delay_in_the_same_pass() {
        let mut retention = Retention::new(Some(HOUR));
        let mut now = Duration::ZERO;
        let mut delays = Vec::new();
        for _ in 0..8 {
            retention.begin(now);
            retention.ended(now, None);
            let due = retention.due_at(true).unwrap_or_default();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300]);
        retention.begin(now);
        retention.ended(now + MS * 10, step(false, false));
        assert_eq!(retention.due_at(true), Some(now + MS * 100));
    }
}
