//! The writer's half of the outbox for services in Rust: an event goes into the table in the
//! service's own transaction.
//!
//! An event that could never be published is refused here, while its writer can still act on it: an
//! empty type, a topic name that Kafka does not accept, a payload that is larger **as Postgres
//! prints it** than a record may be. The server checks the last one in the statement that inserts,
//! because a few kilobytes of JSON (`1e131071`, over and over) can print as more than the server
//! can send. A refused event leaves no row behind and leaves the transaction usable.

use std::borrow::Cow;

use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row, Statement};

use crate::error::{Code, Error, Result};
use crate::outbox::TopicName;
use crate::postgres::writers_error;
use crate::table_name::TableName;

/// The largest payload, measured as Postgres prints it.
pub const PAYLOAD_BYTES_MAX: i32 = 10 * 1024 * 1024;

/// Inserts `(event_type, topic, payload, largest payload)` unless the payload is too large, and
/// returns the new row's id. The payload is parsed once.
const INSERT: &str = "
    WITH event AS MATERIALIZED (SELECT $3::pg_catalog.jsonb AS payload)
    INSERT INTO {{table}} (event_type, topic, event_payload)
    SELECT $1, $2, payload FROM event
     WHERE pg_catalog.octet_length(payload::pg_catalog.text) <= $4
    RETURNING id::pg_catalog.int8";

/// The types of its parameters.
const TYPES: [Type; 4] = [Type::TEXT, Type::TEXT, Type::TEXT, Type::INT4];

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
    insert: String,
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
    table: TableName,
    insert: Statement,
}

/// An event to be written.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct NewEvent<'a> {
    /// The kind of event; by default also the record's key.
    pub event_type: &'a str,
    /// The Kafka topic.
    pub topic: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
}

/// A payload, which Postgres stores as `jsonb`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// A JSON value.
    Json(&'a Value),
    /// JSON text, which the server parses.
    Text(&'a str),
}

impl<'a> NewEvent<'a> {
    /// An event of these three parts.
    pub fn new(event_type: &'a str, topic: &'a str, payload: impl Into<Payload<'a>>) -> Self {
        NewEvent {
            event_type,
            topic,
            payload: payload.into(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.event_type.is_empty() {
            return Err(Error::fatal(Code::Write, "the event type is empty")
                .with_hint("name the kind of event, such as OrderCreated"));
        }
        let topic = TopicName::new(self.topic).map(|_| ());
        topic.map_err(|rejection| {
            let message = format!("an event of type {} names no topic", self.event_type);
            Error::fatal(Code::Write, message).with_source(rejection)
        })
    }
}

impl<'a> From<&'a Value> for Payload<'a> {
    fn from(value: &'a Value) -> Self {
        Payload::Json(value)
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Payload::Text(text)
    }
}

impl Writer {
    /// A writer for `table`, written as `schema.name`.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when that is not the full name of a table.
    pub fn new(table: &str) -> Result<Self> {
        let table: TableName = table.parse()?;
        let insert = INSERT.replace("{{table}}", &table.quoted());
        Ok(Writer { table, insert })
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
        let values = Values::of(event)?;
        let [event_type, topic, payload, largest] = values.parameters();
        let [text, _, _, int4] = TYPES;
        let parameters = [
            (event_type, text.clone()),
            (topic, text.clone()),
            (payload, text),
            (largest, int4),
        ];
        let row = client.query_typed_opt(&self.insert, &parameters).await;
        written(&self.table, event, row)
    }

    /// Prepares the statement on this connection, which is the only one that it can be used with.
    ///
    /// # Errors
    ///
    /// With the server's error, such as [`Code::Config`] when there is no such table.
    pub async fn prepare(&self, client: &impl GenericClient) -> Result<PreparedWriter> {
        let insert = client.prepare_typed(&self.insert, &TYPES).await;
        let insert = insert.map_err(|error| {
            writers_error(
                format!("preparing to write events into {}", self.table),
                error,
            )
        })?;
        Ok(PreparedWriter {
            table: self.table.clone(),
            insert,
        })
    }
}

impl PreparedWriter {
    /// As [`Writer::write_event`], through the connection that this was prepared on, or a
    /// transaction of it.
    ///
    /// # Errors
    ///
    /// As [`Writer::write_event`].
    pub async fn write_event(
        &self,
        client: &impl GenericClient,
        event: &NewEvent<'_>,
    ) -> Result<i64> {
        let values = Values::of(event)?;
        let row = client.query_opt(&self.insert, &values.parameters()).await;
        written(&self.table, event, row)
    }
}

/// The values of the statement's parameters.
struct Values<'a> {
    event: NewEvent<'a>,
    payload: Cow<'a, str>,
}

impl<'a> Values<'a> {
    fn of(event: &NewEvent<'a>) -> Result<Self> {
        event.check()?;
        Ok(Values {
            event: *event,
            payload: match event.payload {
                Payload::Text(text) => Cow::Borrowed(text),
                Payload::Json(value) => Cow::Owned(value.to_string()),
            },
        })
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        let NewEvent {
            event_type, topic, ..
        } = &self.event;
        [event_type, topic, &self.payload, &PAYLOAD_BYTES_MAX]
    }
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

// Payloads are the users' data: debug output in a log must not show them.
impl std::fmt::Debug for NewEvent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewEvent")
            .field("event_type", &self.event_type)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload")
    }
}
