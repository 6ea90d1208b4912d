//! The fields of an ErrorResponse or NoticeResponse.

use crate::postgres::ServerError;
use crate::postgres::error_text::{shortened, without_values};

/// Reads the fields of an ErrorResponse or NoticeResponse. Lenient: an error about an error helps
/// no reader.
///
/// See <https://www.postgresql.org/docs/current/protocol-error-fields.html>.
pub(crate) fn error_of_fields(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    for field in body.split(|&byte| byte == 0) {
        let Some((kind, value)) = field.split_first() else {
            break;
        };
        let value = shortened(&String::from_utf8_lossy(value));
        match kind {
            // The severity that is never translated; sent since Postgres 9.6.
            b'V' => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            b'R' => error.routine = Some(value),
            _ => {}
        }
    }
    error.message = without_values(&error.code, &error.message);
    error
}
