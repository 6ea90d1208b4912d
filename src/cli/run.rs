//! `run`: publishes until a signal, or until the publisher ends by itself.
//!
//! The first SIGTERM or SIGINT asks the publisher to stop, which finishes what was begun; a second
//! one ends the process at once, which costs duplicates and nothing else. Health is served from
//! before the first connection is made.

use outboxd::config::{Config, Settings};
use outboxd::http;
use outboxd::publisher::Publisher;

use crate::cli::process::{HttpServer, Signals, init_log};

/// The arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Publishes.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::from_settings(args.settings)?;
    init_log(&config.log, config.log_format)?;
    let mut signals = Signals::new()?;
    let http_listen = config.http_listen;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = ?config, "outboxd starts");
    warn_of_ignored_variables();
    let mut publisher = Publisher::new(config);
    let server = match http_listen {
        Some(address) => Some(HttpServer::start(http::bind(address).await?, &publisher)),
        None => None,
    };
    let ended = publish(&mut publisher, &mut signals).await;
    if let Some(server) = server {
        server.stop().await;
    }
    ended
}

fn warn_of_ignored_variables() {
    let names = std::env::vars_os().map(|(name, _)| name);
    for variable in Settings::ignored_variables(names) {
        let meant = variable
            .meant
            .map(|meant| format!("; {meant} may be meant"));
        let meant = meant.unwrap_or_default();
        tracing::warn!(
            "the variable {} is not a setting and is ignored{meant}",
            variable.name
        );
    }
}

/// From start to end. When a signal comes while the publisher is starting, its future is dropped,
/// and it is stopped like any other.
async fn publish(publisher: &mut Publisher, signals: &mut Signals) -> anyhow::Result<()> {
    let first = tokio::select! {
        started = publisher.start() => {
            started?;
            tokio::select! {
                ended = publisher.ended() => return Ok(ended?),
                number = signals.next() => number,
            }
        }
        number = signals.next() => {
            tracing::info!(signal = number, "told to stop while starting");
            return Ok(());
        }
    };
    tracing::info!(signal = first, "stopping");
    tokio::select! {
        stopped = publisher.stop() => stopped?,
        number = signals.next() => {
            tracing::warn!(signal = number, "told to stop again, ending at once");
            std::process::exit(128 + number);
        }
    }
    tracing::info!("stopped");
    Ok(())
}
