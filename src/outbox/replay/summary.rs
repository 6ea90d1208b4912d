//! What a replay would send: how many rows of each topic, and the first and the last of them.

use std::time::Duration;

use crate::error::Result;
use crate::outbox::replay::chosen::ReplayRows;
use crate::outbox::row_key::{ReadOrder, RowKey};
use crate::outbox::unpublished_count::was_held_up;
use crate::outbox::{UnpublishedRows, sample};
use crate::postgres::{Columns, Session, TableShape};

/// Rows are counted up to this number.
const COUNTED_MAX: i64 = 10_000_000;
/// The most topics that are named.
const TOPICS_MAX: i64 = 100;
/// No topic of Kafka has a longer name.
const TOPIC_LENGTH: i64 = 250;

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// How many rows, up to ten million.
    pub rows: u64,
    /// Whether there are more.
    pub is_cut: bool,
    /// The rows of each topic, most first, a hundred topics at most; no name where the rule for
    /// topics gives none.
    pub topics: Vec<(Option<String>, u64)>,
    /// The first row in the order of reading.
    pub first: Option<RowAt>,
    /// The last one.
    pub last: Option<RowAt>,
}

/// A row, and when it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowAt {
    /// Its id.
    pub id: String,
    /// The time as the table has it, if it has one.
    pub created: Option<String>,
}

impl ReplaySummary {
    /// Counts the rows that are still to be sent; `None` if that takes longer than half of the
    /// operation timeout.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn read(
        session: &Session,
        chosen: &ReplayRows,
        rows: &UnpublishedRows,
        shape: &TableShape,
    ) -> Result<Option<Self>> {
        let what = format!("counting the rows of {} to replay", shape.name);
        let limit: Duration = session.operation_timeout() / 2;
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {}",
            limit.as_millis()
        );
        session.run(&what, &begin).await?;
        let read = read(session, &what, chosen, rows, shape).await;
        let ended = session.run(&what, "ROLLBACK").await;
        match read {
            Ok(summary) => ended.map(|()| Some(summary)),
            Err(error) if was_held_up(&error) => ended.map(|()| None),
            Err(error) => Err(error),
        }
    }
}

async fn read(
    session: &Session,
    what: &str,
    chosen: &ReplayRows,
    rows: &UnpublishedRows,
    shape: &TableShape,
) -> Result<ReplaySummary> {
    let order = ReadOrder::of(shape);
    let mut condition = rows.condition().to_owned();
    if let Some(after) = &chosen.after {
        let follows = order.follows("o", &after.id, after.order.as_deref());
        condition.push_str(&format!(" AND {follows}"));
    }
    let table = shape.name.quoted();
    // The first of the groups is all rows.
    let topics = format!(
        "SELECT grouping(s.topic) = 1, s.topic, pg_catalog.count(*) \
           FROM (SELECT pg_catalog.left({topic}, {TOPIC_LENGTH}) AS topic \
                   FROM {table} AS o WHERE {condition} LIMIT {limit}) AS s \
          GROUP BY GROUPING SETS ((), (s.topic)) ORDER BY 1 DESC, 3 DESC, 2 LIMIT {most}",
        topic = sample::topic(shape),
        limit = COUNTED_MAX + 1,
        most = TOPICS_MAX + 1,
    );
    let mut summary = ReplaySummary::default();
    for row in &session.rows(what, &topics, &[]).await? {
        let count: i64 = row.column(2)?;
        match row.column(0)? {
            true => {
                summary.rows = count.min(COUNTED_MAX).unsigned_abs();
                summary.is_cut = count > COUNTED_MAX;
            }
            false => {
                let topic: Option<String> = row.column(1)?;
                summary.topics.push((topic, count.unsigned_abs()));
            }
        }
    }
    let end = |by: String| {
        let created = match shape.created() {
            Some(column) => format!("o.{}::text", column.quoted()),
            None => "NULL::text".to_owned(),
        };
        let id = RowKey::of(shape).text("o");
        format!("SELECT {id}, {created} FROM {table} AS o WHERE {condition} ORDER BY {by} LIMIT 1")
    };
    summary.first = row_at(session, what, &end(order.by("o"))).await?;
    summary.last = row_at(session, what, &end(order.by_descending("o"))).await?;
    Ok(summary)
}

async fn row_at(session: &Session, what: &str, sql: &str) -> Result<Option<RowAt>> {
    let row = session.row_if_any(what, sql, &[]).await?;
    let row = row.map(|row| {
        Ok(RowAt {
            id: row.column(0)?,
            created: row.column(1)?,
        })
    });
    row.transpose()
}
