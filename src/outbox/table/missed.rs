//! The statements of the audit: which rows are unpublished now, a WAL position behind their
//! commits, and which of them are still unpublished later.
//!
//! The commit of a row that a statement sees lies before any position that is read afterwards. So
//! the position comes from a second statement, and an event that the stream has not delivered when
//! it has passed this position was missed.

use postgres_protocol::escape::escape_literal;

use crate::config::AfterPublish;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::marking::Marking;
use crate::outbox::row_key::ReadOrder;
use crate::outbox::table::batch::Batch;
use crate::outbox::table::row::FoundRow;
use crate::outbox::{IdKind, RowId, RowName, UnpublishedRows, row_name};
use crate::postgres::{self, Session, TableShape, sql_error};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct MissedRows {
    what: String,
    list: String,
    left: String,
}

/// The most ids in a statement for a person.
const NAMED_MAX: usize = 100;

/// Takes a transaction id, so that its commit moves the WAL past a position that was read before:
/// an idle stream reports its position only when the WAL moves.
pub(super) const MOVE_ON: &str = "SELECT pg_catalog.pg_current_xact_id()";

impl MissedRows {
    /// For the table that `rows` reads.
    pub(crate) fn new(rows: &UnpublishedRows) -> Self {
        let (table, unpublished) = (rows.table(), rows.condition());
        let name = table.quoted();
        let by = ReadOrder::of(rows.shape()).by("o");
        MissedRows {
            what: format!("auditing {table}"),
            list: format!(
                "SELECT {row_name} FROM {name} AS o WHERE {unpublished} \
                  ORDER BY {by} LIMIT $1::bigint",
                row_name = row_name::columns(rows.shape(), "o"),
            ),
            left: format!(
                "SELECT {found} FROM {name} AS o \
                  WHERE {unpublished} AND {is_any} ORDER BY {by}",
                found = FoundRow::columns(rows.shape()),
                is_any = rows.key().is_any("o", "$1"),
            ),
        }
    }

    /// Every statement.
    pub(crate) fn statements(&self) -> [&str; 2] {
        [&self.list, &self.left]
    }

    /// The first unpublished rows in the order of a read, at most `limit`, and a WAL position
    /// behind their commits.
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
    pub(crate) async fn left(&self, session: &Session, ids: &[RowId]) -> Result<Batch> {
        let rows = session.rows(&self.what, &self.left, &[&ids]).await?;
        let found: Result<Vec<_>, _> = rows.iter().map(FoundRow::of).collect();
        let found = found.map_err(|error| sql_error(&self.what, error))?;
        Ok(Batch::new(found, false, false))
    }

    /// The statement by which a person leaves these rows out, given in the order of their ids. Of
    /// ids that are no integers it names the first hundred.
    pub(crate) fn leave_out_sql(
        shape: &TableShape,
        after_publish: AfterPublish,
        ids: &[RowId],
    ) -> String {
        let name = shape.name.quoted();
        let marking = Marking::new(after_publish, shape);
        let unpublished = marking.unpublished(&name);
        let delete = || format!("DELETE FROM {name}");
        let change = match after_publish {
            AfterPublish::Delete => delete(),
            _ => marking.by_hand().unwrap_or_else(delete),
        };
        let key = marking.key();
        let these = match (key.kind(), ids) {
            (_, []) => String::new(),
            (IdKind::Number, [first, .., last]) => {
                format!("{} BETWEEN {first} AND {last} AND ", key.names())
            }
            (IdKind::Number, [only]) => format!("{} = {only} AND ", key.names()),
            (IdKind::Text, ids) => {
                let named = ids.iter().take(NAMED_MAX);
                let named = named.map(|id| escape_literal(&id.to_string()));
                let named = named.collect::<Vec<_>>().join(", ");
                format!("{} IN ({named}) AND ", key.text(&name))
            }
        };
        format!("{change} WHERE {these}{unpublished}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_left_out_by_a_statement_that_names_no_column_the_table_lacks() {
        let marked = TableShape::of_columns(1, &[("published_at", "timestamp without time zone")]);
        let leave_out =
            |shape, after| MissedRows::leave_out_sql(shape, after, &[3.into(), 9.into()]);
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
