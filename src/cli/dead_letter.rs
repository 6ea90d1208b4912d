//! `dead-letter`: lists, shows, retries and discards the events that could not be published.
//!
//! The command reads and writes the table of dead letters, so it works whether or not outboxd is
//! running. It publishes nothing: it writes a request, and the running publisher (or the next one)
//! carries it out.

use std::io::{self, Write};

use anyhow::bail;
use clap::Subcommand;
use outboxd::config::{Config, Settings};
use outboxd::outbox::Resolution;
use outboxd::outbox::dead_letter::admin::{
    self as dead_letters, Affected, DeadLetterEntry, Filter, STATES,
};
use outboxd::postgres::{self, Session};
use serde_json::Value;

/// The length to which a text in the list is cut.
const CELL_MAX: usize = 40;

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
    /// List dead letters, one per line, oldest first
    List {
        #[command(flatten)]
        which: Which,
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
        Action::List { which, limit, json } => {
            let mut entries = read(&session, &config, which, limit, false).await?;
            let more = entries.len() > limit as usize;
            entries.truncate(limit as usize);
            if json {
                return print_json(&entries);
            }
            print_table(&entries)?;
            if more {
                writeln!(
                    io::stdout(),
                    "more dead letters match: narrow the selection, or raise --limit"
                )?;
            }
            Ok(())
        }
        Action::Show {
            which,
            limit,
            json,
            payload,
        } => {
            let ids = which.ids.len();
            let mut entries = read(&session, &config, which, limit, payload).await?;
            if entries.is_empty() && ids > 0 {
                bail!("no such dead letter: `outboxd dead-letter list` shows them all");
            }
            let more = entries.len() > limit as usize;
            entries.truncate(limit as usize);
            if json {
                return print_json(&entries);
            }
            print_whole(&entries)?;
            if more {
                writeln!(
                    io::stdout(),
                    "more dead letters match: narrow the selection, or raise --limit"
                )?;
            }
            Ok(())
        }
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
        }
    }
}

/// Reads one more than the limit, which shows that there are more.
async fn read(
    session: &Session,
    config: &Config,
    which: Which,
    limit: u32,
    payloads: bool,
) -> anyhow::Result<Vec<DeadLetterEntry>> {
    let limit = i64::from(limit) + 1;
    Ok(dead_letters::list(session, &config.table, &which.filter(), limit, payloads).await?)
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
        bail!("no such dead letter: `outboxd dead-letter list` shows them all");
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
            "{others} left unchanged, not being dead: `outboxd dead-letter list` shows the states"
        )?;
    }
    Ok(())
}

fn print_json(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for entry in entries {
        writeln!(out, "{}", serde_json::to_string(entry)?)?;
    }
    Ok(())
}

fn print_table(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let heads = [
        "ID", "STATE", "FILED", "TOPIC", "KEY", "ROW", "CODE", "ERROR",
    ];
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(entries.iter().map(cells));
    let widths: [usize; 8] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut out = io::stdout().lock();
    for line in lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn cells(entry: &DeadLetterEntry) -> [String; 8] {
    let none = || "-".to_owned();
    let or_none =
        |text: &Option<String>| text.as_deref().map_or_else(none, |text| cut(&plain(text)));
    [
        entry.id.to_string(),
        entry.state.clone(),
        // To the second, in the server's time zone.
        entry.filed_at.chars().take(19).collect(),
        or_none(&entry.topic),
        entry.key.as_ref().map_or_else(none, |key| cut(&text(key))),
        or_none(&entry.outbox_id),
        cut(&plain(&entry.error_code)),
        plain(&entry.error),
    ]
}

fn print_whole(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for entry in entries {
        let none = || "-".to_owned();
        let or_none = |text: &Option<String>| text.as_deref().map_or_else(none, plain);
        let place = entry.commit_lsn.as_ref().map_or_else(none, |lsn| {
            format!("{lsn}, event {}", entry.event_index.unwrap_or_default())
        });
        let payload = entry
            .payload_bytes
            .map_or_else(none, |bytes| format!("{bytes} bytes"));
        let parks = if entry.parks_key {
            "later events of its key wait for it"
        } else {
            "later events of its key are published"
        };
        let lines = [
            ("id", entry.id.to_string()),
            ("state", entry.state.clone()),
            ("row", or_none(&entry.outbox_id)),
            ("commit", place),
            ("topic", or_none(&entry.topic)),
            ("event type", or_none(&entry.event_type)),
            ("key", entry.key.as_ref().map_or_else(none, text)),
            ("created", or_none(&entry.event_created_at)),
            ("payload", payload),
            ("parks key", parks.to_owned()),
            ("filed", entry.filed_at.clone()),
            ("changed", entry.updated_at.clone()),
            ("attempts", entry.attempts.to_string()),
            ("code", plain(&entry.error_code)),
            ("error", plain(&entry.error)),
        ];
        for (name, value) in lines {
            writeln!(out, "{name:<12} {value}")?;
        }
        for header in entry.headers.as_array().into_iter().flatten() {
            let part = |at: usize| header.get(at).map_or_else(none, text);
            writeln!(out, "{:<12} {}: {}", "header", part(0), part(1))?;
        }
        for event in entry.history.as_array().into_iter().flatten() {
            let part = |name: &str| event.get(name).map_or_else(none, text);
            writeln!(
                out,
                "{:<12} {} {} after {} attempts: {}",
                "history",
                part("at"),
                part("error_code"),
                part("attempts"),
                part("error")
            )?;
        }
        if let Some(payload) = &entry.payload {
            writeln!(out, "\n{}", text(payload))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// Text from events must not contain terminal control characters.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(CELL_MAX - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_filed_commands_a_terminal_or_breaks_the_table() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        let long = "ö".repeat(41);
        assert_eq!(cut(&long).chars().count(), CELL_MAX);
        assert_eq!(cut("short"), "short");
    }
}
