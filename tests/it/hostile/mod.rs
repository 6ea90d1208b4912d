//! Servers that are none, or that are broken: whatever they send, outboxd ends with an error or
//! waits with a name, within bounds of memory, log and time, and gives away no password.

mod kafka;
mod postgres;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::outboxd::{Outboxd, Settings};
use crate::support::process::cpu_ticks;

/// How long each server plays its tricks at least.
const WATCHED: Duration = Duration::from_secs(8);

/// How long it may take until outboxd says what is wrong, on a loaded machine.
const SAID: Duration = Duration::from_secs(60);

/// The most memory of a process meanwhile; without a trick it has some 30 MiB.
const MEMORY_MIB: u64 = 200;

/// The most that it may log meanwhile.
const LOG_BYTES: usize = 64 << 10;

/// A password that no output may contain, nor a piece of it.
const SECRET: &str = "s3cr3t";

/// What became of a process.
struct Watched {
    /// Its exit code, if it has ended.
    exit: Option<i32>,
    log: String,
    /// `/status`, if it still runs.
    status: String,
    memory_mib: u64,
    processor: Duration,
    watched: Duration,
}

/// Starts outboxd with these settings and watches it, until it has said these words.
async fn watch(settings: &Settings, words: &[&str]) -> Result<Watched> {
    let mut outboxd = Outboxd::spawn(settings)?;
    let began = Instant::now();
    let (mut memory_mib, mut processor) = (0, Duration::ZERO);
    while outboxd.exit_code().is_none() {
        let elapsed = began.elapsed();
        if elapsed > SAID || elapsed > WATCHED && says(&outboxd, words).await {
            break;
        }
        if let Some(pid) = outboxd.pid() {
            memory_mib = memory_mib.max(peak_mib(pid).unwrap_or(0));
            processor = processor_time(pid).unwrap_or(processor);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let exit = outboxd.exit_code();
    let status = match exit {
        Some(_) => String::new(),
        None => outboxd.status().await.context("/status")?.to_string(),
    };
    let watched = began.elapsed();
    outboxd.kill()?;
    let log = outboxd.log();
    Ok(Watched {
        exit,
        log,
        status,
        memory_mib,
        processor,
        watched,
    })
}

/// Whether log and `/status` have these words.
async fn says(outboxd: &Outboxd, words: &[&str]) -> bool {
    let status = outboxd.status().await;
    let status = status.map_or_else(|_| String::new(), |status| status.to_string());
    let log = outboxd.log();
    words
        .iter()
        .all(|word| log.contains(word) || status.contains(word))
}

/// The highest resident memory of a process so far.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

/// The processor time of a process so far. A tick of the kernel is 10 ms.
fn processor_time(pid: u32) -> Option<Duration> {
    let ticks = cpu_ticks(pid).ok()?;
    Some(Duration::from_millis(ticks * 10))
}

impl Watched {
    /// It did not work all the time.
    fn rested(&self, case: &str) -> Result<()> {
        let (used, limit) = (self.processor, self.watched / 2);
        ensure!(used < limit, "{case}: {used:?} of processor time");
        Ok(())
    }

    /// It held to its bounds, and says these words: in the log if it has ended, else in the log or
    /// in `/status`.
    fn expect(&self, case: &str, words: &[&str]) -> Result<()> {
        let Watched {
            log,
            status,
            memory_mib,
            ..
        } = self;
        ensure!(!log.contains("panicked"), "{case}: {log}");
        ensure!(self.exit.is_none_or(|code| code < 100), "{case}: {log}");
        ensure!(*memory_mib < MEMORY_MIB, "{case}: {memory_mib} MiB");
        ensure!(log.len() < LOG_BYTES, "{case}: {} bytes: {log}", log.len());
        for text in [log, status] {
            ensure!(!text.contains(SECRET), "{case}: {text}");
        }
        for word in words {
            let is_said = log.contains(word) || status.contains(word);
            ensure!(is_said, "{case}: no {word} in {log}\n{status}");
        }
        Ok(())
    }
}
