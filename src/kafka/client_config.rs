//! librdkafka's settings: our defaults, then what the user set, then what carries the guarantees.
//!
//! The guarded properties are refused in the configuration already; setting them last here makes a
//! gap in that check harmless. What each property does:
//! <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::config::Config;
use crate::error::{Code, Error};

/// An event of 10 MiB, the most that a writer may write, with its key, headers and framing. The
/// topic's own `max.message.bytes` still applies.
const MESSAGE_MAX_BYTES: usize = 11 << 20;

/// The largest number that librdkafka takes for a limit.
const LIMIT_MAX: usize = i32::MAX as usize;

/// The least that a record costs the caller's byte budget; the queue's limit on records follows
/// from it.
const RECORD_MIN_BYTES: usize = 16;

/// For questions to the cluster.
pub(crate) fn client(config: &Config) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("client.id", "outboxd")
        .set("socket.keepalive.enable", "true")
        // One process reconnects here, not a thousand: two seconds are no burden for a broker that
        // comes back.
        .set("reconnect.backoff.max.ms", "2000");
    finish(settings, config)
}

/// For the stream of records.
pub(crate) fn producer(config: &Config) -> ClientConfig {
    let mut settings = client(config);
    settings
        // A mistyped topic must fail and not come into being, unless that is wanted.
        .set(
            "allow.auto.create.topics",
            config.auto_creates_topics().to_string(),
        )
        // How long librdkafka sleeps while a request is under way. It sends one request of a
        // partition at a time (its check for idempotence counts records where it means requests),
        // and asks in a busy loop whether it may send the next as soon as a record has lingered.
        // Nothing waits so long by itself: `Producer::push` sends a few records at once, and many
        // fill a batch.
        .set("linger.ms", "5")
        .set("message.max.bytes", MESSAGE_MAX_BYTES.to_string())
        // Partitions that were added and topics that came later are seen within half a minute.
        .set("topic.metadata.refresh.interval.ms", "30000");
    let mut settings = finish(settings, config);

    // The caller's byte budget is the limit that is met; these are above it, so that a full queue
    // means a broken budget. Twice, since librdkafka counts values only and the budget may be
    // overdrawn by one record.
    let kbytes = (2 * config.memory_limit + 2 * MESSAGE_MAX_BYTES) / 1024;
    let records = (config.memory_limit / RECORD_MIN_BYTES).max(100_000);
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        // The Java producer's: keys stay in their partitions when another tool is replaced.
        .set("partitioner", "murmur2_random")
        .set(
            "queue.buffering.max.kbytes",
            kbytes.min(LIMIT_MAX).to_string(),
        )
        .set(
            "queue.buffering.max.messages",
            records.min(LIMIT_MAX).to_string(),
        )
        .set("statistics.interval.ms", "0");
    settings
}

/// The user's properties over our defaults, and over both what is not the user's to set.
fn finish(mut settings: ClientConfig, config: &Config) -> ClientConfig {
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

/// A client that librdkafka would not create. The property is named, its value may be a secret and
/// is not.
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
    .with_hint(REFERENCE)
}
