//! What became of requests to retry dead letters, read from the table: the publisher carries them
//! out and leaves the result there.

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::Rejection;
use crate::postgres::{Columns, Session};

/// The state of dead letters after a request to retry them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOutcome {
    /// Kafka has them now.
    pub published: u64,
    /// Kafka has them, and the table refuses to mark their rows.
    pub not_marked: u64,
    /// Rejected again, by reason and with their number.
    pub refused: Vec<(Rejection, u64)>,
    /// The publisher has not carried out the request yet.
    pub waiting: u64,
    /// Discarded, parked or deleted meanwhile.
    pub others: u64,
}

/// Reads what became of these dead letters.
///
/// # Errors
/// Of the table or the server; `CONFIG_ERROR` when there is no such table.
pub async fn outcome(session: &Session, outbox: &TableName, ids: &[i64]) -> Result<RetryOutcome> {
    let table = outbox.dead_letter();
    let sql = format!(
        "SELECT state, error_code, min(error), count(*) FROM {table} \
          WHERE id = ANY ($1::bigint[]) GROUP BY state, error_code ORDER BY 4 DESC, 2",
        table = table.quoted()
    );
    let rows = session
        .rows(&format!("reading {table}"), &sql, &[&ids])
        .await?;
    let mut outcome = RetryOutcome::default();
    let mut found = 0;
    for row in rows {
        let (state, count): (String, i64) = (row.column(0)?, row.column(3)?);
        let count = count.unsigned_abs();
        found += count;
        match state.as_str() {
            "retried" => outcome.published += count,
            "published-not-marked" => outcome.not_marked += count,
            "retry" => outcome.waiting += count,
            "dead" => {
                let (code, message) = (row.column(1)?, row.column(2)?);
                outcome.refused.push((Rejection { code, message }, count));
            }
            _ => outcome.others += count,
        }
    }
    outcome.others += (ids.len() as u64).saturating_sub(found);
    Ok(outcome)
}
