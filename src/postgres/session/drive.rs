//! The task that moves a connection's bytes, and logs the server's notices, once a minute for each
//! SQLSTATE.

use std::time::Instant;

use tokio_postgres::{AsyncMessage, Connection};

use crate::line_limit::LineLimit;

/// Runs the connection to its end, and logs the server's notices.
pub async fn drive<S, T>(mut connection: Connection<S, T>) -> Result<(), tokio_postgres::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut limit = LineLimit::default();
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message?
            && let code = notice.code().code()
            && let Some(suppressed) = limit.admit(code, Instant::now())
        {
            // A trigger's text may quote a row.
            let severity = notice.severity();
            tracing::debug!(severity, code, suppressed, "notice");
        }
    }
    Ok(())
}
