//! Why a TLS handshake failed, from the error of a connection.

use std::error::Error as StdError;

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

/// The first error of this type among the causes.
pub(super) fn cause_of<E: StdError + 'static>(error: &tokio_postgres::Error) -> Option<&E> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
