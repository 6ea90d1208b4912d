//! `import-debezium` and `export-debezium`: a connector's options as settings, and the way back.
//!
//! Both print and change nothing. What has no counterpart on the other side is named with the
//! reason, and secrets are never printed.

mod connector;
mod converters;
mod database;
mod export;
mod import;
mod imported;
mod kafka;
mod options;
mod properties;
mod router;
mod text;

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use outboxd::config::{Config, Settings};

use crate::cli::debezium::imported::Imported;
use crate::cli::exit::{USAGE, Verdict};

/// The arguments of `import-debezium`.
#[derive(clap::Args)]
#[command(after_help = "\
Reads a connector's .properties file, Debezium Server's application.properties, or the JSON of Kafka
Connect. Prints a settings file. Each option is carried over, or named in a comment with the reason;
passwords are never printed.

Examples:
  outboxd import-debezium connector.json
  outboxd import-debezium application.properties > outboxd.toml")]
pub(crate) struct ImportArgs {
    /// The connector's file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Prints the settings, and on standard error what a person has to look at.
pub(crate) fn execute_import(args: ImportArgs) -> anyhow::Result<()> {
    let place = args.file.display().to_string();
    let text = match place.as_str() {
        "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        _ => fs::read_to_string(&args.file),
    };
    let text = text.with_context(|| format!("cannot read {place}"))?;
    let imported = import::import(&text).map_err(|wrong| {
        let line = format!("{place} is no file of a connector: {}", wrong.problem);
        Verdict::new(USAGE, vec![(line, Some(wrong.hint.to_owned()))])
    })?;
    io::stdout().write_all(text::file(&imported).as_bytes())?;
    for line in to_look_at(&imported) {
        eprintln!("{line}");
    }
    Ok(())
}

/// One line for each thing that a person has to decide or to know.
fn to_look_at(imported: &Imported) -> Vec<String> {
    let mut lines = Vec::new();
    for setting in &imported.settings {
        if let Some(why) = &setting.open {
            lines.push(format!("open      {}: {why}", setting.name));
        }
    }
    if imported.lacks_topics {
        lines.push("open      [topics]: write a line for each value".to_owned());
    }
    for note in &imported.differences {
        lines.push(format!("differs   {}: {}", note.option, note.text));
    }
    for option in &imported.unknown {
        lines.push(format!("unknown   {option}"));
    }
    lines
        .iter()
        .map(|line| line.replace(char::is_control, "?"))
        .collect()
}

/// The arguments of `export-debezium`.
#[derive(clap::Args)]
#[command(after_help = "\
Prints the .properties file of a connector for Kafka Connect, with the Outbox Event Router. Settings
that it cannot express are named in comments; passwords are never printed.

Examples:
  outboxd export-debezium
  outboxd export-debezium --preset debezium --table shop.outbox > connector.properties")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Prints the options.
pub(crate) fn execute_export(args: ExportArgs) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    io::stdout().write_all(export::export(&config).file().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests;
