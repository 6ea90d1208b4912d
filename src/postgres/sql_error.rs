//! Turns a failed statement or connection into the library's error.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use crate::error::{Code, Error, cause_of};
use crate::postgres::sqlstate::{self, ServerError};
#[cfg(feature = "publisher")]
use crate::postgres::transport::refusal;

/// The library's error for a failed statement or connection. `context` names what was being done.
/// It may be logged: it has no text of a trigger.
pub(crate) fn sql_error(context: impl Into<String>, error: tokio_postgres::Error) -> Error {
    describe(context, Arc::new(error))
}

/// The same for a statement of a program that uses the library, with the texts of its own triggers.
pub(crate) fn writers_error(context: impl Into<String>, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(server) => sqlstate::classify(context, ServerError::from(server)),
        None => sql_error(context, error),
    }
}

pub(crate) fn describe(context: impl Into<String>, error: Arc<tokio_postgres::Error>) -> Error {
    if let Some(server) = error.as_db_error() {
        return sqlstate::classify(context, ServerError::to_log(server));
    }
    let context = context.into();
    let problem = cause_of::<io::Error>(&*error);
    if let Some(refused) = problem.and_then(|problem| refusal(problem, &context)) {
        return refused;
    }
    let may_pass = problem.is_some() || error.source().is_none();
    let classified = match (may_pass, hint_of(&error)) {
        (true, _) => Error::transient(Code::Connect, context),
        // A missing password, a value of an unexpected type.
        (false, Some(hint)) => Error::fatal(Code::Connect, context).with_hint(hint),
        (false, None) => Error::fatal(Code::Connect, context),
    };
    classified.with_source(error)
}

/// An error of one row, without its detail, which may quote the row.
#[derive(Debug)]
pub(crate) struct RowError {
    /// SQLSTATE.
    pub(crate) code: String,
    /// For the row's dead letter.
    pub(crate) message: String,
    /// For the log: a trigger's own text may quote the row.
    pub(crate) logged: String,
}

/// The parts of such an error.
pub(crate) fn row_error(error: &tokio_postgres::Error) -> RowError {
    match error.as_db_error() {
        Some(server) => {
            let ServerError { code, message, .. } = server.into();
            RowError {
                code,
                message,
                logged: ServerError::to_log(server).message,
            }
        }
        None => RowError {
            code: String::new(),
            message: error.to_string(),
            logged: error.to_string(),
        },
    }
}

/// Whether the server asked for a password and there is none.
#[cfg(feature = "publisher")]
pub(crate) fn is_without_password(error: &Error) -> bool {
    let cause = cause_of::<tokio_postgres::Error>(error);
    let cause = cause.and_then(|cause| cause.source());
    cause.is_some_and(|cause| cause.to_string() == NO_PASSWORD)
}

/// tokio-postgres' words for a password that is not configured.
const NO_PASSWORD: &str = "password missing";

/// What to do about an error that tokio-postgres found before the server answered; its texts are
/// all that tells them apart.
fn hint_of(error: &tokio_postgres::Error) -> Option<&'static str> {
    let cause = error.source()?.to_string();
    match cause.as_str() {
        NO_PASSWORD => Some(
            "give the password with PGPASSWORD, DATABASE_PASSWORD_FILE or libpq's password file",
        ),
        _ => None,
    }
}

/// [`Writer`](crate::outbox::Writer) alone uses its caller's sessions.
#[cfg(not(feature = "publisher"))]
fn refusal(_: &io::Error, _: &str) -> Option<Error> {
    None
}
