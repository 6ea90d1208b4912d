//! The set-up of OpenSSL for a connection to Postgres.
//!
//! Owns the meaning of `sslmode`, `sslrootcert`, `sslcert` and `sslkey`, which is libpq's:
//! `require` with a root certificate verifies the chain as `verify-ca` does, and a root certificate
//! replaces those of the system. Two things are stricter than in libpq. Without `sslrootcert`, the
//! verifying modes use the system's CA certificates and fail if there are none. A key with a pass
//! phrase is refused; OpenSSL does not prompt at a terminal. The files are read for each
//! connection, so renewed certificates need no restart.
//!
//! See <https://www.postgresql.org/docs/current/libpq-ssl.html>.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslConnector, SslConnectorBuilder, SslMethod, SslRef, SslVerifyMode, SslVersion,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::store::X509StoreBuilder;

use crate::config::{SslMode, TlsSettings};
use crate::error::{Code, Error, Result};
use crate::postgres::transport::Obstacle;

/// The length and the name of Postgres' protocol, as IANA has registered it.
const ALPN: &[u8] = b"\x0apostgresql";

/// OpenSSL, configured by the settings.
#[derive(Clone)]
pub(crate) struct Connector {
    ssl: SslConnector,
    mode: SslMode,
}

/// Reads the certificates and configures OpenSSL. Fails when a file is missing or not valid.
pub(crate) fn connector(settings: &TlsSettings) -> Result<Connector> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())
        .and_then(|mut builder| {
            builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
            Ok(builder)
        })
        .map_err(|e| Error::fatal(Code::Config, "cannot set up TLS").with_source(e))?;
    // One read of the socket takes all bytes there are, not a record's header and then its body.
    builder.set_read_ahead(true);

    let mode = effective_mode(settings);
    if mode != SslMode::Disable {
        trust(&mut builder, mode, settings.root_cert.as_deref())?;
        identify(&mut builder, settings)?;
    }
    Ok(Connector {
        ssl: builder.build(),
        mode,
    })
}

impl Connector {
    /// The effective mode: `require` with a root certificate is `verify-ca`.
    pub(crate) fn mode(&self) -> SslMode {
        self.mode
    }

    /// A TLS session for `host`, a name or an address; not yet connected. A session that begins
    /// without a request (`is_direct`) has to name the protocol.
    pub(crate) fn session(&self, host: &str, is_direct: bool) -> Result<Ssl, ErrorStack> {
        let mut configuration = self.ssl.configure()?;
        configuration.set_verify_hostname(self.mode == SslMode::VerifyFull);
        if is_direct {
            configuration.set_alpn_protos(ALPN)?;
        }
        configuration.into_ssl(host)
    }
}

/// Distinguishes a certificate that fails verification, which a person must fix, from a broken
/// handshake.
pub(crate) fn handshake_error(peer: &str, session: &SslRef, cause: openssl::ssl::Error) -> Error {
    let verdict = session.verify_result();
    if session.verify_mode() == SslVerifyMode::NONE || verdict == X509VerifyResult::OK {
        let message = format!("the TLS handshake with Postgres at {peer} failed");
        return Error::transient(Code::Connect, message).with_source(cause);
    }
    let message = format!("cannot connect to Postgres at {peer}");
    Error::fatal(Code::Connect, message)
        .with_source(Obstacle::Certificate(verdict.error_string().to_owned()))
        .with_hint(
            "sslrootcert must contain the server's CA; verify-full also checks the host name",
        )
}

/// The hash of the server's certificate that SCRAM binds a password exchange to.
///
/// `tls-server-end-point` of <https://www.rfc-editor.org/rfc/rfc5929#section-4.1>: the digest of
/// the certificate's own signature, but never one weaker than SHA-256. `None` for a certificate
/// signed without a separate digest (Ed25519).
pub(crate) fn server_end_point(ssl: &SslRef) -> Option<Vec<u8>> {
    let certificate = ssl.peer_certificate()?;
    let signature = certificate.signature_algorithm().object().nid();
    let digest = match signature.signature_algorithms()?.digest {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        nid => MessageDigest::from_nid(nid)?,
    };
    certificate.digest(digest).ok().map(|hash| hash.to_vec())
}

fn effective_mode(settings: &TlsSettings) -> SslMode {
    match settings.mode {
        SslMode::Require if settings.root_cert.is_some() => SslMode::VerifyCa,
        mode => mode,
    }
}

fn trust(builder: &mut SslConnectorBuilder, mode: SslMode, root: Option<&Path>) -> Result<()> {
    if !matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
        builder.set_verify(SslVerifyMode::NONE);
        return Ok(());
    }
    builder.set_verify(SslVerifyMode::PEER);
    match root {
        Some(path) if path != Path::new("system") => {
            let empty = X509StoreBuilder::new()
                .map_err(|e| Error::fatal(Code::Config, "cannot set up TLS").with_source(e))?;
            builder.set_cert_store(empty.build());
            builder
                .set_ca_file(path)
                .map_err(|e| unreadable("sslrootcert", path, e))
        }
        _ => trust_the_system(builder),
    }
}

fn trust_the_system(builder: &mut SslConnectorBuilder) -> Result<()> {
    let found = openssl_probe::probe();
    let folder = found.cert_dir.first().map(|path| path.as_path());
    if found.cert_file.is_none() && folder.is_none() {
        return Err(
            Error::fatal(Code::Config, "this system has no CA certificates")
                .with_hint("name the server's CA with sslrootcert"),
        );
    }
    builder
        .load_verify_locations(found.cert_file.as_deref(), folder)
        .map_err(|e| {
            Error::fatal(Code::Config, "cannot read the system's CA certificates").with_source(e)
        })
}

fn identify(builder: &mut SslConnectorBuilder, settings: &TlsSettings) -> Result<()> {
    let (cert, key) = match (&settings.cert, &settings.key) {
        (None, None) => return Ok(()),
        (Some(cert), Some(key)) => (cert, key),
        _ => {
            return Err(
                Error::fatal(Code::Config, "a client certificate needs both of its files")
                    .with_hint("set sslcert and sslkey, or neither"),
            );
        }
    };
    builder
        .set_certificate_chain_file(cert)
        .map_err(|e| unreadable("sslcert", cert, e))?;
    let pem = std::fs::read(key).map_err(|e| unreadable("sslkey", key, e))?;
    // With an empty pass phrase OpenSSL fails on an encrypted key; without one it would prompt at
    // the terminal.
    let private = PKey::private_key_from_pem_passphrase(&pem, b"").map_err(|e| {
        unreadable("sslkey", key, e).with_hint("the key must be PEM, without a pass phrase")
    })?;
    builder
        .set_private_key(&private)
        .and_then(|()| builder.check_private_key())
        .map_err(|e| Error::fatal(Code::Config, "sslkey does not belong to sslcert").with_source(e))
}

fn unreadable(
    setting: &str,
    path: &Path,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::fatal(
        Code::Config,
        format!("cannot use {setting} {}", path.display()),
    )
    .with_source(cause)
}
