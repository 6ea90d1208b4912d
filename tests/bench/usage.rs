//! Usage of processes, read from `/proc`.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of CPU times in `/proc`.
const TICK: Duration = Duration::from_millis(10);
/// The sampling interval: the last sample is at most this old when a process ends.
const SAMPLE: Duration = Duration::from_millis(10);

/// The usage of one process since its start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) peak_bytes: u64,
    pub(crate) resident_bytes: u64,
}

/// The usage of a process; `None` once it has ended.
pub(crate) fn of(pid: u32) -> Option<Usage> {
    let (_, cpu) = name_and_cpu(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |line: &str| line.trim().trim_end_matches(" kB").parse::<u64>().ok();
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        Some(line.and_then(kib)? * 1024)
    };
    Some(Usage {
        cpu,
        peak_bytes: bytes("VmHWM:")?,
        resident_bytes: bytes("VmRSS:")?,
    })
}

/// The CPU time of a Java process' JIT compiler threads.
pub(crate) fn compilers(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let stats = threads.into_iter().flatten().flatten();
    let stats = stats.filter_map(|thread| name_and_cpu(thread.path().join("stat")));
    let compilers = stats.filter(|(name, _)| name.contains("CompilerThre"));
    compilers.map(|(_, cpu)| cpu).sum()
}

/// Name and CPU time of a process or a thread.
fn name_and_cpu(stat: impl AsRef<Path>) -> Option<(String, Duration)> {
    let stat = fs::read_to_string(stat).ok()?;
    // The second field is a name in brackets, which may contain anything.
    let (name, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Some((name.to_owned(), TICK * ticks))
}

/// Samples the usage of a process until the process ends or this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    last: Arc<Mutex<Usage>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts sampling.
    pub(crate) fn begin(pid: u32) -> Watch {
        let last = Arc::new(Mutex::new(Usage::default()));
        let over = Arc::new(AtomicBool::new(false));
        let (kept, stop) = (Arc::clone(&last), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Some(usage) = of(pid) else { return };
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = usage;
                thread::sleep(SAMPLE);
            }
        });
        Watch {
            last,
            over,
            thread: Some(thread),
        }
    }

    /// Stops sampling; returns the last sample.
    pub(crate) fn end(mut self) -> Result<Usage> {
        self.stop();
        let usage = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (usage.peak_bytes > 0)
            .then_some(usage)
            .context("the process ended before the first sample")
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}
