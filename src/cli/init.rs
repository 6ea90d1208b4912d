//! `init`: creates the objects that outboxd needs in the database, or prints the SQL for a person
//! with the rights to run it.
//!
//! Safe to repeat, and safe beside unrelated objects: what is there stays as it is. Each step is
//! made by itself, and one list at the end says of each thing whether it was there, was made, or is
//! left to do, by which statement and by whom. `init` creates no slot; `run` does, after the
//! publication. The list also says what still prevents `run`, which may be a setting that needs a
//! restart of the server.

use std::io::{self, Write};
use std::time::Duration;

use outboxd::config::{Config, Settings};
use outboxd::outbox::readiness;
use outboxd::postgres::lock_wait::LockWait;
use outboxd::postgres::setup::{self, Line, Outcome, PartitionPeriod, Setup, Undone};
use outboxd::postgres::{self, Session};

use crate::cli::exit::{self, Verdict};

/// Building an index on a large table has no limit of its own; this one only ends the wait for a
/// lost server.
const TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// The arguments of `init`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd init --role outboxd
  outboxd init --role outboxd --dry-run
  outboxd init --role outboxd --replication-role stream
  outboxd init --print-sql --role outboxd > outboxd.sql
  outboxd init --table shop.events --checks")]
pub(crate) struct Args {
    /// Print the SQL instead of running it; does not connect
    #[arg(long)]
    print_sql: bool,

    /// List what is there, what is missing and what is left to do; create nothing
    #[arg(long, conflicts_with = "print_sql")]
    dry_run: bool,

    /// Also create the role that outboxd connects as, with the least privileges it needs
    #[arg(long, value_name = "NAME")]
    role: Option<String>,

    /// Also create a role for REPLICATION_URL, so that only this one may replicate
    #[arg(long, value_name = "NAME", requires = "role")]
    replication_role: Option<String>,

    /// Also add checks to the table that reject events which can never be published
    #[arg(long)]
    checks: bool,

    /// If the table is created: partition it by the time of creation
    #[arg(long)]
    partitioned: bool,

    /// The period of a partition: day or hour [default: day]
    #[arg(long, value_name = "PERIOD", requires = "partitioned")]
    partition_by: Option<Period>,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Period {
    Day,
    Hour,
}

impl From<Period> for PartitionPeriod {
    fn from(period: Period) -> Self {
        match period {
            Period::Day => PartitionPeriod::Day,
            Period::Hour => PartitionPeriod::Hour,
        }
    }
}

/// Creates the objects, or prints their SQL.
pub(crate) async fn execute(mut args: Args) -> anyhow::Result<()> {
    if args.print_sql {
        // Printing does not connect, so no database is needed.
        let placeholder = || "postgresql://localhost/postgres".to_owned();
        args.settings.database_url.get_or_insert_with(placeholder);
    }
    let mut config = Config::without_kafka(args.settings)?;
    if let Some(name) = &args.replication_role
        && config.database.replication.is_none()
    {
        let mut replication = config.database.clone();
        replication.pg.user(name);
        config.database.replication = Some(Box::new(replication));
    }
    let setup = Setup {
        config: &config,
        role: args.role.as_deref(),
        replication_role: args.replication_role.as_deref(),
        checks: args.checks,
        partitioned: args
            .partitioned
            .then(|| args.partition_by.unwrap_or(Period::Day).into()),
    };
    if args.print_sql {
        return print_sql(&setup);
    }
    let session = postgres::connect(&config.database, "outboxd init", TIMEOUT).await?;
    session.restore_search_path().await?;
    let mut say = |line: &str| eprintln!("waiting   {line}");
    let limit = config.operation_timeout;
    let mut waits = LockWait::begin(&session, &config.database, limit, &mut say).await?;
    let lines = match args.dry_run {
        true => setup::look(&session, &setup, &mut waits).await?,
        false => setup::create(&session, &setup, &mut waits).await?,
    };
    print(&lines)?;
    if args.dry_run {
        return Ok(());
    }
    print_readiness(&session, &setup, &mut waits, &lines).await?;
    verdict(&lines)
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

fn print(lines: &[Line]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Line { thing, outcome } in lines {
        match outcome {
            Outcome::Exists => writeln!(out, "exists    {thing}")?,
            Outcome::Created => writeln!(out, "created   {thing}")?,
            Outcome::Missing => writeln!(out, "missing   {thing}")?,
            Outcome::Kept(why) => writeln!(out, "kept      {thing}: {why}")?,
            Outcome::ToDo(undone) => {
                let Undone {
                    why, by, statement, ..
                } = undone;
                writeln!(out, "to do     {thing}: {why}")?;
                writeln!(out, "          as {by}: {statement}")?;
            }
        }
    }
    Ok(())
}

/// What prevents `run` beside what is left to do.
async fn print_readiness(
    session: &Session,
    setup: &Setup<'_>,
    waits: &mut LockWait<'_>,
    lines: &[Line],
) -> anyhow::Result<()> {
    let Setup { config, role, .. } = *setup;
    let [table, letters] = [&config.table, &config.table.dead_letter()];
    let is_left = |line: &Line| matches!(line.outcome, Outcome::ToDo(_));
    let needed = [format!("table {table}"), format!("table {letters}")];
    if lines
        .iter()
        .any(|it| is_left(it) && needed.contains(&it.thing))
    {
        return Ok(());
    }
    let read = async || readiness(session, config, role).await;
    let problems = waits.run("checking what `run` needs", read).await?;
    let mut out = io::stdout().lock();
    if problems.is_empty() {
        writeln!(out, "ready     for `outboxd run`")?;
    }
    let said: Vec<&str> = undone(lines).map(|(_, it)| it.statement.as_str()).collect();
    let unsaid = problems
        .iter()
        .filter(|(_, _, hint)| !said.contains(&hint.as_str()));
    for (code, problem, hint) in unsaid {
        writeln!(out, "to do     {code}: {problem} ({hint})")?;
    }
    Ok(())
}

fn undone(lines: &[Line]) -> impl Iterator<Item = (&str, &Undone)> {
    lines.iter().filter_map(|line| match &line.outcome {
        Outcome::ToDo(undone) => Some((line.thing.as_str(), undone)),
        _ => None,
    })
}

/// What is left to do fails the command: a script must not go on as if all were there.
fn verdict(lines: &[Line]) -> anyhow::Result<()> {
    let left: Vec<(&str, &Undone)> = undone(lines).collect();
    let Some((_, first)) = left.first() else {
        return Ok(());
    };
    let things: Vec<&str> = left.iter().map(|(thing, _)| *thing).collect();
    let text = format!("left to do: {}", things.join(", "));
    let may_pass = left.iter().all(|(_, undone)| undone.may_pass);
    let right = left.iter().find_map(|(_, undone)| undone.right.as_ref());
    let hint = match right {
        Some(right) => format!(
            "the role needs {right}; or give what `outboxd init --print-sql` prints to a DBA"
        ),
        None if may_pass => "repeat `outboxd init`: what is there stays".to_owned(),
        None => format!("as {}: {}", first.by, first.statement),
    };
    let code = if may_pass {
        exit::TRANSIENT
    } else {
        exit::USAGE
    };
    Err(Verdict::new(code, vec![(text, Some(hint))]).into())
}
