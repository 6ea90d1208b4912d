//! When filed dead letters are logged: the first of a topic and error code at once, and from then
//! on one line each ten seconds with their number. Pure: it returns the lines.
//!
//! A missing topic files a thousand events a minute; a line for each would hide all others.
//! Bounded: topics beyond the first hundred share one line for each code.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::outbox::RowId;

/// The time between two lines of a topic and code.
const PAUSE: Duration = Duration::from_secs(10);
const GROUPS_MAX: usize = 100;
/// Stands for the topics beyond [`GROUPS_MAX`].
const OTHER: &str = "(other)";

/// One line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FilingLine {
    pub(crate) topic: String,
    pub(crate) code: String,
    /// How many were filed since the last line.
    pub(crate) count: u64,
    /// The row of the last one, and its error.
    pub(crate) event_id: Option<RowId>,
    pub(crate) error: String,
}

#[derive(Debug)]
struct Group {
    /// When its next line may be written.
    next: Duration,
    count: u64,
    event_id: Option<RowId>,
    error: String,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct FilingLog {
    groups: BTreeMap<(String, String), Group>,
}

impl FilingLog {
    /// A dead letter was filed.
    pub(crate) fn filed(
        &mut self,
        now: Duration,
        topic: &str,
        code: &str,
        event_id: Option<RowId>,
        error: &str,
    ) {
        let name = (topic.to_owned(), code.to_owned());
        let has_room = self.groups.len() < GROUPS_MAX || self.groups.contains_key(&name);
        let name = match has_room {
            true => name,
            false => (OTHER.to_owned(), code.to_owned()),
        };
        let group = self.groups.entry(name).or_insert_with(|| Group {
            next: now,
            count: 0,
            event_id: None,
            error: String::new(),
        });
        group.count += 1;
        group.event_id = event_id;
        error.clone_into(&mut group.error);
    }

    /// The lines that are due. Forgets what was not filed for some time.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<FilingLine> {
        self.groups
            .retain(|_, group| group.count > 0 || group.next > now);
        let due = self.groups.iter_mut();
        let due = due.filter(|(_, group)| group.count > 0 && group.next <= now);
        due.map(|((topic, code), group)| {
            group.next = now + PAUSE;
            FilingLine {
                topic: topic.clone(),
                code: code.clone(),
                count: std::mem::take(&mut group.count),
                event_id: group.event_id.take(),
                error: std::mem::take(&mut group.error),
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn counts(log: &mut FilingLog, now: Duration) -> Vec<(String, u64)> {
        let lines = log.due(now).into_iter();
        lines.map(|line| (line.topic, line.count)).collect()
    }

    #[test]
    fn the_first_is_logged_at_once_and_the_others_together_ten_seconds_later() {
        let mut log = FilingLog::default();
        log.filed(S, "a", "TOPIC_UNKNOWN", Some(1.into()), "no topic");
        let first = log.due(S);
        let expected = FilingLine {
            topic: "a".to_owned(),
            code: "TOPIC_UNKNOWN".to_owned(),
            count: 1,
            event_id: Some(1.into()),
            error: "no topic".to_owned(),
        };
        assert_eq!(first, [expected]);
        for second in 2..=11 {
            log.filed(S * second, "a", "TOPIC_UNKNOWN", None, "no topic");
            let expected = if second < 11 {
                vec![]
            } else {
                vec![("a".to_owned(), 10)]
            };
            assert_eq!(counts(&mut log, S * second), expected);
        }
        log.filed(S * 12, "b", "TOPIC_UNKNOWN", None, "");
        assert_eq!(counts(&mut log, S * 12), [("b".to_owned(), 1)]);
        assert_eq!(counts(&mut log, S * 60), []);
        assert!(log.groups.is_empty());
    }

    #[test]
    fn topics_beyond_the_limit_share_a_line() {
        let mut log = FilingLog::default();
        for number in 0..1_000 {
            log.filed(S, &format!("t{number}"), "TOPIC_INVALID", None, "");
        }
        let lines = counts(&mut log, S);
        assert_eq!(lines.len(), GROUPS_MAX + 1);
        assert_eq!(lines[0], (OTHER.to_owned(), 900));
    }
}
