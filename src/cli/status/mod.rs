//! `status`: how far events get, as the database and the running outboxd report it, and every
//! problem.
//!
//! Both sides are asked, each within a limit, and what did not answer is named. The exit code says
//! whether events get through, so that the command serves as a container's health check.

mod database;
mod finding;
mod instance;
mod report;
mod screen;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use outboxd::config::{Config, Settings};
use outboxd::postgres::Session;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::cli::status::database::DatabaseSide;
use crate::cli::status::instance::Instance;
use crate::cli::status::report::{Report, Sample};
use crate::cli::status::screen::Screen;

const WATCH_INTERVAL: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Exit codes:
  0  healthy: events get through
  4  not healthy: the problems are named
  5  not known: the database or the running outboxd did not answer

Examples:
  outboxd status
  outboxd status --watch
  outboxd status --json --http-listen off";

/// The arguments of `status`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Print JSON, one object a line, instead of text
    #[arg(long)]
    json: bool,

    /// Refresh every two seconds, until interrupted
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Prints the status.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let mut screen = Screen::new(args.watch);
    let mut session: Option<Session> = None;
    let mut last: Option<Sample> = None;
    loop {
        let (database, instance) = tokio::join!(
            DatabaseSide::ask(&config, &mut session),
            Instance::ask(&config)
        );
        let sample = Sample::take(Instant::now(), &database, instance.as_ref());
        let rates = last.as_ref().map(|last| sample.since(last));
        let report = Report::new(now(), database, instance, rates);
        if args.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            let heading = format!("outboxd status at {}", report.time);
            screen.show(&report, args.watch.then_some(heading))?;
        }
        if !args.watch {
            return Ok(report.verdict()?);
        }
        last = Some(sample);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// The time in UTC, to the second, as the log writes it.
fn now() -> String {
    let mut text = String::new();
    let written = SystemTime.format_time(&mut Writer::new(&mut text));
    match (written, text.get(..19)) {
        (Ok(()), Some(seconds)) => format!("{seconds}Z"),
        _ => text,
    }
}
