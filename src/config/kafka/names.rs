//! The names of Kafka's properties: those that librdkafka has, those that outboxd refuses, those of
//! Java's clients, and which of them hold secrets.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Properties whose values are lists of `name=value`, or may be.
const LISTS: [&str; 3] = [
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.token.endpoint.url",
];

/// Whether a property has this name, accepted or refused.
pub(super) fn is_known(name: &str) -> bool {
    is_written_like_one(name)
        && (refusal(name).is_some() || javas(name).is_some() || librdkafka_has(name))
}

/// Whether a name consists of what property names consist of.
pub(super) fn is_written_like_one(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c);
    !name.is_empty() && name.chars().all(inside)
}

/// Whether librdkafka has this property.
pub(super) fn librdkafka_has(name: &str) -> bool {
    // The empty value may be refused, which is another error.
    let set = ClientConfig::new().set(name, "").create_native_config();
    let unknown = RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;
    !matches!(set, Err(KafkaError::ClientConfig(result, ..)) if result == unknown)
        && !name.contains('\0')
}

/// Whether the value of this property is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let words = [
        "password",
        "passphrase",
        "secret",
        "jaas",
        ".pem",
        "credential",
    ];
    words.iter().any(|word| name.contains(word)) || !is_known(name)
}

/// Whether the value of this property may contain commas before equals signs.
pub(super) fn may_have_commas(name: &str) -> bool {
    LISTS.contains(&name) || is_secret(name)
}

const IDEMPOTENCE: &str =
    "outboxd sets it, since without it a retry could reorder or repeat events";
const ACKS: &str =
    "outboxd sets acks=all, since an event counts as published once all in-sync replicas have it";
const NO_TIMEOUT: &str = "outboxd lets no event time out: events wait for the end of an outage";
const NO_TRANSACTIONS: &str = "outboxd's producer is not transactional";
const IN_FLIGHT: &str = "the idempotent producer keeps order only up to its own limit";
const RETRIES: &str =
    "the idempotent producer retries until the record is acknowledged or rejected";
const PARTITIONER: &str =
    "outboxd partitions keys as Kafka's Java clients do, and another partitioner would move them";
const GAPLESS: &str = "outboxd handles rejected events itself";
const QUEUE: &str = "OUTBOX_MEMORY_LIMIT bounds what is in flight";
const REPORTS: &str = "outboxd needs every delivery report";
const BROKERS: &str = "KAFKA_BROKERS names the brokers";
const CODE: &str = "outboxd loads no plugins";
const STATISTICS: &str = "outboxd has metrics of its own";
const LOG: &str = "outboxd writes librdkafka's log lines into its own log";
const TEST: &str =
    "librdkafka's tests use it, and events would go to brokers that exist in memory alone";
const UNSECURED: &str = "an unsecured token proves nothing";
const TOKEN_COMMAND: &str = "KAFKA_TOKEN_COMMAND serves every other way to a token";

/// The properties that are refused, and why. Aliases follow their property, as in librdkafka's
/// CONFIGURATION.md.
const REFUSED: &[(&str, &str)] = &[
    ("enable.idempotence", IDEMPOTENCE),
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("message.timeout.ms", NO_TIMEOUT),
    ("delivery.timeout.ms", NO_TIMEOUT),
    ("transactional.id", NO_TRANSACTIONS),
    ("transaction.timeout.ms", NO_TRANSACTIONS),
    ("max.in.flight", IN_FLIGHT),
    ("max.in.flight.requests.per.connection", IN_FLIGHT),
    ("retries", RETRIES),
    ("message.send.max.retries", RETRIES),
    ("partitioner", PARTITIONER),
    ("partitioner_cb", PARTITIONER),
    ("msg_order_cmp", "only first in, first out keeps order"),
    ("enable.gapless.guarantee", GAPLESS),
    ("queuing.strategy", "only first in, first out keeps order"),
    ("queue.buffering.max.messages", QUEUE),
    ("queue.buffering.max.kbytes", QUEUE),
    (
        "queue.buffering.max.ms",
        "linger.ms is the same property under its usual name",
    ),
    ("queue.buffering.backpressure.threshold", QUEUE),
    ("delivery.report.only.error", REPORTS),
    ("dr_cb", REPORTS),
    ("dr_msg_cb", REPORTS),
    ("bootstrap.servers", BROKERS),
    ("metadata.broker.list", BROKERS),
    ("plugin.library.paths", CODE),
    ("statistics.interval.ms", STATISTICS),
    ("log.queue", LOG),
    ("log_level", "OUTBOX_LOG sets the level"),
    ("enabled_events", "outboxd chooses the events that it reads"),
    ("enable.sasl.oauthbearer.unsecure.jwt", UNSECURED),
    ("sasl.oauthbearer.config", TOKEN_COMMAND),
    ("sasl.oauthbearer.grant.type", TOKEN_COMMAND),
    (
        "sasl.oauthbearer.metadata.authentication.type",
        TOKEN_COMMAND,
    ),
];

/// Families of refused properties, by the beginning of their names.
const REFUSED_FAMILIES: &[(&str, &str)] = &[
    ("test.", TEST),
    ("sasl.oauthbearer.assertion.", TOKEN_COMMAND),
];

/// Why a property is refused, if it is.
pub(super) fn refusal(name: &str) -> Option<&'static str> {
    let named = REFUSED.iter().find(|(refused, _)| *refused == name);
    let family = || {
        let mut families = REFUSED_FAMILIES.iter();
        families.find(|(beginning, _)| name.starts_with(beginning))
    };
    named.or_else(family).map(|(_, reason)| *reason)
}

const MECHANISM: &str = "set sasl.mechanism and the properties that it needs";
const TOKEN: &str = "set KAFKA_TOKEN_COMMAND, or sasl.oauthbearer.method=oidc with \
                     sasl.oauthbearer.client.id, sasl.oauthbearer.client.secret and \
                     sasl.oauthbearer.token.endpoint.url";
const OPENSSL: &str = "OpenSSL's own choice applies: remove it";
const BYTES: &str = "outboxd sends bytes: remove it";

/// Properties that Java's clients have and librdkafka lacks, and what to set instead.
const JAVAS: &[(&str, &str)] = &[
    ("sasl.jaas.config", "set sasl.username and sasl.password"),
    ("sasl.client.callback.handler.class", MECHANISM),
    ("sasl.login.callback.handler.class", TOKEN),
    ("sasl.login.class", MECHANISM),
    ("sasl.oauthbearer.jwt.retriever.class", TOKEN),
    ("sasl.oauthbearer.jwt.validator.class", TOKEN),
    (
        "ssl.truststore.location",
        "set ssl.ca.location to a PEM file",
    ),
    ("ssl.truststore.certificates", "set ssl.ca.pem"),
    ("ssl.truststore.password", "a PEM file has none: remove it"),
    ("ssl.truststore.type", "PEM is the only one: remove it"),
    (
        "ssl.keystore.key",
        "set ssl.key.location or ssl.key.pem to a key in PEM",
    ),
    (
        "ssl.keystore.certificate.chain",
        "set ssl.certificate.location or ssl.certificate.pem",
    ),
    (
        "ssl.keystore.type",
        "ssl.keystore.location is PKCS#12: remove it",
    ),
    ("ssl.protocol", OPENSSL),
    ("ssl.enabled.protocols", OPENSSL),
    ("ssl.provider", OPENSSL),
    ("ssl.engine.factory.class", OPENSSL),
    ("ssl.keymanager.algorithm", OPENSSL),
    ("ssl.trustmanager.algorithm", OPENSSL),
    ("ssl.secure.random.implementation", OPENSSL),
    ("security.providers", OPENSSL),
    ("send.buffer.bytes", "set socket.send.buffer.bytes"),
    ("receive.buffer.bytes", "set socket.receive.buffer.bytes"),
    ("buffer.memory", "set OUTBOX_MEMORY_LIMIT"),
    ("max.request.size", "set message.max.bytes"),
    ("max.block.ms", "outboxd never blocks: remove it"),
    ("key.serializer", BYTES),
    ("value.serializer", BYTES),
    (
        "interceptor.classes",
        "outboxd runs no foreign code: remove it",
    ),
    (
        "metric.reporters",
        "outboxd has metrics of its own: remove it",
    ),
    (
        "partitioner.class",
        "outboxd partitions as Java's clients do: remove it",
    ),
    ("partitioner.ignore.keys", "OUTBOX_KEY=none sends no keys"),
];

/// Families of Java's properties, by the beginning of their names.
const JAVAS_FAMILIES: &[(&str, &str)] = &[
    ("sasl.login.", "outboxd renews tokens by itself: remove it"),
    (
        "sasl.oauthbearer.jwks.",
        "the broker checks tokens, not the client: remove it",
    ),
    (
        "sasl.oauthbearer.expected.",
        "the broker checks tokens, not the client: remove it",
    ),
];

/// What to set instead of this property, if it is one of Java's clients alone.
pub(super) fn javas(name: &str) -> Option<&'static str> {
    let named = JAVAS.iter().find(|(javas, _)| *javas == name);
    let family = || {
        let mut families = JAVAS_FAMILIES.iter();
        families.find(|(beginning, _)| name.starts_with(beginning))
    };
    named.or_else(family).map(|(_, instead)| *instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_is_asked_for_its_names_and_has_none_of_javas() {
        for name in [
            "linger.ms",
            "debug",
            "compression.level",
            "request.timeout.ms",
            "group.id",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.method",
            "https.ca.location",
        ] {
            assert!(librdkafka_has(name), "{name}");
        }
        for name in ["hunter2", "lingr.ms", "", "sasl.pasword"] {
            assert!(!librdkafka_has(name), "{name}");
        }
        // Its entries for these say that they are Java's.
        let entries = ["sasl.jaas.config", "ssl.truststore.location"];
        for (name, _) in JAVAS.iter().filter(|(name, _)| !entries.contains(name)) {
            assert!(!librdkafka_has(name), "{name}");
        }
        for (name, _) in REFUSED {
            assert!(librdkafka_has(name), "{name}");
        }
    }

    #[test]
    fn a_secret_is_known_by_its_name_and_a_name_that_is_unknown_may_be_that_of_one() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.jaas.config",
            "sasl.pasword",
        ] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("sasl.username") && !is_secret("linger.ms"));
    }
}
