//! `cutover`: takes the table from a poller while the services go on writing, and publishes.
//!
//! Shows first what it would do, and changes nothing without a confirmation. From the fence to the
//! proof that the poller has no batch in hand, every way out restores the rights: the time limit,
//! an error, a signal. After the proof the fence stays until `--undo`, also when publishing ends.
//!
//! In both directions the slot of an earlier run is dropped: it would deliver again what the poller
//! has published since. What is unpublished is known from the table, with a slot or without one.
//!
//! Rights are changed over a session of the table's owner or a superuser, which is outboxd's own
//! login unless `ADMIN_DATABASE_URL` gives another. Rows are read by outboxd's role, because a
//! fenced owner may not read them.

mod print;
mod steps;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use outboxd::config::{Config, Settings, time};
use outboxd::cutover::Record;

use crate::cli::cutover::steps::{Parties, Plan};
use crate::cli::exit::{USAGE, Verdict};
use crate::cli::log;
use crate::cli::process::Signals;
use crate::cli::run::Prepared;

/// The arguments of `cutover`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 when done; 2 when the table cannot be taken from the poller in this way; 3 when the
poller has not ended its batch in time, and the rights are restored

Examples:
  outboxd cutover
  outboxd cutover --yes --role app
  outboxd cutover --yes --no-run
  outboxd cutover --undo --yes
  outboxd cutover --print-sql")]
pub(crate) struct Args {
    /// Confirm; without it nothing is changed, except after a confirmation at the terminal
    #[arg(long)]
    yes: bool,

    /// Give the table back to the poller: restore the rights, while no outboxd runs
    #[arg(long, conflicts_with_all = ["no_run", "role", "print_sql"])]
    undo: bool,

    /// Fence the poller, wait for the end of its batch, and do not publish
    #[arg(long)]
    no_run: bool,

    /// Print the statements for a DBA instead of running them
    #[arg(long)]
    print_sql: bool,

    /// The role to fence; may be repeated. Without it: each role that has a right to read the
    /// table, but for superusers and outboxd's own
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,

    /// The most rows that the pollers together have in hand
    #[arg(long, value_name = "ROWS", default_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    poller_batch: u32,

    /// How long to look which sessions search the table before the fence: longer than the poller's
    /// interval
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = observation)]
    observe: Duration,

    /// How long to wait for the end of the poller's batch
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = patience)]
    wait: Duration,

    /// File that keeps the rights that are taken, until they are restored
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Connection of the table's owner or a superuser, which changes the rights
    #[arg(
        long,
        env = "ADMIN_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    admin_url: Option<String>,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

fn observation(text: &str) -> Result<Duration, String> {
    time(text, Duration::ZERO..=Duration::from_secs(600))
}

fn patience(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_secs(1)..=Duration::from_secs(3_600))
}

/// Takes the table, or gives it back.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    log::asked_for(args.settings.log_format.as_deref());
    let admin = admin(&args)?;
    let runs = !args.undo && !args.no_run && !args.print_sql;
    let settings = args.settings.clone();
    let config = match runs {
        true => Config::from_settings(settings)?,
        false => Config::without_kafka(settings)?,
    };
    let parties = Parties::connect(&config, admin.as_ref()).await?;
    let record = args.record.clone().unwrap_or_else(|| {
        Record::default_path(config.database.database_name(), &config.table.to_string())
    });
    if args.undo {
        return undo(&args, &config, &parties, &record).await;
    }
    let plan = Plan::make(&parties, &config, &args.role).await?;
    if args.print_sql {
        return Ok(print::sql(&plan.fence, &config)?);
    }
    let pollers = parties.observe(&config, &plan, args.observe).await?;
    print::plan(&plan, &config, &pollers, &record)?;
    let obstacles = plan.obstacles(&config, &pollers);
    if !obstacles.is_empty() {
        return Err(Verdict::new(USAGE, obstacles).into());
    }
    confirm(args.yes, "fences these roles")?;
    let mut prepared = match runs {
        true => Some(Prepared::new(config.clone()).await?),
        false => None,
    };
    // From here on a signal ends the process with the rights restored.
    let mut own = None;
    let signals = match &mut prepared {
        Some(prepared) => &mut prepared.signals,
        None => own.insert(Signals::new()?),
    };
    if parties.drop_slot(&config).await? {
        print::dropped(&config)?;
    }
    let fencing = parties.fence(&config, &plan, &pollers, args.poller_batch as usize);
    let (fenced, rows) = fencing.with_record(&record).await?;
    print::fenced(&plan.fence)?;
    let proof = tokio::select! {
        proof = fencing.proof(fenced, &rows, args.wait) => proof,
        signal = signals.next() => {
            Err(anyhow::anyhow!("signal {signal} while the poller's batch was awaited"))
        }
    };
    let proof = match proof {
        Ok(proof) => proof,
        Err(error) => {
            parties.restore(&plan.fence, &record).await?;
            print::restored(&plan.fence)?;
            return Err(error);
        }
    };
    let proven = Instant::now();
    print::proof(&proof)?;
    drop(parties);
    let Some(prepared) = prepared else {
        return Ok(writeln!(io::stdout(), "ready     start `outboxd run`")?);
    };
    print::first_record(prepared.status_handle(), proven);
    prepared.publish().await
}

/// The settings of the login that changes rights, if it is another one.
fn admin(args: &Args) -> anyhow::Result<Option<Config>> {
    let Some(url) = &args.admin_url else {
        return Ok(None);
    };
    let settings = Settings {
        database_url: Some(url.clone()),
        database_password_file: None,
        database_password_command: None,
        replication_url: None,
        replication_password_file: None,
        replication_password_command: None,
        ..args.settings.clone()
    };
    Ok(Some(Config::without_kafka(settings)?))
}

async fn undo(
    args: &Args,
    config: &Config,
    parties: &Parties,
    path: &std::path::Path,
) -> anyhow::Result<()> {
    let Some(record) = Record::read(path)? else {
        let line = format!("there is no file {}, so no fence is known", path.display());
        let hint = "name the file that `outboxd cutover` has written with --record";
        return Err(Verdict::new(USAGE, vec![(line, Some(hint.to_owned()))]).into());
    };
    parties.check_record(&record, config).await?;
    print::undo(&record.fence)?;
    parties.check_no_outboxd(config).await?;
    confirm(args.yes, "drops the slot and restores these rights")?;
    if parties.drop_slot(config).await? {
        print::dropped(config)?;
    }
    parties.restore(&record.fence, path).await?;
    Ok(print::restored(&record.fence)?)
}

/// Asks at a terminal, unless it is confirmed already.
fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        write!(io::stdout(), "Type yes to go on: ")?;
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() == "yes" {
            return Ok(());
        }
    }
    bail!("nothing is changed without --yes, which {what}")
}
