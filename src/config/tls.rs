//! TLS settings, by libpq's names and meaning.

use std::fmt;
use std::path::PathBuf;

/// How much TLS a connection must have, by libpq's names and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// With TLS where the server offers it, unverified.
    #[default]
    Prefer,
    /// With TLS, unverified.
    Require,
    /// With TLS; a trusted root must have signed the server's certificate.
    VerifyCa,
    /// As `VerifyCa`, and the certificate must be issued for the host.
    VerifyFull,
}

/// TLS settings of SQL and replication connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// How much TLS a connection must have.
    pub mode: SslMode,
    /// Trusted roots (PEM); `None` means the system's.
    pub root_cert: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub cert: Option<PathBuf>,
    /// The key of the client's certificate (PEM).
    pub key: Option<PathBuf>,
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}
