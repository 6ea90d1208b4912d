//! How the connection to Postgres began: up to which check it came, and whether it is encrypted.
//!
//! Pure. A refused connection is judged by the type of its cause, never by a translated message.

use std::error::Error as _;
use std::io;

use crate::config::{Config, SslMode};
use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::error::{Code, Error, cause_of};
use crate::postgres::facts::Transport;
use crate::postgres::{Obstacle, ServerError};

/// The checks that a connection which was refused has passed, and the one that fails.
pub(super) fn judge_refusal(error: &Error, config: &Config) -> Vec<Check> {
    let failed = failed_check(error);
    let address = config.database.describe();
    let mut checks = Vec::new();
    if error.code() == Code::Config {
        let reason = "not reached: the files of the TLS settings are read first";
        checks.push(Check::cannot_say(Name::Reachable, reason, "see tls"));
    } else if failed != Name::Reachable {
        let reason = format!("Postgres answers at {address}");
        checks.push(Check::ok(Name::Reachable, reason));
    }
    if failed == Name::Session {
        checks.push(Check::ok(Name::Login, "the server accepts the login"));
    }
    let fix = error
        .hint()
        .map_or_else(|| fix_of(failed, error), str::to_owned);
    checks.push(Check::fails(failed, error.reason(), fix));
    checks
}

/// Where a connection that begins with TCP and ends with a session has stopped.
fn failed_check(error: &Error) -> Name {
    if let Some(server) = ServerError::of(error) {
        let of_login = ["28", "3D", "42501"];
        let is_login = of_login.iter().any(|state| server.code.starts_with(state));
        return if is_login { Name::Login } else { Name::Session };
    }
    if error.code() == Code::Config || cause_of::<openssl::ssl::Error>(error).is_some() {
        return Name::Tls;
    }
    match cause_of::<Obstacle>(error) {
        Some(Obstacle::NoTls | Obstacle::Certificate(_)) => return Name::Tls,
        Some(Obstacle::ReadOnly) => return Name::Session,
        None => {}
    }
    match (error.is_transient(), error.source()) {
        (true, _) => Name::Reachable,
        // Our own: the other side is a connection pooler.
        (false, None) => Name::Session,
        (false, Some(_)) => Name::Login,
    }
}

fn fix_of(failed: Name, error: &Error) -> String {
    let is_name = cause_of::<io::Error>(error)
        .is_some_and(|io| io.raw_os_error().is_none() && io.to_string().contains("lookup"));
    let fix = match failed {
        Name::Reachable if is_name => "check the host name in DATABASE_URL, and this machine's DNS",
        Name::Reachable => {
            "check host and port in DATABASE_URL: does Postgres listen there, and does a firewall \
             let this machine through?"
        }
        Name::Tls => {
            "check sslmode, sslrootcert, sslcert and sslkey in DATABASE_URL; on the server ssl = on"
        }
        Name::Login => {
            "put the password into DATABASE_PASSWORD_FILE or PGPASSWORD, or let pg_hba.conf admit \
             the role without one"
        }
        _ => "see the server's log",
    };
    fix.to_owned()
}

/// The checks of a connection that has become a session.
pub(super) fn judge_session(transport: &Transport, config: &Config) -> Vec<Check> {
    vec![
        Check::ok(
            Name::Reachable,
            format!("Postgres answers at {}", config.database.describe()),
        ),
        tls(transport, config.database.tls.mode),
        Check::ok(Name::Login, "the server accepts the login"),
        Check::ok(
            Name::Session,
            "the server is a primary, and no connection pooler stands before it",
        ),
    ]
}

fn tls(transport: &Transport, mode: SslMode) -> Check {
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match &transport.tls {
        Some(tls) if verifies => Check::ok(
            Name::Tls,
            format!("{tls}, and the server's certificate is verified"),
        ),
        Some(tls) if transport.is_local => Check::ok(Name::Tls, tls),
        Some(tls) => Check::warning(
            Name::Tls,
            format!("{tls}, and the server's certificate is not verified"),
            "set sslmode=verify-full and sslrootcert in DATABASE_URL",
        ),
        None if transport.is_local => Check::ok(
            Name::Tls,
            "the connection is not encrypted, and does not leave this machine",
        ),
        None => Check::warning(
            Name::Tls,
            "the connection crosses a network and is not encrypted",
            "set sslmode=verify-full and sslrootcert in DATABASE_URL; on the server ssl = on",
        ),
    }
}

#[cfg(test)]
#[path = "tests/connection.rs"]
mod tests;
