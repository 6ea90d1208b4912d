//! `dead-dead_letter`: the events that could not be published, and what is to become of them.
//!
//! It reads and writes the table of the dead letters, and so works whether or not an outboxd runs. Nothing is published here: a wish
//! is written down, and the publisher that runs (or the next one) fulfils it.

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

/// Of a text in the list, so many characters.
const CELL_MAX: usize = 40;

/// The arguments of `dead-dead_letter`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Subcommand)]
enum Action {
    /// One line for each, the oldest first
    List {
        #[command(flatten)]
        which: Which,
        /// The most that are shown
        #[arg(long, default_value_t = 100, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
    },
    /// All that is known of them, with their history
    Show {
        #[command(flatten)]
        which: Which,
        /// The most that are shown
        #[arg(long, default_value_t = 20, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
        /// With their payloads
        #[arg(long)]
        payload: bool,
    },
    /// Have dead ones published again; of a row that was mended, as it is then
    Retry {
        #[command(flatten)]
        which: Which,
        /// All that are dead
        #[arg(long, required_unless_present_any = ["ids", "topic", "code", "state"])]
        all: bool,
    },
    /// Give dead ones up: their rows count as published from then on
    Discard {
        #[command(flatten)]
        which: Which,
        /// All that are dead
        #[arg(long, required_unless_present_any = ["ids", "topic", "code", "state"])]
        all: bool,
        /// Really do it
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters are meant.
#[derive(clap::Args)]
struct Which {
    /// Those with these numbers
    #[arg(long = "id", value_name = "ID,ID", value_delimiter = ',')]
    ids: Vec<i64>,

    /// Those for this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Those with this error code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,

    /// Those in this state
    #[arg(long, value_name = "STATE", value_parser = STATES)]
    state: Option<String>,
}

/// Does it.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let (database, limit) = (&config.database, config.operation_timeout);
    let session = postgres::connect(database, "outboxd dead-letter", limit).await?;
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
                writeln!(io::stdout(), "and more: narrow it down, or raise --limit")?;
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
                bail!("no such dead letter: `outboxd dead-letter list` shows which there are");
            }
            let more = entries.len() > limit as usize;
            entries.truncate(limit as usize);
            if json {
                return print_json(&entries);
            }
            print_whole(&entries)?;
            if more {
                writeln!(io::stdout(), "and more: narrow it down, or raise --limit")?;
            }
            Ok(())
        }
        Action::Retry { which, all: _ } => {
            let (named, filter) = (!which.ids.is_empty(), which.filter());
            let asked = dead_letters::ask(&session, &config.table, &filter, Resolution::Retry);
            print_asked(asked.await?, "retried", named)
        }
        Action::Discard { which, all: _, yes } => {
            let (named, filter) = (!which.ids.is_empty(), which.filter());
            if !yes {
                let survey =
                    dead_letters::survey(&session, &config.table, &filter, Resolution::Discard);
                let count = survey.await?.dead_letters;
                bail!(
                    "nothing is discarded without --yes: {count} dead letters would go, \
                     never to be published, and their rows count as published from then on"
                );
            }
            let asked = dead_letters::ask(&session, &config.table, &filter, Resolution::Discard);
            print_asked(asked.await?, "discarded", named)
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

/// One more than is shown says that there are more.
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

fn print_asked(asked: Affected, what: &str, named: bool) -> anyhow::Result<()> {
    let Affected {
        dead_letters,
        following,
        others,
    } = asked;
    if dead_letters == 0 && others == 0 && named {
        bail!("no such dead letter: `outboxd dead-letter list` shows which there are");
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{dead_letters} will be {what} by the publisher")?;
    if following > 0 {
        writeln!(
            out,
            "{following} are parked behind them and follow by themselves, in order, \
             once nothing dead is left of their keys"
        )?;
    }
    if others > 0 {
        writeln!(
            out,
            "{others} are left alone, since they are not dead: `outboxd dead-letter list` shows their states"
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
        // To the second, as the server's time zone has it.
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
            "later events of its key go on"
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

/// What came from elsewhere must not command a terminal.
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
