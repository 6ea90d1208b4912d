//! Configuration: [`Settings`] as they were given, and [`Config`], checked as a whole and never
//! changed afterwards.
//!
//! This module owns every default and every limit. The token that is valid for Kafka is the one
//! thing that a `Config` keeps and that changes: its clones share it (`KafkaLogin`). The module
//! reads the environment (libpq's variables) and files (settings, passwords) only while a `Config`
//! is built, and connects to nothing. Every problem is reported at once, as [`SettingErrors`], so a
//! publisher that starts has a configuration without contradictions.

mod check;
mod connection;
mod database;
pub(crate) mod duration;
mod error;
mod exactly_once;
mod kafka;
mod log_format;
pub mod mapping;
mod parse;
mod policy;
mod retain;
mod scalar;
mod secret;
mod settings;
mod settings_file;
mod settings_order;
mod tls;
mod unknown_variables;
mod variables;

use std::ops::RangeInclusive;
use std::time::Duration;

pub(crate) use self::connection::passfile::whole_file;
pub use self::connection::{AuthMethod, RequireAuth};
pub(crate) use self::database::socket_folder;
pub use self::database::{Database, PasswordCommand};
pub(crate) use self::error::InvalidValue;
pub use self::error::{SettingError, SettingErrors};
pub(crate) use self::exactly_once::{Answer, ExactlyOnce, RefusalKind};
pub(crate) use self::kafka::{
    CertificateAuthorities, ClientSecret, IdentityProvider, Token, TokenFailure, TokenSource,
};
pub use self::log_format::LogFormat;
pub use self::mapping::{KeyRule, Mapping};
pub use self::policy::{AfterPublish, Backlog, OnPoison, OnSlotLoss, Source};
pub use self::retain::OldPartitions;
use self::retain::RetainSettings;
pub use self::secret::Secret;
pub use self::settings::Settings;
pub use self::tls::{SslMode, TlsSettings};
pub use self::unknown_variables::IgnoredVariable;
pub(crate) use self::variables::{KAFKA_PASSWORD_FILE, KAFKA_TOKEN_COMMAND};
#[doc(hidden)]
pub use crate::error::may_be_secret;
use crate::lsn::Lsn;
pub use crate::table_name::TableName;

/// Names the variable of the process that may be meant by one that is not set.
fn name_what_is_meant(errors: SettingErrors) -> SettingErrors {
    let ignored = Settings::ignored_variables(std::env::vars_os().map(|(name, _)| name));
    errors.suggest(|setting| {
        let is_meant = |it: &&IgnoredVariable| it.meant.as_deref() == Some(setting);
        ignored.iter().find(is_meant).map(|it| it.name.clone())
    })
}

/// A time such as `30d` within a range, for an argument that is no setting.
///
/// # Errors
/// What is wrong and what to write, in one line.
#[doc(hidden)]
pub fn time(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    parse::duration(text, range).map_err(|wrong| format!("{}; {}", wrong.problem, wrong.hint))
}

/// Conditions in the grammar of `OUTBOX_WHERE`, for an argument that is no setting.
///
/// # Errors
/// What is wrong and what to write, in one line.
#[doc(hidden)]
pub fn conditions(text: &str) -> Result<mapping::RowFilter, String> {
    mapping::conditions(text).map_err(|wrong| format!("{}; {}", wrong.problem, wrong.hint))
}

/// An address to listen on, for an argument that is no setting; `off` is `None`.
///
/// # Errors
/// What is wrong and what to write, in one line.
#[doc(hidden)]
pub fn listen_address(text: &str) -> Result<Option<String>, String> {
    parse::listen(text).map_err(|wrong| format!("{}; {}", wrong.problem, wrong.hint))
}

use self::check::Check;
use self::connection::options::Env;
use self::database::LoginSettings;
use self::kafka::KafkaLogin;

/// What a row of another statement may be longer than the longest row that is read whole.
const OTHER_ROWS: usize = 16 << 20;

/// The whole configuration, checked. Its Debug form holds no secret.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The database connection.
    pub database: Database,
    /// Kafka's bootstrap servers; empty only after [`Config::without_kafka`].
    pub brokers: String,
    /// Further properties of librdkafka, none of which affects a guarantee. Some are passwords.
    pub kafka_properties: Vec<(String, Secret<String>)>,
    /// How to log in to Kafka, beside the properties.
    pub(crate) kafka_login: KafkaLogin,
    /// The outbox table.
    pub table: TableName,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Where events are read from.
    pub source: Source,
    /// The settings of exactly once; none at least once.
    pub(crate) exactly_once: Option<ExactlyOnce>,
    /// A write-back begins as soon as this many events wait for it; a poll reads this many rows.
    pub batch_size: usize,
    /// The longest that a write-back waits; the time between polls.
    pub process_interval: Duration,
    /// The longest that one SQL statement, or the drain at stop, may take.
    pub operation_timeout: Duration,
    /// Attempts to send an event that Kafka rejects.
    pub max_retries: u32,
    /// What to do with a published row.
    pub after_publish: AfterPublish,
    /// Published rows, and closed dead letters, that are older than this are deleted.
    pub retain: Option<Duration>,
    /// The share of the time that these deletions take, in thousandths; `None`: as the state of the
    /// table asks.
    pub retain_share: Option<u32>,
    /// What becomes of a partition whose rows are all published and older.
    pub retain_partitions: OldPartitions,
    /// What to do with unpublished rows that are older than the slot.
    pub backlog: Backlog,
    /// The position that another client's slot has confirmed, and that a first start begins at.
    pub start_lsn: Option<Lsn>,
    /// What to do when the slot is lost.
    pub on_slot_loss: OnSlotLoss,
    /// How often the table is searched for events that the slot missed.
    pub audit_interval: Duration,
    /// What to do with an event that cannot be published.
    pub on_poison: OnPoison,
    /// More dead letters than this in a minute stop the publisher.
    pub dead_letters_per_minute: u32,
    /// How the columns of the outbox table become records.
    pub mapping: Mapping,
    /// Whether the ends of topics are read for events of the stream that are there already.
    pub read_back: bool,
    /// Whether brokers may create a missing topic; see [`Config::auto_creates_topics`].
    pub auto_create_topics: bool,
    /// The limit for events in flight, in bytes.
    pub memory_limit: usize,
    /// Where metrics, health and the status page are served, if at all: `host:port`.
    pub http_listen: Option<String>,
    /// Host names that the HTTP server answers to, beside addresses and private names.
    pub http_hosts: Vec<String>,
    /// Levels by target, in the syntax of `tracing_subscriber::filter::Targets`.
    pub log: String,
    /// The format of the log.
    pub log_format: LogFormat,
    /// The interval of the log's line about what was published, if there is one.
    pub log_summary: Option<Duration>,
    /// How often the program compares the table with the topics, if it does.
    pub verify_every: Option<Duration>,
}

impl Config {
    /// The largest batch that the producer makes of several records, in bytes.
    pub(crate) fn batch_bytes(&self) -> usize {
        kafka::batch_bytes(&self.kafka_properties)
    }

    /// The largest record that the producer takes, in bytes: librdkafka's `message.max.bytes`.
    pub(crate) fn record_bytes_max(&self) -> usize {
        kafka::record_bytes_max(&self.kafka_properties)
    }

    /// The longest row that is read whole, in bytes as it prints: the largest record as a `bytea`,
    /// of which a byte prints as two, and the other columns.
    pub(crate) fn row_bytes_max(&self) -> usize {
        const OTHER_COLUMNS: usize = 4 << 20;
        self.record_bytes_max()
            .saturating_mul(2)
            .saturating_add(OTHER_COLUMNS)
    }

    /// Whether brokers may create a missing topic, by `auto_create_topics` or by librdkafka's
    /// `allow.auto.create.topics`, which means the same. The broker's own setting
    /// (`auto.create.topics.enable`) still applies.
    pub fn auto_creates_topics(&self) -> bool {
        self.auto_create_topics || kafka::auto_creates_topics(&self.kafka_properties)
    }

    /// Whether events are sent in Kafka transactions.
    pub fn is_exactly_once(&self) -> bool {
        self.exactly_once.is_some()
    }

    /// Whether batches are compressed, so that a broker counts fewer bytes than were sent.
    pub fn compresses(&self) -> bool {
        kafka::compresses(&self.kafka_properties)
    }

    /// Checks all settings and fills in the defaults. libpq's variables (such as `PGPASSWORD`) are
    /// read from the environment of the process.
    pub fn from_settings(settings: Settings) -> Result<Config, SettingErrors> {
        Config::build(settings, true, &|name| std::env::var(name).ok()).map_err(name_what_is_meant)
    }

    /// As [`from_settings`](Config::from_settings), for commands that use Postgres alone: the
    /// brokers may be missing.
    pub fn without_kafka(settings: Settings) -> Result<Config, SettingErrors> {
        Config::build(settings, false, &|name| std::env::var(name).ok()).map_err(name_what_is_meant)
    }

    fn build(settings: Settings, needs_kafka: bool, env: Env<'_>) -> Result<Config, SettingErrors> {
        let (mut given, columns) = mapping::with_preset(settings.or(Settings::default()));
        let mut check = Check::of(&mut given.errors);
        let database = check.database(logins(&mut given), env);
        let exactly_once = check.exactly_once(&mut given);
        let retain = RetainSettings::taken_from(&mut given);
        let brokers = check.brokers(given.kafka_brokers.take(), needs_kafka);
        let (kafka_properties, kafka_login) = check.kafka(&mut given, needs_kafka);
        let (auto_create_topics, read_back) = check.kafka_topics(&mut given, &kafka_properties);
        let table = check.table(given.table.take());
        let slot = check.slot(given.slot.take(), database.as_ref(), &table);
        let publication = check.publication(given.publication.take(), &table);
        let source_id = default_source_id(database.as_ref(), &table);
        let mapping = check.mapping(&mut given, columns, source_id);
        let batch_size = check.batch_size(given.batch_size);
        let process_interval = check.process_interval(given.process_interval);
        let operation_timeout = check.operation_timeout(given.operation_timeout);
        let max_retries = check.max_retries(given.max_retries);
        let (after_publish, backlog) =
            check.after_publish_and_backlog(given.after_publish, given.backlog);
        check.mark(after_publish, &mapping);
        let (retain, retain_share, retain_partitions) = check.retention(retain, after_publish);
        let on_slot_loss = check.on_slot_loss(given.on_slot_loss, after_publish);
        let audit_interval = check.audit_interval(given.audit_interval);
        let (on_poison, dead_letters_per_minute) =
            check.poison(given.on_poison, given.dead_letters_per_minute);
        let source = check.source(given.source, after_publish, backlog);
        let start_lsn = check.start_lsn(given.start_lsn, after_publish, source);
        let memory_limit = check.memory_limit(given.memory_limit);
        let (http_listen, http_hosts) = check.http(given.http_listen, given.http_hosts);
        let (log, log_format) = (check.log(given.log), check.log_format(given.log_format));
        let (log_summary, verify_every) = check.intervals(given.log_summary, given.verify_every);
        SettingErrors::unless_none(sorted(check.errors))?;
        let config = Config {
            database: database.expect("a database that is not valid has left an error"),
            brokers,
            kafka_properties,
            kafka_login,
            table,
            slot,
            publication,
            source,
            exactly_once,
            batch_size,
            process_interval,
            operation_timeout,
            max_retries,
            after_publish,
            retain,
            retain_share,
            retain_partitions,
            backlog,
            start_lsn,
            on_slot_loss,
            audit_interval,
            on_poison,
            dead_letters_per_minute,
            mapping,
            read_back,
            auto_create_topics,
            memory_limit,
            http_listen,
            http_hosts,
            log,
            log_format,
            log_summary,
            verify_every,
        };
        Ok(config.admitting_long_rows())
    }

    fn admitting_long_rows(mut self) -> Self {
        let longest = self.row_bytes_max().saturating_add(OTHER_ROWS);
        self.database.admit_rows(longest);
        self
    }
}

/// The problems in the order of the settings; those of the file first.
fn sorted(mut errors: Vec<SettingError>) -> Vec<SettingError> {
    let order = unknown_variables::variables();
    errors.sort_by_key(|error| order.iter().position(|name| name == error.setting()));
    errors
}

/// The name of an outbox in its records, where no setting gives one.
fn default_source_id(database: Option<&Database>, table: &TableName) -> String {
    let database = database.map(Database::database_name).unwrap_or_default();
    format!("{database}.{table}")
}

/// The login of the statements, and that for replication.
fn logins(given: &mut Settings) -> (LoginSettings, LoginSettings) {
    let sql = LoginSettings {
        url: given.database_url.take(),
        file: given.database_password_file.take(),
        command: given.database_password_command.take(),
        names: &database::SQL,
    };
    let replication = LoginSettings {
        url: given.replication_url.take(),
        file: given.replication_password_file.take(),
        command: given.replication_password_command.take(),
        names: &database::REPLICATION,
    };
    (sql, replication)
}

#[cfg(test)]
mod tests;
