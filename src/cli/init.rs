//! `init`: creates the objects that outboxd needs in the database, or prints the SQL for a person
//! with the rights to run it.
//!
//! Safe to repeat: existing objects are left as they are. `init` creates no slot; `run` does, after
//! the publication. At the end `init` reports what still prevents `run`, which may be a setting
//! that needs a restart of the server.

use std::io::{self, Write};
use std::time::Duration;

use outboxd::config::{AfterPublish, Config, Settings, Source};
use outboxd::outbox::preflight;
use outboxd::postgres::setup::Setup;
use outboxd::postgres::{self, Session, table_shape};

/// Building an index on a large table has no limit of its own; this one only ends the wait for a
/// lost server.
const TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// The arguments of `init`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd init --role outboxd
  outboxd init --print-sql --role outboxd > outboxd.sql
  outboxd init --table shop.events --checks")]
pub(crate) struct Args {
    /// Print the SQL instead of running it; does not connect
    #[arg(long)]
    print_sql: bool,

    /// Also create the role that outboxd connects as, with the least privileges it needs
    #[arg(long, value_name = "NAME")]
    role: Option<String>,

    /// Also add checks to the table that reject events which can never be published
    #[arg(long)]
    checks: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Creates the objects, or prints their SQL.
pub(crate) async fn execute(mut args: Args) -> anyhow::Result<()> {
    if args.print_sql {
        // Printing does not connect, so no database is needed.
        let placeholder = || "postgresql://localhost/postgres".to_owned();
        args.settings.database_url.get_or_insert_with(placeholder);
    }
    let config = Config::without_kafka(args.settings)?;
    let streams = config.source == Source::Slot;
    let setup = Setup {
        table: &config.table,
        publication: streams.then_some(config.publication.as_str()),
        role: args.role.as_deref(),
        delete: config.after_publish == AfterPublish::Delete,
        checks: args.checks,
        existing: None,
    };
    if args.print_sql {
        return print_sql(&setup);
    }
    let session = postgres::connect(&config.database, "outboxd init", TIMEOUT).await?;
    session.restore_search_path().await?;
    create(&session, &setup).await?;
    print_readiness(&session, &config).await
}

fn print_sql(setup: &Setup<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "-- For psql, as the owner of the table, or as a superuser if it creates a role."
    )?;
    writeln!(
        out,
        "-- Not in one transaction: the indexes are built concurrently."
    )?;
    for step in setup.steps(true) {
        writeln!(out, "\n-- {}\n{}", step.purpose, step.sql)?;
    }
    Ok(())
}

async fn create(session: &Session, setup: &Setup<'_>) -> anyhow::Result<()> {
    let existing = table_shape::read(session, setup.table).await?;
    // A partitioned table cannot have an index built concurrently.
    let in_use = existing.as_ref().is_some_and(|table| !table.partitioned);
    let setup = &Setup {
        existing: existing.as_ref(),
        ..setup.clone()
    };
    let before = setup.inventory(session).await?;
    for step in setup.steps(in_use) {
        setup.run(session, &step).await?;
    }
    let after = setup.inventory(session).await?;
    let mut out = io::stdout().lock();
    for ((thing, was_there), (_, is_there)) in before.into_iter().zip(after) {
        let outcome = match (was_there, is_there) {
            (true, _) => "exists",
            (false, true) => "created",
            (false, false) => "missing",
        };
        writeln!(out, "{outcome:<9} {thing}")?;
    }
    Ok(())
}

async fn print_readiness(session: &Session, config: &Config) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match preflight(session, config).await {
        Ok(_) => writeln!(out, "ready     for `outboxd run`")?,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) if error.problems().is_empty() => {
            writeln!(out, "to do     {}", error.report())?;
        }
        Err(error) => {
            for (problem, hint) in error.problems() {
                writeln!(out, "to do     {}: {problem} ({hint})", error.code())?;
            }
        }
    }
    Ok(())
}
