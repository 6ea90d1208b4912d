//! When the next step of retention begins. Pure.
//!
//! Rows that are published and old are deleted in passes over the table, in short steps on the
//! connection of the write-back. A step costs the writers of the database: it takes a core, and
//! their next commit flushes its WAL. Whether others write cannot be seen from here, so a pause
//! follows even while nothing is in flight. Steps that delete have a two-hundredth of the time: the
//! writes that meet one are then about half of the slowest hundredth. That is eighteen million rows
//! a day. While events are in flight they have two thirds of that, so idle times do more of the
//! work. This share is taken before marks and dead letters: less would let a table under steady
//! load grow for ever. A step that deletes nothing writes no WAL, and has a fiftieth, so the pages
//! in front of the old rows are soon passed. While the oldest row is overdue by two passes, each
//! step has a twenty-fifth: a table that was never cleared is caught up with gently. A table in
//! which three passes in a row find such a row grows faster than that, and the steps have a fourth.
//! A share that is given in the settings holds instead, always.
//! A pass begins at most each tenth of the age or each hour, whichever is less often. A step that
//! fails is repeated after a delay. Nothing here concerns an event: no position and no stop waits
//! for it.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::outbox::{RetentionStep, pass_interval};

const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);
/// A step that took less counts as this long: each costs the connection some round trips.
const STEP_MIN: Duration = Duration::from_millis(2);

/// How many times its own length the pause after a step lasts.
const WHILE_IDLE: u32 = 199;
const UNDER_LOAD: u32 = 299;
const NOTHING_DELETED: u32 = 49;
const WHILE_OVERDUE: u32 = 24;
const STILL_OVERDUE: u32 = 3;
/// No step is worth more, such as one over a single page on a machine that is overloaded.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// From so many passes in a row on, of which each has found a row that is overdue.
const PATIENCE: u32 = 3;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Retention {
    /// The time between the beginnings of two passes; `None` if nothing is deleted.
    interval: Option<Duration>,
    /// The share of the time that the steps have, in thousandths, if it is given.
    share: Option<u32>,
    /// When the last pass began.
    pass_began: Option<Duration>,
    in_pass: bool,
    /// The oldest row that was found in this pass or the last one is overdue.
    is_overdue: bool,
    /// The passes that have ended, in a row, which have found such a row.
    overdue_passes: u32,
    /// The last step has deleted something.
    has_deleted: bool,
    step_began: Duration,
    step_ended: Duration,
    step_took: Duration,
    retry: Backoff,
    retry_at: Duration,
}

impl Retention {
    /// Deletes what is older than `retain`, if that is given, in this share of the time, in
    /// thousandths, if that is given.
    pub(crate) fn new(retain: Option<Duration>, share: Option<u32>) -> Self {
        Retention {
            share,
            interval: retain.map(pass_interval),
            pass_began: None,
            in_pass: false,
            is_overdue: false,
            overdue_passes: 0,
            has_deleted: false,
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
        let paused = self.step_ended + self.pause(under_load).min(PAUSE_MAX);
        let next_pass = self.pass_began.map_or(Duration::ZERO, |it| it + interval);
        let pass = if self.in_pass { paused } else { next_pass };
        Some(pass.max(paused).max(self.retry_at))
    }

    fn pause(&self, under_load: bool) -> Duration {
        if let Some(share) = self.share {
            return self.step_took * (1_000 - share) / share;
        }
        self.step_took
            * match under_load {
                _ if self.overdue_passes >= PATIENCE => STILL_OVERDUE,
                _ if self.is_overdue => WHILE_OVERDUE,
                _ if !self.has_deleted => NOTHING_DELETED,
                true => UNDER_LOAD,
                false => WHILE_IDLE,
            }
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
        let elapsed = now.saturating_sub(self.step_began);
        // To connect and to prepare costs the writers nothing.
        let took = step.as_ref().map_or(elapsed, |step| step.took);
        self.step_took = took.max(STEP_MIN);
        let Some(step) = step else {
            self.retry_at = now + self.retry.next_delay();
            return;
        };
        self.retry.reset();
        self.in_pass = !step.ends_pass;
        self.is_overdue = step.is_overdue;
        self.has_deleted = step.rows + step.dead_letters > 0;
        if step.ends_pass {
            self.overdue_passes = match step.is_overdue {
                true => self.overdue_passes.saturating_add(1),
                false => 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn step(ends_pass: bool, is_overdue: bool) -> Option<RetentionStep> {
        Some(RetentionStep {
            rows: 1,
            took: STEP_MIN,
            ends_pass,
            is_overdue,
            ..RetentionStep::default()
        })
    }

    /// The share of an hour that these steps take which are each `length` long.
    fn share(
        retention: &mut Retention,
        length: Duration,
        under_load: bool,
        step: Option<RetentionStep>,
    ) -> f64 {
        let step = step.map(|step| RetentionStep {
            took: length,
            ..step
        });
        let (mut now, mut busy) = (Duration::ZERO, Duration::ZERO);
        while now < HOUR {
            now = now.max(retention.due_at(under_load).unwrap_or(HOUR));
            retention.begin(now);
            now += length;
            busy += length;
            retention.ended(now, step.clone());
        }
        busy.as_secs_f64() / now.as_secs_f64()
    }

    #[test]
    fn steps_have_a_two_hundredth_of_the_time_and_more_only_while_rows_are_overdue() {
        let nothing = Some(RetentionStep::default());
        let cases = [
            (false, step(false, false), 0.005),
            (true, step(false, false), 1.0 / 300.0),
            (false, step(false, true), 0.04),
            (true, step(false, true), 0.04),
            (true, nothing, 0.02),
        ];
        for length in [MS * 3, MS * 8, MS * 45] {
            for (under_load, step, expected) in &cases {
                let mut retention = Retention::new(Some(HOUR * 24), None);
                let share = share(&mut retention, length, *under_load, step.clone());
                assert!((share / expected - 1.0).abs() < 0.01, "{length:?}: {share}");
            }
        }
    }

    #[test]
    fn a_table_that_stays_overdue_for_three_passes_has_a_fourth_until_it_is_not() {
        let mut retention = Retention::new(Some(HOUR), None);
        for (is_overdue, expected) in [
            (true, 0.04),
            (true, 0.04),
            (true, 0.25),
            (true, 0.25),
            (false, 0.005),
        ] {
            retention.begin(HOUR);
            retention.ended(HOUR, step(true, is_overdue));
            retention.step_ended = Duration::ZERO;
            retention.pass_began = None;
            let share = share(&mut retention, MS * 8, false, step(false, is_overdue));
            assert!((share / expected - 1.0).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn a_share_that_is_given_holds_whatever_the_state() {
        for (thousandths, expected) in [(1, 0.001), (25, 0.025), (500, 0.5)] {
            for (under_load, is_overdue) in [(true, false), (false, true)] {
                let mut retention = Retention::new(Some(HOUR * 24), Some(thousandths));
                let step = step(false, is_overdue);
                let share = share(&mut retention, MS * 8, under_load, step);
                assert!((share / expected - 1.0).abs() < 0.01, "{share}");
            }
        }
    }

    #[test]
    fn no_pause_is_longer_than_that_after_the_longest_step() {
        let mut retention = Retention::new(Some(HOUR), None);
        retention.begin(Duration::ZERO);
        retention.ended(MS * 25_000, None);
        assert_eq!(retention.due_at(true), Some(MS * 25_000 + PAUSE_MAX));
    }

    #[test]
    fn what_a_step_needs_to_connect_and_prepare_does_not_count() {
        let mut retention = Retention::new(Some(HOUR), None);
        retention.begin(Duration::ZERO);
        retention.ended(MS * 500, step(false, false));
        assert_eq!(
            retention.due_at(false),
            Some(MS * 500 + STEP_MIN * WHILE_IDLE)
        );
    }

    #[test]
    fn a_pass_begins_at_the_start_and_then_after_a_tenth_of_the_age_or_an_hour() {
        for (retain, interval) in [(HOUR, HOUR), (HOUR * 168, HOUR * 168 / 10)] {
            let mut retention = Retention::new(Some(retain), None);
            assert_eq!(retention.due_at(true), Some(Duration::ZERO));
            retention.begin(MS);
            retention.ended(MS * 5, step(true, false));
            assert_eq!(retention.due_at(false), Some(MS + interval), "{retain:?}");
            retention.begin(MS + interval);
            retention.ended(MS + interval * 3, step(true, false));
            let pause = MS + interval * 3 + STEP_MIN * UNDER_LOAD;
            assert_eq!(retention.due_at(true), Some(pause), "after a long pass");
        }
        assert_eq!(Retention::new(None, None).due_at(false), None);
    }

    #[test]
    fn a_step_that_fails_is_repeated_after_a_growing_delay_in_the_same_pass() {
        let mut retention = Retention::new(Some(HOUR), None);
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
        let due = now + MS * 10 + STEP_MIN * UNDER_LOAD;
        assert_eq!(retention.due_at(true), Some(due));
    }
}
