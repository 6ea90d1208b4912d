//! Closes dead letters, and marks or deletes their rows in the same transaction, so that no reader
//! of the outbox takes such a row for one to publish.
//!
//! A row that the outbox refuses to change leaves its dead letter open: with its error where there
//! is one, and otherwise when it is read back as unpublished.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::dead_letter::insert;
use crate::outbox::marking::Marking;
use crate::outbox::refusal::{is_refusal, silent_refusal};
use crate::outbox::{CloseDeadLetter, Rejection};
use crate::postgres::{Session, row_error, sql_error};

/// The rows of a statement at most.
const ROWS_MAX: usize = 500;

/// The statements for one outbox.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    outbox: TableName,
    close: String,
    /// `None` if rows are neither marked nor deleted.
    unmarked: Option<String>,
}

impl Closing {
    pub(super) fn new(outbox: &TableName, marking: &Marking) -> Self {
        Closing {
            outbox: outbox.clone(),
            close: close_sql(outbox, marking),
            unmarked: marking.writes().then(|| unmarked_sql(marking)),
        }
    }

    /// The statement that closes.
    pub(super) fn statement(&self) -> &str {
        &self.close
    }

    /// See [`DeadLetters::close`](crate::outbox::DeadLetters::close).
    pub(super) async fn close(
        &self,
        session: &Session,
        closings: &[CloseDeadLetter],
    ) -> Result<()> {
        let what = format!("closing dead letters of {}", self.outbox);
        // The rest of the batch, the next part last: a part that fails because of a row is halved.
        let mut parts: Vec<&[CloseDeadLetter]> = closings.chunks(ROWS_MAX).rev().collect();
        while let Some(part) = parts.pop() {
            let dead_letters: Vec<i64> = part.iter().map(|closing| closing.dead_letter).collect();
            let rows: Vec<Option<i64>> = part.iter().map(|closing| closing.row).collect();
            let published: Vec<bool> = part.iter().map(|closing| closing.published).collect();
            // The inner error is the row's, the outer one the server's.
            let work = async {
                let params: [&(dyn ToSql + Sync); 3] = [&dead_letters, &rows, &published];
                Ok(session.change(&self.close, &params).await)
            };
            let Err(error) = session.bounded(&what, work).await? else {
                self.reopen_unmarked(session, part).await?;
                continue;
            };
            if !is_refusal(session, &what, &error, &[&self.close]).await? {
                return Err(sql_error(what, error));
            }
            if let [closing] = part {
                let (code, message) = row_error(&error);
                let rejection = Rejection { code, message };
                self.leave_open(session, *closing, &rejection).await?;
            } else {
                let (left, right) = part.split_at(part.len() / 2);
                parts.push(right);
                parts.push(left);
            }
        }
        Ok(())
    }

    /// Opens those of the dead letters again whose rows are still unpublished: the table has
    /// suppressed or undone the mark.
    async fn reopen_unmarked(&self, session: &Session, closed: &[CloseDeadLetter]) -> Result<()> {
        let Some(unmarked) = &self.unmarked else {
            return Ok(());
        };
        let rows: Vec<i64> = closed.iter().filter_map(|closing| closing.row).collect();
        let what = format!("reading back closed rows of {}", self.outbox);
        let rows = session.rows(&what, unmarked, &[&rows]).await?;
        let rows: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let is_unmarked = |closing: &&CloseDeadLetter| {
            let row = closing.row;
            row.is_some_and(|row| rows.contains(&row))
        };
        for closing in closed.iter().filter(is_unmarked) {
            let rejection = silent_refusal(&self.outbox);
            self.leave_open(session, *closing, &rejection).await?;
        }
        Ok(())
    }

    async fn leave_open(
        &self,
        session: &Session,
        closing: CloseDeadLetter,
        rejection: &Rejection,
    ) -> Result<()> {
        let (dead_letter, row) = (closing.dead_letter, closing.row);
        let Rejection { code, message } = rejection;
        tracing::error!(
            dead_letter,
            row,
            code,
            error = message,
            "row of a dead letter cannot be marked"
        );
        let state = if closing.published {
            insert::NOT_MARKED
        } else {
            "skipped"
        };
        let table = self.outbox.dead_letter();
        let sql = format!(
            "UPDATE {table} AS d SET state = $2, error_code = $3, error = $4, \
             updated_at = CURRENT_TIMESTAMP, history = {append} WHERE d.id = $1",
            table = table.quoted(),
            append = insert::append("$3::text", "$4::text", "d.attempts"),
        );
        let what = format!("filing in {table} that a row cannot be marked");
        session
            .rows(
                &what,
                &sql,
                &[&dead_letter, &state, code, &insert::text(message)],
            )
            .await?;
        Ok(())
    }
}

fn close_sql(outbox: &TableName, marking: &Marking) -> String {
    let (settle, is_settled) = match marking.writes() {
        true => {
            let candidates = marking.candidates("t");
            let settle = marking.statement(
                "FROM closings AS c",
                &format!("t.id = c.outbox_row AND {candidates}"),
                "c.published::integer",
            );
            let is_marked = marking.is_marked();
            let table = marking.table();
            (
                format!(
                    ", settled AS ({settle} RETURNING t.id::bigint AS id, {is_marked} AS marked)"
                ),
                // A row that a trigger keeps unpublished keeps its dead letter.
                format!(
                    " AND (c.outbox_row IS NULL \
                      OR c.outbox_row IN (SELECT s.id FROM settled AS s WHERE s.marked) \
                      OR NOT EXISTS (SELECT FROM {table} AS t \
                                      WHERE t.id = c.outbox_row AND {candidates}))"
                ),
            )
        }
        false => (String::new(), String::new()),
    };
    format!(
        "WITH closings AS (SELECT c.* FROM ROWS FROM (pg_catalog.unnest($1::bigint[]), \
                                   pg_catalog.unnest($2::bigint[]), \
                                   pg_catalog.unnest($3::boolean[])) \
                               AS c (letter, outbox_row, published)){settle} \
         UPDATE {table} AS d SET \
                state = CASE WHEN c.published THEN 'retried' ELSE 'discarded' END, \
                updated_at = CURRENT_TIMESTAMP \
           FROM closings AS c WHERE d.id = c.letter{is_settled}",
        table = outbox.dead_letter().quoted()
    )
}

/// Those of the rows that are still unpublished.
fn unmarked_sql(marking: &Marking) -> String {
    format!(
        "SELECT t.id::bigint FROM {table} AS t WHERE t.id = ANY ($1::bigint[]) AND {candidates}",
        table = marking.table(),
        candidates = marking.candidates("t"),
    )
}
