//! The settings of exactly once, and what does not go with it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::check::Check;
use crate::config::error::InvalidValue;
use crate::config::settings::Settings;
use crate::config::{parse, variables};
use crate::error::shown;
use crate::lsn::Lsn;
use crate::topic_name::TopicName;

/// Why a start with exactly once is refused. Only a person can know what is right then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The slot exists, and Kafka has no progress record of it.
    NoProgress,
    /// The slot was moved past the progress record.
    SlotAhead,
    /// The slot is gone, and Kafka has a progress record of it.
    SlotMissing,
    /// The server's WAL ends before the progress record.
    WalBehind,
    /// The progress record is behind the point where the server's timeline began.
    TimelineLost,
    /// The progress record belongs to a timeline that the server's history does not have.
    OtherTimeline,
    /// The stream does not contain the transactions that the progress record names.
    OtherHistory,
    /// Part of the stream was decoded with another publication.
    OtherPublication,
}

impl RefusalKind {
    /// All kinds, with their names.
    pub(crate) const ALL: [(RefusalKind, &str); 8] = [
        (RefusalKind::NoProgress, "no-progress"),
        (RefusalKind::SlotAhead, "slot-ahead"),
        (RefusalKind::SlotMissing, "slot-missing"),
        (RefusalKind::WalBehind, "wal-behind"),
        (RefusalKind::TimelineLost, "timeline-lost"),
        (RefusalKind::OtherTimeline, "other-timeline"),
        (RefusalKind::OtherHistory, "other-history"),
        (RefusalKind::OtherPublication, "other-publication"),
    ];

    /// The answer to such a refusal at this position.
    pub(crate) fn at(self, at: Lsn) -> Answer {
        Answer { kind: self, at }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = RefusalKind::ALL.iter().find(|(kind, _)| kind == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

/// A person's answer to a refusal: its kind and its position, as in `slot-ahead@0/15222B8`. So the
/// answer to one case never answers another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What was refused.
    pub(crate) kind: RefusalKind,
    /// The position that the refusal named.
    pub(crate) at: Lsn,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind, self.at)
    }
}

impl FromStr for Answer {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = || {
            InvalidValue::new(
                format!("{} answers no refused start", shown(text)),
                "write what the refusal says, such as slot-ahead@0/15222B8",
            )
        };
        let (name, at) = text.split_once('@').ok_or_else(wrong)?;
        let named = RefusalKind::ALL.iter().find(|(_, it)| *it == name);
        let (kind, _) = named.ok_or_else(wrong)?;
        let at = at.parse().map_err(|_| wrong())?;
        Ok(kind.at(at))
    }
}

/// The settings of exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExactlyOnce {
    /// The time between two Kafka transactions, while events come.
    pub(crate) commit_interval: Duration,
    /// The compacted topic of the progress records.
    pub(crate) progress_topic: String,
    /// What a person has answered to a refused start.
    pub(crate) answer: Option<Answer>,
}

impl Check {
    /// The settings of exactly once; `None` at least once. Sets the defaults of others that differ
    /// with it.
    pub(super) fn exactly_once(&mut self, given: &mut Settings) -> Option<ExactlyOnce> {
        let choices = [("at-least-once", false), ("exactly-once", true)];
        let delivery = given.delivery.take();
        let is_on = self.or(variables::DELIVERY, delivery, false, |text| {
            parse::choice(text, &choices)
        });
        let interval = given.commit_interval.take();
        let default = Duration::from_millis(50);
        let commit_interval = self.or(variables::COMMIT_INTERVAL, interval, default, |text| {
            parse::duration(text, Duration::from_millis(1)..=Duration::from_secs(5))
        });
        let topic = given.progress_topic.take();
        let default = "outboxd-progress".to_owned();
        let progress_topic = self.or(variables::PROGRESS_TOPIC, topic, default, |text| {
            let checked = TopicName::new(text).map(|_| text.to_owned());
            checked.map_err(|error| InvalidValue::new(error.to_string(), "write another name"))
        });
        let answer = self.or(variables::ACCEPT, given.accept.take(), None, |text| {
            text.parse().map(Some)
        });
        if !is_on {
            return None;
        }
        self.conflicts(given);
        given.on_slot_loss.get_or_insert_with(|| "halt".to_owned());
        Some(ExactlyOnce {
            commit_interval,
            progress_topic,
            answer,
        })
    }

    fn conflicts(&mut self, given: &Settings) {
        let is =
            |given: &Option<String>, value| given.as_ref().is_some_and(|it| it.trim() == value);
        if is(&given.source, "poll") {
            let problem = "cannot be poll with OUTBOX_DELIVERY=exactly-once";
            let why = "only the stream has positions that a progress record can name";
            let wrong = InvalidValue::new(problem, why);
            self.errors.push(wrong.of(variables::SOURCE));
        }
        let has_own_headers = given.headers.is_none() || is(&given.headers, "outboxd");
        if is(&given.on_slot_loss, "heal") && !has_own_headers {
            let problem = "cannot be heal with OUTBOX_DELIVERY=exactly-once and other headers than \
                           outboxd's";
            let why = "set OUTBOX_HEADERS=outboxd: they show which rows Kafka has, where no mark \
                       does";
            let wrong = InvalidValue::new(problem, why);
            self.errors.push(wrong.of(variables::ON_SLOT_LOSS));
        }
    }
}
