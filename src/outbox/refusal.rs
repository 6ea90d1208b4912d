//! Rows that the table refuses to change: with an error that one row causes, or in silence.

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::Rejection;
use crate::postgres::{Session, is_of_the_row, is_of_the_statement};

/// Whether a row is the reason of an error, by its values or through a trigger. A state that speaks
/// of the statement, such as a name that does not exist, comes from a trigger if the server accepts
/// the `statements` without running them.
///
/// # Errors
/// Of the connection.
pub(crate) async fn is_refusal(
    session: &Session,
    what: &str,
    error: &tokio_postgres::Error,
    statements: &[&str],
) -> Result<bool> {
    if is_of_the_row(error) {
        return Ok(true);
    }
    if !is_of_the_statement(error) {
        return Ok(false);
    }
    for statement in statements {
        match session.explain(what, statement).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// The rejection of a row that stays unpublished although no statement has failed.
pub(crate) fn silent_refusal(table: &TableName) -> Rejection {
    Rejection {
        code: "ROW_NOT_MARKED".to_owned(),
        message: format!(
            "{table} keeps the row unpublished: a trigger suppresses or undoes its mark"
        ),
    }
}
