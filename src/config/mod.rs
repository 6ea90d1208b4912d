//! Configuration: [`Settings`] as they were given, and [`Config`], checked as a whole and never
//! changed afterwards.
//!
//! This room owns every default and every limit. It reads the environment (libpq's variables) and
//! files (settings, passwords, certificates) while a `Config` is made, and never again; it connects
//! to nothing. Whatever is wrong is told at once, as [`SettingErrors`], so a publisher that starts has a
//! configuration without contradictions.

mod check;
mod connection_options;
mod conninfo;
mod database;
mod error;
mod kafka_properties;
mod parse;
mod passfile;
mod policy;
mod settings;
mod tls;
mod unknown_variables;
mod variables;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

pub use self::database::Database;
#[doc(hidden)]
pub use self::error::may_be_secret;
pub use self::error::{SettingError, SettingErrors};
pub use self::parse::{KeyRule, TableName};
pub use self::policy::{AfterPublish, Backlog, OnPoison, OnSlotLoss, Source};
pub use self::settings::Settings;
pub use self::tls::{SslMode, TlsSettings};
pub use self::unknown_variables::IgnoredVariable;

use self::check::Check;
use self::connection_options::Env;
use self::error::{InvalidValue, shown};

const MIB: usize = 1 << 20;

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The whole configuration, checked. Its Debug form holds no secret.
#[derive(Clone)]
pub struct Config {
    /// Where the database is and how to get in.
    pub database: Database,
    /// Kafka's bootstrap servers; empty only after [`Config::without_kafka`].
    pub brokers: String,
    /// Further properties of librdkafka, none of which touches a guarantee. Some hold secrets.
    pub kafka_properties: Vec<(String, String)>,
    /// The outbox table.
    pub table: TableName,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Where events are read from.
    pub source: Source,
    /// A write-back begins as soon as this many events wait for it; a poll reads so many at a time.
    pub batch_size: usize,
    /// The longest that a write-back waits; the time between polls.
    pub process_interval: Duration,
    /// The longest that one SQL statement, or the drain at stop, may take.
    pub operation_timeout: Duration,
    /// Attempts for an event that Kafka refuses.
    pub max_retries: u32,
    /// What becomes of a published row.
    pub after_publish: AfterPublish,
    /// What becomes of rows that are older than the slot.
    pub backlog: Backlog,
    /// What becomes of a slot that is lost.
    pub on_slot_loss: OnSlotLoss,
    /// How often the table is held against the slot.
    pub audit_interval: Duration,
    /// What becomes of an event that cannot be published.
    pub on_poison: OnPoison,
    /// More dead letters than this in a minute stop the publisher.
    pub dead_letters_per_minute: u32,
    /// Where a record's key comes from.
    pub key: KeyRule,
    /// Brokers may create a topic that is not there; see [`Config::auto_creates_topics`].
    pub auto_create_topics: bool,
    /// Bytes of events in flight.
    pub memory_limit: usize,
    /// Where metrics, health and the status page are served, if at all.
    pub http_listen: Option<SocketAddr>,
    /// Levels by target, in the words of `tracing_subscriber::filter::Targets`.
    pub log: String,
    /// The form of the log.
    pub log_format: LogFormat,
}

impl Config {
    /// Checks all settings and puts the defaults in. libpq's variables (`PGPASSWORD` and its kin)
    /// are read from the process.
    pub fn from_settings(settings: Settings) -> Result<Config, SettingErrors> {
        Config::build(settings, true, &|name| std::env::var(name).ok())
    }

    /// As [`from_settings`](Config::from_settings), for what talks to Postgres alone: the brokers
    /// may be missing.
    pub fn without_kafka(settings: Settings) -> Result<Config, SettingErrors> {
        Config::build(settings, false, &|name| std::env::var(name).ok())
    }

    fn build(settings: Settings, needs_kafka: bool, env: Env<'_>) -> Result<Config, SettingErrors> {
        let given = settings.or(Settings::default());
        let mut check = Check {
            errors: given.errors,
        };
        let database = check.database(given.database_url, given.database_password_file, env);
        let brokers = check.required(
            variables::KAFKA_BROKERS,
            given.kafka_brokers,
            needs_kafka,
            parse::brokers,
        );
        let kafka_properties = kafka_properties::properties(
            given.kafka_table,
            given.kafka_properties.as_deref(),
            &given.kafka,
            &mut check.errors,
        );
        let table = TableName {
            schema: "outbox".to_owned(),
            name: "outbox".to_owned(),
        };
        let table = check.or(variables::TABLE, given.table, table, parse::table_name);
        let database_name = database
            .as_ref()
            .map(Database::database_name)
            .unwrap_or_default();
        let slot = parse::default_slot(database_name);
        let slot = check.or(variables::SLOT, given.slot, slot, parse::slot_name);
        let publication = check.or(
            variables::PUBLICATION,
            given.publication,
            "outboxd".to_owned(),
            |text| parse::name_of("publication", text),
        );
        let batch_size = check.or(variables::BATCH_SIZE, given.batch_size, 10, |text| {
            parse::count(text, 1..=100_000)
        });
        let process_interval = check.or(
            variables::PROCESS_INTERVAL,
            given.process_interval,
            Duration::from_secs(5),
            |text| parse::duration(text, Duration::from_millis(1)..=Duration::from_secs(3_600)),
        );
        let operation_timeout = check.or(
            variables::OPERATION_TIMEOUT,
            given.operation_timeout,
            Duration::from_secs(25),
            |text| {
                parse::duration(
                    text,
                    Duration::from_millis(100)..=Duration::from_secs(3_600),
                )
            },
        );
        let max_retries = check.or(variables::MAX_RETRIES, given.max_retries, 3, |text| {
            parse::count(text, 1..=1_000)
        });
        let (after_publish, backlog) =
            check.after_publish_and_backlog(given.after_publish, given.backlog);
        let on_slot_loss = check.on_slot_loss(given.on_slot_loss, after_publish);
        let audit_interval = check.audit_interval(given.audit_interval);
        let on_poison = check.on_poison(given.on_poison);
        let dead_letters_per_minute = check.dead_letters_per_minute(given.dead_letters_per_minute);
        let source = check.source(given.source, after_publish, backlog);
        let key = KeyRule::Column("event_type".to_owned());
        let key = check.or(variables::KEY, given.key, key, parse::key_rule);
        let auto_create_topics = kafka_properties::auto_create_topics(
            given.auto_create_topics,
            &kafka_properties,
            &mut check,
        );
        let memory_limit = check.or(
            variables::MEMORY_LIMIT,
            given.memory_limit,
            16 * MIB,
            |text| parse::size(text, MIB..=(65_536 * MIB)),
        );
        let http_listen = Some(SocketAddr::from(([127, 0, 0, 1], 9464)));
        let http_listen = check.or(
            variables::HTTP_LISTEN,
            given.http_listen,
            http_listen,
            parse::listen,
        );
        let log = check.or(variables::LOG, given.log, "info".to_owned(), log_filter);
        let log_format = check.or(
            variables::LOG_FORMAT,
            given.log_format,
            LogFormat::Text,
            |text| {
                parse::choice(
                    text,
                    &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                )
            },
        );
        SettingErrors::unless_none(check.errors)?;
        let database = database.expect("a database that could not be read has left a fault");
        Ok(Config {
            database,
            brokers,
            kafka_properties,
            table,
            slot,
            publication,
            source,
            batch_size: batch_size as usize,
            process_interval,
            operation_timeout,
            max_retries,
            after_publish,
            backlog,
            on_slot_loss,
            audit_interval,
            on_poison,
            dead_letters_per_minute,
            key,
            auto_create_topics,
            memory_limit,
            http_listen,
            log,
            log_format,
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<&str> = self
            .kafka_properties
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        f.debug_struct("Config")
            .field("database", &self.database.describe())
            .field("tls", &self.database.tls)
            .field("brokers", &self.brokers)
            .field("kafka_properties", &properties)
            .field("table", &self.table)
            .field("slot", &self.slot)
            .field("publication", &self.publication)
            .field("source", &self.source)
            .field("batch_size", &self.batch_size)
            .field("process_interval", &self.process_interval)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_retries", &self.max_retries)
            .field("after_publish", &self.after_publish)
            .field("backlog", &self.backlog)
            .field("on_slot_loss", &self.on_slot_loss)
            .field("audit_interval", &self.audit_interval)
            .field("on_poison", &self.on_poison)
            .field("dead_letters_per_minute", &self.dead_letters_per_minute)
            .field("key", &self.key)
            .field("auto_create_topics", &self.auto_create_topics)
            .field("memory_limit", &self.memory_limit)
            .field("http_listen", &self.http_listen)
            .field("log", &self.log)
            .field("log_format", &self.log_format)
            .finish()
    }
}

/// tracing takes any single word for the name of a module, so a misspelt level would silence
/// everything else; a word alone has to be a level here.
fn log_filter(text: &str) -> Result<String, InvalidValue> {
    let is_directive = |word: &str| word.contains('=') || word.parse::<LevelFilter>().is_ok();
    let is_filter = text.split(',').all(|word| is_directive(word.trim()));
    if is_filter && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::new(
        format!("{} is not a filter for logs", shown(text)),
        "write error, warn, info, debug or trace, or a list such as info,outboxd=debug",
    ))
}

#[cfg(test)]
mod tests;
