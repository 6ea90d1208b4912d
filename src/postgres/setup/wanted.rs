//! What is wanted of the database, by the configuration and the arguments of `init`.

use crate::config::{AfterPublish, Config, KeyRule, Source};

/// Columns that have a meaning of their own, so that the function has no further argument for them.
pub(super) const COLUMNS_OF_EVENTS: [&str; 8] = [
    "id",
    "event_type",
    "topic",
    "event_payload",
    "created_at",
    "times_attempted",
    "published_at",
    "headers",
];

/// The column for keys where the configuration names none.
const KEY: &str = "key";

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The outbox, its publication, and what is done with published rows.
    pub config: &'a Config,
    /// The role that outboxd will connect as, if `init` looks after it.
    pub role: Option<&'a str>,
    /// The role of the login for replication, if that is another one.
    pub replication_role: Option<&'a str>,
    /// Whether constraints of the table reject events that can never be published.
    pub checks: bool,
}

impl Setup<'_> {
    /// The publication; polling needs neither one nor a role with REPLICATION.
    pub(super) fn publication(&self) -> Option<&str> {
        (self.config.source == Source::Slot).then_some(self.config.publication.as_str())
    }

    pub(super) fn deletes(&self) -> bool {
        self.config.after_publish == AfterPublish::Delete
    }

    /// The column that records take their key from, if it is none of the others.
    pub(super) fn key_column(&self) -> &str {
        match &self.config.mapping.key {
            KeyRule::Column(name) if !COLUMNS_OF_EVENTS.contains(&name.as_str()) => name,
            _ => KEY,
        }
    }
}
