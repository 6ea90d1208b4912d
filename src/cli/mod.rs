//! The command line: which commands there are, how each begins, and how each can end.
//!
//! This is the only part of the program that prints, and it uses the library's public API alone.
//! Each command is one file with its `Args` and `pub async fn execute(args: Args) ->
//! anyhow::Result<()>`; `args.settings` arrives with the settings file merged in, so that a command
//! begins with `Config::from_settings(args.settings)?` and nothing else.

mod dead_letter;
#[cfg(feature = "demo")]
mod demo;
mod drop;
pub(crate) mod exit;
mod init;
mod process;
mod run;
mod skip_transaction;
mod status;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use outboxd::config::Settings;

/// Publishes a transactional outbox from Postgres to Kafka by reading the write-ahead log.
#[derive(Parser)]
#[command(name = "outboxd", version, about, max_term_width = 100)]
#[command(
    after_help = "A setting can be a flag, an environment variable, or in the settings file; \
                  the first of these that names it counts."
)]
pub(crate) struct Cli {
    /// The settings file (TOML); a flag or an environment variable overrides what it says
    #[arg(long, global = true, env = "OUTBOX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish until told to stop
    Run(run::Args),
    /// Create what the database needs: table, publication, role
    Init(init::Args),
    /// Show how far the slot has come
    Status(status::Args),
    /// Show the events that could not be published, and say what is to become of them
    DeadLetter(dead_letter::Args),
    /// Pass a transaction that Postgres itself cannot decode
    SkipTransaction(skip_transaction::Args),
    /// Remove the slot and the publication
    Drop(drop::Args),
    /// Show the whole way from a transaction to a consumer on a database and a Kafka of its own
    #[cfg(feature = "demo")]
    Demo(demo::Args),
}

impl Cli {
    /// Does what the command line asks for.
    pub(crate) async fn execute(self) -> anyhow::Result<()> {
        let file = match &self.config {
            Some(path) => Settings::load(path),
            None => Settings::default(),
        };
        match self.command {
            Command::Run(mut args) => {
                args.settings = args.settings.or(file);
                run::execute(args).await
            }
            Command::Init(mut args) => {
                args.settings = args.settings.or(file);
                init::execute(args).await
            }
            Command::Status(mut args) => {
                args.settings = args.settings.or(file);
                status::execute(args).await
            }
            Command::DeadLetter(mut args) => {
                args.settings = args.settings.or(file);
                dead_letter::execute(args).await
            }
            Command::SkipTransaction(mut args) => {
                args.settings = args.settings.or(file);
                skip_transaction::execute(args).await
            }
            Command::Drop(mut args) => {
                args.settings = args.settings.or(file);
                drop::execute(args).await
            }
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::execute(args).await,
        }
    }
}
