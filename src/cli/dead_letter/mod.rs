//! `dead-letter`: lists, shows, retries, discards and prunes the events that could not be
//! published.
//!
//! The command reads and writes the table of dead letters, so it works whether or not outboxd is
//! running. It publishes nothing: it writes a request, and the running publisher (or the next one)
//! carries it out.

mod print;
mod wait;
mod which;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use outboxd::config::{Config, Settings, time};
use outboxd::format::{age, count};
use outboxd::outbox::Resolution;
use outboxd::outbox::dead_letter::admin::{
    self as dead_letters, Affected, DeadLetterEntry, Filter,
};
use outboxd::outbox::dead_letter::prune;
use outboxd::postgres::{self, Session};

use crate::cli::dead_letter::print::{print_json, print_table, print_whole};
use crate::cli::dead_letter::which::Which;

pub(crate) use print::plain;

/// What every selection of dead letters to change needs.
const SELECTED: [&str; 5] = ["given", "ids", "topic", "code", "state"];

/// The arguments of `dead-letter`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd dead-letter summary
  outboxd dead-letter list
  outboxd dead-letter --table shop.events retry --all --wait")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Subcommand)]
enum Action {
    /// Count open dead letters by state, topic and error code
    #[command(after_help = "\
Examples:
  outboxd dead-letter summary
  outboxd dead-letter summary --json")]
    Summary {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// List open dead letters, one per line, newest first
    #[command(after_help = "\
Examples:
  outboxd dead-letter list
  outboxd dead-letter list --topic orders --limit 10
  outboxd dead-letter list --closed --json")]
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
    #[command(after_help = "\
Examples:
  outboxd dead-letter show 7
  outboxd dead-letter show --code TOPIC_UNKNOWN --payload")]
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
    #[command(after_help = "\
Examples:
  outboxd dead-letter retry 7 8
  outboxd dead-letter retry --topic orders --wait
  outboxd dead-letter retry --all --wait=10m")]
    Retry {
        #[command(flatten)]
        which: Which,
        /// Retry all dead letters
        #[arg(long, required_unless_present_any = SELECTED)]
        all: bool,
        /// Wait for the publisher's outcome, for this long at most
        #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
              default_missing_value = "60s", value_parser = wait::limit)]
        wait: Option<Duration>,
    },
    /// Give up dead letters; their rows count as published
    #[command(after_help = "\
Examples:
  outboxd dead-letter discard 7 --yes
  outboxd dead-letter discard --topic orders --code TOPIC_UNKNOWN --yes")]
    Discard {
        #[command(flatten)]
        which: Which,
        /// Discard all dead letters
        #[arg(long, required_unless_present_any = SELECTED)]
        all: bool,
        /// Confirm; without it nothing is discarded
        #[arg(long)]
        yes: bool,
    },
    /// Delete dead letters that were retried or discarded, as the owner of their table
    #[command(after_help = "\
Examples:
  outboxd dead-letter prune --older-than 30d --dry-run
  outboxd dead-letter prune --older-than 30d")]
    Prune {
        /// Only those that last changed longer ago, such as 30d; at least 1h
        #[arg(long, value_name = "AGE", value_parser = age_of_pruned)]
        older_than: Duration,
        /// Count them and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

fn age_of_pruned(text: &str) -> Result<Duration, String> {
    time(text, prune::AGES)
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
        Action::Retry {
            which,
            all: _,
            wait,
        } => {
            let (by_id, filter) = (which.is_by_id(), which.filter());
            let request = dead_letters::ask(&session, &config.table, &filter, Resolution::Retry);
            let affected = request.await?;
            print_affected(&affected, "retried", by_id)?;
            match wait {
                Some(limit) => wait::outcome(&session, &config, &affected, limit).await,
                None => Ok(()),
            }
        }
        Action::Discard { which, all: _, yes } => discard(&session, &config, which, yes).await,
        Action::Prune {
            older_than,
            dry_run,
        } => prune_closed(&session, &config, older_than, dry_run).await,
    }
}

async fn discard(
    session: &Session,
    config: &Config,
    which: Which,
    yes: bool,
) -> anyhow::Result<()> {
    let (by_id, filter) = (which.is_by_id(), which.filter());
    if !yes {
        let survey = dead_letters::survey(session, &config.table, &filter, Resolution::Discard);
        let count = count(survey.await?.dead_letters, "dead letter");
        bail!(
            "nothing is discarded without --yes: {count} would never be published, and would \
             count as published from then on"
        );
    }
    let request = dead_letters::ask(session, &config.table, &filter, Resolution::Discard);
    print_affected(&request.await?, "discarded", by_id)
}

async fn prune_closed(
    session: &Session,
    config: &Config,
    older_than: Duration,
    dry_run: bool,
) -> anyhow::Result<()> {
    let letters = |number| count(number, "closed dead letter");
    let text = match dry_run {
        true => {
            let number = prune::count(session, &config.table, older_than).await?;
            format!("{} would be deleted", letters(number))
        }
        false => {
            let number = prune::prune(session, &config.table, older_than).await?;
            format!("{} deleted", letters(number))
        }
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
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
    let is_named = which.is_by_id() || which.state.is_some();
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
    let by_id = which.is_by_id();
    let (entries, more) = read(session, config, which.filter(), limit, payload).await?;
    if entries.is_empty() && by_id {
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
        let others = count((open.open - shown).unsigned_abs(), "other");
        writeln!(out, "{others}")?;
    }
    Ok(())
}

fn print_affected(affected: &Affected, verb: &str, by_id: bool) -> anyhow::Result<()> {
    let Affected {
        dead_letters,
        following,
        others,
        ..
    } = *affected;
    if dead_letters == 0 && others == 0 && by_id {
        bail!("no such dead letter: `outboxd dead-letter list --closed` shows them all");
    }
    let mut out = io::stdout().lock();
    let text = count(dead_letters, "dead letter");
    writeln!(out, "{text} will be {verb} by the publisher")?;
    if following > 0 {
        let text = count(following, "parked event");
        writeln!(
            out,
            "{text} will follow in order, once no dead letter of the key is left"
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
