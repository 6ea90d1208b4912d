//! The settings as they were given: raw text, nothing checked, the same names everywhere.
//!
//! A setting `max_retries` is the flag `--max-retries`, the variable `OUTBOX_MAX_RETRIES` and the
//! TOML key `max_retries`. clap merges flags and environment, [`Settings::or`] adds the settings of
//! the file, and `Config::from_settings` checks the result.

use std::collections::BTreeMap;
use std::fmt;

use clap::{Args, Command};
use serde::Deserialize;

use crate::config::error::SettingError;
use crate::config::scalar::{lists, scalar, scalars};
use crate::config::variables;

/// The help of `--slot`: rustdoc would read the default as a link.
const SLOT: &str = "Replication slot [default: outboxd_<database>; other tables: with their name]";
/// The help of `--source-id`, for the same reason.
const SOURCE_ID: &str = "Name of this outbox, in a header of each record [default: \
                         <database>.outbox.outbox; other tables: their name]";

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

    /// Well-known table and wire format that the defaults are taken from: debezium, tomorrow-one,
    /// eventuate, spring-modulith, cap, pgx-outbox or pg-transactional-outbox
    #[arg(long, env = variables::PRESET, hide_env_values = true, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub preset: Option<String>,

    /// Columns by meaning: id=NAME,payload=NAME; in the settings file, a table named columns
    #[arg(long, env = variables::COLUMNS, hide_env_values = true, value_name = "LIST")]
    #[serde(skip)]
    pub columns: Option<String>,

    /// The columns of the file, each member with its values; the list overrides them.
    #[arg(skip)]
    #[serde(rename = "columns", deserialize_with = "lists")]
    pub columns_table: BTreeMap<String, Vec<String>>,

    /// Rows that are events, if not all: conditions such as kind = 'event' AND deleted IS NULL
    #[arg(id = "where", long = "where", value_name = "CONDITIONS")]
    #[arg(env = variables::WHERE, hide_env_values = true)]
    #[serde(rename = "where", deserialize_with = "scalar")]
    pub row_filter: Option<String>,

    /// Topic: column:NAME, a name, or a text with ${column} [default: column:topic]
    #[arg(long, env = variables::TOPIC, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub topic: Option<String>,

    /// Topics by what --topic gives: value=topic,*=topic; in the settings file, a table named
    /// topics
    #[arg(long, env = variables::TOPICS, hide_env_values = true, value_name = "LIST")]
    #[serde(skip)]
    pub topics: Option<String>,

    /// The topics of the file; the list overrides them.
    #[arg(skip)]
    #[serde(rename = "topics", deserialize_with = "scalars")]
    pub topics_table: BTreeMap<String, String>,

    /// Record key: column:NAME, payload:/json/pointer, header:NAME, a text with ${column}, or none
    /// [default: column:event_type]
    #[arg(long, env = variables::KEY, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub key: Option<String>,

    /// Record value: payload, payload:/json/pointer or expanded [default: payload]
    #[arg(long, env = variables::VALUE, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub value: Option<String>,

    /// What to do with events whose payload is null: dead-letter, or send a tombstone or an empty
    /// value [default: dead-letter]
    #[arg(long, env = variables::NULL_PAYLOAD, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub null_payload: Option<String>,

    /// Headers to add: outboxd, none, debezium, cloudevents or cloudevents-structured [default:
    /// outboxd]
    #[arg(long, env = variables::HEADERS, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub headers: Option<String>,

    /// Partition: key, column:NAME, or spread over all [default: key]
    #[arg(long, env = variables::PARTITION, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub partition: Option<String>,

    /// Record timestamp: now, column:NAME or commit [default: now]
    #[arg(long, env = variables::TIMESTAMP, hide_env_values = true, value_name = "RULE")]
    #[serde(deserialize_with = "scalar")]
    pub timestamp: Option<String>,

    /// The name of this outbox, in a header of each record
    #[arg(long, env = variables::SOURCE_ID, hide_env_values = true, value_name = "NAME")]
    #[arg(help = SOURCE_ID)]
    #[serde(deserialize_with = "scalar")]
    pub source_id: Option<String>,

    /// Source of events: slot, or poll where no slot is allowed [default: slot]
    #[arg(long, env = variables::SOURCE, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub source: Option<String>,

    /// Delivery: at-least-once, or exactly-once for consumers that read committed records [default:
    /// at-least-once]
    #[arg(long, env = variables::DELIVERY, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub delivery: Option<String>,

    /// Time between two Kafka transactions, with exactly-once [default: 50ms]
    #[arg(long, env = variables::COMMIT_INTERVAL, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub commit_interval: Option<String>,

    /// Compacted topic of the progress records, with exactly-once [default: outboxd-progress]
    #[arg(long, env = variables::PROGRESS_TOPIC, hide_env_values = true, value_name = "TOPIC")]
    #[serde(deserialize_with = "scalar")]
    pub progress_topic: Option<String>,

    /// Answer to a refused start with exactly-once, as the refusal names it
    #[arg(long, env = variables::ACCEPT, hide_env_values = true, value_name = "ANSWER")]
    #[serde(deserialize_with = "scalar")]
    pub accept: Option<String>,

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

    /// Age at which published rows are deleted, with mark, such as 7d, or off [default: off]
    #[arg(long, env = variables::RETAIN, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub retain: Option<String>,

    /// Share of the time that deleting such rows takes, 0.1% to 50%, or auto [default: auto]
    #[arg(long, env = variables::RETAIN_SHARE, hide_env_values = true, value_name = "PERCENT")]
    #[serde(deserialize_with = "scalar")]
    pub retain_share: Option<String>,

    /// What to do with partitions of such rows: drop or detach [default: drop]
    #[arg(long, env = variables::RETAIN_PARTITIONS, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub retain_partitions: Option<String>,

    /// What to do with unpublished rows at the first start: publish, skip or halt [default:
    /// publish; with keep: skip]
    #[arg(long, env = variables::BACKLOG, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub backlog: Option<String>,

    /// Begin a first start behind this position of another client's slot, such as Debezium's
    #[arg(long, env = variables::START_LSN, hide_env_values = true, value_name = "LSN")]
    #[serde(deserialize_with = "scalar")]
    pub start_lsn: Option<String>,

    /// What to do after the loss of the slot: heal from the table, or halt [default: heal; with
    /// keep or exactly-once: halt]
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

    /// Whether brokers may create missing topics: true or false [default: false]
    #[arg(long, env = variables::AUTO_CREATE_TOPICS, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub auto_create_topics: Option<String>,

    /// Whether events that are in Kafka are looked for after a start: true or false [default: true]
    #[arg(long, env = variables::READ_BACK, hide_env_values = true, value_name = "CHOICE")]
    #[serde(deserialize_with = "scalar")]
    pub read_back: Option<String>,

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

    /// Interval at which run compares the table with the topics, or off [default: off]
    #[arg(long, env = variables::VERIFY_EVERY, hide_env_values = true, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub verify_every: Option<String>,

    /// Problems of the file itself, reported together with those of the values.
    #[arg(skip)]
    #[serde(skip)]
    pub errors: Vec<SettingError>,
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
