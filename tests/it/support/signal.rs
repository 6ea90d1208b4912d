//! Signals to processes; a freeze is over when the process stands still.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

const FREEZE_LIMIT: Duration = Duration::from_secs(30);

/// Sends a signal such as `CONT` to a server process.
pub(crate) fn signal(pid: i32, name: &str) -> Result<()> {
    let sent = std::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()?;
    ensure!(sent.success(), "kill -s {name} {pid}");
    Ok(())
}

/// SIGSTOP to a server process; waits until it stands still.
pub(crate) fn freeze(pid: u32) -> Result<()> {
    signal(pid.cast_signed(), "STOP")?;
    let end = Instant::now() + FREEZE_LIMIT;
    while !stands_still(pid)? {
        ensure!(Instant::now() < end, "process {pid} does not stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the kernel reports every thread as stopped. A signal stops them one after another, and
/// the state of the process is that of its first thread alone.
fn stands_still(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        // The name before it, in brackets, may contain anything.
        let (_, state) = stat.rsplit_once(") ").context("a stat line")?;
        if !state.starts_with('T') {
            return Ok(false);
        }
    }
    Ok(true)
}
