//! Which authentication request of a server is answered. Pure.
//!
//! A server chooses the method, and whatever poses as the server does so too. The password itself
//! therefore goes over TCP only inside TLS, unless `require_auth` names that method. The
//! certificate of the server is `sslmode`'s matter. A server decides how often a client hashes its
//! password, so the number has a limit.

use crate::config::{AuthMethod, RequireAuth};
use crate::error::{Code, Error};
use crate::postgres::transport::Socket;

/// The most iterations of SCRAM. A million take about a second; Postgres' default is 4,096.
const ITERATIONS_MAX: u32 = 1_000_000;

/// What may be answered on one connection.
#[derive(Debug, Clone)]
pub(crate) struct AuthenticationPolicy {
    require: RequireAuth,
    /// The bytes can be read on their way.
    is_exposed: bool,
}

/// A request that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedRequest {
    #[error("the server asks for the password in clear text over a connection without TLS")]
    ClearText,
    #[error("the server uses the authentication method {method}, and require_auth is {allowed}")]
    NotAllowed { method: AuthMethod, allowed: String },
    #[error(
        "the server asks for {0} iterations of SCRAM, and more than {ITERATIONS_MAX} are refused"
    )]
    Iterations(u32),
}

impl AuthenticationPolicy {
    pub(crate) fn new(require: &RequireAuth, socket: &Socket) -> Self {
        AuthenticationPolicy {
            require: require.clone(),
            is_exposed: socket.is_exposed(),
        }
    }

    /// The policy over TCP without TLS.
    #[cfg(test)]
    pub(super) fn exposed(require: RequireAuth) -> Self {
        let is_exposed = true;
        AuthenticationPolicy {
            require,
            is_exposed,
        }
    }

    /// Checks the method that the server has chosen.
    pub(crate) fn check(&self, method: AuthMethod) -> Result<(), RefusedRequest> {
        if !self.require.allows(method) {
            let allowed = self.require.to_string();
            return Err(RefusedRequest::NotAllowed { method, allowed });
        }
        let is_clear = method == AuthMethod::Password && self.is_exposed;
        match is_clear && !self.require.names(method) {
            true => Err(RefusedRequest::ClearText),
            false => Ok(()),
        }
    }
}

/// Checks the first SCRAM message of the server, whose last number says how often to hash. A
/// message of another form is left to the exchange, which refuses it.
pub(crate) fn check_iterations(server_first: &[u8]) -> Result<(), RefusedRequest> {
    let digits = server_first
        .split(|byte| *byte == b',')
        .find_map(|part| part.strip_prefix(b"i="));
    let count = digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u32>().ok());
    match count {
        Some(count) if count > ITERATIONS_MAX => Err(RefusedRequest::Iterations(count)),
        _ => Ok(()),
    }
}

impl RefusedRequest {
    /// The library's error; `context` names the server.
    pub(crate) fn error(self, context: impl Into<String>) -> Error {
        let hint = match &self {
            RefusedRequest::ClearText => {
                "write sslmode=verify-full, or let pg_hba.conf ask for scram-sha-256; \
                 require_auth=password in the database URL sends the password all the same"
            }
            RefusedRequest::NotAllowed { .. } => {
                "change the method in pg_hba.conf, or require_auth in the database URL"
            }
            RefusedRequest::Iterations(_) => "lower scram_iterations and set the password again",
        };
        Error::fatal(Code::Connect, context)
            .with_source(self)
            .with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_password_is_sent_in_clear_text_only_inside_tls_or_by_demand() {
        let policy = |require: &str, is_exposed| AuthenticationPolicy {
            require: match require {
                "" => RequireAuth::default(),
                list => RequireAuth::parse(list).unwrap(),
            },
            is_exposed,
        };
        let clear = |require, is_exposed| policy(require, is_exposed).check(AuthMethod::Password);
        assert_eq!(clear("", true), Err(RefusedRequest::ClearText));
        assert_eq!(clear("", false), Ok(()));
        assert_eq!(clear("password", true), Ok(()));
        assert_eq!(clear("md5,password", true), Ok(()));
        assert_eq!(clear("!md5", true), Err(RefusedRequest::ClearText));
        assert!(matches!(
            clear("scram-sha-256", false),
            Err(RefusedRequest::NotAllowed { .. })
        ));
        let plain = policy("", true);
        for method in [AuthMethod::Md5, AuthMethod::ScramSha256, AuthMethod::None] {
            assert_eq!(plain.check(method), Ok(()));
        }
    }

    #[test]
    fn a_server_cannot_keep_a_client_hashing() {
        assert_eq!(check_iterations(b"r=x,s=eA==,i=4096"), Ok(()));
        assert_eq!(
            check_iterations(b"r=x,s=eA==,i=4294967295,ext"),
            Err(RefusedRequest::Iterations(u32::MAX))
        );
        for odd in [
            &b""[..],
            b"i=",
            b"i=x",
            b"r=i=9999999999",
            b"i=99999999999999",
        ] {
            assert_eq!(check_iterations(odd), Ok(()));
        }
    }
}
