//! A pause on the board, and when it is logged. Pure: times are arguments.
//!
//! A pause is logged when it is first seen and when it is over. One that lasts longer than its
//! limit is a warning, repeated after growing times: a forgotten pause fills the server's disk.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::format::{age, bytes};
use crate::status::SlotHealth;

/// The times between two warnings. The last one repeats.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(900),
    Duration::from_secs(1_800),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];

/// A pause that a person has requested.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pause {
    /// Why, if the person has said so.
    pub reason: Option<String>,
    /// When it was requested, as the server prints it.
    pub since: String,
    /// By whom.
    pub by: String,
    /// For how long it has lasted.
    pub seconds: f64,
}

impl Pause {
    /// Such as `by alice for 3 min: migration`.
    pub(crate) fn describe(&self) -> String {
        let (by, time) = (&self.by, age(self.seconds));
        match &self.reason {
            Some(reason) => format!("by {by} for {time}: {reason}"),
            None => format!("by {by} for {time}"),
        }
    }
}

/// What a pause costs, in words: none without a slot.
pub(crate) fn cost(slot: Option<&SlotHealth>) -> Option<String> {
    let slot = slot?;
    let retained = bytes(slot.retained_bytes);
    Some(match (slot.seconds_until_lost, slot.safe_wal_size) {
        (Some(seconds), _) => {
            let left = age(seconds);
            format!("the slot retains {retained} of WAL, and is lost in {left} at this rate")
        }
        (None, Some(safe)) => {
            let safe = bytes(safe.max(0));
            format!("the slot retains {retained} of WAL, and is lost after {safe} more")
        }
        (None, None) => format!("the slot retains {retained} of WAL, without a limit"),
    })
}

/// A line that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Paused,
    Resumed { lasted: Duration },
    TooLong,
}

#[derive(Debug)]
struct Present {
    since: String,
    began: Instant,
    warned: usize,
    warned_at: Instant,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct PauseLog(Option<Present>);

impl PauseLog {
    /// The request was read: a pause and its limit, if there is one. Returns the lines that are
    /// due.
    pub(super) fn read(
        &mut self,
        now: Instant,
        pause: Option<(&Pause, Option<Duration>)>,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        let Some((pause, limit)) = pause else {
            let over = self.0.take();
            lines.extend(over.map(|over| Line::Resumed {
                lasted: now - over.began,
            }));
            return lines;
        };
        let lasted = Duration::try_from_secs_f64(pause.seconds).unwrap_or_default();
        // Another request takes the place of the earlier one, with its own reason and limit.
        if self.0.as_ref().is_none_or(|it| it.since != pause.since) {
            lines.push(Line::Paused);
            self.0 = Some(Present {
                since: pause.since.clone(),
                began: now.checked_sub(lasted).unwrap_or(now),
                warned: 0,
                warned_at: now,
            });
        }
        let is_late = limit.is_some_and(|limit| lasted >= limit);
        if let Some(present) = self.0.as_mut().filter(|_| is_late) {
            let pause = match present.warned {
                0 => Duration::ZERO,
                warned => PAUSES[(warned - 1).min(PAUSES.len() - 1)],
            };
            if now >= present.warned_at + pause {
                (present.warned, present.warned_at) = (present.warned + 1, now);
                lines.push(Line::TooLong);
            }
        }
        lines
    }

    /// For how long the pause has lasted.
    pub(super) fn lasted(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.0.as_ref()?.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn pause(since: &str, lasted: Duration) -> Pause {
        Pause {
            reason: None,
            since: since.to_owned(),
            by: "alice".to_owned(),
            seconds: lasted.as_secs_f64(),
        }
    }

    #[test]
    fn beginning_and_end_are_logged_once_and_another_request_again() {
        let (mut log, now) = (PauseLog::default(), Instant::now());
        let mut read = |pause: Option<&Pause>| log.read(now, pause.map(|it| (it, Some(HOUR))));
        assert_eq!(read(None), []);
        let (first, second) = (pause("1", Duration::ZERO), pause("2", Duration::ZERO));
        assert_eq!(read(Some(&first)), [Line::Paused]);
        assert_eq!(read(Some(&first)), []);
        assert_eq!(read(Some(&second)), [Line::Paused]);
        let lasted = Duration::ZERO;
        assert_eq!(read(None), [Line::Resumed { lasted }]);
        assert_eq!(read(None), []);
    }

    #[test]
    fn past_its_limit_it_is_a_warning_after_growing_times() {
        let (mut log, began) = (PauseLog::default(), Instant::now());
        let mut warned = Vec::new();
        for minutes in 0..60 * 24 {
            let lasted = Duration::from_secs(60 * minutes);
            let pause = pause("1", lasted);
            let lines = log.read(began + lasted, Some((&pause, Some(HOUR))));
            warned.extend(lines.contains(&Line::TooLong).then_some(minutes));
        }
        assert_eq!(warned, [60, 75, 105, 165, 525, 885, 1_245]);
        let mut log = PauseLog::default();
        let day = pause("1", HOUR * 24);
        assert_eq!(log.read(began, Some((&day, None))), [Line::Paused]);
    }
}
