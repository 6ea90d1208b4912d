//! Processes: signals to them, and what the kernel tells of them.

use std::fmt::Display;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};

const FREEZE_LIMIT: Duration = Duration::from_secs(30);

/// Sends a signal by its short name, such as `CONT`.
pub(crate) fn signal(pid: impl Display, name: &str) -> Result<()> {
    let pid = pid.to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status()?;
    ensure!(sent.success(), "kill -s {name} {pid}");
    Ok(())
}

/// SIGSTOP; waits until the process stands still.
pub(crate) fn freeze(pid: impl Display) -> Result<()> {
    signal(&pid, "STOP")?;
    let end = Instant::now() + FREEZE_LIMIT;
    while !stands_still(&pid)? {
        ensure!(Instant::now() < end, "process {pid} does not stand still");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The processor time used so far, in hundredths of a second.
pub(crate) fn cpu_ticks(pid: impl Display) -> Result<u64> {
    let fields = stat(&format!("/proc/{pid}"))?;
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// Whether the kernel reports every thread as stopped. A signal stops them one after another, and
/// the state of the process is that of its first thread alone.
fn stands_still(pid: impl Display) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end before it is stopped.
        let fields = stat(&thread?.path().display().to_string());
        if !fields.is_ok_and(|fields| fields[0] == "T") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The fields of a process's or thread's `stat`, from the state on.
fn stat(folder: &str) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("{folder}/stat"))?;
    // The name before it, in brackets, may contain anything.
    let (_, fields) = stat.rsplit_once(") ").context("a stat line")?;
    Ok(fields.split(' ').map(str::to_owned).collect())
}
