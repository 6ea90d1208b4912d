//! What processes have used, from `/proc`.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel tells times in hundredths of a second to programs, whatever it counts by itself.
const TICK: Duration = Duration::from_millis(10);
/// A process that ends by itself is seen for the last time at most this long before.
const SAMPLE: Duration = Duration::from_millis(10);

/// What one process has used since it was started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) peak_bytes: u64,
    pub(crate) resident_bytes: u64,
}

/// Reads the usage of a process; `None` when it is gone.
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

/// The CPU time that the threads of a Java process have spent on making machine code.
pub(crate) fn compilers(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let stats = threads.into_iter().flatten().flatten();
    let stats = stats.filter_map(|thread| name_and_cpu(thread.path().join("stat")));
    let compilers = stats.filter(|(name, _)| name.contains("CompilerThre"));
    compilers.map(|(_, cpu)| cpu).sum()
}

/// Of a process or a thread.
fn name_and_cpu(stat: impl AsRef<Path>) -> Option<(String, Duration)> {
    let stat = fs::read_to_string(stat).ok()?;
    // The second field is a name in brackets, which may hold anything.
    let (name, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Some((name.to_owned(), TICK * ticks))
}

/// Watches a process until it ends or nobody asks any more.
#[derive(Debug)]
pub(crate) struct Watch {
    last: Arc<Mutex<Usage>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    pub(crate) fn begin(pid: u32) -> Watch {
        let last = Arc::new(Mutex::new(Usage::default()));
        let over = Arc::new(AtomicBool::new(false));
        let (kept, told) = (Arc::clone(&last), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
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

    /// What it had used when it was seen last.
    pub(crate) fn end(mut self) -> Result<Usage> {
        self.stop();
        let usage = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (usage.peak_bytes > 0)
            .then_some(usage)
            .context("a process was gone before it was seen")
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
