//! Closes dead letters, and marks or deletes their rows in the same transaction, so that no reader
//! of the outbox takes such a row for one to publish.
//!
//! A row is marked only if the dead letter is about it: another may have its id by now. A row that
//! the outbox refuses to change leaves its dead letter open: with its error where there
//! is one, and otherwise when it is read back as unpublished.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::dead_letter::insert;
use crate::outbox::dead_letter::row_identity::is_about;
use crate::outbox::marking::Marking;
use crate::outbox::refusal::{is_refusal, silent_refusal};
use crate::outbox::{CloseDeadLetter, Rejection, RowId};
use crate::postgres::{Columns, RowError, Session, TableShape, row_error, sql_error};

/// The rows of a statement at most.
const ROWS_MAX: usize = 500;

/// The statements for one outbox.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    outbox: TableName,
    close: String,
    leave_open: String,
    /// `None` if rows are neither marked nor deleted.
    unmarked: Option<String>,
}

impl Closing {
    pub(super) fn new(shape: &TableShape, marking: &Marking) -> Self {
        Closing {
            outbox: shape.name.clone(),
            close: close_sql(shape, marking),
            leave_open: leave_open_sql(&shape.name.dead_letter()),
            unmarked: marking.writes().then(|| unmarked_sql(shape, marking)),
        }
    }

    /// Every statement.
    pub(super) fn statements(&self) -> impl Iterator<Item = String> {
        let always = [self.close.clone(), self.leave_open.clone()];
        always.into_iter().chain(self.unmarked.clone())
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
            let rows: Vec<Option<&RowId>> =
                part.iter().map(|closing| closing.row.as_ref()).collect();
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
                let RowError {
                    code,
                    message,
                    logged,
                } = row_error(&error);
                let rejection = Rejection { code, message };
                self.leave_open(session, closing, &rejection, &logged)
                    .await?;
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
        let named = closed.iter();
        let named = named.filter_map(|closing| Some((closing.dead_letter, closing.row.as_ref()?)));
        let (dead_letters, rows): (Vec<i64>, Vec<&RowId>) = named.unzip();
        let what = format!("reading back closed rows of {}", self.outbox);
        let open = session
            .rows(&what, unmarked, &[&dead_letters, &rows])
            .await?;
        let open = open.iter().map(|row| row.column(0));
        let open = open.collect::<Result<HashSet<i64>>>()?;
        let is_unmarked = |closing: &&CloseDeadLetter| open.contains(&closing.dead_letter);
        for closing in closed.iter().filter(is_unmarked) {
            let rejection = silent_refusal(&self.outbox);
            self.leave_open(session, closing, &rejection, &rejection.message)
                .await?;
        }
        Ok(())
    }

    async fn leave_open(
        &self,
        session: &Session,
        closing: &CloseDeadLetter,
        rejection: &Rejection,
        logged: &str,
    ) -> Result<()> {
        let (dead_letter, row) = (closing.dead_letter, closing.row.as_ref());
        let Rejection { code, message } = rejection;
        tracing::error!(
            dead_letter,
            row = row.map(tracing::field::display),
            code,
            error = logged,
            "row of a dead letter cannot be marked"
        );
        let state = if closing.published {
            insert::NOT_MARKED
        } else {
            "skipped"
        };
        let table = self.outbox.dead_letter();
        let what = format!("filing in {table} that a row cannot be marked");
        session
            .rows(
                &what,
                &self.leave_open,
                &[&dead_letter, &state, code, &insert::text(message)],
            )
            .await?;
        Ok(())
    }
}

fn close_sql(shape: &TableShape, marking: &Marking) -> String {
    let dead_letters = shape.name.dead_letter().quoted();
    let about = is_about(shape, "t");
    let key = marking.key();
    let (is_this, kind) = (key.is("t", "c.outbox_row"), key.parameter());
    let (settle, is_settled) = match marking.writes() {
        true => {
            let candidates = marking.candidates("t");
            let settle = marking.statement(
                "FROM closings AS c",
                &format!(
                    "{is_this} AND {candidates} \
                     AND EXISTS (SELECT FROM {dead_letters} AS d \
                                  WHERE d.id = c.letter AND {about})"
                ),
                "c.published::integer",
            );
            let is_marked = marking.is_marked();
            let table = marking.table();
            (
                format!(
                    ", settled AS ({settle} RETURNING {id} AS id, {is_marked} AS marked)",
                    id = key.value("t"),
                ),
                // A row that a trigger keeps unpublished keeps its dead letter.
                format!(
                    " AND (c.outbox_row IS NULL \
                      OR c.outbox_row IN (SELECT s.id FROM settled AS s WHERE s.marked) \
                      OR NOT EXISTS (SELECT FROM {table} AS t \
                                      WHERE {is_this} AND {candidates} \
                                        AND {about}))"
                ),
            )
        }
        false => (String::new(), String::new()),
    };
    format!(
        "WITH closings AS (SELECT c.* FROM ROWS FROM (pg_catalog.unnest($1::bigint[]), \
                                   pg_catalog.unnest($2::{kind}[]), \
                                   pg_catalog.unnest($3::boolean[])) \
                               AS c (letter, outbox_row, published)){settle} \
         UPDATE {dead_letters} AS d SET \
                state = CASE WHEN c.published THEN 'retried' ELSE 'discarded' END, \
                updated_at = CURRENT_TIMESTAMP \
           FROM closings AS c WHERE d.id = c.letter{is_settled}"
    )
}

/// The statement that opens a dead letter again.
fn leave_open_sql(dead_letters: &TableName) -> String {
    format!(
        "UPDATE {table} AS d SET state = $2, error_code = $3, error = $4, \
         updated_at = CURRENT_TIMESTAMP, history = {append} WHERE d.id = $1",
        table = dead_letters.quoted(),
        append = insert::append("$3::text", "$4::text", "d.attempts"),
    )
}

/// Those of the dead letters whose rows are still unpublished.
fn unmarked_sql(shape: &TableShape, marking: &Marking) -> String {
    format!(
        "SELECT d.id FROM ROWS FROM (pg_catalog.unnest($1::bigint[]), \
                                     pg_catalog.unnest($2::{kind}[])) AS c (letter, outbox_row) \
           JOIN {dead_letters} AS d ON d.id = c.letter \
           JOIN {table} AS t ON {is_this} \
          WHERE {candidates} AND {about}",
        dead_letters = shape.name.dead_letter().quoted(),
        kind = marking.key().parameter(),
        is_this = marking.key().is("t", "c.outbox_row"),
        about = is_about(shape, "t"),
        table = marking.table(),
        candidates = marking.candidates("t"),
    )
}
