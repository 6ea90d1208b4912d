//! `verify`: compares the table with the topics, and prints what is wrong.
//!
//! Exit code 0 means that nothing is wrong, 1 that something is.

mod bar;
mod print;
mod state;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use outboxd::config::{Config, Settings};
use outboxd::verify::{self, Moment, Progress, Request};

use crate::cli::exit::{USAGE, Verdict};
use crate::cli::verify::state::State;

/// The arguments of `verify`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 when nothing is wrong, events of which nothing can be said included; 1 when an event
is missing, duplicate, phantom, altered or out of order; 2 when a setting is not valid

Examples:
  outboxd verify
  outboxd verify --since 2h
  outboxd verify --from-id 1000 --to-id 2000 --json
  outboxd verify --state /var/lib/outboxd/verified.json")]
pub(crate) struct Args {
    /// The first id; ids are compared as the column's type compares them
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    from_id: Option<String>,

    /// The last id
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    to_id: Option<String>,

    /// Rows created at this time or later: RFC 3339, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Rows created before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Begin where the last run ended that wrote this file, and write it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since", "until", "from_id", "to_id"])]
    state: Option<PathBuf>,

    /// Read this topic too, which no row names; may be repeated
    #[arg(long, value_name = "TOPIC")]
    also_topic: Vec<String>,

    /// The topics have the records of this outbox alone: every other record is a phantom
    #[arg(long)]
    exclusive: bool,

    /// The events of each kind that are listed
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    events: usize,

    /// How long the slot is waited for where rows are not marked
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: String,

    /// Where entries are sorted; takes 300 bytes an event
    #[arg(long, value_name = "FOLDER")]
    temp_dir: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Compares and prints.
pub(crate) async fn execute(mut args: Args) -> anyhow::Result<()> {
    let config = Config::from_settings(std::mem::take(&mut args.settings))?;
    let state = match &args.state {
        Some(path) => State::read(path)?,
        None => None,
    };
    let request = request(&args, state.as_ref())?;
    let progress = Progress::default();
    let bar = bar::show(&progress);
    let report = Box::pin(verify::verify(&config, &request, &progress)).await;
    bar.stop();
    let report = report?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", print::json(&report))?,
        false => write!(out, "{}", print::text(&report))?,
    }
    drop(out);
    if let (Some(path), Some(state)) = (&args.state, State::of(&report)) {
        state.write(path)?;
    }
    match report.wrong() {
        0 => Ok(()),
        1 => bail!("1 event is wrong"),
        count => bail!("{count} events are wrong"),
    }
}

fn request(args: &Args, state: Option<&State>) -> anyhow::Result<Request> {
    let moment = |flag: &str, text: &Option<String>| match text {
        Some(text) => Moment::parse(text).map(Some).ok_or_else(|| {
            let hint = "write RFC 3339, such as 2026-12-31T23:59:59Z, or 2h";
            usage(format!("{flag} is no time"), hint)
        }),
        None => Ok(None),
    };
    let since = moment("--since", &args.since)?;
    let wait = verify::length(&args.wait);
    Ok(Request {
        from_id: args.from_id.clone(),
        to_id: args.to_id.clone(),
        since: state.map(State::since).or(since),
        until: moment("--until", &args.until)?,
        also_topics: args.also_topic.clone(),
        exclusive: args.exclusive,
        wait: wait.ok_or_else(|| usage("--wait is no duration".to_owned(), "write 30s, or 5m"))?,
        events_max: args.events,
        folder: args.temp_dir.clone().unwrap_or_else(std::env::temp_dir),
    })
}

/// The error of an argument.
fn usage(problem: String, hint: &str) -> anyhow::Error {
    Verdict::new(USAGE, vec![(problem, Some(hint.to_owned()))]).into()
}
