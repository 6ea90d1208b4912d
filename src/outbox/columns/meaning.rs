//! Which columns of a table have which meanings: compares the names of a mapping with the columns
//! that the table has.
//!
//! One column may have several meanings. A column that a setting names has to be there, and so do
//! those without which no row is an event; any other column may be absent.

use crate::config::Mapping;
use crate::config::mapping::{
    ColumnName, KeyRule, PartitionRule, RowFilter, TimestampRule, TopicRule,
};
use crate::error::{Code, Error, Result};

/// The most columns that an error lists.
const LISTED_MAX: usize = 40;

/// What a column's value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Other,
    Id,
    /// This part of a composite id.
    IdPart(usize),
    EventType,
    Topic,
    Payload,
    Created,
    Published,
    Headers,
    Key,
    /// The extra column of this index.
    Extra(usize),
}

/// The meanings of the columns of this name, in a fixed order.
pub(super) fn of_column(mapping: &Mapping, extras: &[&str], name: &str) -> Vec<Meaning> {
    let columns = &mapping.columns;
    let mut meanings = Vec::new();
    if let Some(part) = columns.id.iter().position(|it| it == name) {
        meanings.push(match columns.id.len() {
            1 => Meaning::Id,
            _ => Meaning::IdPart(part),
        });
    }
    let mut add = |is_such: bool, meaning| {
        if is_such {
            meanings.push(meaning);
        }
    };
    let is = |column: &ColumnName| column.as_deref() == Some(name);
    let of_topic = matches!(&mapping.topic, TopicRule::Column(column) if column == name);
    let of_key = matches!(&mapping.key, KeyRule::Column(column) if column == name);
    add(is(&columns.event_type), Meaning::EventType);
    add(of_topic, Meaning::Topic);
    add(columns.payload == name, Meaning::Payload);
    add(is(&columns.created), Meaning::Created);
    add(is(&columns.published.column), Meaning::Published);
    add(is(&columns.headers.column), Meaning::Headers);
    add(of_key, Meaning::Key);
    if let Some(extra) = extras.iter().position(|it| *it == name) {
        add(true, Meaning::Extra(extra));
    }
    meanings
}

/// How many of the extra columns a record needs. They come before those of the filter.
pub(super) fn sent_extras(mapping: &Mapping) -> usize {
    let mut unfiltered = mapping.clone();
    unfiltered.filter = RowFilter::default();
    unfiltered.extra_columns().len()
}

/// Checks that the table has every column that it needs.
///
/// # Errors
///
/// [`Code::Config`], which names the first column that is missing.
pub(super) fn check(table: &str, has: &[&str], mapping: &Mapping) -> Result<()> {
    let missing = wanted(mapping).find(|(name, _)| !has.contains(name));
    missing.map_or(Ok(()), |(name, setting)| {
        Err(missing_column(table, has, name, setting))
    })
}

/// The columns that the table must have, each with the setting that names it, if one does.
fn wanted(mapping: &Mapping) -> impl Iterator<Item = (&str, Option<&'static str>)> {
    let columns = &mapping.columns;
    let default = Mapping::default();
    let set = |is_default: bool, setting| (!is_default).then_some(setting);
    let ids_are_default = columns.id == default.columns.id;
    let mut wanted: Vec<(&str, Option<&'static str>)> = Vec::new();
    for id in &columns.id {
        wanted.push((id, set(ids_are_default, "OUTBOX_COLUMNS")));
    }
    if let TopicRule::Column(name) = &mapping.topic {
        wanted.push((name, set(mapping.topic == default.topic, "OUTBOX_TOPIC")));
    }
    let payload_is_default = columns.payload == default.columns.payload;
    wanted.push((&columns.payload, set(payload_is_default, "OUTBOX_COLUMNS")));
    let named = [
        &columns.event_type,
        &columns.headers.column,
        &columns.created,
        &columns.published.column,
    ];
    let given = named.into_iter().filter(|column| column.given);
    let given = given.filter_map(ColumnName::as_deref);
    wanted.extend(given.map(|name| (name, Some("OUTBOX_COLUMNS"))));
    if let KeyRule::Column(name) = &mapping.key {
        wanted.push((name, Some("OUTBOX_KEY")));
    }
    let extras = mapping.extra_columns().into_iter();
    wanted.extend(extras.map(|name| (name, Some(setting_of(mapping, name)))));
    wanted.into_iter()
}

/// The setting that needs an extra column.
fn setting_of(mapping: &Mapping, name: &str) -> &'static str {
    let mut of_topic: Vec<&str> = match &mapping.topic {
        TopicRule::Template(template) => template.columns().collect(),
        _ => Vec::new(),
    };
    let other = mapping.topics.other.iter();
    of_topic.extend(other.flat_map(|template| template.columns()));
    let sent = [&mapping.columns.header_columns, &mapping.columns.envelope];
    let is_sent = || sent.into_iter().flatten().any(|it| it.column == name);
    match (&mapping.key, &mapping.partition, &mapping.timestamp) {
        _ if of_topic.contains(&name) => "OUTBOX_TOPIC",
        (KeyRule::Template(key), _, _) if key.columns().any(|it| it == name) => "OUTBOX_KEY",
        (_, PartitionRule::Column(partition), _) if partition == name => "OUTBOX_PARTITION",
        (_, _, TimestampRule::Column(timestamp)) if timestamp == name => "OUTBOX_TIMESTAMP",
        _ if is_sent() => "OUTBOX_COLUMNS",
        _ => "OUTBOX_WHERE",
    }
}

fn missing_column(table: &str, has: &[&str], name: &str, setting: Option<&str>) -> Error {
    let mut message = format!("{table} has no column {name}");
    let Some(setting) = setting else {
        return Error::fatal(Code::Config, message).with_hint(
            "add the column, add it to the publication if that has a column list, \
             or name another table with OUTBOX_TABLE",
        );
    };
    let listed: Vec<&str> = has.iter().copied().take(LISTED_MAX).collect();
    let more = match has.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let listed = listed.join(", ");
    message.push_str(&format!(", which {setting} names: it has {listed}{more}"));
    let hint = match setting {
        "OUTBOX_KEY" => {
            "name another column, payload:/json/pointer or none; \
             the stream has no generated column before Postgres 18"
        }
        _ => {
            "name another column, or add it to the publication if that has a column list; \
             the stream has no generated column before Postgres 18"
        }
    };
    Error::fatal(Code::Config, message).with_hint(hint)
}
