//! Finds the outbox's columns by name, and reads rows by position from then on.
//!
//! A [`Columns`] is made once for a shape of the table: from each Relation message for the stream,
//! from the catalog for the table. Reading a row is then one pass over its columns without a
//! look-up or an allocation. Other columns are skipped, so a table may have any number of them.
//!
//! Both sources give the same text for the same row, since consumers compare it:
//! [`Columns::select_list`] asks the SQL side for what the type's output function prints, as the
//! stream has it.

use postgres_protocol::escape::escape_identifier;

use crate::config::{KeyRule, TableName};
use crate::error::{Code, Error, Result};
use crate::outbox::{Event, TextValue};
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

/// How a column is selected so that it prints as in the stream. The stream's session has
/// `TimeZone=UTC` and `bytea_output=hex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printing {
    /// A cast to text prints what the output function prints.
    Cast,
    /// `bytea`.
    Hex,
    /// `timestamptz`: the SQL session keeps the time zone of the writers, the stream is in UTC.
    Utc,
    /// A cast to text may print something else, as for `bpchar`, `boolean` and `inet`.
    Output,
}

impl Printing {
    fn of_type_id(id: u32) -> Self {
        match id {
            17 => Printing::Hex,
            1184 => Printing::Utc,
            _ => Printing::Output,
        }
    }

    fn of_type_name(name: &str) -> Self {
        match name {
            "bytea" => Printing::Hex,
            "timestamp with time zone" => Printing::Utc,
            "bigint"
            | "integer"
            | "smallint"
            | "text"
            | "character varying"
            | "json"
            | "jsonb"
            | "uuid"
            | "numeric"
            | "timestamp without time zone" => Printing::Cast,
            _ => Printing::Output,
        }
    }

    fn expression(self, column: &str) -> String {
        let column = escape_identifier(column);
        match self {
            Printing::Cast => format!("{column}::text"),
            Printing::Hex => format!("'\\x' || encode({column}, 'hex')"),
            Printing::Utc => format!("({column} AT TIME ZONE 'UTC')::text || '+00'"),
            Printing::Output => {
                format!("CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END")
            }
        }
    }
}

/// The positions of the fields of an [`Event`] in a row of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    table: String,
    fields: Vec<Field>,
    key: Option<usize>,
    key_is_hex: bool,
    payload_is_hex: bool,
    select_list: String,
}

impl Columns {
    /// Finds the columns in the stream's description of the table.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_relation(relation: &Relation, key: &KeyRule) -> Result<Self> {
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| {
                let printing = Printing::of_type_id(column.type_id);
                (column.name.as_str(), printing)
            })
            .collect();
        let table = format!("{}.{}", relation.namespace, relation.name);
        Columns::find(table, &columns, key)
    }

    /// Finds the columns in the catalog's description of the table: their names, and their types as
    /// `format_type` writes them. A row must then begin with the columns of
    /// [`Columns::select_list`].
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_table<'c>(
        table: &TableName,
        columns: impl IntoIterator<Item = (&'c str, &'c str)>,
        key: &KeyRule,
    ) -> Result<Self> {
        let columns: Vec<_> = columns
            .into_iter()
            .map(|(name, type_name)| (name, Printing::of_type_name(type_name)))
            .filter(|(name, _)| field(name) != Field::Other || key_column(key) == Some(name))
            .collect();
        Columns::find(table.to_string(), &columns, key)
    }

    fn find(table: String, columns: &[(&str, Printing)], key: &KeyRule) -> Result<Self> {
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
        let list: Vec<_> = columns
            .iter()
            .map(|(name, printing)| printing.expression(name))
            .collect();
        Ok(Columns {
            table,
            fields: columns.iter().map(|(name, _)| field(name)).collect(),
            key,
            key_is_hex: key.is_some_and(is_hex),
            payload_is_hex: position("event_payload").is_some_and(is_hex),
            select_list: list.join(", "),
        })
    }

    /// The expressions of a `SELECT` whose rows [`Columns::event_from_row`] reads. The session must
    /// have `DateStyle=ISO` and `client_encoding=UTF8`.
    pub fn select_list(&self) -> &str {
        &self.select_list
    }

    /// Reads an inserted row from the stream.
    ///
    /// # Errors
    ///
    /// [`Code::Replication`] when the row does not match the relation, or is not UTF-8 in text
    /// format.
    pub fn event_from_tuple<'a>(&self, tuple: Tuple<'a>) -> Result<Event<'a>> {
        if tuple.len() != self.fields.len() {
            let (got, expected) = (tuple.len(), self.fields.len());
            return Err(self.malformed(format!("has {got} columns instead of {expected}")));
        }
        self.event(tuple.iter().map(|column| match column {
            Column::Text(text) => Ok(Some(text)),
            Column::Null => Ok(None),
            Column::Unchanged => Err(self.malformed("omits a value")),
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
        self.event((0..self.fields.len()).map(|at| {
            let text: Option<&str> = row.try_get(at).map_err(|cause| {
                Error::fatal(Code::Write, format!("a row of {} is malformed", self.table))
                    .with_source(cause)
            })?;
            Ok(text.map(str::as_bytes))
        }))
    }

    /// Reads the columns in order; `None` is SQL null.
    fn event<'a>(
        &self,
        values: impl Iterator<Item = Result<Option<&'a [u8]>>>,
    ) -> Result<Event<'a>> {
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
        };
        for (at, (field, value)) in self.fields.iter().zip(values).enumerate() {
            let Some(value) = value? else { continue };
            if self.key == Some(at) {
                event.key = Some(printed(value, self.key_is_hex));
            }
            match field {
                Field::Other => {}
                Field::Id => {
                    event.id = self.text("id", value)?;
                    event.row_id = event.id.parse().ok();
                }
                Field::EventType => event.event_type = Some(self.text("event_type", value)?),
                Field::Topic => event.topic = self.text("topic", value)?,
                Field::Payload => event.payload = Some(printed(value, self.payload_is_hex)),
                Field::CreatedAt => event.created_at = Some(self.text("created_at", value)?),
                Field::PublishedAt => event.published = true,
                Field::Headers => event.headers = Some(self.text("headers", value)?),
            }
        }
        if event.id.is_empty() {
            let message = format!("a row of {} has no id", self.table);
            return Err(Error::fatal(Code::Publish, message)
                .with_hint("make id the primary key: it identifies the event"));
        }
        Ok(event)
    }

    fn text<'a>(&self, column: &str, value: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(value).map_err(|cause| {
            self.malformed(format!("is not UTF-8 in column {column}"))
                .with_source(cause)
        })
    }

    fn malformed(&self, what: impl std::fmt::Display) -> Error {
        let message = format!("a row of {} in the stream {what}", self.table);
        Error::fatal(Code::Replication, message)
    }
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
        KeyRule::Pointer(_) | KeyRule::None => None,
    }
}

fn printed(value: &[u8], is_hex: bool) -> TextValue<'_> {
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
