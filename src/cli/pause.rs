//! `pause` and `resume`: stop publishing in good order, and go on.
//!
//! The commands write a request into the database, so they work whether or not outboxd is running:
//! the running publisher (or the next one) carries it out.

use std::io::{self, Write};
use std::time::Duration;

use outboxd::config::{Config, Settings, time};
use outboxd::outbox::pause::admin::{self, Outcome, Written};
use outboxd::postgres::{self, Session};

use crate::cli::exit::{TRANSIENT, Verdict};

/// The longest limit.
const LIMIT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// The arguments of `pause`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd pause --reason OPS-42
  outboxd pause --limit 4h")]
pub(crate) struct PauseArgs {
    /// Why, for the log and the status
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Warn after this time, such as 4h; 0 never warns
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = limit)]
    limit: Duration,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// The arguments of `resume`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd resume")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

fn limit(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => time(text, Duration::from_secs(1)..=LIMIT_MAX),
    }
}

/// Requests a pause.
pub(crate) async fn execute_pause(args: PauseArgs) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let session = connect(&config).await?;
    let limit = (!args.limit.is_zero()).then_some(args.limit);
    let reason = args.reason.as_deref();
    let written = admin::pause(&session, &config, reason, limit, &person(&config)).await?;
    writeln!(io::stdout(), "requested  a pause of {}", config.table)?;
    let done = "paused     nothing is in flight";
    wait(&session, &config, &written, done, "pauses").await
}

/// Requests that publishing goes on.
pub(crate) async fn execute_resume(args: ResumeArgs) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let session = connect(&config).await?;
    let Some(written) = admin::resume(&session, &config, &person(&config)).await? else {
        writeln!(io::stdout(), "unchanged  {} is not paused", config.table)?;
        return Ok(());
    };
    writeln!(io::stdout(), "requested  that {} goes on", config.table)?;
    let done = "resumed    publishing goes on";
    wait(&session, &config, &written, done, "publishes").await
}

async fn connect(config: &Config) -> anyhow::Result<Session> {
    let (database, limit) = (&config.database, config.operation_timeout);
    Ok(postgres::connect(database, "outboxd pause", limit).await?)
}

/// Waits until the running instance has carried the request out.
async fn wait(
    session: &Session,
    config: &Config,
    written: &Written,
    done: &str,
    verb: &str,
) -> anyhow::Result<()> {
    let limit = config.operation_timeout;
    let why = match admin::outcome(session, config, written, limit).await? {
        Outcome::Done => {
            writeln!(io::stdout(), "{done}")?;
            return Ok(());
        }
        Outcome::NoneRuns => {
            writeln!(
                io::stdout(),
                "stored     no outboxd runs: the next one {verb}"
            )?;
            return Ok(());
        }
        Outcome::InFlight => "events are still in flight",
        _ => "the running outboxd has not seen the request",
    };
    let hint = "the request stays: `outboxd status` shows what it waits for".to_owned();
    let text = format!("not done within {limit:?}: {why}");
    Err(Verdict::new(TRANSIENT, vec![(text, Some(hint))]).into())
}

/// Who asks: the user of this machine, and the role.
fn person(config: &Config) -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let role = config.database.user();
    match user {
        Ok(user) if !user.is_empty() => format!("{user} (role {role})"),
        _ => format!("role {role}"),
    }
}
