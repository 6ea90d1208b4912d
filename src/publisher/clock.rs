//! The time that the engine is given, and the sign that it stood still.
//!
//! The server gives the lock to another instance after thirty seconds of silence, by its own clock.
//! So the time here also passes while the machine is suspended. A virtual machine that is paused
//! has no clock that goes on; its wall clock is set afterwards, and such a jump means that the lock
//! may be gone. Beside that the wall clock is compared with the times of records that have their
//! own, and decides nothing else. A jump backwards means nothing.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// The wall clock has to gain more than this on the other one. A third of the silence after which
/// the server gives the lock away: two corrections of a time server between two status updates are
/// still harmless.
const JUMP: Duration = Duration::from_secs(10);

/// Counts the time of suspension, which [`std::time::Instant`] does not count on Linux.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// It counts that time here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// One reading of both clocks.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Since some moment in the past.
    steady: Duration,
    wall: SystemTime,
}

/// A moment, for what an answer of the server proves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    /// The time.
    pub(crate) at: Duration,
    /// How often the clock has jumped until then: an answer from before a jump proves nothing.
    pub(crate) jumps: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Clock {
    born: Duration,
    last: Reading,
    jumps: u64,
}

impl Clock {
    /// The time is zero now.
    pub(crate) fn new() -> Self {
        let last = Reading::now();
        Clock {
            born: last.steady,
            last,
            jumps: 0,
        }
    }

    /// The time since the clock was made, and whether the wall clock has jumped since the last
    /// call.
    pub(crate) fn tick(&mut self) -> (Duration, bool) {
        let now = Reading::now();
        let jumped = has_jumped(self.last, now);
        self.last = now;
        self.jumps += u64::from(jumped);
        (now.steady.saturating_sub(self.born), jumped)
    }

    /// The time since the clock was made.
    pub(crate) fn elapsed(&self) -> Duration {
        steady().saturating_sub(self.born)
    }

    /// The wall clock at the last [`tick`](Clock::tick), in milliseconds since 1970.
    pub(crate) fn unix_millis(&self) -> i64 {
        let since = self.last.wall.duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
    }

    /// How often the wall clock has jumped.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps
    }
}

impl Reading {
    fn now() -> Self {
        Reading {
            steady: steady(),
            wall: SystemTime::now(),
        }
    }
}

fn steady() -> Duration {
    let time = clock_gettime(CLOCK);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

fn has_jumped(before: Reading, now: Reading) -> bool {
    let steady = now.steady.saturating_sub(before.steady);
    let wall = now.wall.duration_since(before.wall).unwrap_or_default();
    wall > steady + JUMP
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(steady: u64, wall: u64) -> Reading {
        Reading {
            steady: SECOND * steady as u32,
            wall: SystemTime::UNIX_EPOCH + SECOND * wall as u32,
        }
    }

    #[test]
    fn only_a_wall_clock_that_gains_on_the_steady_one_has_jumped() {
        assert!(!has_jumped(at(5, 1_000), at(6, 1_001)));
        // The machine was suspended: both clocks show it.
        assert!(!has_jumped(at(5, 1_000), at(905, 1_900)));
        // It was paused: only the wall clock was set afterwards.
        assert!(has_jumped(at(5, 1_000), at(6, 1_031)));
        assert!(!has_jumped(at(5, 1_000), at(6, 1_011)));
        assert!(!has_jumped(at(5, 1_000), at(6, 500)));
    }

    #[test]
    fn the_clock_begins_at_zero_and_goes_on() {
        let mut clock = Clock::new();
        let (first, jumped) = clock.tick();
        assert!(!jumped && first < SECOND);
        assert!(clock.elapsed() >= first);
        assert_eq!(clock.jumps(), 0);
    }
}
