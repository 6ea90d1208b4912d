//! `peek`: shows the events that would be sent next, and moves nothing.

use std::io::{self, Write};

use clap::ValueEnum;
use outboxd::config::{Config, Settings};
use outboxd::format::{bytes, count};
use outboxd::lsn::Lsn;
use outboxd::publisher::{PeekEnd, PeekOptions, PeekSource, PeekedEvent, Shown, peek};

use crate::cli::dead_letter::plain;

/// How many characters of a key, value or header are shown without `--full`.
const LENGTH_MAX: usize = 200;

/// The arguments of `peek`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd peek
  outboxd peek --count 100 --only-topic orders --json
  outboxd peek --lsn 16/B374D848 --count 1 --full
  outboxd peek --from table")]
pub(crate) struct Args {
    /// Maximum number of events to show
    #[arg(long, default_value_t = 10, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Begin at this commit LSN instead of the slot's position
    #[arg(long, value_name = "LSN")]
    lsn: Option<Lsn>,
    /// Show events of this topic alone
    #[arg(long, value_name = "NAME")]
    only_topic: Option<String>,
    /// Where to read; by default where `run` would
    #[arg(long, value_enum, value_name = "SOURCE")]
    from: Option<From>,
    /// Show keys, values and headers whole, instead of 200 characters of each
    #[arg(long)]
    full: bool,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// The replication slot
    Slot,
    /// The table's unpublished rows
    Table,
}

/// Shows them.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let options = PeekOptions {
        count: args.count as usize,
        lsn: args.lsn,
        only_topic: args.only_topic,
        from: args.from.map(|from| match from {
            From::Slot => PeekSource::Slot,
            From::Table => PeekSource::Table,
        }),
        length_max: (!args.full).then_some(LENGTH_MAX),
    };
    let show = |event: PeekedEvent| match args.json {
        true => {
            writeln!(io::stdout(), "{}", serde_json::to_string(&event)?)?;
            anyhow::Ok(())
        }
        false => print(&event),
    };
    let end = Box::pin(peek(&config, &options, show)).await?;
    if !args.json {
        print_end(&config, &end)?;
    }
    Ok(())
}

fn print(event: &PeekedEvent) -> anyhow::Result<()> {
    let none = || "-".to_owned();
    let or_none = |text: &Option<Shown>| text.as_ref().map_or_else(none, text_of);
    let partition = match (event.partition, &event.key) {
        (Some(partition), _) => partition.to_string(),
        (None, Some(_)) => "by key".to_owned(),
        (None, None) => "any".to_owned(),
    };
    let mut lines = vec![
        ("row", named(&event.id)),
        ("topic", named(&event.topic)),
        ("partition", partition),
        ("key", or_none(&event.key)),
        ("value", or_none(&event.value)),
    ];
    for (name, value) in &event.headers {
        lines.push(("header", format!("{}: {}", plain(name), or_none(value))));
    }
    if let (Some(lsn), Some(index), Some(at)) = (event.lsn, event.index, &event.committed_at) {
        lines.push(("commit", format!("{lsn}, event {index}, {at}")));
    }
    if event.is_cut {
        let size = event.value_bytes.unwrap_or_default() as i128;
        let text = format!("the value has {}: --full shows everything", bytes(size));
        lines.push(("cut", text));
    }
    if let Some(refused) = &event.refused {
        let text = format!("{}: {}", plain(&refused.code), plain(&refused.reason));
        lines.push(("refused", text));
    }
    if let Some(letter) = &event.dead_letter {
        let code = plain(&letter.error_code);
        lines.push((
            "dead letter",
            format!("{}, {}, {code}", letter.id, letter.state),
        ));
    }
    let mut out = io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name:<12} {value}")?;
    }
    writeln!(out)?;
    Ok(())
}

fn print_end(config: &Config, end: &PeekEnd) -> anyhow::Result<()> {
    let shown = count(end.shown as u64, "event");
    let place = match (end.from, end.to) {
        (Some(from), Some(to)) => format!("slot {}, from {from} to {to}", config.slot),
        _ => format!("the unpublished rows of {}", config.table),
    };
    let rest = match end.is_all {
        true => "no more",
        false => "there may be more: raise --count",
    };
    writeln!(io::stdout(), "{shown} of {place}; {rest}")?;
    Ok(())
}

fn named(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => plain(text),
    }
}

fn text_of(shown: &Shown) -> String {
    match shown {
        Shown::Text(text) => plain(text),
        Shown::Hex(hex) => format!("0x{hex}"),
    }
}
