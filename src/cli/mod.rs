//! The command line: its commands, and how each starts and exits.
//!
//! Only this part of the program prints, and it uses the library's public API alone. Each command
//! is one file with its `Args` and `pub async fn execute(args: Args) -> anyhow::Result<()>`.
//! `args.settings` already includes the settings file, so a command starts with
//! `Config::from_settings(args.settings)?`.

mod completions;
mod cutover;
mod dead_letter;
mod debezium;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod drop;
pub(crate) mod exit;
mod help;
mod init;
mod log;
pub(crate) mod parse;
mod pause;
mod peek;
mod process;
mod progress;
mod replay;
mod run;
mod skip_transaction;
mod status;
mod terminal;
mod verify;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use outboxd::config::Settings;

/// Publishes a transactional outbox from Postgres to Kafka by reading the write-ahead log.
#[derive(Parser)]
#[command(name = "outboxd", version, about, max_term_width = 100)]
#[command(after_help = "\
Settings come from flags, environment variables and the settings file, in this order of precedence.

Examples:
  outboxd init --role outboxd
  outboxd run --config /etc/outboxd.toml
  outboxd status --watch")]
pub(crate) struct Cli {
    /// Settings file (TOML); flags and environment variables override it
    #[arg(long, global = true, env = "OUTBOX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish until stopped
    Run(run::Args),
    /// Create the table, the publication and, with --role, the role
    Init(init::Args),
    /// Examine Postgres and Kafka, and print what to fix; changes nothing
    Doctor(doctor::Args),
    /// Show how far events get, and whether anything is in the way
    Status(status::Args),
    /// Show the events that would be sent next, and move nothing
    Peek(peek::Args),
    /// Stop publishing in good order until `resume`
    Pause(pause::PauseArgs),
    /// Go on publishing after `pause`
    Resume(pause::ResumeArgs),
    /// Take the table from a poller while the services go on writing, and publish
    Cutover(cutover::Args),
    /// Compare the table with the topics: missing, duplicate, altered, phantom, out of order
    Verify(verify::Args),
    /// List, show, retry, discard or prune the events that could not be published
    DeadLetter(dead_letter::Args),
    /// Publish rows of the table once more, beside the running outboxd
    Replay(replay::Args),
    /// Skip a transaction that Postgres cannot decode
    SkipTransaction(skip_transaction::Args),
    /// Drop the replication slot and the publication
    Drop(drop::Args),
    /// Print the settings that a Debezium connector's options stand for
    ImportDebezium(debezium::ImportArgs),
    /// Print the options of a Debezium connector for these settings
    ExportDebezium(debezium::ExportArgs),
    /// Run end to end on a temporary Postgres and an in-process Kafka
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::Args),
    /// Print the man page, or write a page for each command
    Man(completions::ManArgs),
}

impl Cli {
    /// Runs the command.
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
                Box::pin(init::execute(args)).await
            }
            Command::Doctor(mut args) => {
                args.settings = args.settings.or(file);
                Box::pin(doctor::execute(args)).await
            }
            Command::Status(mut args) => {
                args.settings = args.settings.or(file);
                status::execute(args).await
            }
            Command::Peek(mut args) => {
                args.settings = args.settings.or(file);
                peek::execute(args).await
            }
            Command::Pause(mut args) => {
                args.settings = args.settings.or(file);
                pause::execute_pause(args).await
            }
            Command::Resume(mut args) => {
                args.settings = args.settings.or(file);
                pause::execute_resume(args).await
            }
            Command::Cutover(mut args) => {
                args.settings = args.settings.or(file);
                Box::pin(cutover::execute(args)).await
            }
            Command::Verify(mut args) => {
                args.settings = args.settings.or(file);
                Box::pin(verify::execute(args)).await
            }
            Command::DeadLetter(mut args) => {
                args.settings = args.settings.or(file);
                dead_letter::execute(args).await
            }
            Command::Replay(mut args) => {
                args.settings = args.settings.or(file);
                Box::pin(replay::execute(args)).await
            }
            Command::SkipTransaction(mut args) => {
                args.settings = args.settings.or(file);
                skip_transaction::execute(args).await
            }
            Command::Drop(mut args) => {
                args.settings = args.settings.or(file);
                drop::execute(args).await
            }
            Command::ImportDebezium(args) => debezium::execute_import(args),
            Command::ExportDebezium(mut args) => {
                args.settings = args.settings.or(file);
                debezium::execute_export(args)
            }
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::execute(args).await,
            Command::Completions(args) => completions::execute(args, command_line()),
            Command::Man(args) => completions::execute_man(args, command_line()),
        }
    }
}

/// The command line as it is parsed and shown.
pub(crate) fn command_line() -> clap::Command {
    help::shown(Cli::command())
}
