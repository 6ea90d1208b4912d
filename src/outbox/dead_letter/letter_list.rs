//! Every dead letter about a row, by the name of that row: for a comparison of the table with the
//! topics. Nothing is decided here, and no payload is read.
//!
//! A dead letter of another table that had this name is left out. Whether one is about a row of the
//! same id is decided by the time of creation, where both have it.

use crate::config::TableName;
use crate::error::Result;
use crate::postgres::{Columns, Session, TableShape};

/// Letters in one statement.
const BATCH: i64 = 5_000;

/// The statement for one table.
#[derive(Debug)]
pub(crate) struct LetterList {
    table: TableName,
    sql: String,
}

/// What a dead letter tells about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LetterName {
    /// The text of the row's id.
    pub(crate) id: String,
    /// The time of creation as it is printed everywhere, where the letter has it.
    pub(crate) created_at: Option<String>,
    /// Kafka has the event: the letter says only that the row refuses the mark.
    pub(crate) is_sent: bool,
    /// The event was sent again, or is to be.
    pub(crate) is_retried: bool,
}

impl LetterList {
    /// For the dead letters of this table.
    pub(crate) fn new(shape: &TableShape) -> Self {
        let table = shape.name.dead_letter();
        LetterList {
            sql: format!(
                "SELECT d.id, d.outbox_id, d.event_created_at, \
                        d.state = 'published-not-marked', d.state IN ('retry', 'retried') \
                   FROM {table} AS d \
                  WHERE d.id > $1 AND d.outbox_id IS NOT NULL \
                    AND coalesce(d.table_oid = {oid}, true) \
                  ORDER BY d.id LIMIT {BATCH}",
                table = table.quoted(),
                oid = shape.oid,
            ),
            table,
        }
    }

    /// The letters behind the one with this number, and the number of the last of them; `None` at
    /// the end.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn behind(
        &self,
        session: &Session,
        number: i64,
    ) -> Result<(Vec<LetterName>, Option<i64>)> {
        let what = format!("reading {}", self.table);
        let rows = session.rows(&what, &self.sql, &[&number]).await?;
        let mut letters = Vec::with_capacity(rows.len());
        for row in &rows {
            letters.push(LetterName {
                id: row.column(1)?,
                created_at: row.column(2)?,
                is_sent: row.column(3)?,
                is_retried: row.column(4)?,
            });
        }
        let last = rows.last().map(|row| row.column(0)).transpose()?;
        Ok((letters, last))
    }
}
