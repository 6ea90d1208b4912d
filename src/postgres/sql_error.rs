//! Turns a failed statement or connection into the library's error.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use crate::error::{Code, Error, cause_of};
use crate::postgres::sqlstate::{self, ServerError};
use crate::postgres::tls_error::{TlsError, tls_error};

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
    let problem = cause_of::<io::Error>(&*error);
    let classified = match (problem, tls_error(&error)) {
        // tokio-postgres reports a read-only server as an I/O error without an OS error number.
        (Some(io), _) if read_only(io) => Error::transient(Code::Connect, context)
            .with_hint("the server is read-only: a standby, or not promoted yet"),
        (Some(io), _) if io.kind() == io::ErrorKind::ConnectionRefused => {
            Error::transient(Code::Connect, context)
                .with_hint("is the server up, and are host and port right?")
        }
        (Some(io), _) if is_of_lookup(io) => Error::transient(Code::Connect, context)
            .with_hint("does the host's name exist in DNS, and is it spelt right?"),
        (Some(_), _) => Error::transient(Code::Connect, context),
        (None, Some(TlsError::Certificate)) => Error::fatal(Code::Connect, context).with_hint(
            "the server's certificate is not signed by sslrootcert, or is for another host",
        ),
        (None, Some(TlsError::Other)) => Error::transient(Code::Connect, context),
        (None, None) if error.source().is_none() => Error::transient(Code::Connect, context),
        // A missing password, TLS that the server does not offer, a value of an unexpected type.
        (None, None) => match hint_of(&error) {
            Some(hint) => Error::fatal(Code::Connect, context).with_hint(hint),
            None => Error::fatal(Code::Connect, context),
        },
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

/// The resolver's errors have no kind and no OS error number, only this text.
fn is_of_lookup(error: &io::Error) -> bool {
    error
        .to_string()
        .starts_with("failed to lookup address information")
}

/// What to do about an error that tokio-postgres found before the server answered; its texts are
/// all that tells them apart.
fn hint_of(error: &tokio_postgres::Error) -> Option<&'static str> {
    let cause = error.source()?.to_string();
    match cause.as_str() {
        "password missing" => Some(
            "give the password with PGPASSWORD, DATABASE_PASSWORD_FILE or libpq's password file",
        ),
        "server does not support TLS" => {
            Some("write sslmode=disable or prefer, or switch the server's ssl on")
        }
        _ => None,
    }
}

fn read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}
