//! The open dead letters as the status shows them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::format::age;

/// The open dead letters of an outbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OpenDeadLetters {
    /// How many, counted up to 100,000.
    pub open: i64,
    /// Age of the oldest of them.
    pub oldest_seconds: Option<f64>,
    /// How many are in each open state.
    pub states: BTreeMap<String, i64>,
    /// The largest groups, at most 20, the largest first.
    pub groups: Vec<DeadLetterGroup>,
}

/// Open dead letters of one state, topic and error code.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroup {
    /// `dead`, `parked`, `retry`, `discard`, `published-not-marked` or `skipped`.
    pub state: String,
    /// `None` if the events could not be read.
    pub topic: Option<String>,
    /// The error code.
    pub code: String,
    /// How many.
    pub count: i64,
    /// Age of the oldest of them.
    pub oldest_seconds: f64,
}

impl OpenDeadLetters {
    /// In words: how many, and how old the oldest is. `None` if there are none.
    pub fn describe(&self) -> Option<String> {
        let oldest = self.oldest_seconds.filter(|_| self.open > 0)?;
        Some(format!(
            "{} open, the oldest for {}",
            self.open,
            age(oldest)
        ))
    }
}

impl DeadLetterGroup {
    /// In words, such as `30 × ordrs TOPIC_UNKNOWN (dead)`.
    pub fn describe(&self) -> String {
        let topic = self.topic.as_deref().unwrap_or("?");
        format!("{} × {topic} {} ({})", self.count, self.code, self.state)
    }

    /// A group as it was read.
    pub(crate) fn new(
        state: String,
        topic: Option<String>,
        code: String,
        count: i64,
        oldest_seconds: f64,
    ) -> Self {
        DeadLetterGroup {
            state,
            topic,
            code,
            count,
            oldest_seconds,
        }
    }
}
