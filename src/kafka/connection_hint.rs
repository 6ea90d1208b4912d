//! What a person can do when no broker answers: the usual mistakes, recognized by the configuration
//! and by librdkafka's explanation. The explanation decides about this text and about nothing else.

use crate::config::Config;

/// What to check, for librdkafka's explanation of the last error; an empty one if there was none.
pub(crate) fn hint(config: &Config, reason: &str) -> String {
    let protocol = protocol(config);
    let (uses_tls, uses_sasl) = (protocol.ends_with("SSL"), protocol.starts_with("SASL"));
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if uses_tls
        && says(&[
            "wrong version number",
            "packet length",
            "record layer",
            "PLAINTEXT",
        ])
    {
        return format!(
            "the listener does not seem to speak TLS, and security.protocol is {protocol}: name a \
             TLS listener in KAFKA_BROKERS, or set security.protocol to that of the listener"
        );
    }
    if uses_tls && says(&["certificate", "SSL", "ssl"]) && !says(&["Authentication failed"]) {
        return "check ssl.ca.location, the broker's certificate, and ssl.* in the Kafka properties"
            .to_owned();
    }
    if uses_sasl && says(&["SASL state", "mechanism", "Mechanism", "handshake"]) {
        return format!(
            "the listener does not seem to offer SASL or this sasl.mechanism, and \
             security.protocol is {protocol}: set both to those of the listener"
        );
    }
    if says(&["uthentication"]) {
        return "check sasl.username, sasl.password and sasl.mechanism in the Kafka properties"
            .to_owned();
    }
    if !uses_tls && says(&["isconnected", "security.protocol"]) {
        return format!(
            "the listener may expect TLS or SASL, and security.protocol is {protocol}: set it to \
             that of the listener"
        );
    }
    if says(&["resolve"]) {
        return "check the host names in KAFKA_BROKERS, and advertised.listeners of the brokers"
            .to_owned();
    }
    if let Some(host) = without_port(&config.brokers) {
        return format!("KAFKA_BROKERS names no port for {host}, and 9092 is used");
    }
    match reason.is_empty() {
        true => "is Kafka up, and is this its address?".to_owned(),
        false => "is Kafka up, and can this machine reach its advertised.listeners?".to_owned(),
    }
}

fn protocol(config: &Config) -> String {
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
    fn the_usual_mistakes_have_a_hint_of_their_own() {
        for (protocol, reason, words) in [
            (
                "ssl",
                "SSL handshake failed: wrong version number",
                "does not seem to speak TLS",
            ),
            (
                "SASL_SSL",
                "SSL handshake failed: certificate verify failed",
                "ssl.ca.location",
            ),
            (
                "plaintext",
                "Disconnected while requesting ApiVersion",
                "may expect TLS",
            ),
            (
                "SASL_PLAINTEXT",
                "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current \
                 SASL state: broker's supported mechanisms:",
                "offer SASL",
            ),
            (
                "SASL_PLAINTEXT",
                "SASL authentication error: Authentication failed",
                "password",
            ),
            (
                "PLAINTEXT",
                "Connect to ipv4#127.0.0.1:1 failed: Connection refused",
                "Kafka up",
            ),
        ] {
            let mut config = producer::config("127.0.0.1:1");
            let value = Secret::new(protocol.to_owned());
            let property = ("security.protocol".to_owned(), value);
            config.kafka_properties.push(property);
            let hint = hint(&config, reason);
            assert!(hint.contains(words), "{protocol} {reason}: {hint}");
        }
    }
}
