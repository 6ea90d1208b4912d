//! The settings as they were given: raw text, nothing checked, the same names everywhere.
//!
//! A setting `max_retries` is the flag `--max-retries`, the variable `OUTBOX_MAX_RETRIES` and the
//! TOML key `max_retries`. clap merges flags and environment, [`Settings::or`] adds the settings of
//! the file, and `Config::from_settings` checks the result.

use std::collections::BTreeMap;
use std::fmt;

use clap::{Args, Command};
use serde::{Deserialize, Deserializer};

use crate::config::error::SettingError;
use crate::config::variables;

/// The help of `--slot`: rustdoc would read the default as a link.
const SLOT: &str = "Replication slot [default: outboxd_<database>; other tables: with their name]";

/// All settings, each as it was given or `None`. Build it from flags and environment with clap,
/// from a file with [`Settings::load`], or by hand, and turn it into a
/// [`Config`](crate::config::Config).
#[derive(Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Postgres connection: a libpq URL or a key=value string
    #[arg(long, env = variables::DATABASE_URL, hide_env_values = true, value_name = "URL")]
    #[serde(deserialize_with = "scalar")]
    pub database_url: Option<String>,

    /// File that contains only the Postgres password
    #[arg(long, value_name = "FILE")]
    #[arg(env = variables::DATABASE_PASSWORD_FILE, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub database_password_file: Option<String>,

    /// Command that prints the Postgres password; it runs before each connection
    #[arg(long, value_name = "COMMAND")]
    #[arg(env = variables::DATABASE_PASSWORD_COMMAND, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub database_password_command: Option<String>,

    /// Postgres connection for replication, if that has a login of its own
    #[arg(long, env = variables::REPLICATION_URL, hide_env_values = true, value_name = "URL")]
    #[serde(deserialize_with = "scalar")]
    pub replication_url: Option<String>,

    /// File that contains only the password for replication
    #[arg(long, value_name = "FILE")]
    #[arg(env = variables::REPLICATION_PASSWORD_FILE, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub replication_password_file: Option<String>,

    /// Command that prints the password for replication; it runs before each connection
    #[arg(long, value_name = "COMMAND")]
    #[arg(env = variables::REPLICATION_PASSWORD_COMMAND, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub replication_password_command: Option<String>,

    /// Kafka bootstrap servers: host:port,host:port
    #[arg(long, env = variables::KAFKA_BROKERS, hide_env_values = true, value_name = "LIST")]
    #[serde(deserialize_with = "scalar")]
    pub kafka_brokers: Option<String>,

    /// File that contains only the Kafka password; read again when it changes
    #[arg(long, value_name = "FILE")]
    #[arg(env = variables::KAFKA_PASSWORD_FILE, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub kafka_password_file: Option<String>,

    /// Command that prints a token for Kafka's OAUTHBEARER; it runs for each token
    #[arg(long, value_name = "COMMAND")]
    #[arg(env = variables::KAFKA_TOKEN_COMMAND, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub kafka_token_command: Option<String>,

    /// librdkafka properties: key=value,key=value; in the settings file, a table named kafka
    #[arg(long, env = variables::KAFKA_PROPERTIES, hide_env_values = true, value_name = "LIST")]
    #[serde(skip)]
    pub kafka_properties: Option<String>,

    /// One librdkafka property; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(skip)]
    pub kafka: Vec<String>,

    /// The properties of the file; the other two override them.
    #[arg(skip)]
    #[serde(rename = "kafka", deserialize_with = "scalars")]
    pub kafka_table: BTreeMap<String, String>,

    /// Outbox table, as schema.name [default: outbox.outbox]
    #[arg(long, env = variables::TABLE, hide_env_values = true, value_name = "TABLE")]
    #[serde(deserialize_with = "scalar")]
    pub table: Option<String>,

    /// Replication slot; by default `outboxd_`, the database and the table
    #[arg(long, env = variables::SLOT, hide_env_values = true, value_name = "NAME", help = SLOT)]
    #[serde(deserialize_with = "scalar")]
    pub slot: Option<String>,

    /// Publication [default: outboxd; other tables: with their name]
    #[arg(long, env = variables::PUBLICATION, hide_env_values = true, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub publication: Option<String>,

    /// Source of events: slot, or poll where no slot is allowed [default: slot]
    #[arg(long, env = variables::SOURCE, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub source: Option<String>,

    /// Number of events that triggers a write-back; with poll, rows per poll [default: 10]
    #[arg(long, env = variables::BATCH_SIZE, hide_env_values = true, value_name = "COUNT")]
    #[serde(deserialize_with = "scalar")]
    pub batch_size: Option<String>,

    /// Longest delay of a write-back; with poll, time between polls [default: 5s]
    #[arg(long, env = variables::PROCESS_INTERVAL, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub process_interval: Option<String>,

    /// Time limit for one SQL statement, and for the drain at stop [default: 25s]
    #[arg(long, env = variables::OPERATION_TIMEOUT, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub operation_timeout: Option<String>,

    /// Attempts to send an event that Kafka rejects [default: 3]
    #[arg(long, env = variables::MAX_RETRIES, hide_env_values = true, value_name = "COUNT")]
    #[serde(deserialize_with = "scalar")]
    pub max_retries: Option<String>,

    /// What to do with published rows: mark, delete or keep [default: mark]
    #[arg(long, env = variables::AFTER_PUBLISH, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub after_publish: Option<String>,

    /// What to do with unpublished rows at the first start: publish, skip or halt [default:
    /// publish; with keep: skip]
    #[arg(long, env = variables::BACKLOG, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub backlog: Option<String>,

    /// What to do after the loss of the slot: heal from the table, or halt [default: heal; with
    /// keep: halt]
    #[arg(long, env = variables::ON_SLOT_LOSS, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub on_slot_loss: Option<String>,

    /// Interval at which the table is searched for events that the slot missed [default: 60s]
    #[arg(long, env = variables::AUDIT_INTERVAL, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub audit_interval: Option<String>,

    /// What to do with events that cannot be published: dead-letter, park-key or halt [default:
    /// dead-letter]
    #[arg(long, env = variables::ON_POISON, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub on_poison: Option<String>,

    /// Number of dead letters per minute above which the publisher stops [default: 1000]
    #[arg(long, value_name = "COUNT")]
    #[arg(env = variables::DEAD_LETTERS_PER_MINUTE, hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub dead_letters_per_minute: Option<String>,

    /// Record key: column:NAME, payload:/json/pointer or none [default: column:event_type]
    #[arg(long, env = variables::KEY, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub key: Option<String>,

    /// Whether brokers may create missing topics: true or false [default: false]
    #[arg(long, env = variables::AUTO_CREATE_TOPICS, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub auto_create_topics: Option<String>,

    /// Memory limit for events in flight, at least 1MiB [default: 16MiB]
    #[arg(long, env = variables::MEMORY_LIMIT, hide_env_values = true, value_name = "SIZE")]
    #[serde(deserialize_with = "scalar")]
    pub memory_limit: Option<String>,

    /// Address of metrics, health and the status page, or off [default: 127.0.0.1:9464]
    #[arg(long, env = variables::HTTP_LISTEN, hide_env_values = true, value_name = "ADDRESS")]
    #[serde(deserialize_with = "scalar")]
    pub http_listen: Option<String>,

    /// Host names to serve, beside addresses and private names: name,name
    #[arg(long, env = variables::HTTP_HOSTS, hide_env_values = true, value_name = "NAMES")]
    #[serde(deserialize_with = "scalar")]
    pub http_hosts: Option<String>,

    /// Log level, or a filter such as info,outboxd=debug [default: info]
    #[arg(long, env = variables::LOG, hide_env_values = true, value_name = "FILTER")]
    #[serde(deserialize_with = "scalar")]
    pub log: Option<String>,

    /// Log format: text or json [default: text]
    #[arg(long, env = variables::LOG_FORMAT, hide_env_values = true, value_name = "FORMAT")]
    #[serde(deserialize_with = "scalar")]
    pub log_format: Option<String>,

    /// Interval of a line about what was published, or off [default: 1m]
    #[arg(long, env = variables::LOG_SUMMARY, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub log_summary: Option<String>,

    /// Problems of the file itself, reported together with those of the values.
    #[arg(skip)]
    #[serde(skip)]
    pub errors: Vec<SettingError>,
}

impl Settings {
    /// These settings, and those of `other` for the ones that are not set. An empty text counts as
    /// not set: that is what an empty variable of a deployment means.
    #[must_use]
    pub fn or(self, other: Settings) -> Settings {
        let or = |mine: Option<String>, other: Option<String>| {
            let some = |text: &String| !text.trim().is_empty();
            mine.filter(some).or(other.filter(some))
        };
        let mut kafka_table = other.kafka_table;
        kafka_table.extend(self.kafka_table);
        let kafka_properties = match (or(self.kafka_properties, None), other.kafka_properties) {
            (Some(mine), Some(other)) => Some(format!("{other},{mine}")),
            (mine, other) => mine.or(other),
        };
        Settings {
            database_url: or(self.database_url, other.database_url),
            database_password_file: or(self.database_password_file, other.database_password_file),
            database_password_command: or(
                self.database_password_command,
                other.database_password_command,
            ),
            replication_url: or(self.replication_url, other.replication_url),
            replication_password_file: or(
                self.replication_password_file,
                other.replication_password_file,
            ),
            replication_password_command: or(
                self.replication_password_command,
                other.replication_password_command,
            ),
            kafka_brokers: or(self.kafka_brokers, other.kafka_brokers),
            kafka_password_file: or(self.kafka_password_file, other.kafka_password_file),
            kafka_token_command: or(self.kafka_token_command, other.kafka_token_command),
            kafka_properties,
            kafka: other.kafka.into_iter().chain(self.kafka).collect(),
            kafka_table,
            table: or(self.table, other.table),
            slot: or(self.slot, other.slot),
            publication: or(self.publication, other.publication),
            source: or(self.source, other.source),
            batch_size: or(self.batch_size, other.batch_size),
            process_interval: or(self.process_interval, other.process_interval),
            operation_timeout: or(self.operation_timeout, other.operation_timeout),
            max_retries: or(self.max_retries, other.max_retries),
            after_publish: or(self.after_publish, other.after_publish),
            backlog: or(self.backlog, other.backlog),
            on_slot_loss: or(self.on_slot_loss, other.on_slot_loss),
            audit_interval: or(self.audit_interval, other.audit_interval),
            on_poison: or(self.on_poison, other.on_poison),
            dead_letters_per_minute: or(
                self.dead_letters_per_minute,
                other.dead_letters_per_minute,
            ),
            key: or(self.key, other.key),
            auto_create_topics: or(self.auto_create_topics, other.auto_create_topics),
            memory_limit: or(self.memory_limit, other.memory_limit),
            http_listen: or(self.http_listen, other.http_listen),
            http_hosts: or(self.http_hosts, other.http_hosts),
            log: or(self.log, other.log),
            log_format: or(self.log_format, other.log_format),
            log_summary: or(self.log_summary, other.log_summary),
            errors: other.errors.into_iter().chain(self.errors).collect(),
        }
    }
}

/// Shows nothing: some settings contain passwords.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// A command with all settings and nothing else, for their names.
pub(crate) fn command() -> Command {
    Settings::augment_args(Command::new("settings"))
}

/// A text, an integer or a boolean, as text: people write both `batch_size = 10` and `batch_size =
/// "10"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Scalar::Text(text) => text,
            Scalar::Integer(number) => number.to_string(),
            Scalar::Boolean(truth) => truth.to_string(),
        }
    }
}

fn scalar<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Scalar::deserialize(from).map(|value| Some(value.into_text()))
}

fn scalars<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let table = BTreeMap::<String, Scalar>::deserialize(from)?;
    let texts = table
        .into_iter()
        .map(|(name, value)| (name, value.into_text()));
    Ok(texts.collect())
}
