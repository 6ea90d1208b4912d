//! `drop`: removes the slot, so that the server need not keep log for it, and then the publication.
//! Never the table.
//!
//! The slot goes first: one that outlives its publication gets stuck at the next change. Only a
//! slot of this database and of our plugin is touched, and none that somebody reads from.

use std::io::{self, Write};

use anyhow::bail;
use outboxd::config::{Config, Settings};
use outboxd::postgres::{self, publication, slot};

/// The arguments of `drop`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Really do it
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Removes them.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let (name, publication) = (&config.slot, &config.publication);
    let session =
        postgres::connect(&config.database, "outboxd drop", config.operation_timeout).await?;
    let slot = slot::read(&session, name).await?;
    if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid) {
        bail!("replication slot {name} is being read by process {pid}: stop that outboxd first");
    }
    if !args.yes {
        bail!(
            "nothing is dropped without --yes: replication slot {name} and publication \
             {publication} would go, and a later start publishes whatever is unpublished in {}",
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
        (false, _) => writeln!(out, "not there replication slot {name}")?,
    }
    match publication::drop(&session, publication).await? {
        true => writeln!(out, "dropped   publication {publication}")?,
        false => writeln!(out, "not there publication {publication}")?,
    }
    Ok(())
}
