//! `status`: the slot's position or the poller, and every problem, as the server reports them.
//!
//! The command queries Postgres alone, so it works whether or not outboxd is running. Exit code 0
//! means that the server shows no problem; every other result names one.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;
use outboxd::OpenDeadLetters;
use outboxd::config::{AfterPublish, Config, Settings, Source};
use outboxd::format::bytes;
use outboxd::outbox::DeadLetters;
use outboxd::postgres::slot::{self, Slot};
use outboxd::postgres::table_shape::{self, TableShape};
use outboxd::postgres::{self, Session, advisory_lock, preflight};
use serde::Serialize;

use crate::cli::dead_letter::plain;

/// Unpublished rows are counted up to this number: a count reads each of them.
const COUNT_MAX: i64 = 10_000;

const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// The arguments of `status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Refresh every two seconds, until interrupted
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Serialize)]
struct Status {
    healthy: bool,
    /// The problems, one line each; empty when healthy.
    problems: Vec<String>,
    database: String,
    table: String,
    /// `slot` or `poll`; for the latter everything about slot and WAL is absent.
    source: &'static str,
    publication: Option<String>,
    slot: Option<String>,
    slot_exists: bool,
    /// The server process that reads the slot or holds the poller's lock.
    active_pid: Option<i32>,
    confirmed_lsn: Option<String>,
    restart_lsn: Option<String>,
    lag_bytes: Option<i64>,
    retained_bytes: Option<i64>,
    wal_status: Option<String>,
    safe_wal_size: Option<i64>,
    failover: Option<bool>,
    invalidation_reason: Option<String>,
    /// Absent if rows are not marked as published, or the table cannot be read.
    unpublished_rows: Option<i64>,
    /// Whether there are more than `unpublished_rows`.
    unpublished_more: bool,
    /// Those of them that wait for the decision about their dead letters; absent as above.
    dead_letter_rows: Option<i64>,
    /// The open dead letters; absent if their table cannot be read.
    dead_letters: Option<OpenDeadLetters>,
}

/// Prints the status.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let session =
        postgres::connect(&config.database, "outboxd status", config.operation_timeout).await?;
    loop {
        let status = Status::read(&session, &config).await?;
        status.print(args.json)?;
        if !args.watch {
            return status.verdict();
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

impl Status {
    async fn read(session: &Session, config: &Config) -> anyhow::Result<Status> {
        let mut problems = Vec::new();
        match preflight::check(session, config).await {
            Ok(_) => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => problems.push(error.report()),
        }
        let streams = config.source == Source::Slot;
        let (slot, poller) = if streams {
            // A slot of another database or plugin is among the problems above.
            let slot = slot::read(session, &config.slot).await.ok().flatten();
            problems.extend(slot_problem(&config.slot, slot.as_ref()));
            (slot, None)
        } else {
            let poller = advisory_lock::holder(session, &config.slot).await?;
            let problem = || format!("no process polls {}: is outboxd running?", config.table);
            problems.extend(poller.is_none().then(problem));
            (None, poller)
        };
        let shape = table_shape::read(session, &config.table).await;
        let (unpublished, waiting, dead_letters) = match shape.ok().flatten() {
            Some(shape) => {
                let letters = DeadLetters::new(config, &shape);
                let unpublished = unpublished_rows(session, config, &shape).await;
                let waiting = letters.waiting_rows(session).await;
                let open = letters.open(session).await;
                (
                    unpublished.ok().flatten(),
                    waiting.ok().flatten(),
                    open.ok(),
                )
            }
            None => (None, None, None),
        };
        let lsn = |lsn: Option<outboxd::lsn::Lsn>| lsn.map(|lsn| lsn.to_string());
        Ok(Status {
            healthy: problems.is_empty(),
            problems,
            database: config.database.describe(),
            table: config.table.to_string(),
            source: if streams { "slot" } else { "poll" },
            publication: streams.then(|| config.publication.clone()),
            slot: streams.then(|| config.slot.clone()),
            slot_exists: slot.is_some(),
            active_pid: slot.as_ref().map_or(poller, |slot| slot.active_pid),
            confirmed_lsn: lsn(slot.as_ref().and_then(|slot| slot.confirmed_flush)),
            restart_lsn: lsn(slot.as_ref().and_then(|slot| slot.restart)),
            lag_bytes: slot.as_ref().map(|slot| slot.lag_bytes),
            retained_bytes: slot.as_ref().map(|slot| slot.retained_bytes),
            wal_status: slot.as_ref().and_then(|slot| slot.wal_status.clone()),
            safe_wal_size: slot.as_ref().and_then(|slot| slot.safe_wal_size),
            failover: slot.as_ref().and_then(|slot| slot.failover),
            invalidation_reason: slot.and_then(|slot| slot.invalidation_reason),
            unpublished_rows: unpublished.map(|count| count.min(COUNT_MAX)),
            unpublished_more: unpublished.is_some_and(|count| count > COUNT_MAX),
            dead_letter_rows: waiting,
            dead_letters,
        })
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        let none = || "-".to_owned();
        let rows = match self.unpublished_rows {
            Some(count) if self.unpublished_more => format!("{count}+"),
            Some(count) => count.to_string(),
            None => none(),
        };
        let of_dead_letters = self.dead_letter_rows.map_or_else(none, |it| it.to_string());
        let dead_letters = self.dead_letters.as_ref().map_or_else(none, |it| {
            it.describe().unwrap_or_else(|| "none".to_owned())
        });
        let reader = self.active_pid.map_or_else(none, |pid| pid.to_string());
        let slot = [
            ("publication", self.publication.clone().unwrap_or_else(none)),
            ("slot", self.slot.clone().unwrap_or_else(none)),
            ("read by pid", reader.clone()),
            ("confirmed", self.confirmed_lsn.clone().unwrap_or_else(none)),
            ("lag", self.lag_bytes.map_or_else(none, bytes)),
            ("WAL retained", self.retained_bytes.map_or_else(none, bytes)),
            ("WAL status", self.wal_status.clone().unwrap_or_else(none)),
            (
                "WAL until lost",
                self.safe_wal_size
                    .map_or_else(|| "no limit".to_owned(), bytes),
            ),
        ];
        let source = match self.slot {
            Some(_) => Vec::from(slot),
            None => vec![("polled by pid", reader)],
        };
        let healthy = if self.healthy { "yes" } else { "no" };
        let lines = [
            ("database", self.database.clone()),
            ("table", self.table.clone()),
        ]
        .into_iter()
        .chain(source)
        .chain([
            ("unpublished rows", rows),
            ("of dead letters", of_dead_letters),
            ("dead letters", dead_letters),
            ("healthy", healthy.to_owned()),
        ]);
        for (name, value) in lines {
            writeln!(out, "{name:<17} {value}")?;
        }
        for group in self.dead_letters.iter().flat_map(|it| &it.groups) {
            writeln!(out, "{:<17} {}", "", plain(&group.describe()))?;
        }
        writeln!(out)?;
        Ok(())
    }

    fn verdict(self) -> anyhow::Result<()> {
        if !self.healthy {
            bail!("not healthy: {}", self.problems.join("; "));
        }
        Ok(())
    }
}

fn slot_problem(name: &str, slot: Option<&Slot>) -> Option<String> {
    let Some(slot) = slot else {
        return Some(format!(
            "replication slot {name} does not exist: `outboxd run` creates it"
        ));
    };
    if slot.is_lost() {
        let reason = slot
            .invalidation_reason
            .as_deref()
            .unwrap_or("its WAL was removed");
        return Some(format!("replication slot {name} is lost: {reason}"));
    }
    if slot.active_pid.is_none() {
        return Some(format!(
            "no process reads replication slot {name}: is outboxd running?"
        ));
    }
    let left = slot.safe_wal_size.map_or(0, |left| left.max(0));
    slot.is_near_loss().then(|| {
        format!(
            "replication slot {name} is nearly lost: {} of WAL left until then",
            bytes(left)
        )
    })
}

/// One more than `COUNT_MAX` means that there are more.
async fn unpublished_rows(
    session: &Session,
    config: &Config,
    shape: &TableShape,
) -> outboxd::error::Result<Option<i64>> {
    let unpublished = match (config.after_publish, shape.column("published_at")) {
        (AfterPublish::Keep, _) => return Ok(None),
        (_, Some(_)) => "WHERE published_at IS NULL",
        (_, None) => "",
    };
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM {} {unpublished} LIMIT {COUNT_MAX} + 1) AS counted",
        config.table.quoted()
    );
    Ok(Some(
        session
            .row("counting unpublished rows", &sql, &[])
            .await?
            .get(0),
    ))
}
