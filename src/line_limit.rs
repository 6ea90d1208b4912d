//! Which of the lines that repeat are logged. Pure: the time is an argument.
//!
//! A line is known by its text, or by a name for all lines of its kind. It is logged once a minute.
//! Of more lines than are remembered, the others are not logged.

use std::time::{Duration, Instant};

/// How often one line is logged.
const INTERVAL: Duration = Duration::from_secs(60);
/// The most lines that are remembered.
const LINES_MAX: usize = 8;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct LineLimit(Vec<Line>);

#[derive(Debug)]
struct Line {
    name: String,
    logged_at: Instant,
    suppressed: u64,
}

impl LineLimit {
    /// If this line may be logged now, how often it was suppressed since it was last logged.
    pub(crate) fn admit(&mut self, name: &str, now: Instant) -> Option<u64> {
        let recent = |line: &Line| now < line.logged_at + INTERVAL;
        if let Some(line) = self.0.iter_mut().find(|line| line.name == name) {
            if recent(line) {
                line.suppressed += 1;
                return None;
            }
            line.logged_at = now;
            return Some(std::mem::take(&mut line.suppressed));
        }
        if self.0.len() >= LINES_MAX {
            self.0.retain(recent);
        }
        if self.0.len() >= LINES_MAX {
            return None;
        }
        self.0.push(Line {
            name: name.to_owned(),
            logged_at: now,
            suppressed: 0,
        });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_a_minute_and_the_rest_is_counted() {
        let mut limit = LineLimit::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(limit.admit("FAIL", start), Some(0));
        for _ in 0..7 {
            assert_eq!(limit.admit("FAIL", start + second), None);
        }
        assert_eq!(limit.admit("GETPID", start + second), Some(0));
        assert_eq!(limit.admit("FAIL", start + INTERVAL), Some(7));
        assert_eq!(limit.admit("FAIL", start + INTERVAL + INTERVAL), Some(0));
    }

    #[test]
    fn lines_that_differ_each_time_do_not_fill_the_log() {
        let mut limit = LineLimit::default();
        let start = Instant::now();
        let logged = |limit: &mut LineLimit, from: usize, now| {
            let names = (from..from + 1_000).map(|n| n.to_string());
            names
                .filter(|name| limit.admit(name, now).is_some())
                .count()
        };
        assert_eq!(logged(&mut limit, 0, start), LINES_MAX);
        assert_eq!(logged(&mut limit, 1_000, start + INTERVAL), LINES_MAX);
    }
}
