//! How the columns of the outbox table become records: which column has which meaning, and where
//! topic, key, value, partition, timestamp and headers of a record come from.
//!
//! A [`Mapping`] is part of the configuration and never changes. Its settings are read here too,
//! with the presets that give their defaults. Whether the table has the columns is not known here:
//! the preflight check compares both.

mod check;
mod column_names;
mod columns;
mod list;
mod merge;
mod parse;
mod presets;
mod row_filter;
mod rules;
mod template;
mod where_clause;

pub use self::column_names::{ColumnName, ColumnNames, HeadersColumn, MarkedColumn, NamedColumn};
pub(in crate::config) use self::merge::with_preset;
pub use self::row_filter::{Condition, RowFilter, Test};
pub use self::rules::{
    HeaderStyle, KeyRule, NullPayload, PartitionRule, TimestampRule, TopicMap, TopicRule, ValueRule,
};
pub use self::template::{Piece, Template};
pub(in crate::config) use self::where_clause::row_filter as conditions;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapping {
    /// The meanings of the columns.
    pub columns: ColumnNames,
    /// Where a record's topic comes from.
    pub topic: TopicRule,
    /// The topics by what [`topic`](Mapping::topic) gives; empty if that is the topic itself.
    pub topics: TopicMap,
    /// Where a record's key comes from.
    pub key: KeyRule,
    /// Where a record's value comes from.
    pub value: ValueRule,
    /// What becomes of an event whose value is null.
    pub null_payload: NullPayload,
    /// How a record's partition is chosen.
    pub partition: PartitionRule,
    /// Where a record's timestamp comes from.
    pub timestamp: TimestampRule,
    /// The headers that outboxd adds.
    pub headers: HeaderStyle,
    /// The rows that are messages.
    pub filter: RowFilter,
    /// The value of the header `outbox_source_id`, and of CloudEvents' `source`.
    pub source_id: String,
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping {
            columns: ColumnNames::default(),
            topic: TopicRule::Column("topic".to_owned()),
            topics: TopicMap::default(),
            key: KeyRule::Column("event_type".to_owned()),
            value: ValueRule::Payload,
            null_payload: NullPayload::DeadLetter,
            partition: PartitionRule::Key,
            timestamp: TimestampRule::Now,
            headers: HeaderStyle::Outboxd,
            filter: RowFilter::default(),
            source_id: String::new(),
        }
    }
}

impl Mapping {
    /// The columns that a record needs beside those of [`ColumnNames`], each once: those that
    /// rules, templates, headers, the envelope and the filter name.
    ///
    /// Their values are [`Event::extras`](crate::outbox::Event::extras), in this order.
    pub(crate) fn extra_columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        let mut add = |name| {
            if !columns.contains(&name) {
                columns.push(name);
            }
        };
        match &self.topic {
            TopicRule::Column(_) => {}
            TopicRule::Template(template) => template.columns().for_each(&mut add),
        }
        if let Some(other) = &self.topics.other {
            other.columns().for_each(&mut add);
        }
        if let KeyRule::Template(template) = &self.key {
            template.columns().for_each(&mut add);
        }
        if let PartitionRule::Column(name) = &self.partition {
            add(name);
        }
        if let TimestampRule::Column(name) = &self.timestamp {
            add(name);
        }
        let named = self.columns.header_columns.iter();
        for column in named.chain(&self.columns.envelope) {
            add(&column.column);
        }
        for condition in &self.filter.conditions {
            add(&condition.column);
        }
        columns
    }
}
