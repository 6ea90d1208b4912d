//! `drop`: drops the slot, so that the server keeps no WAL for it, and then the publication. Never
//! the table.
//!
//! The slot is dropped first: a slot without its publication fails at the next change. Only a
//! pgoutput slot of this database is dropped, and only while no process reads it. A publication
//! that other tables are in stays. The rights to drop both are checked before either is dropped.

use std::io::{self, Write};

use anyhow::bail;
use outboxd::config::{Config, Settings};
use outboxd::error::Error;
use outboxd::postgres::lock_wait::LockWait;
use outboxd::postgres::slot::Slot;
use outboxd::postgres::{self, Session, publication, slot};

use crate::cli::exit::{USAGE, Verdict};

/// The arguments of `drop`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd drop
  outboxd drop --dry-run
  outboxd drop --yes")]
pub(crate) struct Args {
    /// Confirm; without it nothing is dropped
    #[arg(long)]
    yes: bool,

    /// List what would be dropped, and what is in the way; drop nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What is there, and what is in the way.
struct Found {
    slot: Option<Slot>,
    publication: bool,
    /// What the publication has beside the outbox.
    others: Vec<String>,
    obstacles: Vec<Error>,
}

/// Drops both.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let (name, publication) = (&config.slot, &config.publication);
    let limit = config.operation_timeout;
    let session = postgres::connect_for_slots(&config.database, "outboxd drop", limit).await?;
    let mut say = |line: &str| eprintln!("waiting   {line}");
    let mut waits = LockWait::begin(&session, &config.database, limit, &mut say).await?;
    if args.yes {
        waits.take_turn().await?;
    }
    let read = async || find(&session, &config).await;
    let found = waits.run("reading what there is to drop", read).await?;
    if args.dry_run {
        return Ok(list(&config, &found)?);
    }
    if let Some(pid) = found.slot.as_ref().and_then(|slot| slot.active_pid) {
        bail!("replication slot {name} is in use by process {pid}: stop that outboxd first");
    }
    if !found.obstacles.is_empty() {
        let line = |it: &Error| {
            let text = format!("{}: {}", it.code(), it.message());
            (text, it.hint().map(str::to_owned))
        };
        let lines = found.obstacles.iter().map(line).collect();
        return Err(Verdict::new(USAGE, lines).into());
    }
    if !args.yes {
        bail!(
            "nothing is dropped without --yes, which drops replication slot {name} and \
             publication {publication}; a later start publishes the unpublished rows of {}",
            config.table
        );
    }
    let drop = async || slot::drop(&session, name).await;
    let dropped = waits.run("dropping the replication slot", drop).await?;
    let mut out = io::stdout().lock();
    let confirmed = found.slot.and_then(|slot| slot.confirmed_flush);
    match (dropped, confirmed) {
        (true, Some(lsn)) => writeln!(
            out,
            "dropped   replication slot {name}, confirmed up to {lsn}"
        )?,
        (true, None) => writeln!(out, "dropped   replication slot {name}")?,
        (false, _) => writeln!(out, "not found replication slot {name}")?,
    }
    if !found.others.is_empty() {
        return Ok(writeln!(out, "{}", kept(publication, &found.others))?);
    }
    let drop = async || publication::drop(&session, publication).await;
    match waits.run("dropping the publication", drop).await? {
        true => writeln!(out, "dropped   publication {publication}")?,
        false => writeln!(out, "not found publication {publication}")?,
    }
    Ok(())
}

async fn find(session: &Session, config: &Config) -> outboxd::error::Result<Found> {
    let publication = &config.publication;
    let slot = slot::read(session, &config.slot).await?;
    let others = publication::others(session, publication, &config.table).await?;
    let mut obstacles = Vec::new();
    if slot.is_some() {
        obstacles.extend(slot::check_rights(session).await.err());
    }
    if others.is_empty() {
        obstacles.extend(publication::check_owner(session, publication).await.err());
    }
    if let Some(at) = obstacles.iter().position(Error::is_transient) {
        return Err(obstacles.swap_remove(at));
    }
    Ok(Found {
        slot,
        publication: publication::exists(session, publication).await?,
        others,
        obstacles,
    })
}

fn kept(publication: &str, others: &[String]) -> String {
    format!(
        "kept      publication {publication}, which also has {}",
        others.join(", ")
    )
}

fn list(config: &Config, found: &Found) -> io::Result<()> {
    let (slot, publication) = (&config.slot, &config.publication);
    let mut out = io::stdout().lock();
    match &found.slot {
        Some(Slot {
            active_pid: Some(pid),
            ..
        }) => writeln!(
            out,
            "to do     replication slot {slot} is in use by process {pid}: stop that outboxd"
        )?,
        Some(_) => writeln!(out, "to drop   replication slot {slot}")?,
        None => writeln!(out, "not found replication slot {slot}")?,
    }
    match found.publication {
        true if !found.others.is_empty() => writeln!(out, "{}", kept(publication, &found.others))?,
        true => writeln!(out, "to drop   publication {publication}")?,
        false => writeln!(out, "not found publication {publication}")?,
    }
    for obstacle in &found.obstacles {
        writeln!(out, "to do     {}", obstacle.report())?;
    }
    Ok(())
}
