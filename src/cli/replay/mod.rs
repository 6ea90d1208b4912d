//! `replay`: publishes rows of the table once more, beside the running outboxd.
//!
//! Prints what it is about to send, sends it, and prints what became of it: where it ended early,
//! with the command that continues.

mod print;
mod resume;

use std::pin::pin;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use outboxd::config::{Config, Settings, conditions, mapping::RowFilter};
use outboxd::outbox::replay::{ReplayFilter, ReplaySummary, ReplayTime};
use outboxd::publisher::replay::{
    Continuation, FirstRecord, LastReplay, Replay, ReplayEnd, ReplayWatch, Replayed,
};
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{TRANSIENT, Verdict};
use crate::cli::log::{self, Log};
use crate::cli::process::Signals;
use crate::cli::progress;

/// Few enough that live events keep most of the broker.
const RATE: u32 = 500;
/// How often a line of the log says how far the replay is, where there is no terminal.
const LINES: Duration = Duration::from_secs(10);
/// How many records a dry run prints.
const FIRST_RECORDS: usize = 3;
/// How long the last lines may take when the process ends at once.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(100);

/// What chooses rows; one of these is needed.
const CHOOSING: [&str; 7] = [
    "from_id",
    "to_id",
    "since",
    "until",
    "only_topic",
    "only_type",
    "only_where",
];

/// The arguments of `replay`.
#[derive(clap::Args)]
#[command(after_help = "\
Every record has the header outbox_replayed. Rows are sent in the order of their ids; where the
replay ends early, it prints the command that continues.

Examples:
  outboxd replay --since 2h --only-topic orders --dry-run
  outboxd replay --from-id 1000 --to-id 2000
  outboxd replay --all --rate 0")]
pub(crate) struct Args {
    /// Only rows from this id on
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    from_id: Option<String>,

    /// Only rows up to this id
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    to_id: Option<String>,

    /// Only rows created since then: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    since: Option<ReplayTime>,

    /// Only rows created before then: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<ReplayTime>,

    /// Only rows of this topic; may be given several times
    #[arg(long, value_name = "TOPIC")]
    only_topic: Vec<String>,

    /// Only rows of this type of event; may be given several times
    #[arg(long, value_name = "TYPE")]
    only_type: Vec<String>,

    /// Only rows for which these conditions hold, in the grammar of OUTBOX_WHERE
    #[arg(long, value_name = "CONDITIONS", value_parser = conditions)]
    only_where: Option<RowFilter>,

    /// All published rows
    #[arg(
        long,
        required_unless_present_any = CHOOSING,
        required_unless_present = "goes_on",
        conflicts_with_all = CHOOSING
    )]
    all: bool,

    /// Begin behind the row with this id
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    after: Option<String>,

    /// Go on with the replay that ended early, exactly once: the same rows and the same header
    #[arg(long = "continue", conflicts_with_all = CHOOSING)]
    #[arg(conflicts_with_all = ["all", "after", "dry_run"])]
    goes_on: bool,

    /// Events a second at most; 0 means no limit
    #[arg(long, value_name = "EVENTS", default_value_t = RATE)]
    rate: u32,

    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

impl Args {
    fn filter(&mut self) -> ReplayFilter {
        ReplayFilter {
            from_id: self.from_id.take(),
            to_id: self.to_id.take(),
            since: self.since.take(),
            until: self.until.take(),
            topics: std::mem::take(&mut self.only_topic),
            types: std::mem::take(&mut self.only_type),
            conditions: self.only_where.take().unwrap_or_default(),
            after: self.after.take(),
        }
    }
}

/// What there is to do.
enum Prepared {
    Replay(Box<(Replay, Option<ReplaySummary>, Vec<FirstRecord>)>),
    /// The last replay began at this time, and all its rows are done.
    Complete(String),
}

/// Replays.
pub(crate) async fn execute(mut args: Args) -> anyhow::Result<()> {
    log::asked_for(args.settings.log_format.as_deref());
    let filter = args.filter();
    let config = match args.dry_run {
        true => Config::without_kafka(args.settings)?,
        false => Config::from_settings(args.settings)?,
    };
    let log = Log::start(&config.log, config.log_format)?;
    let mut signals = Signals::new()?;
    // Boxed: the future is large.
    let prepare = Box::pin(async {
        let replay = match args.goes_on {
            false => Replay::open(config, filter).await?,
            true => match Replay::last(config).await? {
                LastReplay::Unfinished(replay) => *replay,
                LastReplay::Complete { started } => return Ok(Prepared::Complete(started)),
            },
        };
        let summary = replay.summary().await?;
        let records = match args.dry_run {
            true => replay.first_records(FIRST_RECORDS).await?,
            false => Vec::new(),
        };
        anyhow::Ok(Prepared::Replay(Box::new((replay, summary, records))))
    });
    let prepared = tokio::select! {
        prepared = prepare => prepared?,
        _ = signals.next() => return Err(stopped(None).into()),
    };
    let (replay, summary, records) = match prepared {
        Prepared::Replay(replay) => *replay,
        Prepared::Complete(started) => return print::nothing_to_continue(&started),
    };
    print::summary(summary.as_ref())?;
    if args.dry_run {
        return print::records(&records);
    }
    let filter = replay.filter().clone();
    let running = run(replay, args.rate, summary.as_ref(), &mut signals, &log);
    let replayed = Box::pin(running).await;
    print::outcome(&replayed)?;
    let command = match (&replayed.end, replayed.continuation) {
        (ReplayEnd::Complete, _) | (_, Continuation::Elsewhere) => None,
        (_, Continuation::Recorded) => Some(resume::recorded()),
        (_, Continuation::Behind) => Some(resume::behind(&filter, replayed.after.as_deref())),
    };
    if let Some(command) = &command {
        print::continuing(command)?;
    }
    match replayed.end {
        ReplayEnd::Complete => Ok(()),
        ReplayEnd::Stopped => Err(stopped(command).into()),
        ReplayEnd::Failed(error) => Err(error.into()),
    }
}

/// The exit of a replay that a signal has ended.
fn stopped(command: Option<String>) -> Verdict {
    let text = "stopped by a signal before the last row".to_owned();
    let hint = command.map(|command| format!("continue with: {command}"));
    Verdict::new(TRANSIENT, vec![(text, hint)])
}

/// Runs the replay to its end, and shows how far it is.
async fn run(
    replay: Replay,
    rate: u32,
    summary: Option<&ReplaySummary>,
    signals: &mut Signals,
    log: &Log,
) -> Replayed {
    let (watch, stop) = (replay.watch(), CancellationToken::new());
    let mut display = Display::new(log, summary);
    let mut running = pin!(replay.run(rate, stop.clone()));
    let mut ticks = tokio::time::interval(progress::INTERVAL);
    loop {
        tokio::select! {
            biased;
            replayed = &mut running => {
                display.end();
                return replayed;
            }
            number = signals.next() => {
                if stop.is_cancelled() {
                    tracing::warn!(signal = number, "second signal, exiting immediately");
                    log.flush(LAST_LINES_LIMIT);
                    std::process::exit(128 + number);
                }
                tracing::info!(signal = number, "stopping, waiting for records in flight");
                stop.cancel();
            }
            _ = ticks.tick() => display.show(&watch),
        }
    }
}

/// A bar at a terminal, and lines of the log elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    rows: Option<u64>,
    began: Instant,
    logged: Instant,
}

impl Display {
    fn new(log: &Log, summary: Option<&ReplaySummary>) -> Display {
        let rows = summary.filter(|it| !it.is_cut).map(|it| it.rows);
        let now = Instant::now();
        Display {
            bar: progress::bar(rows).inspect(|bar| log.share_terminal(bar.clone())),
            rows,
            began: now,
            logged: now,
        }
    }

    fn show(&mut self, watch: &ReplayWatch) {
        let (sent, refused) = (watch.sent(), watch.refused());
        let seconds = self.began.elapsed().as_secs_f64();
        let figures = print::figures(sent, refused, self.rows, seconds);
        match &self.bar {
            Some(bar) => {
                let wait = watch.waiting().map(|wait| format!(", waiting for {wait}"));
                bar.set_position(sent + refused);
                bar.set_message(figures + &wait.unwrap_or_default());
            }
            None if self.logged.elapsed() >= LINES => {
                self.logged = Instant::now();
                tracing::info!(sent, refused, rows = self.rows, "{figures}");
            }
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
