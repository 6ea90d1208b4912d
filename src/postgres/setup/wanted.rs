//! What is wanted of the database, by the configuration and the arguments of `init`.

use crate::config::mapping::{ColumnName, ColumnNames, TopicRule};
use crate::config::{AfterPublish, Config, KeyRule, Source};
use crate::postgres::table_shape::{TIMESTAMP, TableShape, identifier};

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
    /// Whether a table that is created is partitioned by time, and by which period.
    pub partitioned: Option<PartitionPeriod>,
}

/// The period of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionPeriod {
    /// A day.
    Day,
    /// An hour.
    Hour,
}

impl Setup<'_> {
    /// The publication; polling needs neither one nor a role with REPLICATION.
    pub(super) fn publication(&self) -> Option<&str> {
        (self.config.source == Source::Slot).then_some(self.config.publication.as_str())
    }

    /// Whether the table's columns are those of `outbox.outbox`: outboxd can create such a table,
    /// and knows its constraints and functions.
    pub(super) fn is_conventional(&self) -> bool {
        let default = ColumnNames::default();
        let columns = &self.config.mapping.columns;
        let topic = TopicRule::Column("topic".to_owned());
        columns.id == default.id
            && columns.payload == default.payload
            && columns.event_type == default.event_type
            && self.config.mapping.topic == topic
    }

    /// The shape that the table has by the configuration, for SQL that is written without a look at
    /// it: the mark counts as a time.
    pub(super) fn assumed_shape(&self) -> TableShape {
        let mapping = &self.config.mapping;
        let columns = &mapping.columns;
        let times = [&columns.created, &columns.published.column];
        let times = times.into_iter().filter_map(ColumnName::as_deref);
        let ids = columns.id.iter().map(String::as_str);
        let mut assumed: Vec<(&str, &str)> = ids.map(|name| (name, "bigint")).collect();
        assumed.extend(times.map(|name| (name, TIMESTAMP)));
        assumed.extend(columns.order.as_deref().map(|name| (name, "bigint")));
        assumed.extend(columns.attempts.as_deref().map(|name| (name, "integer")));
        let table = self.config.table.clone();
        TableShape::assumed(table, 0, &assumed, mapping.clone())
    }

    /// The columns that outboxd writes, by the configuration. A row can be locked only by a role
    /// that may update one of its columns.
    pub(super) fn written_columns(&self) -> Vec<String> {
        let columns = &self.config.mapping.columns;
        let written = [&columns.attempts, &columns.published.column];
        let written = written.into_iter().filter_map(ColumnName::as_deref);
        let written: Vec<String> = written.map(identifier).collect();
        match written.is_empty() {
            true => columns.id.iter().map(|name| identifier(name)).collect(),
            false => written,
        }
    }

    pub(super) fn deletes(&self) -> bool {
        self.config.after_publish == AfterPublish::Delete || self.retains()
    }

    /// Whether old rows are deleted, and closed dead letters.
    pub(super) fn retains(&self) -> bool {
        self.config.retain.is_some()
    }

    /// The column that records take their key from, if it is none of the others.
    pub(super) fn key_column(&self) -> &str {
        match &self.config.mapping.key {
            KeyRule::Column(name) if !COLUMNS_OF_EVENTS.contains(&name.as_str()) => name,
            _ => KEY,
        }
    }
}
