//! Reads OpenSSL's error out of a failed connection.

use crate::postgres::sql_error::{TlsError, cause_of};

/// <https://docs.openssl.org/master/man3/ERR_get_error/>; `SSL_R_CERTIFICATE_VERIFY_FAILED`.
const CERTIFICATE_VERIFY_FAILED: i32 = 134;

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
