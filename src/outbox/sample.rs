//! A sample of the outbox's rows for a person who examines it: their topics, their sizes, and
//! whether they have a key. Row contents stay in the server.
//!
//! Bounded: the oldest unpublished rows and the newest of all, and a part of the topics.

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::config::mapping::{Piece, Template, TopicRule};
use crate::config::{AfterPublish, Config, KeyRule};
use crate::error::Result;
use crate::outbox::marking::Marking;
use crate::outbox::row_key::RowKey;
use crate::outbox::{json_pointer, row_filter};
use crate::postgres::table_shape::identifier;
use crate::postgres::{Columns, Session, TableShape};

/// Rows of each kind that are read.
const ROWS: i64 = 1_000;

/// The most topics that are returned.
const TOPICS_MAX: i64 = 100;

/// Topics are cut here: a broker accepts no name of this length.
const TOPIC_LENGTH: i64 = 250;

/// A payload as stored that is printed to know its length: no payload that the writers accept is
/// stored longer.
const STORED_BYTES_MAX: i64 = 11 << 20;

/// The sampled rows of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSample {
    pub(crate) topic: String,
    pub(crate) rows: i64,
    /// Rows without a key; `None` where the key rule is not evaluated.
    pub(crate) unkeyed: Option<i64>,
    /// The bytes of the largest payload as it prints; `None` if it was not printed.
    pub(crate) largest: Option<i64>,
}

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) topics: Vec<TopicSample>,
    /// Rows to which the rule for topics gives none.
    pub(crate) without_topic: i64,
    /// Why the payloads could not be printed.
    pub(crate) no_sizes: Option<String>,
}

/// Reads the sample.
///
/// # Errors
/// Of the server. Payloads that cannot be printed are no error.
pub(crate) async fn sample(
    session: &Session,
    config: &Config,
    shape: &TableShape,
) -> Result<Sample> {
    let statements = Statements::new(config, shape);
    let what = format!("reading the topics of {}", shape.name);
    let rows = session.rows(&what, &statements.topics, &[]).await?;
    let (mut topics, mut without_topic): (Vec<TopicSample>, i64) = (Vec::new(), 0);
    for row in &rows {
        let rows = row.column(1)?;
        match row.column(0)? {
            Some(topic) => topics.push(TopicSample {
                topic,
                rows,
                unkeyed: row.column(2)?,
                largest: None,
            }),
            None => without_topic = rows,
        }
    }
    let what = format!("measuring the payloads of {}", shape.name);
    let no_sizes = match session.rows(&what, &statements.sizes, &[]).await {
        Ok(sizes) => {
            for row in &sizes {
                let topic: &str = row.column(0)?;
                if let Some(found) = topics.iter_mut().find(|it| it.topic == topic) {
                    found.largest = row.column(1)?;
                }
            }
            None
        }
        Err(error) => Some(error.reason()),
    };
    Ok(Sample {
        topics,
        without_topic,
        no_sizes,
    })
}

/// The statements, none of which returns a row of the table.
#[derive(Debug)]
struct Statements {
    topics: String,
    sizes: String,
}

impl Statements {
    fn new(config: &Config, shape: &TableShape) -> Self {
        let table = shape.name.quoted();
        let key = unkeyed(&config.mapping.key, shape);
        // Without an index every row would be read and sorted.
        let order = |direction: &str| match shape.id_is_key {
            true => order_by(shape, direction),
            false => String::new(),
        };
        let unpublished = Marking::new(AfterPublish::Keep, shape).unpublished("o");
        let is_message = row_filter::condition(shape, "o").unwrap_or_else(|| "true".to_owned());
        let part = |columns: &str, condition: &str, direction: &str| {
            let order = order(direction);
            format!(
                "(SELECT {columns} FROM {table} AS o \
                   WHERE {condition} AND {is_message} {order} LIMIT {ROWS})"
            )
        };
        let topic = topic(shape);
        let place = match shape.is_view {
            true => format!("0 AS part, {} AS place", RowKey::of(shape).text("o")),
            false => "o.tableoid AS part, o.ctid AS place".to_owned(),
        };
        // A row may be in both parts, and counts once.
        let both = |columns: &str| {
            let columns = format!(
                "{place}, \
                 pg_catalog.left({topic}, {TOPIC_LENGTH}) AS topic, {columns}"
            );
            let first = part(&columns, &unpublished, "ASC");
            let second = part(&columns, "true", "DESC");
            format!(
                "SELECT DISTINCT ON (b.part, b.place) b.* FROM ({first} UNION ALL {second}) AS b"
            )
        };
        let counted = match key.is_some() {
            true => "pg_catalog.count(*) FILTER (WHERE s.unkeyed)",
            false => "NULL",
        };
        let key = key.unwrap_or_else(|| "false".to_owned());
        Statements {
            topics: format!(
                "SELECT s.topic, pg_catalog.count(*), ({counted})::int8 \
                   FROM ({rows}) AS s GROUP BY s.topic \
                  ORDER BY s.topic IS NOT NULL, 2 DESC, 1 LIMIT {TOPICS_MAX}",
                rows = both(&format!("{key} AS unkeyed")),
            ),
            sizes: format!(
                "SELECT s.topic, pg_catalog.max(pg_catalog.octet_length({printed}))::int8 \
                   FROM ({rows}) AS s \
                  WHERE s.topic IS NOT NULL \
                    AND pg_catalog.pg_column_size(s.payload) <= {STORED_BYTES_MAX} \
                  GROUP BY s.topic",
                printed = printed(shape),
                rows = both(&format!("o.{} AS payload", payload_name(shape))),
            ),
        }
    }
}

/// The order of a read of the table, or its reverse.
fn order_by(shape: &TableShape, direction: &str) -> String {
    let columns = shape.order_columns().into_iter();
    let columns = columns.map(|column| format!("o.{} {direction}", column.quoted()));
    format!("ORDER BY {}", columns.collect::<Vec<_>>().join(", "))
}

fn payload_name(shape: &TableShape) -> String {
    identifier(&shape.mapping.columns.payload)
}

/// An expression for the topic of the row `o`, by the rule of its mapping.
pub(in crate::outbox) fn topic(shape: &TableShape) -> String {
    let mapping = &shape.mapping;
    let named = match &mapping.topic {
        TopicRule::Column(name) => format!("o.{}::text", identifier(name)),
        TopicRule::Template(template) => of_template(template),
    };
    if mapping.topics.entries.is_empty() {
        return named;
    }
    let entries = mapping.topics.entries.iter();
    let cases = entries.map(|(value, topic)| {
        format!(
            " WHEN {} THEN {}",
            escape_literal(value),
            escape_literal(topic)
        )
    });
    let other = mapping
        .topics
        .other
        .as_ref()
        .map_or_else(|| "NULL".to_owned(), of_template);
    format!("CASE {named}{} ELSE {other} END", cases.collect::<String>())
}

/// Null where one of the columns is.
fn of_template(template: &Template) -> String {
    let pieces = template.pieces.iter().map(|piece| match piece {
        Piece::Column(name) => format!("o.{}::text", identifier(name)),
        Piece::Text(text) => escape_literal(text),
    });
    format!("({})", pieces.collect::<Vec<_>>().join(" || "))
}

/// The payload as the record has it.
fn printed(shape: &TableShape) -> &'static str {
    match shape.payload() {
        Some(payload) if payload.base_type == "bytea" => "s.payload",
        _ => "s.payload::text",
    }
}

/// A condition: the row `o` has no key. `None` if the rule cannot be evaluated here.
fn unkeyed(key: &KeyRule, shape: &TableShape) -> Option<String> {
    match key {
        KeyRule::None => Some("true".to_owned()),
        KeyRule::Column(name) => {
            shape.column(name)?;
            Some(format!("o.{} IS NULL", escape_identifier(name)))
        }
        KeyRule::Template(template) => {
            let parts = template
                .columns()
                .map(|name| format!("o.{}", escape_identifier(name)));
            Some(format!(
                "pg_catalog.num_nulls({}) > 0",
                parts.collect::<Vec<_>>().join(", ")
            ))
        }
        KeyRule::Pointer(pointer) => {
            let payload = shape.payload()?;
            let is_json = ["json", "jsonb"].contains(&payload.base_type.as_str());
            let steps = json_pointer::steps(pointer);
            let steps: Vec<String> = steps.iter().map(|step| escape_literal(step)).collect();
            let steps = steps.join(",");
            let name = payload.quoted();
            is_json.then(|| format!("(o.{name} #>> ARRAY[{steps}]) IS NULL"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shape() -> TableShape {
        let columns = [
            ("id", "bigint"),
            ("topic", "text"),
            ("event_payload", "jsonb"),
            ("published_at", "timestamp without time zone"),
        ];
        TableShape::of_columns(4711, &columns)
    }

    #[test]
    fn a_key_is_looked_for_by_the_rule_and_a_rule_that_cannot_be_evaluated_is_left_out() {
        let pointer = |text: &str| unkeyed(&KeyRule::Pointer(text.to_owned()), &shape());
        assert_eq!(
            pointer("/a~1b/it's").unwrap(),
            "(o.event_payload #>> ARRAY['a/b','it''s']) IS NULL"
        );
        let column = |name: &str| unkeyed(&KeyRule::Column(name.to_owned()), &shape());
        assert_eq!(column("topic").unwrap(), "o.\"topic\" IS NULL");
        assert_eq!(column("absent"), None);
        let text = TableShape::of_columns(1, &[("event_payload", "text")]);
        assert_eq!(unkeyed(&KeyRule::Pointer("/a".to_owned()), &text), None);
        assert_eq!(unkeyed(&KeyRule::None, &shape()).unwrap(), "true");
    }
}
