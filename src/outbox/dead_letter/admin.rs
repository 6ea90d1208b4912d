//! The dead letters for a person: to look at, and to say what is to become of them.
//!
//! A wish is only written down here. The publisher alone publishes, in order and with all that it knows of the events behind, so
//! there is no second way to Kafka. What was filed is never changed.

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::Resolution;
use crate::outbox::dead_letter::OPEN;
use crate::outbox::dead_letter::json::readable;
use crate::postgres::Session;

/// The states that a letter can be in.
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

/// Which letters are meant: those that fit all that is given.
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
}

/// One letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterEntry {
    /// Its number.
    pub id: i64,
    /// One of [`STATES`].
    pub state: String,
    /// The row of the outbox.
    pub outbox_id: Option<String>,
    /// The commit of its transaction, where the event came from the stream.
    pub commit_lsn: Option<String>,
    /// Its place in that transaction.
    pub event_index: Option<i32>,
    /// `None` where the event could not be read.
    pub topic: Option<String>,
    /// The kind of event.
    pub event_type: Option<String>,
    /// As text, or `{"hex": "…"}` where it is none.
    pub key: Option<Value>,
    /// An array of `[name, value]`.
    pub headers: Value,
    /// The payload's length.
    pub payload_bytes: Option<i32>,
    /// Only where it was asked for; as text, or `{"hex": "…"}` where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// The row's `created_at`.
    pub event_created_at: Option<String>,
    /// Stable.
    pub error_code: String,
    /// For a person.
    pub error: String,
    /// How often it was sent before it was filed the last time.
    pub attempts: i32,
    /// Each time that it was filed, the oldest first.
    pub history: Value,
    /// Later events of its topic and key wait for it.
    pub parks_key: bool,
    /// When it was filed first, in ISO 8601.
    pub filed_at: String,
    /// When anything about it changed last.
    pub updated_at: String,
}

/// What a wish has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affected {
    /// Letters that the publisher will see to.
    pub dead_letters: u64,
    /// Parked letters of their keys, which follow by themselves.
    pub following: u64,
    /// Letters that fit and are in another state, so that there is nothing to wish.
    pub others: u64,
}

/// Reads letters in the order in which they were filed: at most `limit`, with their payloads or without.
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
        "SELECT id, state, outbox_id, commit_lsn::text, event_index, topic, event_type, key, headers::text, \
                octet_length(payload), {payload}, event_created_at, error_code, error, attempts, history::text, \
                parks_key, to_json(filed_at) #>> '{{}}', to_json(updated_at) #>> '{{}}' \
           FROM {table} WHERE {FITS} ORDER BY id LIMIT $5",
        table = table.quoted()
    );
    let what = format!("reading {table}");
    let mut params = filter.params();
    params.push(&limit);
    let rows = session.rows(&what, &sql, &params).await?;
    Ok(rows.iter().map(DeadLetterEntry::of).collect())
}

/// How many letters a wish would reach; nothing is changed.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn survey(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    resolution: Resolution,
) -> Result<Affected> {
    let meant = format!(
        "SELECT id, topic, key, parks_key FROM {table} WHERE {FITS} AND {OPEN} AND {within_reach}",
        table = outbox.dead_letter().quoted(),
        within_reach = within_reach(resolution),
    );
    asked(session, outbox, filter, &meant).await
}

/// Writes a wish down for the dead letters that fit; those in other states are left alone. What the table refuses to mark can be
/// discarded too, once the table is mended: the publisher then marks it.
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
    let meant = format!(
        "UPDATE {table} SET state = '{state}', updated_at = CURRENT_TIMESTAMP \
          WHERE {FITS} AND {OPEN} AND {within_reach} RETURNING id, topic, key, parks_key",
        table = outbox.dead_letter().quoted(),
        within_reach = within_reach(resolution),
    );
    asked(session, outbox, filter, &meant).await
}

const FITS: &str = "(cardinality($1::bigint[]) = 0 OR id = ANY ($1::bigint[])) \
     AND ($2::text IS NULL OR topic = $2) AND ($3::text IS NULL OR error_code = $3) \
     AND ($4::text IS NULL OR state = $4)";

fn within_reach(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Retry => "state = 'dead'",
        Resolution::Discard => "state IN ('dead', 'published-not-marked', 'skipped')",
    }
}

/// Counts what `meant` names, what follows it, and what fits besides; all as of one moment.
async fn asked(
    session: &Session,
    outbox: &TableName,
    filter: &Filter,
    meant: &str,
) -> Result<Affected> {
    let table = outbox.dead_letter();
    let sql = format!(
        "WITH meant AS ({meant}) \
         SELECT (SELECT count(*) FROM meant), \
                (SELECT count(*) FROM {quoted} AS d WHERE d.state = 'parked' AND d.{OPEN} AND EXISTS ( \
                     SELECT FROM meant AS m WHERE m.parks_key AND m.topic = d.topic \
                        AND m.key IS NOT DISTINCT FROM d.key)), \
                (SELECT count(*) FROM {quoted} WHERE {FITS})",
        quoted = table.quoted()
    );
    let what = format!("writing a wish into {table}");
    let row = session.row(&what, &sql, &filter.params()).await?;
    let [dead_letters, following, fitting] =
        [0, 1, 2].map(|at| row.get::<_, i64>(at).unsigned_abs());
    Ok(Affected {
        dead_letters,
        following,
        others: fitting.saturating_sub(dead_letters),
    })
}

impl Filter {
    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![&self.ids, &self.topic, &self.code, &self.state]
    }
}

impl DeadLetterEntry {
    fn of(row: &Row) -> Self {
        // What a person may have edited by hand is shown as it stands.
        let json = |at| {
            let text: String = row.get(at);
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        let bytes = |at| row.get::<_, Option<&[u8]>>(at).map(readable);
        DeadLetterEntry {
            id: row.get(0),
            state: row.get(1),
            outbox_id: row.get(2),
            commit_lsn: row.get(3),
            event_index: row.get(4),
            topic: row.get(5),
            event_type: row.get(6),
            key: bytes(7),
            headers: json(8),
            payload_bytes: row.get(9),
            payload: bytes(10),
            event_created_at: row.get(11),
            error_code: row.get(12),
            error: row.get(13),
            attempts: row.get(14),
            history: json(15),
            parks_key: row.get(16),
            filed_at: row.get(17),
            updated_at: row.get(18),
        }
    }
}
