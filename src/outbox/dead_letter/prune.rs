//! Deletes closed dead letters, which nothing needs any more but the memory of persons.
//!
//! Open ones are never deleted: they hide their rows from every reader of the outbox. A young
//! closed one is kept too, because the stream may repeat its event after a crash, and the dead
//! letter says that the event is settled.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::dead_letter::CLOSED;
use crate::postgres::{Columns, ServerError, Session};

/// The rows of one statement: its locks are short, and standbys follow.
const BATCH: i64 = 1_000;

const HOUR: Duration = Duration::from_secs(3_600);

/// The ages that may be given.
pub const AGES: RangeInclusive<Duration> = HOUR..=Duration::from_secs(36_500 * 86_400);

/// How many closed dead letters last changed longer ago than `age`.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn count(session: &Session, outbox: &TableName, age: Duration) -> Result<u64> {
    let table = outbox.dead_letter();
    let sql = format!(
        "SELECT count(*) FROM {table} \
          WHERE {CLOSED} AND updated_at < CURRENT_TIMESTAMP - $1::float8 * interval '1 second'",
        table = table.quoted()
    );
    let what = format!("counting {table}");
    let row = session.row(&what, &sql, &[&age.as_secs_f64()]).await?;
    Ok(row.column::<i64>(0)?.unsigned_abs())
}

/// Deletes them in small transactions, so that a failure leaves the deleted ones deleted; returns
/// how many there were.
///
/// # Errors
/// Of the table or the server, also when the role may not delete.
pub async fn prune(session: &Session, outbox: &TableName, age: Duration) -> Result<u64> {
    let table = outbox.dead_letter();
    // By ids, so that no batch reads again what earlier ones left.
    let sql = format!(
        "WITH old AS (SELECT id FROM {table} \
                       WHERE {CLOSED} AND id > $1 \
                         AND updated_at < CURRENT_TIMESTAMP - $2::float8 * interval '1 second' \
                       ORDER BY id LIMIT {BATCH}), \
              gone AS (DELETE FROM {table} WHERE id IN (SELECT id FROM old) AND {CLOSED} \
                       RETURNING id) \
         SELECT (SELECT max(id) FROM old), (SELECT count(*) FROM gone)",
        table = table.quoted()
    );
    let what = format!("deleting closed rows of {table}");
    let (mut last, mut deleted) = (i64::MIN, 0);
    loop {
        let row = session.row(&what, &sql, &[&last, &age.as_secs_f64()]).await;
        let row = row.map_err(|error| {
            let denied = ServerError::of(&error).is_some_and(ServerError::is_of_privileges);
            let hint = format!("connect as the owner of {table}, or GRANT DELETE ON {table}");
            if denied { error.with_hint(hint) } else { error }
        })?;
        deleted += row.column::<i64>(1)?.unsigned_abs();
        match row.column(0)? {
            Some(id) => last = id,
            None => return Ok(deleted),
        }
    }
}
