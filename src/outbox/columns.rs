//! Finds the outbox's columns by name, and reads rows by position from then on.
//!
//! A [`Columns`] is made once for a shape of the table: from each Relation message for the stream,
//! from the catalog for the table. Reading a row is then one pass over its columns without a
//! look-up or an allocation. Other columns are skipped, so a table may have any number of them.
//!
//! Both sources give the same text for the same row, since consumers compare it:
//! [`Columns::select_list`] asks the SQL side for what the type's output function prints, as the
//! stream has it.
//!
//! A value that is longer than a record can be is never received: the stream's client skips it, and
//! the server leaves it out of a select. Its event is marked by [`Event::left_out`]. Text that is
//! not UTF-8 spoils its own event alone, which [`Event::not_utf8`] marks.

use std::error::Error as StdError;

use tokio_postgres::types::{FromSql, Type};

use crate::config::{KeyRule, TableName};
use crate::error::{Code, Error, Result};
use crate::outbox::select_list::{self, Limit, Printing, SelectedColumn};
use crate::outbox::{Event, IdKind, TextValue};
use crate::pgoutput::{Column, Relation, Tuple};

/// The meaning of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Other,
    Id,
    EventType,
    Topic,
    Payload,
    CreatedAt,
    PublishedAt,
    Headers,
}

const FIELDS: [(&str, Field); 7] = [
    ("id", Field::Id),
    ("event_type", Field::EventType),
    ("topic", Field::Topic),
    ("event_payload", Field::Payload),
    ("created_at", Field::CreatedAt),
    ("published_at", Field::PublishedAt),
    ("headers", Field::Headers),
];

const REQUIRED: [&str; 3] = ["id", "topic", "event_payload"];

/// No other column than the payload makes a record with a longer value; the engine's own limits are
/// below.
const OTHER_BYTES_MAX: usize = (2 << 20) + HEX_PREFIX;

/// The bytes of `\\x`, which a printed `bytea` begins with.
const HEX_PREFIX: usize = 2;

/// A `created_at` that prints longer is no time, and is left out of the record's headers.
const CREATED_AT_BYTES_MAX: usize = 1024;

/// The positions of the fields of an [`Event`] in a row of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    table: String,
    fields: Vec<Field>,
    id_kind: IdKind,
    key: Option<usize>,
    key_is_hex: bool,
    payload_is_hex: bool,
    select_list: String,
    printed: String,
}

impl Columns {
    /// Finds the columns in the stream's description of the table.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_relation(relation: &Relation, key: &KeyRule) -> Result<Self> {
        let id = relation.columns.iter().find(|column| column.name == "id");
        let is_integer = id.is_none_or(|id| [20, 21, 23].contains(&id.type_id));
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| {
                let printing = Printing::of_type_id(column.type_id);
                (column.name.as_str(), printing)
            })
            .collect();
        let table = format!("{}.{}", relation.namespace, relation.name);
        Columns::find(table, &columns, IdKind::of(is_integer), key, usize::MAX)
    }

    /// Finds the columns in the catalog's description of the table: their names, and their types as
    /// `format_type` writes them. A row must then begin with the columns of
    /// [`Columns::select_list`]. A payload of more than `payload_bytes_max` is left out.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_table<'c>(
        table: &TableName,
        columns: impl IntoIterator<Item = (&'c str, &'c str)>,
        key: &KeyRule,
        payload_bytes_max: usize,
    ) -> Result<Self> {
        let mut id_kind = IdKind::Number;
        let columns: Vec<_> = columns
            .into_iter()
            .inspect(|(name, type_name)| {
                let is_integer = ["smallint", "integer", "bigint"].contains(type_name);
                if *name == "id" {
                    id_kind = IdKind::of(is_integer);
                }
            })
            .map(|(name, type_name)| (name, Printing::of_type_name(type_name)))
            .filter(|(name, _)| field(name) != Field::Other || key_column(key) == Some(name))
            .collect();
        Columns::find(table.to_string(), &columns, id_kind, key, payload_bytes_max)
    }

    fn find(
        table: String,
        columns: &[(&str, Printing)],
        id_kind: IdKind,
        key: &KeyRule,
        payload_bytes_max: usize,
    ) -> Result<Self> {
        let position = |name: &str| columns.iter().position(|(column, _)| *column == name);
        let is_hex = |at: usize| {
            columns
                .get(at)
                .is_some_and(|(_, printing)| *printing == Printing::Hex)
        };
        for name in REQUIRED {
            position(name).ok_or_else(|| missing(&table, name))?;
        }
        let key = match key_column(key) {
            Some(name) => Some(position(name).ok_or_else(|| missing_key(&table, name))?),
            None => None,
        };
        let selected = columns.iter().map(|(name, printing)| SelectedColumn {
            name,
            printing: *printing,
            limit: limit(name, *printing, payload_bytes_max),
        });
        let selected: Vec<_> = selected.collect();
        Ok(Columns {
            table,
            fields: columns.iter().map(|(name, _)| field(name)).collect(),
            id_kind,
            key,
            key_is_hex: key.is_some_and(is_hex),
            payload_is_hex: position("event_payload").is_some_and(is_hex),
            select_list: select_list::expressions(&selected),
            printed: select_list::printed(&selected),
        })
    }

    /// The expressions of a `SELECT` whose rows [`Columns::event_from_row`] reads, from the table
    /// `o` and [`Columns::printed`]. The session must have `DateStyle=ISO` and
    /// `client_encoding=UTF8`.
    pub fn select_list(&self) -> &str {
        &self.select_list
    }

    /// The subquery that prints the columns of the table `o`. `OFFSET 0` keeps the planner from
    /// merging it into the select list, which names each value twice.
    pub fn printed(&self) -> &str {
        &self.printed
    }

    /// Reads an inserted row from the stream.
    ///
    /// # Errors
    ///
    /// [`Code::Replication`] when the row does not match the relation.
    pub fn event_from_tuple<'a>(&self, tuple: Tuple<'a>) -> Result<Event<'a>> {
        if tuple.len() != self.fields.len() {
            let (got, expected) = (tuple.len(), self.fields.len());
            return Err(self.malformed(format!("has {got} columns instead of {expected}")));
        }
        self.event(tuple.iter().map(|column| match column {
            Column::Text(text) => Ok(Value::Text(text)),
            Column::Null => Ok(Value::Null),
            // No insert has such a column; the replication client puts it in place of a long value.
            Column::Unchanged => Ok(Value::LeftOut),
            Column::Binary(_) => Err(self.malformed("is in binary format")),
        }))
    }

    /// Reads a row of a `SELECT` that begins with [`Columns::select_list`]. Columns behind it are
    /// ignored.
    ///
    /// # Errors
    ///
    /// [`Code::Write`] when the row is of another `SELECT`.
    pub fn event_from_row<'a>(&self, row: &'a tokio_postgres::Row) -> Result<Event<'a>> {
        let malformed = |cause| {
            Error::fatal(Code::Write, format!("a row of {} is malformed", self.table))
                .with_source(cause)
        };
        let left_out: Option<i32> = row.try_get(self.fields.len()).map_err(malformed)?;
        let left_out = left_out.and_then(|at| usize::try_from(at).ok());
        self.event((0..self.fields.len()).map(|at| {
            let printed: Option<Printed<'a>> = row.try_get(at).map_err(malformed)?;
            Ok(match printed {
                Some(Printed(text)) => Value::Text(text),
                None if left_out == Some(at) => Value::LeftOut,
                None => Value::Null,
            })
        }))
    }

    /// Reads the columns in order.
    fn event<'a>(&self, values: impl Iterator<Item = Result<Value<'a>>>) -> Result<Event<'a>> {
        let mut event = Event {
            id: "",
            row_id: None,
            topic: "",
            event_type: None,
            key: None,
            payload: None,
            created_at: None,
            headers: None,
            published: false,
            left_out: None,
            not_utf8: None,
        };
        for (at, (field, value)) in self.fields.iter().zip(values).enumerate() {
            let value = match value? {
                Value::Text(value) => value,
                Value::Null => continue,
                Value::LeftOut => {
                    let wanted = !matches!(field, Field::Other | Field::CreatedAt);
                    if wanted || self.key == Some(at) {
                        event.left_out = event.left_out.or(Some(name(*field)));
                    }
                    continue;
                }
            };
            if self.key == Some(at) {
                event.key = Some(text_value(value, self.key_is_hex));
            }
            match field {
                Field::Other => {}
                Field::Id => {
                    event.id = event.text(*field, value).unwrap_or_default();
                    event.row_id = self.id_kind.id_of(event.id);
                }
                Field::EventType => event.event_type = event.text(*field, value),
                Field::Topic => event.topic = event.text(*field, value).unwrap_or_default(),
                Field::Payload => event.payload = Some(text_value(value, self.payload_is_hex)),
                Field::CreatedAt if value.len() > CREATED_AT_BYTES_MAX => {}
                Field::CreatedAt => event.created_at = std::str::from_utf8(value).ok(),
                Field::PublishedAt => event.published = true,
                Field::Headers => event.headers = event.text(*field, value),
            }
        }
        Ok(event)
    }

    fn malformed(&self, what: impl std::fmt::Display) -> Error {
        let message = format!("a row of {} in the stream {what}", self.table);
        Error::fatal(Code::Replication, message)
    }
}

impl<'a> Event<'a> {
    /// The text of this field, unless it is not UTF-8.
    fn text(&mut self, field: Field, value: &'a [u8]) -> Option<&'a str> {
        let text = std::str::from_utf8(value).ok();
        if text.is_none() {
            self.not_utf8 = self.not_utf8.or(Some(name(field)));
        }
        text
    }
}

/// A value of type text, which need not be UTF-8: the server checks what it receives, and not what
/// it has stored.
struct Printed<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Printed<'a> {
    fn from_sql(_type: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Printed(raw))
    }

    fn accepts(type_of_value: &Type) -> bool {
        *type_of_value == Type::TEXT
    }
}

/// A value of a row.
enum Value<'a> {
    Text(&'a [u8]),
    /// SQL null.
    Null,
    /// It is longer than a record can be, and was not received.
    LeftOut,
}

fn limit(name: &str, printing: Printing, payload_bytes_max: usize) -> Limit {
    match field(name) {
        Field::CreatedAt => Limit::Silent(CREATED_AT_BYTES_MAX),
        Field::Payload if printing == Printing::Hex => Limit::Shown(
            payload_bytes_max
                .saturating_mul(2)
                .saturating_add(HEX_PREFIX),
        ),
        Field::Payload => Limit::Shown(payload_bytes_max),
        _ => Limit::Shown(OTHER_BYTES_MAX),
    }
}

/// The name of a field's column.
fn name(field: Field) -> &'static str {
    let found = FIELDS.iter().find(|(_, known)| *known == field);
    found.map_or("the column of OUTBOX_KEY", |(name, _)| name)
}

fn field(name: &str) -> Field {
    FIELDS
        .iter()
        .find(|(column, _)| *column == name)
        .map_or(Field::Other, |(_, field)| *field)
}

fn key_column(key: &KeyRule) -> Option<&str> {
    match key {
        KeyRule::Column(name) => Some(name),
        _ => None,
    }
}

fn text_value(value: &[u8], is_hex: bool) -> TextValue<'_> {
    if is_hex {
        TextValue::Hex(value)
    } else {
        TextValue::Verbatim(value)
    }
}

fn missing(table: &str, column: &str) -> Error {
    Error::fatal(Code::Config, format!("{table} has no column {column}")).with_hint(
        "add the column, add it to the publication if that has a column list, \
         or name another table with OUTBOX_TABLE",
    )
}

fn missing_key(table: &str, column: &str) -> Error {
    let message = format!("{table} has no column {column}, which OUTBOX_KEY names");
    Error::fatal(Code::Config, message).with_hint(
        "name another column, payload:/json/pointer or none; \
         the stream has no generated column before Postgres 18",
    )
}
