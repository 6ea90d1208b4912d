//! `drop`: drops the slot, so that the server keeps no WAL for it, and then the publication. Never
//! the table.
//!
//! The slot is dropped first: a slot without its publication fails at the next change. Only a
//! pgoutput slot of this database is dropped, and only while no process reads it. The rights to
//! drop both are checked before either is dropped.

use std::io::{self, Write};

use anyhow::bail;
use outboxd::config::{Config, Settings};
use outboxd::postgres::{self, publication, slot};

/// The arguments of `drop`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd drop
  outboxd drop --yes")]
pub(crate) struct Args {
    /// Confirm; without it nothing is dropped
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Drops both.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let (name, publication) = (&config.slot, &config.publication);
    let session =
        postgres::connect(&config.database, "outboxd drop", config.operation_timeout).await?;
    let slot = slot::read(&session, name).await?;
    if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid) {
        bail!("replication slot {name} is in use by process {pid}: stop that outboxd first");
    }
    if slot.is_some() {
        slot::check_rights(&session).await?;
    }
    publication::check_owner(&session, publication).await?;
    if !args.yes {
        bail!(
            "nothing is dropped without --yes, which drops replication slot {name} and \
             publication {publication}; a later start publishes the unpublished rows of {}",
            config.table
        );
    }
    let mut out = io::stdout().lock();
    let confirmed = slot.and_then(|slot| slot.confirmed_flush);
    match (slot::drop(&session, name).await?, confirmed) {
        (true, Some(lsn)) => writeln!(
            out,
            "dropped   replication slot {name}, confirmed up to {lsn}"
        )?,
        (true, None) => writeln!(out, "dropped   replication slot {name}")?,
        (false, _) => writeln!(out, "not found replication slot {name}")?,
    }
    match publication::drop(&session, publication).await? {
        true => writeln!(out, "dropped   publication {publication}")?,
        false => writeln!(out, "not found publication {publication}")?,
    }
    Ok(())
}
