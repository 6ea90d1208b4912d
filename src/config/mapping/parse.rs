//! Reads the rules for records from the texts of their settings.

use crate::config::error::InvalidValue;
use crate::config::mapping::rules::{
    HeaderStyle, KeyRule, NullPayload, PartitionRule, TimestampRule, TopicRule, ValueRule,
};
use crate::config::mapping::template::Template;
use crate::config::parse::{choice, is_pointer, name_of};
use crate::error::shown;
use crate::topic_name::TopicName;

/// What begins a rule that takes the value of a column.
pub(super) const COLUMN: &str = "column:";

/// The longest name of a source, in characters.
const SOURCE_ID_MAX: usize = 200;

/// The topic. Where its value is looked up in a list of topics, it need not be one itself.
pub(super) fn topic(text: &str, is_looked_up: bool) -> Result<TopicRule, InvalidValue> {
    match text.strip_prefix(COLUMN) {
        Some(name) => Ok(TopicRule::Column(name_of("column", name)?)),
        None if is_looked_up => Ok(TopicRule::Template(Template::parse(text)?)),
        None => Ok(TopicRule::Template(topic_template(text)?)),
    }
}

/// A text that is a topic for each row, as far as that can be known.
pub(super) fn topic_template(text: &str) -> Result<Template, InvalidValue> {
    let template = Template::parse(text)?;
    // What the columns add is checked with each row.
    match TopicName::new(&template.with_each("x")) {
        Ok(_) => Ok(template),
        Err(why) => Err(InvalidValue::new(
            format!("{} is not a topic: {why}", shown(text)),
            "write column:NAME, the name of a topic, or a text such as outbox.event.${column}",
        )),
    }
}

/// The name of a topic.
pub(super) fn topic_name(text: &str) -> Result<String, InvalidValue> {
    match TopicName::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) if Template::is_one(text) => Err(InvalidValue::new(
            format!("{} has a column in it", shown(text)),
            "write the name of a topic; only `*` may have ${column} in its topic",
        )),
        Err(why) => Err(InvalidValue::new(
            format!("{} is not a topic: {why}", shown(text)),
            "write the name of a topic",
        )),
    }
}

pub(super) fn key(text: &str) -> Result<KeyRule, InvalidValue> {
    let choices = "write column:NAME, payload:/json/pointer, header:NAME, a text with ${column}, \
                   or none";
    match text.split_once(':') {
        None if text == "none" => Ok(KeyRule::None),
        Some(("column", name)) => Ok(KeyRule::Column(name_of("column", name)?)),
        Some(("payload", pointer)) => Ok(KeyRule::Pointer(json_pointer(text, pointer)?)),
        Some(("header", name)) if !name.is_empty() => Ok(KeyRule::Header(name.to_owned())),
        _ if Template::is_one(text) => Ok(KeyRule::Template(Template::parse(text)?)),
        _ => Err(InvalidValue::new(
            format!("{} is not a rule for keys", shown(text)),
            choices,
        )),
    }
}

pub(super) fn value(text: &str) -> Result<ValueRule, InvalidValue> {
    match text.split_once(':') {
        None if text == "payload" => Ok(ValueRule::Payload),
        None if text == "expanded" => Ok(ValueRule::Expanded),
        Some(("payload", pointer)) => Ok(ValueRule::Pointer(json_pointer(text, pointer)?)),
        _ => Err(InvalidValue::new(
            format!("{} is not a rule for values", shown(text)),
            "write payload, payload:/json/pointer or expanded",
        )),
    }
}

/// The pointer in the text of a rule.
pub(super) fn json_pointer(text: &str, pointer: &str) -> Result<String, InvalidValue> {
    if is_pointer(pointer) {
        return Ok(pointer.to_owned());
    }
    Err(InvalidValue::new(
        format!("{} contains no JSON pointer", shown(text)),
        "begin the pointer with /, and write ~0 for ~ and ~1 for / in a name",
    ))
}

pub(super) fn null_payload(text: &str) -> Result<NullPayload, InvalidValue> {
    let choices = [
        ("dead-letter", NullPayload::DeadLetter),
        ("tombstone", NullPayload::Tombstone),
        ("empty", NullPayload::Empty),
    ];
    choice(text, &choices)
}

pub(super) fn headers(text: &str) -> Result<HeaderStyle, InvalidValue> {
    let choices = [
        ("outboxd", HeaderStyle::Outboxd),
        ("none", HeaderStyle::None),
        ("debezium", HeaderStyle::Debezium),
        ("cloudevents", HeaderStyle::CloudEvents),
        ("cloudevents-structured", HeaderStyle::CloudEventsStructured),
    ];
    choice(text, &choices)
}

pub(super) fn partition(text: &str) -> Result<PartitionRule, InvalidValue> {
    match text {
        "key" => Ok(PartitionRule::Key),
        "spread" => Ok(PartitionRule::Spread),
        _ => match text.strip_prefix(COLUMN) {
            Some(name) => Ok(PartitionRule::Column(name_of("column", name)?)),
            None => Err(InvalidValue::new(
                format!("{} is not a rule for partitions", shown(text)),
                "write key, column:NAME or spread",
            )),
        },
    }
}

pub(super) fn timestamp(text: &str) -> Result<TimestampRule, InvalidValue> {
    match text {
        "now" => Ok(TimestampRule::Now),
        "commit" => Ok(TimestampRule::Commit),
        _ => match text.strip_prefix(COLUMN) {
            Some(name) => Ok(TimestampRule::Column(name_of("column", name)?)),
            None => Err(InvalidValue::new(
                format!("{} is not a rule for timestamps", shown(text)),
                "write now, column:NAME or commit",
            )),
        },
    }
}

/// Each record has it, so it may not be a connection string.
pub(super) fn source_id(text: &str) -> Result<String, InvalidValue> {
    let is_printable = !text.contains(char::is_control);
    let has_login = text.contains("://") && text.contains('@');
    if is_printable && !has_login && (1..=SOURCE_ID_MAX).contains(&text.chars().count()) {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::new(
        format!("{} is not the name of a source", shown(text)),
        format!("write 1 to {SOURCE_ID_MAX} printable characters"),
    ))
}
