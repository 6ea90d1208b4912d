//! librdkafka's properties: merged from three places. Those that outboxd's guarantees depend on are
//! refused.
//!
//! A property's value is never shown: some are passwords.

use std::collections::BTreeMap;

use crate::config::check::Check;
use crate::config::error::{InvalidValue, SettingError};
use crate::config::parse;
use crate::config::secret::Secret;
use crate::config::variables::{AUTO_CREATE_TOPICS, KAFKA_PROPERTIES};

/// The property that `OUTBOX_AUTO_CREATE_TOPICS` stands for.
const AUTO_CREATE: &str = "allow.auto.create.topics";

/// librdkafka's default for `batch.size`.
const BATCH_BYTES: usize = 1_000_000;

/// The largest event that a writer accepts, 10 MiB, with its key, headers and framing. The topic's
/// own `max.message.bytes` still applies.
const RECORD_BYTES_MAX: usize = 11 << 20;

/// The largest record that the producer takes, in bytes.
pub(super) fn record_bytes_max(properties: &[(String, Secret<String>)]) -> usize {
    let size = property(properties, "message.max.bytes");
    size.and_then(|size| size.parse().ok())
        .unwrap_or(RECORD_BYTES_MAX)
}

/// The largest batch that the producer makes of several records, in bytes.
pub(super) fn batch_bytes(properties: &[(String, Secret<String>)]) -> usize {
    let size = property(properties, "batch.size");
    size.and_then(|size| size.parse().ok())
        .unwrap_or(BATCH_BYTES)
}

/// Whether librdkafka's `allow.auto.create.topics` is set.
pub(super) fn auto_creates_topics(properties: &[(String, Secret<String>)]) -> bool {
    property(properties, AUTO_CREATE).and_then(truth) == Some(true)
}

/// Whether batches are compressed.
pub(super) fn compresses(properties: &[(String, Secret<String>)]) -> bool {
    ["compression.codec", "compression.type"]
        .iter()
        .filter_map(|name| property(properties, name))
        .any(|codec| !codec.eq_ignore_ascii_case("none"))
}

fn property<'a>(properties: &'a [(String, Secret<String>)], name: &str) -> Option<&'a str> {
    let (_, value) = properties.iter().find(|(known, _)| known == name)?;
    Some(value.expose())
}

/// A boolean as librdkafka reads it.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

impl Check {
    /// Reads the setting, which must not contradict the property that it stands for.
    pub(super) fn auto_create_topics(
        &mut self,
        given: Option<String>,
        properties: &[(String, Secret<String>)],
    ) -> bool {
        let choices = [("true", true), ("false", false)];
        let is_given = given.is_some();
        let setting = self.or(AUTO_CREATE_TOPICS, given, false, |text| {
            parse::choice(text, &choices)
        });
        let opposite = property(properties, AUTO_CREATE).and_then(truth) == Some(!setting);
        if is_given && opposite {
            let problem = format!("contradicts {AUTO_CREATE}, which means the same");
            let wrong = InvalidValue::new(problem, "remove the property");
            self.errors.push(wrong.of(AUTO_CREATE_TOPICS));
        }
        setting
    }
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
];

/// Properties that Java's clients have and librdkafka lacks, and what to set instead.
const JAVAS: &[(&str, &str)] = &[
    ("sasl.jaas.config", "set sasl.username and sasl.password"),
    (
        "sasl.client.callback.handler.class",
        "set sasl.mechanism and the properties that it needs",
    ),
    (
        "sasl.login.callback.handler.class",
        "set sasl.mechanism and the properties that it needs",
    ),
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
    ("buffer.memory", "set OUTBOX_MEMORY_LIMIT"),
    ("max.request.size", "set message.max.bytes"),
    ("max.block.ms", "outboxd never blocks: remove it"),
    ("key.serializer", "outboxd sends bytes: remove it"),
    ("value.serializer", "outboxd sends bytes: remove it"),
];

/// The properties by name. Flags override the environment, and the environment overrides the file.
pub(crate) fn properties(
    file: BTreeMap<String, String>,
    environment: Option<&str>,
    flags: &[String],
    errors: &mut Vec<SettingError>,
) -> Vec<(String, Secret<String>)> {
    let mut properties: BTreeMap<String, String> = BTreeMap::new();
    let listed = environment.map(split).unwrap_or_default();
    for (text, place) in listed
        .iter()
        .map(|text| (text, KAFKA_PROPERTIES))
        .chain(flags.iter().map(|text| (text, "--kafka")))
    {
        match text.split_once('=') {
            Some((name, value)) => {
                properties.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            None => errors.push(
                InvalidValue::new(
                    "contains something that is not a property",
                    "write key=value",
                )
                .of(place),
            ),
        }
    }
    for (name, value) in file {
        properties.entry(name).or_insert(value);
    }
    properties.retain(|name, _| match refusal(name) {
        Some(wrong) => {
            errors.push(wrong.of(KAFKA_PROPERTIES));
            false
        }
        None => true,
    });
    properties
        .into_iter()
        .map(|(name, value)| (name, Secret::new(value)))
        .collect()
}

fn refusal(name: &str) -> Option<InvalidValue> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c);
    if name.is_empty() || !name.chars().all(inside) {
        let hint = "write names as in librdkafka's CONFIGURATION.md";
        return Some(InvalidValue::new(
            "contains a name that no property has",
            hint,
        ));
    }
    if let Some((_, instead)) = JAVAS.iter().find(|(javas, _)| *javas == name) {
        let problem = format!("has {name}, which is a property of Java's clients");
        return Some(InvalidValue::new(problem, *instead));
    }
    let (_, reason) = REFUSED.iter().find(|(refused, _)| *refused == name)?;
    Some(InvalidValue::new(
        format!("may not set {name}: {reason}"),
        "remove it",
    ))
}

/// Splits at commas. A piece without `=` belongs to the value before it, so
/// `debug=broker,topic,linger.ms=5` is two.
fn split(text: &str) -> Vec<String> {
    let mut properties: Vec<String> = Vec::new();
    for piece in text.split(',').filter(|piece| !piece.trim().is_empty()) {
        match properties.last_mut() {
            Some(before) if !piece.contains('=') => {
                before.push(',');
                before.push_str(piece);
            }
            _ => properties.push(piece.to_owned()),
        }
    }
    properties
}
