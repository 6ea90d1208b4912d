//! The log, on standard error.
//!
//! A thread of its own writes it, from a queue with a limit. When nothing reads standard error, a
//! write waits without end; the publisher and its signals must not wait with it. Lines that find
//! the queue full, or cannot be written, are dropped and counted, and a line says so once the log
//! can be written again.
//!
//! No line holds a row's values, at any level, and no value makes a line of its own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use outboxd::Metrics;
use outboxd::config::LogFormat;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::terminal;

/// The most lines that wait to be written.
const LINES_MAX: usize = 8_192;
/// The most bytes of them.
const BYTES_MAX: usize = 4 << 20;
/// How long the end of the program waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The running log. Dropping it writes what is left, for a second at most.
pub(crate) struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Starts the log.
    pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<Log> {
        let filter: Targets = filter.parse().context("cannot parse OUTBOX_LOG")?;
        let queue = Arc::new(Queue::default());
        let written = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || written.write_to(&mut io::stderr()))
            .context("cannot start the log's thread")?;
        // With internal errors enabled, tracing panics once standard error has been closed.
        let lines = fmt::layer()
            .log_internal_errors(false)
            .with_writer(Lines(Arc::clone(&queue)))
            .with_ansi(terminal::takes_colours(&io::stderr()));
        let log = tracing_subscriber::registry()
            .with(filter)
            .with(filter_fn(holds_no_row));
        let result = match format {
            LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
            _ => log.with(lines).try_init(),
        };
        result.context("cannot start the log")?;
        Ok(Log { queue })
    }

    /// Counts the dropped lines in these metrics.
    pub(crate) fn count_in(&self, metrics: Arc<Metrics>) {
        metrics.log_lines_dropped(self.queue.lock().dropped);
        let _only_once = self.queue.metrics.set(metrics);
    }

    /// Takes this bar away while a line is written.
    pub(crate) fn share_terminal(&self, bar: ProgressBar) {
        let _only_once = self.queue.bar.set(bar);
    }

    /// Waits until everything is written, for this time at most.
    pub(crate) fn flush(&self, limit: Duration) {
        self.queue.wait_until_written(limit);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush(FLUSH_LIMIT);
    }
}

/// False for lines that may hold a row's values, whatever the filter says: tokio-postgres writes
/// the parameters of statements.
fn holds_no_row(line: &Metadata<'_>) -> bool {
    !line.target().starts_with("tokio_postgres") || *line.level() <= Level::WARN
}

/// Lines on their way to standard error.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    metrics: OnceLock<Arc<Metrics>>,
    bar: OnceLock<ProgressBar>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line was taken and is not written yet.
    is_writing: bool,
    /// Lines dropped since the start.
    dropped: u64,
    /// Those that a line has told.
    told: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits: a line that finds no room is dropped.
    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let is_full = state.lines.len() >= LINES_MAX || state.bytes + line.len() > BYTES_MAX;
        if is_full {
            drop(state);
            return self.count_dropped();
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    fn count_dropped(&self) {
        self.lock().dropped += 1;
        if let Some(metrics) = self.metrics.get() {
            metrics.log_lines_dropped(1);
        }
    }

    /// Waits for the next line to write.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            let waiting = self.changed.wait(state);
            state = waiting.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many lines were dropped that no line has told yet; the caller tells it.
    fn untold(&self) -> u64 {
        let mut state = self.lock();
        let dropped = state.dropped;
        dropped - std::mem::replace(&mut state.told, dropped)
    }

    fn write_to(&self, output: &mut impl Write) {
        loop {
            let line = self.next();
            let mut write = || output.write_all(&line);
            let written = match self.bar.get() {
                Some(bar) => bar.suspend(write),
                None => write(),
            };
            match written {
                Ok(()) => {
                    let lines = self.untold();
                    if lines > 0 {
                        tracing::warn!(lines, "log lines were dropped: nothing took them");
                    }
                }
                Err(_closed_or_full) => self.count_dropped(),
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    fn wait_until_written(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.is_writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waiting = self.changed.wait_timeout(state, left);
            state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Gives each event of the log a writer.
struct Lines(Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Takes a whole line at a time, as tracing writes it.
struct Line<'a>(&'a Queue);

/// The line on one line: what a server or a person has named may hold line ends, with which a value
/// would pass for a line of the log. tracing escapes the other control characters.
fn on_one_line(line: &[u8]) -> Cow<'_, [u8]> {
    let (body, end) = match line.split_last() {
        Some((b'\n', body)) => (body, b"\n".as_slice()),
        _ => (line, b"".as_slice()),
    };
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !body.iter().any(is_end) {
        return Cow::Borrowed(line);
    }
    let escaped = body.iter().flat_map(|byte| match byte {
        b'\n' => b"\\n".to_vec(),
        b'\r' => b"\\r".to_vec(),
        other => vec![*other],
    });
    Cow::Owned(escaped.chain(end.iter().copied()).collect())
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(&on_one_line(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the log is asked for in JSON. A command may fail before its log has started, and after
/// it has ended.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// The format that a setting asks for. One that is not valid is reported elsewhere.
pub(crate) fn asked_for(format: Option<&str>) {
    if let Some(format) = format {
        IS_JSON.store(format == "json", Ordering::Relaxed);
    }
}

/// Whether all lines are objects in JSON.
pub(crate) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// The present time, as in the log's lines.
pub(crate) fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut fmt::format::Writer::new(&mut text));
    text
}

/// Writes a text to standard error, for a second at most.
pub(crate) fn print(text: String) {
    let (written, done) = std::sync::mpsc::channel();
    let write = move || {
        // If even standard error is closed, only the exit code remains.
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = written.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _written_or_late = done.recv_timeout(FLUSH_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts_and_each_count_is_logged_once() {
        let queue = Queue::default();
        for _ in 0..LINES_MAX + 5 {
            queue.push(b"line\n");
        }
        queue.push(&vec![b'x'; BYTES_MAX]);
        assert_eq!(queue.lock().lines.len(), LINES_MAX);
        assert_eq!(queue.next(), b"line\n");
        assert_eq!(queue.untold(), 6);
        assert_eq!(queue.untold(), 0);
        queue.push(b"next\n");
        assert_eq!(queue.lock().dropped, 6);
    }

    #[test]
    fn a_value_with_line_ends_stays_on_its_line() {
        for (given, written) in [
            ("INFO one gid=\"a b\"\n", "INFO one gid=\"a b\"\n"),
            (
                "WARN x gid=a\n2026 ERROR forged\r\n",
                "WARN x gid=a\\n2026 ERROR forged\\r\n",
            ),
            ("no end\nof it", "no end\\nof it"),
        ] {
            assert_eq!(on_one_line(given.as_bytes()), written.as_bytes());
        }
    }

    #[test]
    fn a_flush_ends_in_time_though_nothing_is_written() {
        let queue = Queue::default();
        queue.wait_until_written(FLUSH_LIMIT);
        queue.push(b"line\n");
        let began = Instant::now();
        queue.wait_until_written(Duration::from_millis(20));
        assert!(began.elapsed() < FLUSH_LIMIT);
    }
}
