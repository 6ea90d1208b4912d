//! `run`: publishes until a signal arrives or the publisher ends by itself.
//!
//! The first SIGTERM, SIGINT or SIGHUP requests a stop, which finishes the work in flight; a second
//! one, a second or more later, ends the process at once, which costs duplicates and nothing else.
//! The HTTP server starts before the first connection.

use std::sync::Arc;
use std::time::Duration;

use outboxd::config::{Config, Settings};
use outboxd::format::bytes;
use outboxd::publisher::Publisher;
use outboxd::verify::{self, Schedule};
use outboxd::{Phase, Status, http};

use crate::cli::log::{self, Log};
use crate::cli::process::{HttpServer, Signals};
use crate::cli::progress;

/// How long the last lines may take when the process ends at once.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(100);

/// The arguments of `run`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd run
  outboxd run --config /etc/outboxd.toml --log-format json
  outboxd run --key payload:/order/id --kafka linger.ms=20")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Publishes.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    log::asked_for(args.settings.log_format.as_deref());
    let config = Config::from_settings(args.settings)?;
    Prepared::new(config).await?.publish().await
}

/// Everything that publishing needs, before its first connection.
pub(crate) struct Prepared {
    publisher: Publisher,
    pub(crate) signals: Signals,
    log: Log,
    server: Option<HttpServer>,
    /// It compares the table with the topics, where a setting asks for it.
    _schedule: Option<Schedule>,
}

impl Prepared {
    /// Starts the log and the HTTP server, and listens for signals.
    pub(crate) async fn new(config: Config) -> anyhow::Result<Prepared> {
        let log = Log::start(&config.log, config.log_format)?;
        let signals = Signals::new()?;
        let (http_listen, hosts) = (config.http_listen.clone(), config.http_hosts.clone());
        log_start(&config);
        warn_of_ignored_variables();
        let every = config.verify_every;
        let verified = every.map(|every| (every, config.clone()));
        let publisher = Publisher::new(config);
        log.count_in(publisher.metrics());
        progress::show(&log, publisher.status_handle());
        let server = match http_listen {
            Some(address) => {
                let listener = http::bind(address).await?;
                Some(HttpServer::start(listener, &hosts, &publisher))
            }
            None => None,
        };
        let schedule = verified.map(|(every, config)| verify(&config, every, &publisher));
        Ok(Prepared {
            _schedule: schedule.transpose()?,
            publisher,
            signals,
            log,
            server,
        })
    }

    /// A function that returns the publisher's status.
    pub(crate) fn status_handle(&self) -> Arc<dyn Fn() -> Status + Send + Sync> {
        self.publisher.status_handle()
    }

    /// Publishes until a signal arrives or the publisher ends by itself.
    pub(crate) async fn publish(mut self) -> anyhow::Result<()> {
        let ended = publish(&mut self.publisher, &mut self.signals, &self.log).await;
        if let Some(server) = self.server {
            server.stop().await;
        }
        ended
    }
}

/// Begins to compare the table with the topics. Standbys do not.
fn verify(config: &Config, every: Duration, publisher: &Publisher) -> anyhow::Result<Schedule> {
    let status = publisher.status_handle();
    let is_due = move || matches!(status().phase, Phase::Streaming | Phase::Polling);
    Ok(verify::schedule(
        config,
        every,
        publisher.metrics(),
        is_due,
    )?)
}

/// Logs the settings, without a secret.
fn log_start(config: &Config) {
    if let Some(why) = &config.database.ignored_passfile {
        tracing::warn!(why, "ignored the password file");
    }
    let names = config
        .kafka_properties
        .iter()
        .map(|(name, _)| name.as_str());
    let kafka_properties = names.collect::<Vec<_>>().join(",");
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        database = %config.database,
        sslmode = %config.database.tls.mode,
        replication = config.database.replication.as_ref().map(tracing::field::display),
        brokers = config.brokers,
        kafka_properties,
        table = %config.table,
        slot = config.slot,
        publication = config.publication,
        source = %config.source,
        exactly_once = config.is_exactly_once(),
        after_publish = %config.after_publish,
        retain = config.retain.map(tracing::field::debug),
        backlog = %config.backlog,
        on_slot_loss = %config.on_slot_loss,
        on_poison = %config.on_poison,
        topic = %config.mapping.topic,
        key = %config.mapping.key,
        value = %config.mapping.value,
        headers = %config.mapping.headers,
        partition = %config.mapping.partition,
        record_timestamp = %config.mapping.timestamp,
        auto_create_topics = config.auto_creates_topics(),
        batch_size = config.batch_size,
        process_interval = ?config.process_interval,
        operation_timeout = ?config.operation_timeout,
        audit_interval = ?config.audit_interval,
        max_retries = config.max_retries,
        dead_letters_per_minute = config.dead_letters_per_minute,
        memory_limit = %bytes(config.memory_limit as u64),
        log_summary = config.log_summary.map(tracing::field::debug),
        verify_every = config.verify_every.map(tracing::field::debug),
        http_listen = config.http_listen,
        "outboxd starting"
    );
}

fn warn_of_ignored_variables() {
    let names = std::env::vars_os().map(|(name, _)| name);
    for variable in Settings::ignored_variables(names) {
        let meant = variable.meant.map(|meant| format!("did you mean {meant}?"));
        let hint = meant.unwrap_or_else(|| "`outboxd run --help` lists the settings".to_owned());
        let name = variable.name;
        tracing::warn!(hint, "the variable {name} is not a setting and is ignored");
    }
}

/// Runs the publisher from start to end. On a signal during the start its future is dropped, and
/// the publisher is stopped as usual.
async fn publish(
    publisher: &mut Publisher,
    signals: &mut Signals,
    log: &Log,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        started = publisher.start() => {
            started?;
            tokio::select! {
                ended = publisher.ended() => return Ok(ended?),
                number = signals.next() => number,
            }
        }
        number = signals.next() => {
            tracing::info!(signal = number, "stopping before the start completed");
            return Ok(());
        }
    };
    tracing::info!(signal = first, "stopping");
    tokio::select! {
        stopped = publisher.stop() => stopped?,
        number = signals.next() => {
            tracing::warn!(signal = number, "second signal, exiting immediately");
            log.flush(LAST_LINES_LIMIT);
            std::process::exit(128 + number);
        }
    }
    tracing::info!("stopped");
    Ok(())
}
