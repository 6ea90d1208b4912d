//! Why a broker's certificate is not accepted. librdkafka says only that it could not be verified.
//!
//! Opens one connection of its own to look at the certificate, and sends nothing on it. The answer
//! is for people and decides nothing.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode};
use openssl::x509::{X509, X509VerifyResult};

use crate::config::Config;

/// The limit for each step.
const LIMIT: Duration = Duration::from_secs(2);

/// OpenSSL's reason to refuse the certificate of the broker at `address`, a host with its port.
/// `None` if the certificate is accepted or cannot be looked at. Blocks.
pub(super) fn problem(config: &Config, address: &str) -> Option<&'static str> {
    let (host, _) = address.rsplit_once(':')?;
    let socket = address.to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&socket, LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.set_write_timeout(Some(LIMIT)).ok()?;
    let mut builder = SslConnector::builder(SslMethod::tls_client()).ok()?;
    trust(&mut builder, config)?;
    let found = Arc::new(OnceLock::new());
    let first = Arc::clone(&found);
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_accepted, store| {
        if !is_accepted {
            let _first_counts = first.set(store.error());
        }
        true
    });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let _connected = builder.build().connect(host, stream);
    found.get().map(X509VerifyResult::error_string)
}

/// The certificates that librdkafka trusts.
fn trust(builder: &mut SslConnectorBuilder, config: &Config) -> Option<()> {
    let property = |name| {
        let found = config.kafka_properties.iter();
        let mut found = found.filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.expose().as_str())
    };
    if let Some(pem) = property("ssl.ca.pem") {
        for certificate in X509::stack_from_pem(pem.as_bytes()).ok()? {
            builder.cert_store_mut().add_cert(certificate).ok()?;
        }
    } else if let Some(file) = property("ssl.ca.location") {
        builder.set_ca_file(file).ok()?;
    } else if let Some(file) = openssl_probe::probe().cert_file {
        builder.set_ca_file(file).ok()?;
    }
    Some(())
}
