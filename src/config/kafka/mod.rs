//! librdkafka's properties: merged from three places. Those that outboxd's guarantees depend on are
//! refused.
//!
//! A property's value is never shown: some are passwords. Nor is a name that may be a piece of one.

mod list;
mod login;
mod names;
mod token;

use std::collections::BTreeMap;
use std::mem;

use crate::config::check::Check;
use crate::config::error::{InvalidValue, SettingError};
use crate::config::parse;
use crate::config::secret::Secret;
use crate::config::settings::Settings;
use crate::config::variables::{AUTO_CREATE_TOPICS, KAFKA_PROPERTIES, READ_BACK};

use login::LoginSource;
pub(crate) use login::{
    CertificateAuthorities, ClientSecret, IdentityProvider, KafkaLogin, TokenSource,
};
pub(crate) use token::{Token, TokenFailure};

const TRUE_OR_FALSE: [(&str, bool); 2] = [("true", true), ("false", false)];

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
    /// Whether brokers may create topics, and whether the ends of topics are read back.
    pub(super) fn kafka_topics(
        &mut self,
        given: &mut Settings,
        properties: &[(String, Secret<String>)],
    ) -> (bool, bool) {
        let read_back = self.or(READ_BACK, given.read_back.take(), true, |text| {
            parse::choice(text, &TRUE_OR_FALSE)
        });
        let creates = self.auto_create_topics(given.auto_create_topics.take(), properties);
        (creates, read_back)
    }

    /// Reads the setting, which must not contradict the property that it stands for.
    fn auto_create_topics(
        &mut self,
        given: Option<String>,
        properties: &[(String, Secret<String>)],
    ) -> bool {
        let is_given = given.is_some();
        let setting = self.or(AUTO_CREATE_TOPICS, given, false, |text| {
            parse::choice(text, &TRUE_OR_FALSE)
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

/// What the settings say about Kafka, beside the brokers.
#[derive(Debug)]
struct KafkaSettings {
    file: BTreeMap<String, String>,
    environment: Option<String>,
    flags: Vec<String>,
    login: LoginSource,
}

impl KafkaSettings {
    fn taken_from(settings: &mut Settings) -> KafkaSettings {
        KafkaSettings {
            file: mem::take(&mut settings.kafka_table),
            environment: settings.kafka_properties.take(),
            flags: mem::take(&mut settings.kafka),
            login: LoginSource {
                password_file: settings.kafka_password_file.take(),
                token_command: settings.kafka_token_command.take(),
            },
        }
    }
}

type Properties = Vec<(String, Secret<String>)>;

impl Check {
    /// librdkafka's properties, and how to log in beside them. `needs_kafka` is false for commands
    /// that do not connect to it.
    pub(super) fn kafka(
        &mut self,
        settings: &mut Settings,
        needs_kafka: bool,
    ) -> (Properties, KafkaLogin) {
        let given = KafkaSettings::taken_from(settings);
        let (environment, errors) = (given.environment.as_deref(), &mut self.errors);
        let mut properties = properties(given.file, environment, &given.flags, errors);
        let login = self.kafka_login(given.login, &mut properties, needs_kafka);
        (properties, login)
    }
}

/// The properties by name. Flags override the environment, and the environment overrides the file.
fn properties(
    file: BTreeMap<String, String>,
    environment: Option<&str>,
    flags: &[String],
    errors: &mut Vec<SettingError>,
) -> Properties {
    let mut properties: BTreeMap<String, String> = BTreeMap::new();
    let listed = environment.map(list::split).unwrap_or_default();
    let listed = listed.into_iter().map(|given| (given, KAFKA_PROPERTIES));
    let flags = flags.iter().map(|text| (list::one(text), "--kafka"));
    for (given, place) in listed.chain(flags) {
        match given {
            Ok(property) => {
                properties.insert(property.name, property.value);
            }
            Err(list::NoProperty) => errors.push(
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
    const REFERENCE: &str = "write names as in librdkafka's CONFIGURATION.md";
    if !names::is_written_like_one(name) {
        let problem = "contains a name that no property has";
        return Some(InvalidValue::new(problem, REFERENCE));
    }
    if let Some(instead) = names::javas(name) {
        let problem = format!("has {name}, which is a property of Java's clients");
        return Some(InvalidValue::new(problem, instead));
    }
    if let Some(reason) = names::refusal(name) {
        let problem = format!("may not set {name}: {reason}");
        return Some(InvalidValue::new(problem, "remove it"));
    }
    if names::librdkafka_has(name) {
        return None;
    }
    // A word without a dot is more likely a piece of a value than the name of a property.
    let problem = match name.contains('.') {
        true => format!("has {name}, which librdkafka does not know"),
        false => "contains a name that no property has".to_owned(),
    };
    Some(InvalidValue::new(problem, REFERENCE))
}
