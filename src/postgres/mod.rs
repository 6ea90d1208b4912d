//! The SQL side of Postgres: sessions, and what we ask and change of slots, publications and the
//! table's shape.
//!
//! Refused: connection poolers, servers that do not accept writes, and any use of log positions or
//! row ids before [`Server::lineage`] was compared: after a failover both come again with another
//! meaning. Values are read with `Row::get`, which panics on another type than asked for: every
//! column's type is fixed by the statement's own casts.

pub mod lock;
mod pooler;
pub mod preflight;
pub mod publication;
mod session;
pub mod setup;
pub mod slot;
pub(crate) mod sqlstate;
pub mod table;
pub(crate) mod tls;

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use tokio_postgres::types::PgLsn;

use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;

pub(crate) use self::preflight::{Fault, Inspection};
pub(crate) use self::session::is_out_of_time;
pub use self::session::{Session, connect};
pub use self::sqlstate::ServerError;
pub(crate) use self::sqlstate::{is_lock_trouble, is_of_the_row, is_unreadable, row_fault};
pub use self::table::TableShape;

/// One history of the log. Log positions and row ids of one lineage mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The cluster, as made by initdb.
    pub system_id: u64,
    /// The branch of its history; a promotion begins a new one. 0 where a standby cannot tell.
    pub timeline: u32,
}

/// Which server a session talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The history that its log belongs to.
    pub lineage: Lineage,
    /// When it was started, in seconds since 1970 as text. The same lineage and the same start: the
    /// same server.
    pub postmaster_start: String,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    /// Whether it is a standby, or not through with crash recovery.
    pub in_recovery: bool,
}

/// When the server process was started, as text that does not depend on a session's time zone. Two
/// connections that read the same here (and the same lineage) talk to the same server.
pub(crate) const POSTMASTER_START: &str =
    "extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// Asks the server who it is. Any role may.
///
/// The timeline is the one that the server writes now. `pg_control_checkpoint()` would go on
/// showing the old one after a promotion, until the next checkpoint.
pub async fn server(session: &Session) -> Result<Server> {
    let sql = format!(
        "SELECT pg_catalog.pg_is_in_recovery(),
                pg_catalog.current_setting('server_version_num')::int8,
                {POSTMASTER_START},
                (SELECT system_identifier FROM pg_catalog.pg_control_system()),
                CASE WHEN pg_catalog.pg_is_in_recovery()
                     THEN (SELECT pg_catalog.lpad(
                                      pg_catalog.to_hex(min_recovery_end_timeline), 8, '0')
                             FROM pg_catalog.pg_control_recovery())
                     ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())
                END"
    );
    let row = session
        .row("asking the server who it is", &sql, &[])
        .await?;
    let wal_file: Option<String> = row.get(4);
    let timeline = wal_file
        .and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        .unwrap_or_default();
    Ok(Server {
        // The server's own type for it is unsigned; SQL has none, so the sign bit is part of the
        // number.
        lineage: Lineage {
            system_id: row.get::<_, i64>(3).cast_unsigned(),
            timeline,
        },
        postmaster_start: row.get(2),
        version: row.get::<_, i64>(1).try_into().unwrap_or_default(),
        in_recovery: row.get(0),
    })
}

/// Where the log ends now: everything that was committed before the question lies before it. What others have written and not
/// committed does too, and no client of the log may get that far for as long as nobody commits.
pub(crate) async fn log_position(session: &Session) -> Result<Lsn> {
    position(session, "pg_current_wal_insert_lsn()").await
}

/// Writes an empty message behind all that `session` has committed and tells where it ends, on disk. A client of the log gets there
/// by itself. It may not get to where the log is flushed: that can lie within a record of somebody else's, whose rest is flushed
/// when somebody commits, or when the server takes its next snapshot, 15 s later.
///
/// For Postgres 17 and later; earlier ones do not flush a message.
/// <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION>
pub(crate) async fn write_milestone(session: &Session) -> Result<Lsn> {
    position(
        session,
        "pg_logical_emit_message(false, 'outboxd', '', true)",
    )
    .await
}

async fn position(session: &Session, call: &str) -> Result<Lsn> {
    let sql = format!("SELECT pg_catalog.{call}");
    let row = session.row("reading the log's position", &sql, &[]).await?;
    Ok(Lsn::new(row.get::<_, PgLsn>(0).into()))
}

/// The error that a failed statement or connection means for us. `context` names what we were
/// doing.
pub(crate) fn sql_error(context: impl Into<String>, error: tokio_postgres::Error) -> Error {
    describe(context, Arc::new(error))
}

fn describe(context: impl Into<String>, error: Arc<tokio_postgres::Error>) -> Error {
    if let Some(server) = error.as_db_error() {
        return sqlstate::classify(context, ServerError::from(server));
    }
    let fault = cause_of::<io::Error>(&error);
    let made = match (fault, cause_of::<openssl::ssl::Error>(&error)) {
        // The library reports a server that takes no writes as an error without a number of the
        // system's.
        (Some(io), _) if read_only(io) => Error::transient(Code::Connect, context)
            .hint("the server is read-only: a standby, or not promoted yet"),
        (Some(io), _) if io.kind() == io::ErrorKind::ConnectionRefused => {
            Error::transient(Code::Connect, context)
                .hint("is the server up, and are host and port right?")
        }
        (Some(_), _) => Error::transient(Code::Connect, context),
        (None, Some(tls)) if certificate_refused(tls) => Error::fatal(Code::Connect, context)
            .hint("the server's certificate is not signed by sslrootcert, or is for another host"),
        (None, Some(_)) => Error::transient(Code::Connect, context),
        (None, None) if error.source().is_none() => Error::transient(Code::Connect, context),
        // Log-in without a password, TLS that the server does not offer, a value of an unforeseen
        // type.
        (None, None) => Error::fatal(Code::Connect, context),
    };
    made.source(error)
}

fn read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

fn certificate_refused(error: &openssl::ssl::Error) -> bool {
    const SSL_R_CERTIFICATE_VERIFY_FAILED: i32 = 134;
    error.ssl_error().is_some_and(|stack| {
        stack
            .errors()
            .iter()
            .any(|e| e.reason_code() == SSL_R_CERTIFICATE_VERIFY_FAILED)
    })
}

fn cause_of<E: StdError + 'static>(error: &tokio_postgres::Error) -> Option<&E> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
