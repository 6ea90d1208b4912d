//! The open dead letters by state, topic and error code: for status, metrics and commands. Nothing
//! is decided by it.

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::dead_letter::OPEN;
use crate::postgres::{Session, sql_error};
use crate::status::{DeadLetterGroup, OpenDeadLetters};

/// The highest count: each dead letter that is counted is read.
const COUNT_MAX: i64 = 100_000;
/// The most groups.
const GROUPS_MAX: usize = 20;
/// The longest name of a topic; what was filed may have none.
const TOPIC_MAX: usize = 249;

/// The open states, in the order of a dead letter's life.
const STATES: [&str; 6] = [
    "dead",
    "parked",
    "retry",
    "discard",
    "published-not-marked",
    "skipped",
];

/// The statement that counts the open dead letters in this table.
pub(super) fn sql(table: &TableName) -> String {
    format!(
        "WITH open AS MATERIALIZED ( \
             SELECT state, topic, error_code, filed_at FROM {table} \
              WHERE {OPEN} LIMIT {COUNT_MAX}) \
         SELECT grouping(error_code) = 1, state, pg_catalog.left(topic, {TOPIC_MAX}), \
                error_code, pg_catalog.count(*), \
                extract(epoch FROM CURRENT_TIMESTAMP - pg_catalog.min(filed_at))::float8 \
           FROM open GROUP BY GROUPING SETS ((state), (state, topic, error_code)) \
          ORDER BY 1 DESC, 5 DESC, 6 DESC LIMIT {rows}",
        table = table.quoted(),
        rows = STATES.len() + GROUPS_MAX,
    )
}

/// Counts the open dead letters in this table with its statement.
///
/// # Errors
/// Of the table or the server.
pub(super) async fn read(
    session: &Session,
    table: &TableName,
    sql: &str,
) -> Result<OpenDeadLetters> {
    let what = format!("counting {table}");
    let rows = session.rows(&what, sql, &[]).await?;
    let mut open = OpenDeadLetters {
        states: STATES.map(|state| (state.to_owned(), 0)).into(),
        ..OpenDeadLetters::default()
    };
    let mut take = |row: &tokio_postgres::Row| {
        let (is_state, state, count): (bool, String, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(4)?);
        let oldest: f64 = row.try_get(5)?;
        if is_state {
            open.open += count;
            open.oldest_seconds = Some(open.oldest_seconds.unwrap_or(0.0).max(oldest));
            open.states.insert(state, count);
        } else if open.groups.len() < GROUPS_MAX {
            let (topic, code) = (row.try_get(2)?, row.try_get(3)?);
            let group = DeadLetterGroup::new(state, topic, code, count, oldest);
            open.groups.push(group);
        }
        Ok(())
    };
    let taken: Result<(), tokio_postgres::Error> = rows.iter().try_for_each(&mut take);
    taken.map_err(|error| sql_error(what, error))?;
    Ok(open)
}
