//! The statements of the audit: which rows are unpublished now, a WAL position behind their
//! commits, and which of them are still unpublished later.
//!
//! The commit of a row that a statement sees lies before any position that is read afterwards. So
//! the position comes from a second statement, and an event that the stream has not delivered when
//! it has passed this position was missed.

use crate::config::AfterPublish;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::marking::Marking;
use crate::outbox::table::batch::Batch;
use crate::outbox::table::row::FoundRow;
use crate::outbox::{RowName, UnpublishedRows, row_name};
use crate::postgres::{self, Session, TableShape, sql_error};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct MissedRows {
    what: String,
    list: String,
    left: String,
}

/// Takes a transaction id, so that its commit moves the WAL past a position that was read before:
/// an idle stream reports its position only when the WAL moves.
const MOVE_ON: &str = "SELECT pg_catalog.pg_current_xact_id()";

impl MissedRows {
    /// For the table that `rows` reads.
    pub(crate) fn new(rows: &UnpublishedRows) -> Self {
        let (table, unpublished) = (rows.table(), rows.condition());
        let name = table.quoted();
        MissedRows {
            what: format!("auditing {table}"),
            list: format!(
                "SELECT {row_name} FROM {name} AS o WHERE {unpublished} \
                  ORDER BY o.id LIMIT $1::bigint",
                row_name = row_name::columns(rows.shape(), "o"),
            ),
            left: format!(
                "SELECT {found} FROM {name} AS o \
                  WHERE {unpublished} AND o.id = ANY ($1::bigint[]) ORDER BY o.id",
                found = FoundRow::columns(rows.shape())
            ),
        }
    }

    /// Every statement.
    pub(crate) fn statements(&self) -> [&str; 2] {
        [&self.list, &self.left]
    }

    /// The unpublished rows with the lowest ids, at most `limit`, and a WAL position behind their
    /// commits.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn list(
        &self,
        session: &Session,
        limit: usize,
    ) -> Result<(Vec<RowName>, Lsn)> {
        let limit = limit as i64;
        let rows = session.rows(&self.what, &self.list, &[&limit]).await?;
        let names: Result<Vec<RowName>, _> =
            rows.iter().map(|row| row_name::of_row(row, 0)).collect();
        let names = names.map_err(|error| sql_error(&self.what, error))?;
        if names.is_empty() {
            return Ok((names, Lsn::INVALID));
        }
        let behind = postgres::log_position(session).await?;
        session.run(&self.what, MOVE_ON).await?;
        Ok((names, behind))
    }

    /// Those of the ids whose rows are still unpublished, to be read.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn left(&self, session: &Session, ids: &[i64]) -> Result<Batch> {
        let rows = session.rows(&self.what, &self.left, &[&ids]).await?;
        let found: Result<Vec<_>, _> = rows.iter().map(FoundRow::of).collect();
        let found = found.map_err(|error| sql_error(&self.what, error))?;
        Ok(Batch::new(found, false, false))
    }

    /// The statement by which a person leaves these rows out, given in the order of their ids.
    pub(crate) fn leave_out_sql(
        shape: &TableShape,
        after_publish: AfterPublish,
        ids: &[i64],
    ) -> String {
        let name = shape.name.quoted();
        let unpublished = Marking::new(after_publish, shape).unpublished(&name);
        let change = match after_publish {
            AfterPublish::Delete => format!("DELETE FROM {name}"),
            _ => format!("UPDATE {name} SET published_at = CURRENT_TIMESTAMP"),
        };
        let range = match ids {
            [] => String::new(),
            [first, .., last] => format!("id BETWEEN {first} AND {last} AND "),
            [only] => format!("id BETWEEN {only} AND {only} AND "),
        };
        format!("{change} WHERE {range}{unpublished}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_left_out_by_a_statement_that_names_no_column_the_table_lacks() {
        let marked = TableShape::of_columns(1, &[("published_at", "timestamp without time zone")]);
        let leave_out = |shape, after| MissedRows::leave_out_sql(shape, after, &[3, 9]);
        let table = "\"outbox\".\"outbox\"";
        assert_eq!(
            leave_out(&marked, AfterPublish::Mark),
            format!(
                "UPDATE {table} SET published_at = CURRENT_TIMESTAMP \
                 WHERE id BETWEEN 3 AND 9 AND {table}.published_at IS NULL"
            )
        );
        let bare = TableShape::of_columns(1, &[("id", "bigint")]);
        let delete = leave_out(&bare, AfterPublish::Delete);
        let expected = format!("DELETE FROM {table} WHERE id BETWEEN 3 AND 9 AND true");
        assert_eq!(delete, expected);
    }
}
