//! The connection to Postgres: a connector's options as a URL. Pure.
//!
//! A password is never shown, and neither is what Kafka Connect or Debezium Server would put in the
//! place of a variable: that is known to them alone.

use crate::cli::debezium::connector::Connector;
use crate::cli::debezium::imported::Imported;

/// The options of TLS that a URL has under another name, and the same meaning.
const TLS: [(&str, &str); 4] = [
    ("database.sslmode", "sslmode"),
    ("database.sslcert", "sslcert"),
    ("database.sslkey", "sslkey"),
    ("database.sslrootcert", "sslrootcert"),
];

pub(super) fn carry_over(connector: &mut Connector, imported: &mut Imported) {
    let mut open = Vec::new();
    let mut part = |name: &str, placeholder: &str, connector: &mut Connector| {
        let given = connector.take(name);
        match given {
            Some(given) if is_plain(&given.value) => encoded(&given.value),
            Some(given) => {
                open.push(format!("{} has a variable", given.name));
                placeholder.to_owned()
            }
            None => {
                open.push(format!("{name} is not set"));
                placeholder.to_owned()
            }
        }
    };
    let host = part("database.hostname", "HOST", connector);
    let user = part("database.user", "USER", connector);
    let database = part("database.dbname", "DATABASE", connector);
    let port = match connector.has("database.port") {
        true => part("database.port", "5432", connector),
        false => "5432".to_owned(),
    };
    let mut url = format!("postgresql://{user}@{host}:{port}/{database}");
    let mut separator = '?';
    for (option, name) in TLS {
        let Some(given) = connector.take(option) else {
            continue;
        };
        if !is_plain(&given.value) {
            open.push(format!("{} has a variable", given.name));
            continue;
        }
        url.push_str(&format!("{separator}{name}={}", encoded(&given.value)));
        separator = '&';
    }
    match open.is_empty() {
        true => imported.set("database_url", url),
        false => imported.leave_open("database_url", &url, open.join(", ")),
    }
    if let Some(given) = connector.take("database.password") {
        let why = format!("{} is not copied; write it into a file", given.name);
        imported.leave_open("database_password_file", "/run/secrets/postgres", why);
    }
    if let Some(given) = connector.take("database.sslpassword") {
        imported.leave_out(
            &given,
            "outboxd reads keys without a password, and copies no secret",
        );
    }
}

/// Whether a value is the value itself.
fn is_plain(value: &str) -> bool {
    !value.contains("${")
}

/// A part of a URL. An IPv6 address gets its brackets.
fn encoded(part: &str) -> String {
    if part.contains(':') && part.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{part}]");
    }
    let mut encoded = String::new();
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
