//! Checks the settings one by one and gathers every problem.

use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::config::connection::options::Env;
use crate::config::database::{Database, LoginSettings};
use crate::config::error::{InvalidValue, NOT_SET, SettingError};
use crate::config::log_format::LogFormat;
use crate::config::parse;
use crate::config::variables;
use crate::error::shown;
use crate::table_name::TableName;

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3_600);

/// Gathers the problems. A setting that is not valid gets its default, so that the rest can be
/// checked too.
pub(super) struct Check {
    pub(super) errors: Vec<SettingError>,
}

impl Check {
    /// Begins with the problems of the settings file, which it takes.
    pub(super) fn of(errors: &mut Vec<SettingError>) -> Check {
        Check {
            errors: std::mem::take(errors),
        }
    }

    pub(super) fn or<T>(
        &mut self,
        setting: &str,
        given: Option<String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> T {
        match given.as_deref().map(|text| parse(text.trim())) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(wrong)) => {
                self.errors.push(wrong.of(setting));
                default
            }
        }
    }

    /// The database, and the login for replication if it has one of its own.
    pub(super) fn database(
        &mut self,
        (sql, replication): (LoginSettings, LoginSettings),
        env: Env<'_>,
    ) -> Option<Database> {
        if sql.url.is_none() {
            let hint = "write postgresql://user@host:5432/database";
            self.errors
                .push(InvalidValue::new(NOT_SET, hint).of(sql.names.url));
        }
        let database = Database::parse(sql, env, &mut self.errors);
        let names = replication.names;
        let replication = Database::parse(replication, env, &mut self.errors);
        let mut database = database?;
        let Some(replication) = replication else {
            return Some(database);
        };
        if replication.database_name() != database.database_name() {
            let problem = "names another database than DATABASE_URL";
            let wrong = InvalidValue::new(problem, "name the same server and database in both");
            self.errors.push(wrong.of(names.url));
        }
        database.replication = Some(Box::new(replication));
        Some(database)
    }

    pub(super) fn brokers(&mut self, given: Option<String>, needed: bool) -> String {
        if given.is_none() && needed {
            let wrong =
                InvalidValue::new(NOT_SET, "name the bootstrap servers as host:port,host:port");
            self.errors.push(wrong.of(variables::KAFKA_BROKERS));
        }
        let none = String::new();
        self.or(variables::KAFKA_BROKERS, given, none, parse::brokers)
    }

    pub(super) fn table(&mut self, given: Option<String>) -> TableName {
        self.or(
            variables::TABLE,
            given,
            TableName::default(),
            parse::table_name,
        )
    }

    pub(super) fn slot(
        &mut self,
        given: Option<String>,
        database: Option<&Database>,
        table: &TableName,
    ) -> String {
        let name = database.map(Database::database_name).unwrap_or_default();
        let slot = parse::default_slot(name, table);
        self.or(variables::SLOT, given, slot, parse::slot_name)
    }

    pub(super) fn publication(&mut self, given: Option<String>, table: &TableName) -> String {
        let publication = parse::default_publication(table);
        self.or(variables::PUBLICATION, given, publication, |text| {
            parse::name_of("publication", text)
        })
    }

    pub(super) fn batch_size(&mut self, given: Option<String>) -> usize {
        let size = self.or(variables::BATCH_SIZE, given, 10, |text| {
            parse::count(text, 1..=100_000)
        });
        size as usize
    }

    pub(super) fn process_interval(&mut self, given: Option<String>) -> Duration {
        let default = Duration::from_secs(5);
        self.or(variables::PROCESS_INTERVAL, given, default, |text| {
            parse::duration(text, Duration::from_millis(1)..=HOUR)
        })
    }

    pub(super) fn operation_timeout(&mut self, given: Option<String>) -> Duration {
        let default = Duration::from_secs(25);
        self.or(variables::OPERATION_TIMEOUT, given, default, |text| {
            parse::duration(text, Duration::from_millis(100)..=HOUR)
        })
    }

    pub(super) fn max_retries(&mut self, given: Option<String>) -> u32 {
        self.or(variables::MAX_RETRIES, given, 3, |text| {
            parse::count(text, 1..=1_000)
        })
    }

    pub(super) fn memory_limit(&mut self, given: Option<String>) -> usize {
        self.or(variables::MEMORY_LIMIT, given, 16 * MIB, |text| {
            parse::size(text, MIB..=(65_536 * MIB))
        })
    }

    /// The address to listen on, and the names that are answered.
    pub(super) fn http(
        &mut self,
        listen: Option<String>,
        hosts: Option<String>,
    ) -> (Option<String>, Vec<String>) {
        let address = Some("127.0.0.1:9464".to_owned());
        let listen = self.or(variables::HTTP_LISTEN, listen, address, parse::listen);
        let hosts = self.or(variables::HTTP_HOSTS, hosts, Vec::new(), parse::host_names);
        (listen, hosts)
    }

    pub(super) fn log(&mut self, given: Option<String>) -> String {
        self.or(variables::LOG, given, "info".to_owned(), log_filter)
    }

    pub(super) fn log_format(&mut self, given: Option<String>) -> LogFormat {
        let choices = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        self.or(variables::LOG_FORMAT, given, LogFormat::Text, |text| {
            parse::choice(text, &choices)
        })
    }

    /// That of the log's line about what was published, and that of the comparisons.
    pub(super) fn intervals(
        &mut self,
        summary: Option<String>,
        verify: Option<String>,
    ) -> (Option<Duration>, Option<Duration>) {
        let default = Some(Duration::from_secs(60));
        let summary = self.or(variables::LOG_SUMMARY, summary, default, interval_or_off);
        let verify = self.or(variables::VERIFY_EVERY, verify, None, interval_or_off);
        (summary, verify)
    }
}

/// An interval, or none.
fn interval_or_off(text: &str) -> Result<Option<Duration>, InvalidValue> {
    match text {
        "off" => Ok(None),
        _ => parse::duration(text, Duration::from_secs(1)..=24 * HOUR).map(Some),
    }
}

/// tracing reads any single word as the name of a module, so a misspelt level would silence
/// everything else. Here a single word must be a level.
fn log_filter(text: &str) -> Result<String, InvalidValue> {
    let is_directive = |word: &str| word.contains('=') || word.parse::<LevelFilter>().is_ok();
    let words: Vec<&str> = parse::list(text).collect();
    let filter = words.join(",");
    if words.into_iter().all(is_directive) && filter.parse::<Targets>().is_ok() {
        return Ok(filter);
    }
    Err(InvalidValue::new(
        format!("{} is not a log filter", shown(text)),
        "write error, warn, info, debug or trace, or a list such as info,outboxd=debug",
    ))
}
