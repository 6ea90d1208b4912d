//! What stands in the way of a session, where no error of a library says it.

/// The cause of an error of connecting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("the server does not offer TLS")]
    NoTls,
    /// OpenSSL's reason.
    #[error("the server's certificate failed verification: {0}")]
    Certificate(String),
    #[error("the server is read-only: a standby, or not promoted yet")]
    ReadOnly,
}
