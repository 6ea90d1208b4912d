//! Lists dead letters, and writes requests to retry or discard them.
//!
//! A request is only stored here. The publisher alone publishes, in order and with all that it
//! knows of later events, so there is no second way to Kafka. Filed content is never changed.

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::Resolution;
use crate::outbox::dead_letter::OPEN;
use crate::outbox::dead_letter::json::readable;
use crate::postgres::{Columns, Session};
use crate::status::OpenDeadLetters;

/// The states of a dead letter.
pub const STATES: [&str; 8] = [
    "dead",
    "parked",
    "retry",
    "discard",
    "retried",
    "discarded",
    "published-not-marked",
    "skipped",
];

/// Selects the dead letters that match all given conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these; none means any.
    pub ids: Vec<i64>,
    /// For this topic.
    pub topic: Option<String>,
    /// With this error code.
    pub code: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// Neither retried nor discarded.
    pub open: bool,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterEntry {
    /// Its number.
    pub id: i64,
    /// One of [`STATES`].
    pub state: String,
    /// The row of the outbox.
    pub outbox_id: Option<String>,
    /// The commit position of its transaction, if the event came from the stream.
    pub commit_lsn: Option<String>,
    /// Its index in that transaction.
    pub event_index: Option<i32>,
    /// `None` if the event could not be read.
    pub topic: Option<String>,
    /// The kind of event.
    pub event_type: Option<String>,
    /// As text, or `{"hex": "…"}` if it is not text.
    pub key: Option<Value>,
    /// An array of `[name, value]`.
    pub headers: Value,
    /// The payload's length.
    pub payload_bytes: Option<i32>,
    /// Only if it was requested; as text, or `{"hex": "…"}` if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// The row's `created_at`.
    pub event_created_at: Option<String>,
    /// Stable.
    pub error_code: String,
    /// For a person.
    pub error: String,
    /// How many times it was sent before it was filed last.
    pub attempts: i32,
    /// An entry for each time that it was filed, the oldest first.
    pub history: Value,
    /// Later events of its topic and key wait for it.
    pub parks_key: bool,
    /// When it was filed first, in ISO 8601.
    pub filed_at: String,
    /// When anything about it changed last.
    pub updated_at: String,
}

/// The most dead letters of a request that are named.
const IDS_MAX: i64 = 100_000;

/// The dead letters that a request affects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affected {
    /// Dead letters that the publisher will retry or discard.
    pub dead_letters: u64,
    /// The first 100,000 of them.
    pub ids: Vec<i64>,
    /// Parked dead letters of their keys, which follow by themselves.
    pub following: u64,
    /// Dead letters that match and are in a state that allows no request.
    pub others: u64,
}

/// Reads dead letters, those first that were filed last: at most `limit`, with or without their
/// payloads.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn list(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    limit: i64,
    payloads: bool,
) -> Result<Vec<DeadLetterEntry>> {
    let table = outbox.dead_letter();
    let payload = if payloads { "payload" } else { "NULL::bytea" };
    let sql = format!(
        "SELECT id, state, outbox_id, commit_lsn::text, event_index, topic, event_type, key, \
                headers::text, octet_length(payload), {payload}, event_created_at, \
                error_code, error, attempts, history::text, parks_key, \
                to_json(filed_at) #>> '{{}}', to_json(updated_at) #>> '{{}}' \
           FROM {table} WHERE {FITS} ORDER BY id DESC LIMIT $6",
        table = table.quoted()
    );
    let what = format!("reading {table}");
    let mut params = filter.params();
    params.push(&limit);
    let rows = session.rows(&what, &sql, &params).await?;
    rows.iter().map(DeadLetterEntry::of).collect()
}

/// The open dead letters by state, topic and error code.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn open(session: &Session, outbox: &TableName) -> Result<OpenDeadLetters> {
    let table = outbox.dead_letter();
    super::open::read(session, &table, &super::open::sql(&table)).await
}

/// How many dead letters a request would affect; nothing is changed.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn survey(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    resolution: Resolution,
) -> Result<Affected> {
    let selected = format!(
        "SELECT id, topic, key, parks_key FROM {table} \
          WHERE {FITS} AND {OPEN} AND {allowed_states}",
        table = outbox.dead_letter().quoted(),
        allowed_states = allowed_states(resolution),
    );
    affected(session, outbox, filter, &selected).await
}

/// Stores a request for the dead letters that match; those in other states do not change. One whose
/// row the table refused to mark can be discarded too, once the table is fixed: the publisher then
/// marks the row.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn ask(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    resolution: Resolution,
) -> Result<Affected> {
    let state = match resolution {
        Resolution::Retry => "retry",
        Resolution::Discard => "discard",
    };
    let selected = format!(
        "UPDATE {table} SET state = '{state}', updated_at = CURRENT_TIMESTAMP \
          WHERE {FITS} AND {OPEN} AND {allowed_states} RETURNING id, topic, key, parks_key",
        table = outbox.dead_letter().quoted(),
        allowed_states = allowed_states(resolution),
    );
    affected(session, outbox, filter, &selected).await
}

const FITS: &str = "(cardinality($1::bigint[]) = 0 OR id = ANY ($1::bigint[])) \
     AND ($2::text IS NULL OR topic = $2) AND ($3::text IS NULL OR error_code = $3) \
     AND ($4::text IS NULL OR state = $4) \
     AND (NOT $5::boolean OR state NOT IN ('retried', 'discarded'))";

fn allowed_states(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Retry => "state = 'dead'",
        Resolution::Discard => "state IN ('dead', 'published-not-marked', 'skipped')",
    }
}

/// Counts the dead letters that `selected` returns, those that follow, and the others that match;
/// all as of one moment.
async fn affected(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    selected: &str,
) -> Result<Affected> {
    let table = outbox.dead_letter();
    let sql = format!(
        "WITH selected AS ({selected}) \
         SELECT (SELECT count(*) FROM selected), \
                (SELECT count(*) FROM {quoted} AS d \
                  WHERE d.state = 'parked' AND d.{OPEN} AND EXISTS ( \
                     SELECT FROM selected AS m WHERE m.parks_key AND m.topic = d.topic \
                        AND m.key IS NOT DISTINCT FROM d.key)), \
                (SELECT count(*) FROM {quoted} WHERE {FITS}), \
                ARRAY(SELECT id FROM selected ORDER BY id LIMIT {IDS_MAX})",
        quoted = table.quoted()
    );
    let what = format!("writing requests into {table}");
    let row = session.row(&what, &sql, &filter.params()).await?;
    let count = |at| row.column(at).map(i64::unsigned_abs);
    let (dead_letters, following, fitting) = (count(0)?, count(1)?, count(2)?);
    Ok(Affected {
        dead_letters,
        ids: row.column(3)?,
        following,
        others: fitting.saturating_sub(dead_letters),
    })
}

impl Filter {
    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![&self.ids, &self.topic, &self.code, &self.state, &self.open]
    }
}

impl DeadLetterEntry {
    fn of(row: &Row) -> Result<Self> {
        // Content that was edited by hand is shown as it is.
        let json = |at| {
            let text = row.column::<String>(at);
            text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)))
        };
        let bytes = |at| {
            let bytes = row.column::<Option<&[u8]>>(at);
            bytes.map(|bytes| bytes.map(readable))
        };
        Ok(DeadLetterEntry {
            id: row.column(0)?,
            state: row.column(1)?,
            outbox_id: row.column(2)?,
            commit_lsn: row.column(3)?,
            event_index: row.column(4)?,
            topic: row.column(5)?,
            event_type: row.column(6)?,
            key: bytes(7)?,
            headers: json(8)?,
            payload_bytes: row.column(9)?,
            payload: bytes(10)?,
            event_created_at: row.column(11)?,
            error_code: row.column(12)?,
            error: row.column(13)?,
            attempts: row.column(14)?,
            history: json(15)?,
            parks_key: row.column(16)?,
            filed_at: row.column(17)?,
            updated_at: row.column(18)?,
        })
    }
}
