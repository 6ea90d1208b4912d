//! Why a certificate is not accepted. librdkafka says only that the broker's could not be verified,
//! and a broker that refuses the client's says as little.
//!
//! Opens one connection of its own to look at the broker's certificate, and sends nothing on it.
//! The answer is for people and decides nothing.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode};
use openssl::x509::{X509, X509VerifyResult};

use crate::config::Config;
use crate::kafka::login_files;

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

/// Why no broker accepts the client's certificate, if it can be seen here: its time is over, or has
/// not begun.
pub(super) fn own_problem(config: &Config) -> Option<String> {
    let (place, pem) = match property(config, "ssl.certificate.pem") {
        Some(pem) => ("of ssl.certificate.pem".to_owned(), pem.as_bytes().to_vec()),
        None => {
            let path = property(config, "ssl.certificate.location")?;
            (format!("in {path}"), std::fs::read(path).ok()?)
        }
    };
    let certificate = X509::from_pem(&pem).ok()?;
    let now = Asn1Time::days_from_now(0).ok()?;
    let (from, until) = (certificate.not_before(), certificate.not_after());
    if *until < *now {
        return Some(format!(
            "the client certificate {place} has expired ({until})"
        ));
    }
    let problem = || format!("the client certificate {place} is not yet valid ({from})");
    (*from > *now).then(problem)
}

fn property<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    let mut properties = config.kafka_properties.iter();
    let (_, value) = properties.find(|(known, _)| known == name)?;
    Some(value.expose())
}

/// The certificates that librdkafka trusts.
fn trust(builder: &mut SslConnectorBuilder, config: &Config) -> Option<()> {
    if let Some(pem) = property(config, "ssl.ca.pem") {
        for certificate in X509::stack_from_pem(pem.as_bytes()).ok()? {
            builder.cert_store_mut().add_cert(certificate).ok()?;
        }
        return Some(());
    }
    let named = property(config, "ssl.ca.location").map(PathBuf::from);
    match login_files::default_authorities(config).or(named) {
        Some(folder) if folder.is_dir() => builder.load_verify_locations(None, Some(&folder)).ok(),
        Some(file) => builder.load_verify_locations(Some(&file), None).ok(),
        None => Some(()),
    }
}
