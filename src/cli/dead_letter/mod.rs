//! `dead-letter`: lists, shows, retries and discards the events that could not be published.
//!
//! The command reads and writes the table of dead letters, so it works whether or not outboxd is
//! running. It publishes nothing: it writes a request, and the running publisher (or the next one)
//! carries it out.

mod print;

use std::io::{self, Write};

use anyhow::bail;
use clap::Subcommand;
use outboxd::config::{Config, Settings};
use outboxd::format::age;
use outboxd::outbox::Resolution;
use outboxd::outbox::dead_letter::admin::{
    self as dead_letters, Affected, DeadLetterEntry, Filter, STATES,
};
use outboxd::postgres::{self, Session};

use crate::cli::dead_letter::print::{print_json, print_table, print_whole};

pub(crate) use print::plain;

/// The arguments of `dead-letter`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Subcommand)]
enum Action {
    /// Count open dead letters by state, topic and error code
    Summary {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// List open dead letters, one per line, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// Include those that were retried or discarded
        #[arg(long)]
        closed: bool,
        /// Maximum number to show
        #[arg(long, default_value_t = 100, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print one JSON object per line instead of text
        #[arg(long)]
        json: bool,
    },
    /// Show dead letters in full, with their history
    Show {
        #[command(flatten)]
        which: Which,
        /// Maximum number to show
        #[arg(long, default_value_t = 20, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        /// Print one JSON object per line instead of text
        #[arg(long)]
        json: bool,
        /// Include the payloads
        #[arg(long)]
        payload: bool,
    },
    /// Publish dead letters again, with the row as it is now
    Retry {
        #[command(flatten)]
        which: Which,
        /// Retry all dead letters
        #[arg(long, required_unless_present_any = ["ids", "topic", "code", "state"])]
        all: bool,
    },
    /// Give up dead letters; their rows count as published
    Discard {
        #[command(flatten)]
        which: Which,
        /// Discard all dead letters
        #[arg(long, required_unless_present_any = ["ids", "topic", "code", "state"])]
        all: bool,
        /// Confirm; without it nothing is discarded
        #[arg(long)]
        yes: bool,
    },
}

/// Selects dead letters.
#[derive(clap::Args)]
struct Which {
    /// Only these IDs
    #[arg(long = "id", value_name = "ID,ID", value_delimiter = ',')]
    ids: Vec<i64>,

    /// Only this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Only this error code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,

    /// Only this state
    #[arg(long, value_name = "STATE", value_parser = STATES)]
    state: Option<String>,
}

/// Runs the action.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let (database, limit) = (&config.database, config.operation_timeout);
    let session = postgres::connect(database, "outboxd dead-letter", limit).await?;
    session.restore_search_path().await?;
    match args.action {
        Action::Summary { json } => summary(&session, &config, json).await,
        Action::List {
            which,
            closed,
            limit,
            json,
        } => list(&session, &config, which, closed, limit, json).await,
        Action::Show {
            which,
            limit,
            json,
            payload,
        } => show(&session, &config, which, limit, json, payload).await,
        Action::Retry { which, all: _ } => {
            let (by_id, filter) = (!which.ids.is_empty(), which.filter());
            let request = dead_letters::ask(&session, &config.table, &filter, Resolution::Retry);
            print_affected(request.await?, "retried", by_id)
        }
        Action::Discard { which, all: _, yes } => {
            let (by_id, filter) = (!which.ids.is_empty(), which.filter());
            if !yes {
                let survey =
                    dead_letters::survey(&session, &config.table, &filter, Resolution::Discard);
                let count = survey.await?.dead_letters;
                bail!(
                    "nothing is discarded without --yes: {} would never be published, and would \
                     count as published from then on",
                    dead_letters_text(count)
                );
            }
            let request = dead_letters::ask(&session, &config.table, &filter, Resolution::Discard);
            print_affected(request.await?, "discarded", by_id)
        }
    }
}

impl Which {
    fn filter(self) -> Filter {
        Filter {
            ids: self.ids,
            topic: self.topic,
            code: self.code,
            state: self.state,
            open: false,
        }
    }
}

/// The entries up to the limit, and whether there are more: one more is read.
async fn read(
    session: &Session,
    config: &Config,
    filter: Filter,
    limit: u32,
    payloads: bool,
) -> anyhow::Result<(Vec<DeadLetterEntry>, bool)> {
    let most = i64::from(limit) + 1;
    let list = dead_letters::list(session, &config.table, &filter, most, payloads);
    let mut entries = list.await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    Ok((entries, more))
}

async fn list(
    session: &Session,
    config: &Config,
    which: Which,
    closed: bool,
    limit: u32,
    json: bool,
) -> anyhow::Result<()> {
    let is_named = !which.ids.is_empty() || which.state.is_some();
    let filter = Filter {
        open: !closed && !is_named,
        ..which.filter()
    };
    let (entries, more) = read(session, config, filter, limit, false).await?;
    if json {
        return print_json(&entries);
    }
    print_table(&entries)?;
    print_more(more)
}

async fn show(
    session: &Session,
    config: &Config,
    which: Which,
    limit: u32,
    json: bool,
    payload: bool,
) -> anyhow::Result<()> {
    let ids = which.ids.len();
    let (entries, more) = read(session, config, which.filter(), limit, payload).await?;
    if entries.is_empty() && ids > 0 {
        bail!("no such dead letter: `outboxd dead-letter list --closed` shows them all");
    }
    if json {
        return print_json(&entries);
    }
    print_whole(&entries)?;
    print_more(more)
}

fn print_more(more: bool) -> anyhow::Result<()> {
    if more {
        let hint = "more dead letters match: narrow the selection, or raise --limit";
        writeln!(io::stdout(), "{hint}")?;
    }
    Ok(())
}

async fn summary(session: &Session, config: &Config, json: bool) -> anyhow::Result<()> {
    let open = dead_letters::open(session, &config.table).await?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&open)?)?;
        return Ok(());
    }
    let all = open.describe();
    writeln!(out, "{}", all.unwrap_or_else(|| "none open".to_owned()))?;
    for group in &open.groups {
        let oldest = age(group.oldest_seconds);
        writeln!(out, "{}, the oldest for {oldest}", plain(&group.describe()))?;
    }
    let shown: i64 = open.groups.iter().map(|group| group.count).sum();
    if shown < open.open {
        writeln!(out, "{} others", open.open - shown)?;
    }
    Ok(())
}

fn dead_letters_text(count: u64) -> String {
    match count {
        1 => "1 dead letter".to_owned(),
        _ => format!("{count} dead letters"),
    }
}

fn print_affected(affected: Affected, verb: &str, by_id: bool) -> anyhow::Result<()> {
    let Affected {
        dead_letters,
        following,
        others,
    } = affected;
    if dead_letters == 0 && others == 0 && by_id {
        bail!("no such dead letter: `outboxd dead-letter list --closed` shows them all");
    }
    let mut out = io::stdout().lock();
    let text = dead_letters_text(dead_letters);
    writeln!(out, "{text} will be {verb} by the publisher")?;
    if following > 0 {
        writeln!(
            out,
            "{following} parked behind them will follow in order, \
             once their keys have no dead letter left"
        )?;
    }
    if others > 0 {
        writeln!(
            out,
            "{others} left unchanged, not being dead: `outboxd dead-letter list --closed` shows \
             the states"
        )?;
    }
    Ok(())
}
