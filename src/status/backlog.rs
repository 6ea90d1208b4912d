//! A backlog: rows or WAL that were there before this process, or gathered in an outage. When it is
//! one, how far it is, and when it is over. Pure: times and amounts are arguments.
//!
//! It is logged when it begins, every five seconds and later less often, and when it is over. With
//! a slot it is known from the bytes of WAL that the slot lacks, without one from counted rows.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::format::{age, bytes, count};

/// So much WAL behind is a backlog.
const WAL_MIN: u64 = 32 << 20;
/// Less WAL behind than this is none any more.
const WAL_OVER: u64 = 1 << 20;
/// The pause between two lines at first.
const PAUSE: Duration = Duration::from_secs(5);
/// The pause once it has lasted for [`LONG`].
const LONG_PAUSE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);

/// A backlog that is being sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BacklogProgress {
    /// `rows` of the table, or `bytes` of WAL.
    pub unit: BacklogUnit,
    /// How much there was; more if it has grown.
    pub total: u64,
    /// Whether there is more than `total`, because it was counted up to a limit.
    pub is_more: bool,
    /// How much is left.
    pub left: u64,
    /// How fast it shrinks.
    pub per_second: f64,
    /// For how long it has been sent.
    pub seconds: f64,
}

/// What a backlog is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum BacklogUnit {
    /// Rows of the table.
    Rows,
    /// Bytes of WAL.
    Bytes,
}

impl BacklogProgress {
    /// The time that is left at the present rate, if it is known.
    pub fn seconds_left(&self) -> Option<f64> {
        let is_known = self.per_second > 0.0 && !self.is_more;
        is_known.then(|| self.left as f64 / self.per_second)
    }
}

impl fmt::Display for BacklogProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.total.saturating_sub(self.left);
        let total = amount(self, self.total);
        if !self.is_more {
            write!(f, "{} %, ", done * 100 / self.total.max(1))?;
        }
        match self.unit {
            BacklogUnit::Rows => write!(f, "{done} of {total}, {:.0}/s", self.per_second)?,
            BacklogUnit::Bytes => {
                let rate = bytes(self.per_second as u64);
                write!(f, "{} of {total}, {rate}/s", bytes(done))?;
            }
        }
        match self.seconds_left() {
            Some(seconds) => write!(f, ", {} left", age(seconds)),
            None => Ok(()),
        }
    }
}

/// The lines about backlogs.
#[derive(Debug, Default)]
pub(crate) struct BacklogLog {
    present: Option<Present>,
}

#[derive(Debug)]
struct Present {
    backlog: BacklogProgress,
    began: Instant,
    line_at: Instant,
    /// What was left at the last line.
    line_left: u64,
    /// Events that were published before it began.
    published: u64,
}

impl BacklogLog {
    /// The backlog as it was when the figures were last read.
    pub(super) fn present(&self) -> Option<BacklogProgress> {
        self.present.as_ref().map(|present| present.backlog.clone())
    }

    /// Rows were counted that are to be sent, of which there may be more, when so many events had
    /// been published.
    pub(crate) fn rows(
        &mut self,
        now: Instant,
        count: u64,
        is_more: bool,
        published: u64,
    ) -> Option<String> {
        if count == 0 {
            return None;
        }
        let line = self.begin(now, BacklogUnit::Rows, count, is_more);
        self.present.as_mut()?.published = published;
        Some(line)
    }

    /// So many events have been published since the start.
    pub(super) fn published(&mut self, now: Instant, published: u64) -> Option<String> {
        let present = self.present.as_ref();
        let rows = present.filter(|present| present.backlog.unit == BacklogUnit::Rows)?;
        let sent = published.saturating_sub(rows.published);
        let left = rows.backlog.total.saturating_sub(sent);
        self.left(now, left)
    }

    /// So much WAL is behind the slot.
    pub(super) fn wal(&mut self, now: Instant, lag: u64) -> Option<String> {
        match self.present.as_ref().map(|present| present.backlog.unit) {
            Some(BacklogUnit::Rows) => None,
            Some(BacklogUnit::Bytes) if lag < WAL_OVER => self.over(now),
            Some(BacklogUnit::Bytes) => self.left(now, lag),
            None if lag >= WAL_MIN => Some(self.begin(now, BacklogUnit::Bytes, lag, false)),
            None => None,
        }
    }

    /// The rows have been sent.
    pub(crate) fn rows_over(&mut self, now: Instant) -> Option<String> {
        let present = self.present.as_ref()?;
        match present.backlog.unit {
            BacklogUnit::Rows => self.over(now),
            BacklogUnit::Bytes => None,
        }
    }

    /// The session is over; the next one counts again. No line is due.
    pub(super) fn forget(&mut self) -> Option<String> {
        self.present = None;
        None
    }

    fn begin(&mut self, now: Instant, unit: BacklogUnit, total: u64, is_more: bool) -> String {
        let backlog = BacklogProgress {
            unit,
            total,
            is_more,
            left: total,
            per_second: 0.0,
            seconds: 0.0,
        };
        let text = match unit {
            BacklogUnit::Rows => format!("backlog: {} to send", amount(&backlog, total)),
            BacklogUnit::Bytes => format!("backlog: {} of WAL behind", bytes(total)),
        };
        self.present = Some(Present {
            backlog,
            began: now,
            line_at: now,
            line_left: total,
            published: 0,
        });
        text
    }

    fn left(&mut self, now: Instant, left: u64) -> Option<String> {
        let present = self.present.as_mut()?;
        let backlog = &mut present.backlog;
        backlog.seconds = (now - present.began).as_secs_f64();
        backlog.left = left;
        backlog.total = backlog.total.max(left);
        let since_line = now - present.line_at;
        let pause = match now - present.began {
            lasted if lasted > LONG => LONG_PAUSE,
            _ => PAUSE,
        };
        if since_line < pause {
            return None;
        }
        let shrunk = present.line_left.saturating_sub(left);
        backlog.per_second = shrunk as f64 / since_line.as_secs_f64();
        (present.line_at, present.line_left) = (now, left);
        Some(format!("backlog: {backlog}"))
    }

    fn over(&mut self, now: Instant) -> Option<String> {
        let Present { backlog, began, .. } = self.present.take()?;
        let time = age((now - began).as_secs_f64());
        let total = amount(&backlog, backlog.total);
        Some(format!("backlog: caught up in {time}, {total}"))
    }
}

fn amount(backlog: &BacklogProgress, number: u64) -> String {
    let more = if backlog.is_more { "more than " } else { "" };
    match backlog.unit {
        BacklogUnit::Rows => format!("{more}{}", count(number, "row")),
        BacklogUnit::Bytes => bytes(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rows_are_told_when_counted_every_five_seconds_and_when_they_are_sent() {
        let (mut log, start) = (BacklogLog::default(), Instant::now());
        let first = log.rows(start, 200_000, false, 7);
        assert_eq!(first.as_deref(), Some("backlog: 200000 rows to send"));
        let mut lines = Vec::new();
        for second in 1..=14 {
            let published = 7 + 13_400 * u64::from(second);
            lines.extend(log.published(start + SECOND * second, published));
        }
        let expected = [
            "backlog: 33 %, 67000 of 200000 rows, 13400/s, 9 s left",
            "backlog: 67 %, 134000 of 200000 rows, 13400/s, 4 s left",
        ];
        assert_eq!(lines, expected);
        let over = log.rows_over(start + SECOND * 15);
        let text = "backlog: caught up in 15 s, 200000 rows";
        assert_eq!(over.as_deref(), Some(text));
        assert_eq!(log.rows_over(start + SECOND * 16), None);
        assert_eq!(log.rows(start, 0, false, 0), None);
    }

    #[test]
    fn rows_that_were_not_counted_to_the_end_have_no_time_left() {
        let (mut log, start) = (BacklogLog::default(), Instant::now());
        let first = log.rows(start, 1_000_000, true, 0);
        let text = "backlog: more than 1000000 rows to send";
        assert_eq!(first.as_deref(), Some(text));
        let line = log.published(start + SECOND * 5, 1_500_000);
        let text = "backlog: 1000000 of more than 1000000 rows, 200000/s";
        assert_eq!(line.as_deref(), Some(text));
    }

    #[test]
    fn wal_is_a_backlog_above_one_limit_and_none_below_another() {
        let (mut log, start) = (BacklogLog::default(), Instant::now());
        assert_eq!(log.wal(start, WAL_MIN - 1), None);
        let first = log.wal(start, 300 << 20);
        assert_eq!(first.as_deref(), Some("backlog: 300.0 MiB of WAL behind"));
        assert_eq!(log.wal(start + SECOND, 280 << 20), None);
        let line = log.wal(start + SECOND * 5, 150 << 20);
        let text = "backlog: 50 %, 150.0 MiB of 300.0 MiB, 30.0 MiB/s, 5 s left";
        assert_eq!(line.as_deref(), Some(text));
        assert_eq!(log.rows_over(start), None);
        let over = log.wal(start + SECOND * 10, 1_000);
        let text = "backlog: caught up in 10 s, 300.0 MiB";
        assert_eq!(over.as_deref(), Some(text));
        assert_eq!(log.present(), None);
    }

    #[test]
    fn one_that_grows_for_hours_does_not_fill_the_log() {
        let (mut log, start) = (BacklogLog::default(), Instant::now());
        let lag = |second: u32| (100 << 20) + u64::from(second);
        let at = |second| start + SECOND * second;
        let lines = (0..7_200).filter_map(|second| log.wal(at(second), lag(second)));
        let lines: Vec<String> = lines.collect();
        assert!((100..200).contains(&lines.len()), "{} lines", lines.len());
        assert!(lines[1].ends_with("0 bytes/s"), "{}", lines[1]);
    }
}
