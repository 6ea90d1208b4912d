//! The writer's half of the outbox for services in Rust: an event goes into the table in the
//! service's own transaction.
//!
//! An event that could never be published is refused here, while its writer can still act on it: an
//! empty type, a topic name that Kafka does not accept, headers that are no JSON object, a payload
//! that is larger **as Postgres prints it** than a record may be. The server checks the last one in
//! the statement that inserts, because a few kilobytes of JSON (`1e131071`, over and over) can
//! print as more than the server can send. A refused event leaves no row behind and leaves the
//! transaction usable.
//!
//! Headers and a key are written only where the event has them, so that a table without such
//! columns takes every other event.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::OnceLock;

use bytes::BytesMut;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{GenericClient, Row, Statement};

use crate::error::{Code, Error, Result};
use crate::outbox::{NewEvent, Payload};
use crate::postgres::writers_error;
use crate::table_name::TableName;

/// The largest payload, measured as Postgres prints it.
pub const PAYLOAD_BYTES_MAX: i32 = 10 * 1024 * 1024;

/// Inserts `(event_type, topic, payload, largest payload)`, and what else the event has, unless the
/// payload is too large, and returns the new row's id. The payload is parsed once.
const INSERT: &str = "
    WITH event AS MATERIALIZED (SELECT $3::pg_catalog.jsonb AS payload)
    INSERT INTO {{table}} (event_type, topic, event_payload{{columns}})
    SELECT $1, $2, payload{{values}} FROM event
     WHERE pg_catalog.octet_length(payload::pg_catalog.text) <= $4
    RETURNING id::pg_catalog.int8";

/// The types of its first parameters.
const TYPES: [Type; 4] = [Type::TEXT, Type::TEXT, Type::TEXT, Type::INT4];

/// The forms of the statement: with headers or without, with a key or without.
const FORMS: usize = 4;

/// Writes events into one outbox table.
///
/// ```no_run
/// # type Result = std::result::Result<(), Box<dyn std::error::Error>>;
/// # async fn example(client: &mut tokio_postgres::Client) -> Result {
/// use outboxd::outbox::{NewEvent, Writer};
///
/// let writer = Writer::new("outbox.outbox")?;
/// let transaction = client.transaction().await?;
/// transaction.execute("INSERT INTO orders (number) VALUES (7)", &[]).await?;
/// let order = serde_json::json!({ "number": 7 });
/// writer.write_event(&transaction, &NewEvent::new("OrderCreated", "orders", &order)).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Writer {
    table: TableName,
    key_column: Option<String>,
}

/// A [`Writer`] whose statement is prepared on one connection: the server parses and plans it once,
/// and not for each event.
///
/// ```no_run
/// # type Result = std::result::Result<(), Box<dyn std::error::Error>>;
/// # async fn example(client: &mut tokio_postgres::Client) -> Result {
/// use outboxd::outbox::{NewEvent, Writer};
///
/// let writer = Writer::new("outbox.outbox")?.prepare(client).await?;
/// for number in 1..=1_000 {
///     let order = serde_json::json!({ "number": number });
///     let transaction = client.transaction().await?;
///     writer.write_event(&transaction, &NewEvent::new("OrderCreated", "orders", &order)).await?;
///     transaction.commit().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PreparedWriter {
    writer: Writer,
    /// Those with headers or a key are prepared when the first such event comes.
    inserts: [OnceLock<Statement>; FORMS],
}

impl Writer {
    /// A writer for `table`, written as `schema.name`.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when that is not the full name of a table.
    pub fn new(table: &str) -> Result<Self> {
        Ok(Writer {
            table: table.parse()?,
            key_column: None,
        })
    }

    /// The same writer for events with a key: the column that `OUTBOX_KEY=column:NAME` names. It
    /// may have any type that its text can be read as.
    pub fn with_key_column(self, name: &str) -> Self {
        Writer {
            key_column: Some(name.to_owned()),
            ..self
        }
    }

    /// Writes one event through `client`, which should be the transaction with the change that the
    /// event is about. Returns the new row's id. One round trip; the server parses the statement
    /// each time. [`prepare`](Writer::prepare) saves that where a connection writes many events.
    ///
    /// # Errors
    ///
    /// [`Code::Write`] when the event could never be published, or with the server's error when it
    /// refused the statement. The transaction can go on after the former and not after the latter.
    pub async fn write_event(
        &self,
        client: &impl GenericClient,
        event: &NewEvent<'_>,
    ) -> Result<i64> {
        let values = Values::of(self, event)?;
        let parameters: Vec<_> = values
            .parameters()
            .into_iter()
            .zip(values.types())
            .collect();
        let insert = self.insert(&values);
        let row = client.query_typed_opt(&insert, &parameters);
        written(&self.table, event, row.await)
    }

    /// Prepares the statement on this connection, which is the only one that it can be used with.
    ///
    /// # Errors
    ///
    /// With the server's error, such as [`Code::Config`] when there is no such table.
    pub async fn prepare(&self, client: &impl GenericClient) -> Result<PreparedWriter> {
        let prepared = PreparedWriter {
            writer: self.clone(),
            inserts: Default::default(),
        };
        let plain = NewEvent::new("type", "topic", "{}");
        let plain = Values::of(self, &plain)?;
        prepared.insert(client, &plain).await?;
        Ok(prepared)
    }

    /// The statement for an event with these values.
    fn insert(&self, values: &Values<'_>) -> String {
        let (mut columns, mut given) = (String::new(), String::new());
        let mut number = TYPES.len();
        if values.headers.is_some() {
            number += 1;
            columns.push_str(", headers");
            given.push_str(&format!(", ${number}::pg_catalog.jsonb"));
        }
        if let Some(column) = self.key_column.as_ref().filter(|_| values.key.is_some()) {
            number += 1;
            columns.push_str(&format!(", {}", escape_identifier(column)));
            given.push_str(&format!(", ${number}"));
        }
        INSERT
            .replace("{{table}}", &self.table.quoted())
            .replace("{{columns}}", &columns)
            .replace("{{values}}", &given)
    }
}

impl PreparedWriter {
    /// As [`Writer::write_event`], through the connection that this was prepared on, or a
    /// transaction of it. The first event with headers or a key costs a second round trip.
    ///
    /// # Errors
    ///
    /// As [`Writer::write_event`].
    pub async fn write_event(
        &self,
        client: &impl GenericClient,
        event: &NewEvent<'_>,
    ) -> Result<i64> {
        let values = Values::of(&self.writer, event)?;
        let insert = self.insert(client, &values).await?;
        let row = client.query_opt(insert, &values.parameters()).await;
        written(&self.writer.table, event, row)
    }

    /// The statement for these values, prepared before or by this call.
    async fn insert(&self, client: &impl GenericClient, values: &Values<'_>) -> Result<&Statement> {
        let form = usize::from(values.headers.is_some()) + 2 * usize::from(values.key.is_some());
        let prepared = &self.inserts[form];
        if let Some(insert) = prepared.get() {
            return Ok(insert);
        }
        let table = &self.writer.table;
        let insert = client
            .prepare_typed(&self.writer.insert(values), &values.types())
            .await
            .map_err(|error| {
                writers_error(format!("preparing to write events into {table}"), error)
            })?;
        Ok(prepared.get_or_init(|| insert))
    }
}

/// The values of the statement's parameters.
struct Values<'a> {
    event: NewEvent<'a>,
    payload: Cow<'a, str>,
    headers: Option<Cow<'a, str>>,
    key: Option<AsText<'a>>,
}

impl<'a> Values<'a> {
    fn of(writer: &Writer, event: &NewEvent<'a>) -> Result<Self> {
        event.check()?;
        if event.key.is_some() && writer.key_column.is_none() {
            return Err(event.refused(
                "it has a key, and the writer knows no column for keys",
                "name the column with Writer::with_key_column",
            ));
        }
        Ok(Values {
            event: *event,
            payload: match event.payload {
                Payload::Text(text) => Cow::Borrowed(text),
                Payload::Json(value) => Cow::Owned(value.to_string()),
            },
            headers: event.headers_text()?,
            key: event.key.map(AsText),
        })
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let NewEvent {
            event_type, topic, ..
        } = &self.event;
        let mut parameters: Vec<&(dyn ToSql + Sync)> =
            vec![event_type, topic, &self.payload, &PAYLOAD_BYTES_MAX];
        parameters.extend(self.headers.iter().map(|it| it as &(dyn ToSql + Sync)));
        parameters.extend(self.key.iter().map(|it| it as &(dyn ToSql + Sync)));
        parameters
    }

    /// The server finds the type of the key, which is that of its column.
    fn types(&self) -> Vec<Type> {
        let headers = self.headers.iter().map(|_| Type::TEXT);
        let key = self.key.iter().map(|_| Type::UNKNOWN);
        TYPES.into_iter().chain(headers).chain(key).collect()
    }
}

/// A value of any type, as text.
#[derive(Debug)]
struct AsText<'a>(&'a str);

impl ToSql for AsText<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    fn encode_format(&self, _type: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The new row's id, or why there is none.
fn written(
    table: &TableName,
    event: &NewEvent<'_>,
    row: Result<Option<Row>, tokio_postgres::Error>,
) -> Result<i64> {
    let what = || {
        let NewEvent {
            event_type, topic, ..
        } = event;
        format!("writing an event of type {event_type} for topic {topic} into {table}")
    };
    let row = row.map_err(|error| writers_error(what(), error))?;
    let Some(row) = row else {
        let limit =
            format!("the payload has more than {PAYLOAD_BYTES_MAX} bytes as Postgres prints it");
        return Err(Error::fatal(Code::Write, what())
            .with_source(limit)
            .with_hint("store the large part elsewhere and put a reference to it into the event"));
    };
    row.try_get(0).map_err(|error| writers_error(what(), error))
}
