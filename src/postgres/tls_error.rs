//! Why a TLS handshake failed, from the error of a connection.

#[cfg(feature = "publisher")]
use crate::error::cause_of;

/// Why TLS failed.
pub(super) enum TlsError {
    /// The server's certificate did not pass verification.
    Certificate,
    Other,
}

/// <https://docs.openssl.org/master/man3/ERR_get_error/>; `SSL_R_CERTIFICATE_VERIFY_FAILED`.
#[cfg(feature = "publisher")]
const CERTIFICATE_VERIFY_FAILED: i32 = 134;

#[cfg(feature = "publisher")]
pub(super) fn tls_error(error: &tokio_postgres::Error) -> Option<TlsError> {
    let error = cause_of::<openssl::ssl::Error>(error)?;
    let refused = error.ssl_error().is_some_and(|stack| {
        stack
            .errors()
            .iter()
            .any(|error| error.reason_code() == CERTIFICATE_VERIFY_FAILED)
    });
    Some(if refused {
        TlsError::Certificate
    } else {
        TlsError::Other
    })
}

/// [`Writer`](crate::outbox::Writer) alone uses its caller's sessions, whose TLS handshake is over.
#[cfg(not(feature = "publisher"))]
pub(super) fn tls_error(_: &tokio_postgres::Error) -> Option<TlsError> {
    None
}
