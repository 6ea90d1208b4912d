//! The task that moves a connection's bytes.

use tokio_postgres::{AsyncMessage, Connection};

/// Runs the connection to its end, and logs the server's notices.
pub async fn drive<S, T>(mut connection: Connection<S, T>) -> Result<(), tokio_postgres::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message? {
            // A trigger's text may quote a row.
            tracing::debug!(
                severity = notice.severity(),
                code = notice.code().code(),
                "notice"
            );
        }
    }
    Ok(())
}
