//! The problem `somebody-else-publishes`: whether it stands, and when the log names it. Pure.
//!
//! Found rows arrive by batches, for as long as the other program runs. The problem stands until no
//! such row was found for [`STANDS`]. A log line names the number of rows since the line before;
//! the pauses between lines grow, and are short again once the problem has ended.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::write_back_queue::foreign_marks::MarkedByOther;
use crate::status::{Problem, SOMEBODY_ELSE_PUBLISHES};

/// Longer than a poller with a usual interval pauses, and than an alert has to last.
const STANDS: Duration = Duration::from_secs(600);
const LINE_PAUSE_FIRST: Duration = Duration::from_secs(60);
const LINE_PAUSE_CAP: Duration = Duration::from_secs(3600);

const HINT: &str = "find and stop the old poller: pg_stat_activity shows the sessions of other \
                    programs and their last statements; `outboxd cutover` takes the table from it";

/// See the module's head.
#[derive(Debug)]
pub(in crate::publisher) struct MarkingAlarm {
    /// Since the problem began.
    found: MarkedByOther,
    last: Option<Duration>,
    /// Rows that no line has named.
    unnamed: u64,
    next_line: Duration,
    pause: Backoff,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) struct MarkingLine {
    /// The rows since the line before.
    pub(in crate::publisher) count: u64,
    pub(in crate::publisher) problem: Problem,
}

impl Default for MarkingAlarm {
    fn default() -> Self {
        MarkingAlarm {
            found: MarkedByOther::default(),
            last: None,
            unnamed: 0,
            next_line: Duration::ZERO,
            pause: Backoff::new(LINE_PAUSE_FIRST, LINE_PAUSE_CAP),
        }
    }
}

impl MarkingAlarm {
    /// Another program has marked these rows.
    pub(in crate::publisher) fn found(&mut self, now: Duration, rows: MarkedByOther) {
        self.last = Some(now);
        self.unnamed += rows.count;
        self.found.add(rows);
    }

    /// The problem has just ended.
    pub(in crate::publisher) fn ends(&mut self, now: Duration) -> bool {
        let ends = self.last.is_some_and(|last| now >= last + STANDS);
        if ends {
            *self = MarkingAlarm::default();
        }
        ends
    }

    /// The line that is due.
    pub(in crate::publisher) fn line(&mut self, now: Duration) -> Option<MarkingLine> {
        if self.unnamed == 0 || now < self.next_line {
            return None;
        }
        self.next_line = now + self.pause.next_delay();
        let problem = self.problem()?;
        let count = std::mem::take(&mut self.unnamed);
        Some(MarkingLine { count, problem })
    }

    /// The problem, while it stands.
    pub(in crate::publisher) fn problem(&self) -> Option<Problem> {
        self.last?;
        let count = self.found.count;
        let rows = if count == 1 { "row" } else { "rows" };
        let example = self.found.example.as_ref();
        let example = example.map_or_else(String::new, |id| format!(", the last one with id {id}"));
        Some(Problem {
            name: SOMEBODY_ELSE_PUBLISHES,
            detail: format!(
                "another program has marked {count} {rows} whose events outboxd has sent{example}: \
                 consumers receive such events twice"
            ),
            hint: HINT.to_owned(),
            loses_events: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::RowId;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rows(count: u64) -> MarkedByOther {
        let example = Some(RowId::from(7));
        MarkedByOther { count, example }
    }

    #[test]
    fn the_problem_stands_until_no_row_was_found_for_ten_minutes() {
        let mut alarm = MarkingAlarm::default();
        assert_eq!(alarm.problem(), None);
        alarm.found(MINUTE, rows(2));
        alarm.found(MINUTE * 2, rows(3));
        let detail = alarm.problem().map(|problem| problem.detail);
        let detail = detail.unwrap_or_default();
        assert!(
            detail.contains("marked 5 rows") && detail.contains("id 7"),
            "{detail}"
        );
        assert!(!alarm.ends(MINUTE * 11) && alarm.problem().is_some());
        assert!(alarm.ends(MINUTE * 12));
        assert!(alarm.problem().is_none() && !alarm.ends(MINUTE * 30));
    }

    #[test]
    fn lines_count_every_row_and_their_pauses_grow_to_an_hour() {
        let mut alarm = MarkingAlarm::default();
        assert_eq!(alarm.line(MINUTE), None);
        let (mut lines, mut counted) = (Vec::new(), 0);
        for minute in 0..=300 {
            alarm.found(MINUTE * minute, rows(10));
            if let Some(line) = alarm.line(MINUTE * minute) {
                lines.push(minute);
                counted += line.count;
            }
        }
        assert_eq!(lines, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(counted, 2440);
    }
}
