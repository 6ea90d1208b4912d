//! librdkafka's properties: outboxd's defaults, then the user's, then those that the guarantees
//! need.
//!
//! The configuration rejects the user's values for that last group already; setting them last makes
//! a gap in that check harmless. The properties:
//! <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::config::{Config, KAFKA_PASSWORD_FILE};
use crate::error::{Code, Error, Result};
use crate::kafka::login_files;

/// The largest value that librdkafka accepts for a limit.
const LIMIT_MAX: usize = i32::MAX as usize;

/// The minimum that a record takes of the caller's byte budget; the queue's limit on records
/// follows from it.
const RECORD_MIN_BYTES: usize = 16;

/// The longest answer of a broker, in bytes; librdkafka's default of 100 MB is for consumers.
const RECEIVE_MAX: &str = "33554432";

/// For requests about the cluster.
///
/// # Errors
/// Transient: the file with the password cannot be read now.
pub(crate) fn client(config: &Config) -> Result<ClientConfig> {
    let mut settings = ClientConfig::new();
    settings
        .set("client.id", "outboxd")
        .set("socket.keepalive.enable", "true")
        // The longest answer that is taken: metadata of some hundred thousand partitions.
        .set("receive.message.max.bytes", RECEIVE_MAX)
        // Only one process reconnects, not a thousand: every two seconds is no burden for a broker
        // that restarts.
        .set("reconnect.backoff.max.ms", "2000");
    finish(settings, config)
}

/// For the stream of records.
///
/// # Errors
/// As [`client`].
pub(crate) fn producer(config: &Config) -> Result<ClientConfig> {
    let mut settings = client(config)?;
    settings
        // A mistyped topic must fail rather than be created, unless the user asks for creation.
        .set(
            "allow.auto.create.topics",
            config.auto_creates_topics().to_string(),
        )
        // The longest that librdkafka accepts: `Producer::push` sends what lingers (see
        // `producer::lingering`), and many records fill a batch.
        .set("linger.ms", "900000")
        .set("message.max.bytes", config.record_bytes_max().to_string())
        // New partitions and topics are noticed within half a minute.
        .set("topic.metadata.refresh.interval.ms", "30000");
    let mut settings = finish(settings, config)?;

    // The caller's byte budget is the effective limit. These limits are above it, so that a full
    // queue means a broken budget: twice as much, since librdkafka counts values only and one
    // record may overdraw the budget.
    let kbytes = (2 * config.memory_limit + 2 * config.record_bytes_max()) / 1024;
    let records = (config.memory_limit / RECORD_MIN_BYTES).max(100_000);
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        // The Java producer's partitioner: keys keep their partitions when outboxd replaces another
        // tool.
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
    Ok(settings)
}

/// For reading records: by offsets alone, without a group, and only what is committed unless
/// `uncommitted`. A few megabytes are read ahead.
///
/// # Errors
/// As [`client`].
pub(crate) fn consumer(config: &Config, uncommitted: bool) -> Result<ClientConfig> {
    let mut settings = client(config)?;
    settings
        // librdkafka assigns no partition without it. No group is joined, and no offset stored.
        .set("group.id", "outboxd-verify")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        // A batch is unpacked as a whole, and the records of outboxd pack well: their headers are
        // alike.
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.max.bytes", "1048576")
        .set("fetch.message.max.bytes", "131072")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set(
            "isolation.level",
            match uncommitted {
                true => "read_uncommitted",
                false => "read_committed",
            },
        )
        .set_log_level(RDKafkaLogLevel::Emerg);
    Ok(settings)
}

/// Sets the user's properties over the defaults, and then the ones that users may not set.
fn finish(mut settings: ClientConfig, config: &Config) -> Result<ClientConfig> {
    for (name, value) in &config.kafka_properties {
        settings.set(name, value.expose());
    }
    if let Some(path) = login_files::default_authorities(config) {
        settings.set("ssl.ca.location", path.display().to_string());
    }
    if let Some(path) = &config.kafka_login.password_file {
        let password = login_files::secret(path).map_err(|wrong| {
            let message = format!("{KAFKA_PASSWORD_FILE} {}", wrong.problem);
            Error::transient(Code::Connect, message).with_hint(wrong.hint)
        })?;
        settings.set("sasl.password", password.expose());
    }
    settings.set("bootstrap.servers", &config.brokers);
    settings.set_log_level(if tracing::enabled!(tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    Ok(settings)
}

/// The error for a client that librdkafka did not create. It names the property but not its value,
/// which may be a secret.
pub(crate) fn refused(error: KafkaError) -> Error {
    const REFERENCE: &str =
        "librdkafka's CONFIGURATION.md lists the properties, their values and their conflicts";
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            Error::fatal(Code::Config, format!("unknown librdkafka property {name}"))
        }
        KafkaError::ClientConfig(_, _, name, _) => Error::fatal(
            Code::Config,
            format!("librdkafka does not accept the value of {name}"),
        ),
        KafkaError::ClientCreation(reason) => Error::fatal(
            Code::Config,
            "librdkafka does not accept the Kafka properties",
        )
        .with_source(reason),
        other => Error::fatal(Code::Config, "cannot create a Kafka client").with_source(other),
    }
    .with_hint(REFERENCE)
}
