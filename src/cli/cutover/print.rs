//! What `cutover` prints: the plan, the fence, the proof, and the first record.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboxd::config::Config;
use outboxd::cutover::{Fence, Proof, SessionSeen, Use};
use outboxd::{Phase, Status};

use crate::cli::cutover::steps::Plan;
use crate::cli::dead_letter::plain;

/// How often the status is read until the first record.
const LOOK: Duration = Duration::from_millis(5);
/// Nothing may be there to publish.
const FIRST_RECORD_LIMIT: Duration = Duration::from_secs(600);

/// Each role that can read the table, and what becomes of it.
fn readers(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    for reader in &plan.catalog.readers {
        let role = plain(&reader.role);
        let what = match reader {
            _ if reader.is_superuser => "a superuser: cannot be fenced".to_owned(),
            _ if reader.role == plan.own_role => "used by outboxd".to_owned(),
            _ if plan.fence.roles.contains(&reader.role) => "will be fenced".to_owned(),
            _ if reader.through.is_empty() => "reads by PUBLIC or pg_read_all_data".to_owned(),
            _ => format!(
                "reads by the right of {}",
                plain(&reader.through.join(", "))
            ),
        };
        writeln!(out, "reader    {role}: {what}")?;
    }
    Ok(())
}

/// Prints what would be done.
pub(super) fn plan(
    plan: &Plan,
    config: &Config,
    pollers: &[SessionSeen],
    record: &Path,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let catalog = &plan.catalog;
    writeln!(
        out,
        "table     {}, owned by {}",
        config.table,
        plain(&catalog.owner)
    )?;
    match &plan.unpublished {
        Some(count) if count.is_cut => {
            writeln!(out, "rows      more than {} unpublished", count.rows)?
        }
        Some(count) => writeln!(out, "rows      {} unpublished", count.rows)?,
        None => writeln!(out, "rows      not counted")?,
    }
    readers(&mut out, plan)?;
    for seen in pollers {
        let does = match seen.last {
            Use::Search => "searches",
            _ => "marks",
        };
        let (role, application) = (plain(&seen.role), plain(&seen.application));
        writeln!(
            out,
            "session   {} of {role} ({application}) {does}",
            seen.pid
        )?;
    }
    if pollers.is_empty() {
        writeln!(out, "session   none was seen that searches the table")?;
    }
    for reader in catalog.beside(&plan.fence, &plan.own_role) {
        writeln!(
            out,
            "warning   {} will still read the table",
            plain(&reader.role)
        )?;
    }
    if let Some(slot) = &plan.slot {
        writeln!(
            out,
            "would drop replication slot {}, of an earlier run",
            plain(&slot.name)
        )?;
    }
    for statement in plan.fence.statements() {
        writeln!(out, "would run {};", plain(&statement))?;
    }
    for statement in plan.fence.undo() {
        writeln!(out, "undo runs {};", plain(&statement))?;
    }
    writeln!(out, "record    {}", record.display())
}

/// Prints the statements for a DBA.
pub(super) fn sql(fence: &Fence, config: &Config) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "-- Keeps the poller from searching {}.", config.table)?;
    writeln!(out, "BEGIN;\nSET LOCAL lock_timeout = '2s';")?;
    for statement in fence.statements() {
        writeln!(out, "{statement};")?;
    }
    writeln!(out, "COMMIT;\n-- The way back, while no outboxd runs:")?;
    for statement in fence.undo() {
        writeln!(out, "--   {statement};")?;
    }
    Ok(())
}

/// The slot of an earlier run was dropped.
pub(super) fn dropped(config: &Config) -> io::Result<()> {
    writeln!(io::stdout(), "dropped   replication slot {}", config.slot)
}

/// The fence stands.
pub(super) fn fenced(fence: &Fence) -> io::Result<()> {
    let roles = plain(&fence.roles.join(", "));
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "fenced    {roles}; waiting for the end of the poller's batch"
    )
}

/// Prints what `--undo` would do.
pub(super) fn undo(fence: &Fence) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for statement in fence.undo() {
        writeln!(out, "would run {};", plain(&statement))?;
    }
    Ok(())
}

/// The rights are restored.
pub(super) fn restored(fence: &Fence) -> io::Result<()> {
    let roles = plain(&fence.roles.join(", "));
    writeln!(io::stdout(), "restored  the rights of {roles}")
}

/// Why the poller has no batch in hand.
pub(super) fn proof(proof: &Proof) -> io::Result<()> {
    let pids = |pids: &[i32]| {
        pids.iter()
            .map(i32::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut out = io::stdout().lock();
    match proof {
        Proof::NothingUnpublished => writeln!(out, "proof     no row was unpublished"),
        Proof::BatchMarked(rows) => {
            writeln!(out, "proof     the {rows} rows of a batch are marked")
        }
        Proof::SearchDenied { denied, ended } => {
            if !denied.is_empty() {
                let denied = pids(denied);
                writeln!(
                    out,
                    "proof     the search of server process {denied} was denied"
                )?;
            }
            if !ended.is_empty() {
                writeln!(out, "proof     server process {} has ended", pids(ended))?;
            }
            Ok(())
        }
    }
}

/// Logs the time from the proof to outboxd's first record, once there is one.
pub(super) fn first_record(status: Arc<dyn Fn() -> Status + Send + Sync>, proven: Instant) {
    tokio::spawn(async move {
        while proven.elapsed() < FIRST_RECORD_LIMIT {
            let now = status();
            if now.published_total > 0 {
                let gap_ms = proven.elapsed().as_millis() as u64;
                tracing::info!(gap_ms, "outboxd publishes: first record behind the proof");
                return;
            }
            if matches!(now.phase, Phase::Stopped | Phase::Failed) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
}
