//! `init`: makes what the database needs, or prints the SQL for somebody who may.
//!
//! Safe to repeat: what is there is left as it is. No slot is made here; `run` makes it, after the
//! publication. At the end it says what is still in the way of `run`, which may be a setting that
//! only a restart of the server changes.

use std::io::{self, Write};
use std::time::Duration;

use outboxd::config::{AfterPublish, Config, Settings, Source};
use outboxd::postgres::setup::Setup;
use outboxd::postgres::{self, Session, preflight, table_shape};

/// Building an index on a large table takes as long as it takes; this only keeps a lost server from
/// holding us for ever.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

/// The arguments of `init`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the SQL instead of running it; connects to nothing
    #[arg(long)]
    print_sql: bool,

    /// Also make the role that outboxd will connect as, with the least rights it needs
    #[arg(long, value_name = "NAME")]
    role: Option<String>,

    /// Also let the table refuse events that can never be published
    #[arg(long)]
    checks: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Makes it, or prints it.
pub(crate) async fn execute(mut args: Args) -> anyhow::Result<()> {
    if args.print_sql {
        // Nothing is connected to, so a database need not be named.
        let nowhere = || "postgresql://localhost/postgres".to_owned();
        args.settings.database_url.get_or_insert_with(nowhere);
    }
    let config = Config::without_kafka(args.settings)?;
    let streams = config.source == Source::Slot;
    let setup = Setup {
        table: &config.table,
        publication: streams.then_some(config.publication.as_str()),
        role: args.role.as_deref(),
        delete: config.after_publish == AfterPublish::Delete,
        checks: args.checks,
    };
    if args.print_sql {
        return print_sql(&setup);
    }
    let session = postgres::connect(&config.database, "outboxd init", PATIENCE).await?;
    make(&session, &setup).await?;
    still_to_do(&session, &config).await
}

fn print_sql(setup: &Setup<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "-- For psql, as the owner of the table, or as a superuser where a role is made."
    )?;
    writeln!(
        out,
        "-- Not in one transaction: the indexes are built while writers go on."
    )?;
    for step in setup.steps(true) {
        writeln!(out, "\n-- {}\n{}", step.purpose, step.sql)?;
    }
    Ok(())
}

async fn make(session: &Session, setup: &Setup<'_>) -> anyhow::Result<()> {
    let existing = table_shape::read(session, setup.table).await?;
    // A partitioned table takes no index that is built concurrently.
    let in_use = existing.is_some_and(|table| !table.partitioned);
    let before = setup.inventory(session).await?;
    for step in setup.steps(in_use) {
        session
            .run(&format!("making {}", step.purpose), &step.sql)
            .await?;
    }
    let after = setup.inventory(session).await?;
    let mut out = io::stdout().lock();
    for ((thing, was_there), (_, is_there)) in before.into_iter().zip(after) {
        let what_became = match (was_there, is_there) {
            (true, _) => "was there",
            (false, true) => "made",
            (false, false) => "missing",
        };
        writeln!(out, "{what_became:<9} {thing}")?;
    }
    Ok(())
}

async fn still_to_do(session: &Session, config: &Config) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match preflight::check(session, config).await {
        Ok(_) => writeln!(out, "ready     for `outboxd run`")?,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => writeln!(out, "to do     {}", error.report())?,
    }
    Ok(())
}
