//! librdkafka's settings: our defaults, then what the user set, then what carries the guarantees.
//!
//! The guarded properties are refused in the configuration already; setting them last here makes a gap in that check
//! harmless. What each property does: <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::config::Config;
use crate::error::{Code, Error};

/// An event of 10 MiB, the most that a writer may write, with its key, headers and framing. The topic's own
/// `max.message.bytes` still applies.
const MESSAGE_MAX_BYTES: usize = 11 << 20;

/// The least that a record costs the caller's byte budget; the queue's limit on records follows from it.
const RECORD_MIN_BYTES: usize = 16;

/// What every client of ours shares: brokers, name, patience, and the user's own properties.
pub(crate) fn client(config: &Config) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("client.id", "outboxd")
        .set("socket.keepalive.enable", "true")
        // One process reconnects here, not a thousand: two seconds are no burden for a broker that comes back.
        .set("reconnect.backoff.max.ms", "2000");
    for (name, value) in &config.kafka_properties {
        settings.set(name, value);
    }
    settings.set("bootstrap.servers", &config.brokers);
    settings.set_log_level(if tracing::enabled!(tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    settings
}

/// The producer's settings.
pub(crate) fn producer(config: &Config) -> ClientConfig {
    let mut settings = client(config);
    let mut default = |name: &str, value: String| {
        let set = |name: &str| config.kafka_properties.iter().any(|(set, _)| set == name);
        if !set(name) && !(name == "linger.ms" && set("queue.buffering.max.ms")) {
            settings.set(name, value);
        }
    };
    // The Java producer's: keys stay in their partitions when another tool is replaced.
    default("partitioner", "murmur2_random".to_owned());
    // A mistyped topic must fail, not come into being.
    default("allow.auto.create.topics", "false".to_owned());
    default("linger.ms", LINGER_MS.to_owned());
    default("message.max.bytes", MESSAGE_MAX_BYTES.to_string());
    // Partitions that were added and topics that came later are seen within half a minute.
    default("topic.metadata.refresh.interval.ms", "30000".to_owned());
    // The caller's byte budget is the limit that is met; these are above it, so that a full queue means a broken budget.
    // Twice, since librdkafka counts values only and the budget may be overdrawn by one record.
    let kbytes = (2 * config.memory_limit + 2 * MESSAGE_MAX_BYTES) / 1024;
    default(
        "queue.buffering.max.kbytes",
        kbytes.clamp(1024, i32::MAX as usize).to_string(),
    );
    let messages = (config.memory_limit / RECORD_MIN_BYTES).clamp(100_000, i32::MAX as usize);
    default("queue.buffering.max.messages", messages.to_string());

    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("statistics.interval.ms", "0");
    settings
}

/// Long enough for the rows of one transaction to share a request, short enough not to be seen: under backlog the
/// requests that are under way let batches grow by themselves.
const LINGER_MS: &str = "0.5";

/// A client that librdkafka would not create. The property is named, its value may be a secret and is not.
pub(crate) fn refused(error: KafkaError) -> Error {
    const REFERENCE: &str =
        "librdkafka's CONFIGURATION.md lists the properties, their values and what excludes what";
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            Error::fatal(Code::Config, format!("librdkafka knows no property {name}"))
        }
        KafkaError::ClientConfig(_, _, name, _) => Error::fatal(
            Code::Config,
            format!("librdkafka does not accept the value of {name}"),
        ),
        KafkaError::ClientCreation(reason) => Error::fatal(
            Code::Config,
            "librdkafka does not accept the Kafka properties",
        )
        .source(reason),
        other => Error::fatal(Code::Config, "no Kafka client could be made").source(other),
    }
    .hint(REFERENCE)
}
