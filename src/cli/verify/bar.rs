//! The progress bar of a comparison, on standard error at a terminal.
//!
//! A thread of its own draws it, so that a terminal that is stopped holds nothing up.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outboxd::format::grouped;
use outboxd::verify::{Progress, Steps};

use crate::cli::log;

const INTERVAL: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{bar:30} {msg}";

/// A bar that is shown until it is stopped.
pub(super) struct Bar(Option<(ProgressBar, Arc<AtomicBool>)>);

/// Shows the bar, where there is a terminal.
pub(super) fn show(progress: &Progress) -> Bar {
    if log::is_json() || !io::stderr().is_terminal() {
        return Bar(None);
    }
    let Ok(style) = ProgressStyle::with_template(TEMPLATE) else {
        return Bar(None);
    };
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style);
    let (stopped, progress) = (Arc::new(AtomicBool::new(false)), progress.clone());
    let (drawn, flag) = (bar.clone(), Arc::clone(&stopped));
    let draws = move || {
        while !flag.load(Ordering::Relaxed) {
            draw(&drawn, progress.steps());
            std::thread::sleep(INTERVAL);
        }
    };
    let thread = std::thread::Builder::new().name("progress".to_owned());
    if let Err(error) = thread.spawn(draws) {
        tracing::debug!(%error, "no progress bar");
    }
    Bar(Some((bar, stopped)))
}

impl Bar {
    /// Takes the bar away.
    pub(super) fn stop(self) {
        if let Some((bar, stopped)) = self.0 {
            stopped.store(true, Ordering::Relaxed);
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, steps: Steps) {
    let (compared, parts) = steps.compared;
    if parts > 0 {
        bar.set_length(parts);
        bar.set_position(compared);
        bar.set_message("comparing");
        return;
    }
    let ((rows, all_rows), (records, all_records)) = (steps.rows, steps.records);
    bar.set_length((all_rows + all_records).max(rows + records));
    bar.set_position(rows + records);
    bar.set_message(format!(
        "read {} rows and {} records",
        grouped(rows),
        grouped(records)
    ));
}
