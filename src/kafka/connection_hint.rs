//! What a person can do when no broker answers: the usual mistakes, recognized by the configuration
//! and by librdkafka's explanation. The explanation decides about this text and about nothing else.

use crate::config::{Config, TokenSource};

/// What to check, for librdkafka's explanation of the last error; an empty one if there was none.
pub(crate) fn hint(config: &Config, reason: &str) -> String {
    let protocol = protocol(config);
    let uses_tls = protocol.ends_with("SSL");
    let (_, problem) = split(reason);
    let says = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    if says(&["resolve"]) {
        return "check the host names in KAFKA_BROKERS, and advertised.listeners of the brokers"
            .to_owned();
    }
    if let Some(hint) = foreign_answer(problem, &protocol) {
        return hint;
    }
    if uses_tls && let Some(hint) = tls(problem, &protocol, config) {
        return hint;
    }
    if let Some(hint) = sasl(problem, &protocol, config) {
        return hint;
    }
    if !uses_tls && says(&["isconnected", "security.protocol"]) {
        return format!(
            "the listener may expect TLS or SASL, and security.protocol is {protocol}: set it to \
             that of the listener"
        );
    }
    if let Some(host) = without_port(&config.brokers) {
        return format!("KAFKA_BROKERS names no port for {host}, and 9092 is used");
    }
    if problem.is_empty() || says(&["imed out", "timeout"]) {
        return "nothing answers at this address: is it Kafka's, and does a firewall drop packets?"
            .to_owned();
    }
    "is Kafka up, and can this machine reach its advertised.listeners?".to_owned()
}

/// The broker of an explanation and the rest of it: `ssl://db:9093/bootstrap: SSL handshake …`.
pub(super) fn split(reason: &str) -> (Option<&str>, &str) {
    let broker = |head: &str| !head.contains(' ') && head.contains('/');
    match reason.split_once(": ").filter(|(head, _)| broker(head)) {
        Some((head, problem)) => {
            let address = head.split_once("://").map_or(head, |(_, rest)| rest);
            (address.split('/').next(), problem)
        }
        None => (None, reason),
    }
}

/// What answers is not a Kafka listener without TLS: librdkafka takes its first four bytes for a
/// size.
fn foreign_answer(problem: &str, protocol: &str) -> Option<String> {
    let (_, size) = problem.split_once("Invalid response size ")?;
    let size: i32 = size.split(' ').next()?.parse().ok()?;
    Some(match size.to_be_bytes() {
        [b'H', b'T', b'T', b'P'] => {
            "an HTTP server answers there: name a listener of Kafka in KAFKA_BROKERS".to_owned()
        }
        // A TLS alert.
        [0x15, 3, ..] => format!(
            "the listener expects TLS, and security.protocol is {protocol}: set it to SSL or \
             SASL_SSL"
        ),
        _ => "what answers there does not speak Kafka's protocol: check host and port in \
              KAFKA_BROKERS"
            .to_owned(),
    })
}

fn tls(problem: &str, protocol: &str, config: &Config) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    let no_tls = [
        "wrong version number",
        "packet length",
        "record layer",
        "PLAINTEXT",
    ];
    Some(if says(&no_tls) {
        format!(
            "the listener does not seem to speak TLS, and security.protocol is {protocol}: name a \
             TLS listener in KAFKA_BROKERS, or set security.protocol to that of the listener"
        )
    } else if says(&["client certificate"]) {
        "renew the certificate of ssl.certificate.location and ssl.key.location, or set the clock \
         of this machine"
            .to_owned()
    } else if says(&["has expired", "not yet valid"]) {
        "renew the broker's certificate, or set the clock of this machine".to_owned()
    } else if says(&["mismatch"]) {
        "name the brokers in KAFKA_BROKERS and advertised.listeners as their certificates do"
            .to_owned()
    } else if says(&[
        "verify failed",
        "signed certificate",
        "issuer",
        "not accepted",
    ]) {
        "set ssl.ca.location to the certificate of the authority that has signed the broker's"
            .to_owned()
    } else if says(&[
        "might be required",
        "certificate required",
        "bad certificate",
        "unknown ca",
        "certificate unknown",
    ]) {
        client_certificate(config).to_owned()
    } else if says(&["SSL", "ssl", "certificate"]) && !says(&["SASL"]) {
        "check ssl.ca.location, the broker's certificate, and ssl.* in the Kafka properties"
            .to_owned()
    } else {
        return None;
    })
}

fn sasl(problem: &str, protocol: &str, config: &Config) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    Some(
        if says(&[
            "uthentication failed",
            "uthentication error",
            "nvalid credentials",
        ]) {
            credentials(config).to_owned()
        } else if says(&["nsupported SASL mechanism"]) {
            "set sasl.mechanism to one that the broker supports".to_owned()
        } else if protocol.starts_with("SASL") && says(&["SASL state", "echanism", "handshake"]) {
            format!(
                "the listener does not seem to offer SASL or this sasl.mechanism, and \
             security.protocol is {protocol}: set both to those of the listener"
            )
        } else if says(&["uthentication"]) {
            credentials(config).to_owned()
        } else {
            return None;
        },
    )
}

/// What to check when a broker refuses the client's certificate, or gets none.
fn client_certificate(config: &Config) -> &'static str {
    const OWN: [&str; 3] = [
        "ssl.certificate.location",
        "ssl.certificate.pem",
        "ssl.keystore.location",
    ];
    let mut properties = config.kafka_properties.iter();
    match properties.any(|(name, _)| OWN.contains(&name.as_str())) {
        true => {
            "the broker does not trust the authority of the client certificate: set \
             ssl.certificate.location and ssl.key.location to one that it trusts"
        }
        false => {
            "the listener asks for a client certificate: set ssl.certificate.location and \
             ssl.key.location"
        }
    }
}

/// What to check when a broker refuses the login.
fn credentials(config: &Config) -> &'static str {
    let login = &config.kafka_login;
    match (&login.token_source, &login.password_file) {
        (Some(TokenSource::Command(_)), _) => {
            "the broker does not accept the token of KAFKA_TOKEN_COMMAND, and its log says why: \
             check whom the token is for, and both clocks"
        }
        (Some(TokenSource::Provider(_)), _) => {
            "the broker does not accept the identity provider's token, and its log says why: \
             compare issuer, audience and keys that it expects, and sasl.oauthbearer.scope"
        }
        (None, Some(_)) => {
            "check sasl.username and sasl.mechanism in the Kafka properties, and the password in \
             the file of KAFKA_PASSWORD_FILE"
        }
        (None, None) => {
            "check sasl.username, sasl.password and sasl.mechanism in the Kafka properties"
        }
    }
}

/// The `security.protocol` in capitals.
pub(crate) fn protocol(config: &Config) -> String {
    let mut properties = config.kafka_properties.iter();
    let found = properties.find(|(name, _)| name == "security.protocol");
    found.map_or("PLAINTEXT".to_owned(), |(_, value)| {
        value.expose().to_ascii_uppercase()
    })
}

/// The first broker that is named without a port.
fn without_port(brokers: &str) -> Option<&str> {
    let hosts = brokers.split(',').map(str::trim);
    let mut hosts = hosts.map(|broker| broker.rsplit_once("://").map_or(broker, |(_, host)| host));
    hosts.find(|host| {
        let after_address = host.rsplit_once(']').map_or(*host, |(_, rest)| rest);
        !host.is_empty() && !after_address.contains(':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::kafka::tests::producer;

    #[test]
    fn a_broker_without_a_port_is_found_and_an_address_with_colons_is_none() {
        assert_eq!(without_port("a:9092,b"), Some("b"));
        assert_eq!(without_port("[::1]"), Some("[::1]"));
        assert_eq!(without_port("PLAINTEXT://a:1,[::1]:9092"), None);
    }

    #[test]
    fn the_broker_of_an_explanation_is_no_part_of_the_problem() {
        let with_tls = "ssl://db.example:9093/bootstrap: Connect to ipv4#1.2.3.4:9093 failed";
        let expected = (
            Some("db.example:9093"),
            "Connect to ipv4#1.2.3.4:9093 failed",
        );
        assert_eq!(split(with_tls), expected);
        assert_eq!(split("[::1]:9092/1: gone"), (Some("[::1]:9092"), "gone"));
        let bare = "SSL handshake failed: ssl/record: bad";
        assert_eq!(split(bare), (None, bare));
    }

    const MISTAKES: [(&str, &str, &str); 18] = [
        (
            "ssl",
            "ssl://b:1/bootstrap: SSL handshake failed: wrong version number",
            "does not seem to speak TLS",
        ),
        (
            "SASL_SSL",
            "ssl://b:1/bootstrap: SSL handshake failed: certificate verify failed",
            "ssl.ca.location",
        ),
        (
            "SSL",
            "ssl://b:1/bootstrap: certificate verify failed: certificate has expired",
            "renew",
        ),
        (
            "SSL",
            "ssl://b:1/bootstrap: certificate verify failed: hostname mismatch",
            "as their certificates do",
        ),
        (
            "SSL",
            "ssl://b:1/bootstrap: SSL handshake failed: client SSL authentication might be \
             required",
            "client certificate",
        ),
        (
            "SSL",
            "ssl://127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
            "Kafka up",
        ),
        (
            "SSL",
            "ssl://nowhere:1/bootstrap: Failed to resolve 'nowhere:1': Name not known",
            "host names",
        ),
        (
            "plaintext",
            "Disconnected while requesting ApiVersion",
            "may expect TLS",
        ),
        (
            "plaintext",
            "b:1/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): \
             increase receive.message.max.bytes",
            "expects TLS",
        ),
        (
            "plaintext",
            "b:1/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000)",
            "an HTTP server",
        ),
        (
            "plaintext",
            "b:1/bootstrap: Receive failed: Invalid response size 1157627904 (0..100000000)",
            "does not speak Kafka's protocol",
        ),
        (
            "SASL_PLAINTEXT",
            "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL \
             state: broker's supported mechanisms:",
            "offer SASL",
        ),
        (
            "SASL_PLAINTEXT",
            "sasl_plaintext://b:1/bootstrap: SASL SCRAM-SHA-256 mechanism handshake failed: \
             Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN",
            "one that the broker supports",
        ),
        (
            "SASL_PLAINTEXT",
            "SASL authentication error: Authentication failed",
            "password",
        ),
        (
            "SASL_SSL",
            "sasl_ssl://b:1/bootstrap: SASL authentication error: Authentication failed",
            "password",
        ),
        (
            "PLAINTEXT",
            "Connect to ipv4#127.0.0.1:1 failed: Connection refused",
            "Kafka up",
        ),
        ("PLAINTEXT", "", "nothing answers"),
        (
            "PLAINTEXT",
            "b:1/bootstrap: ApiVersionRequest failed: Local: Timed out: probably due to broker \
             version < 0.10",
            "nothing answers",
        ),
    ];

    #[test]
    fn the_usual_mistakes_have_a_hint_of_their_own() {
        for (protocol, reason, words) in MISTAKES {
            let mut config = producer::config("127.0.0.1:1");
            let value = Secret::new(protocol.to_owned());
            let property = ("security.protocol".to_owned(), value);
            config.kafka_properties.push(property);
            let hint = hint(&config, reason);
            assert!(hint.contains(words), "{protocol} {reason}: {hint}");
        }
    }
}
