//! The progress bar of a comparison, on standard error at a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use outboxd::format::grouped;
use outboxd::verify::{Progress, Steps};

use crate::cli::progress;

/// A bar that is shown until it is stopped.
pub(super) struct Bar(Option<(ProgressBar, Arc<AtomicBool>)>);

/// Shows the bar, where there is a terminal.
pub(super) fn show(progress: &Progress) -> Bar {
    let Some(bar) = progress::bar(Some(0)) else {
        return Bar(None);
    };
    let (stopped, progress) = (Arc::new(AtomicBool::new(false)), progress.clone());
    let (drawn, flag) = (bar.clone(), Arc::clone(&stopped));
    progress::draw(move || {
        while !flag.load(Ordering::Relaxed) {
            draw(&drawn, progress.steps());
            std::thread::sleep(progress::INTERVAL);
        }
    });
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
