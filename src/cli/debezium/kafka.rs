//! The connection to Kafka: properties of Java's producer as those of librdkafka. Pure.

use std::collections::BTreeMap;

use crate::cli::debezium::connector::{Connector, Given};
use crate::cli::debezium::imported::Imported;
use crate::cli::debezium::options::{self, Group};

/// Where a connector's file has properties of the producer.
const PREFIXES: [&str; 2] = ["producer.override.", "sink.kafka.producer."];

/// Java's names, and librdkafka's for the same.
pub(super) const SAME: [(&str, &str); 23] = [
    ("client.id", "client.id"),
    ("client.dns.lookup", "client.dns.lookup"),
    ("linger.ms", "linger.ms"),
    ("batch.size", "batch.size"),
    ("compression.type", "compression.codec"),
    ("max.request.size", "message.max.bytes"),
    ("request.timeout.ms", "request.timeout.ms"),
    ("metadata.max.age.ms", "metadata.max.age.ms"),
    ("connections.max.idle.ms", "connections.max.idle.ms"),
    ("reconnect.backoff.ms", "reconnect.backoff.ms"),
    ("reconnect.backoff.max.ms", "reconnect.backoff.max.ms"),
    ("retry.backoff.ms", "retry.backoff.ms"),
    ("retry.backoff.max.ms", "retry.backoff.max.ms"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("enable.metrics.push", "enable.metrics.push"),
    ("metadata.recovery.strategy", "metadata.recovery.strategy"),
    (
        "metadata.recovery.rebootstrap.trigger.ms",
        "metadata.recovery.rebootstrap.trigger.ms",
    ),
    ("security.protocol", "security.protocol"),
    ("sasl.mechanism", "sasl.mechanism"),
    ("ssl.cipher.suites", "ssl.cipher.suites"),
    (
        "ssl.endpoint.identification.algorithm",
        "ssl.endpoint.identification.algorithm",
    ),
    (
        "socket.connection.setup.timeout.ms",
        "socket.connection.setup.timeout.ms",
    ),
];

/// Properties of Java's producer without a counterpart.
const JAVA: &[Group] = &[
    Group {
        reason: "outboxd guarantees what it chooses: idempotent, acknowledged by all in-sync \
                 replicas, and never expired",
        names: &[
            "acks",
            "enable.idempotence",
            "retries",
            "delivery.timeout.ms",
            "max.in.flight.requests.per.connection",
            "transactional.id",
            "transaction.timeout.ms",
            "transaction.two.phase.commit.enable",
        ],
    },
    Group {
        reason: "OUTBOX_MEMORY_LIMIT bounds what is in flight",
        names: &["buffer.memory", "max.block.ms"],
    },
    Group {
        reason: "outboxd sends bytes, and places keys as Java's clients do",
        names: &["key.serializer*", "value.serializer*", "partitioner.*"],
    },
    Group {
        reason: "librdkafka has one compression.level for every codec",
        names: &[
            "compression.gzip.level",
            "compression.lz4.level",
            "compression.zstd.level",
        ],
    },
    Group {
        reason: "it belongs to Java",
        names: &[
            "interceptor.classes",
            "metric*",
            "auto.include.jmx.reporter",
            "security.providers",
            "config.providers*",
            "metadata.max.idle.ms",
            "socket.connection.setup.timeout.max.ms",
        ],
    },
    Group {
        reason: "librdkafka reads PEM: name the files as ssl.ca.location, \
                 ssl.certificate.location and ssl.key.location",
        names: &["ssl.*"],
    },
    Group {
        reason: "docs/kafka-log-ins.md has the properties of each log-in",
        names: &["sasl.*"],
    },
];

/// The brokers, where the file has them.
pub(super) fn carry_brokers_over(connector: &mut Connector, imported: &mut Imported) {
    let names = [
        "sink.kafka.producer.bootstrap.servers",
        "producer.override.bootstrap.servers",
        "bootstrap.servers",
    ];
    let found: Vec<Given> = names
        .iter()
        .filter_map(|name| connector.take(name))
        .collect();
    match found.into_iter().find(|given| !given.value.contains("${")) {
        Some(given) => imported.set("kafka_brokers", given.value),
        None => {
            let why = match connector.is_server {
                true => "The file has no brokers",
                false => "The brokers are those of Kafka Connect's worker",
            };
            imported.leave_open("kafka_brokers", "HOST:9092", why.to_owned());
        }
    }
    if let Some(given) = connector.take("sink.type").filter(|it| it.value != "kafka") {
        imported.differs(&given.name, "outboxd publishes to Kafka alone");
    }
}

/// The properties of the producer.
pub(super) fn carry_properties_over(connector: &mut Connector, imported: &mut Imported) {
    let mut properties: BTreeMap<String, Given> = BTreeMap::new();
    for prefix in PREFIXES {
        properties.extend(connector.below(prefix));
    }
    for (java, ours) in SAME {
        let Some(given) = properties.remove(java) else {
            continue;
        };
        if given.value.contains("${") {
            imported.leave_out(
                &given,
                "its value has a variable, which outboxd does not read",
            );
            continue;
        }
        let is_off = java.ends_with("algorithm") && given.value.is_empty();
        let value = if is_off {
            "none".to_owned()
        } else {
            given.value
        };
        imported.kafka.push((ours, value));
    }
    log_in(&mut properties, imported);
    for (name, given) in properties {
        match options::reason(JAVA, &name) {
            Some(_) if is_secret(&given) => imported.leave_out(&given, "no secret is copied"),
            Some(reason) => imported.leave_out(&given, reason),
            None => imported.unknown.push(given.name),
        }
    }
}

/// Whether this option holds a secret, by its name.
fn is_secret(given: &Given) -> bool {
    let name = given.name.to_ascii_lowercase();
    ["password", "secret", "jaas", "token"]
        .iter()
        .any(|word| name.contains(word))
}

/// The user of a log-in module. Its password is left to a person.
fn log_in(properties: &mut BTreeMap<String, Given>, imported: &mut Imported) {
    let Some(given) = properties.remove("sasl.jaas.config") else {
        return;
    };
    let Some(user) = user(&given.value) else {
        let text = "no secret is copied; docs/kafka-log-ins.md has the properties of each log-in";
        return imported.leave_out(&given, text);
    };
    if !user.contains("${") {
        imported.kafka.push(("sasl.username", user));
    }
    let why = format!(
        "The password of {} is not copied; write it into a file",
        given.name
    );
    imported.leave_open("kafka_password_file", "/run/secrets/kafka", why);
}

/// The user that a line of JAAS names.
fn user(jaas: &str) -> Option<String> {
    let (_, rest) = jaas.split_once("username")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (user, _) = rest[1..].split_once(quote)?;
    Some(user.to_owned())
}
