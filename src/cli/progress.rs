//! The progress bar of a backlog, where the log is text at a terminal.
//!
//! A thread of its own draws it: a terminal that is stopped must not stop the publisher or its
//! signals. The log's thread takes the bar away while it writes a line.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outboxd::{Phase, Status};

use crate::cli::log::{self, Log};

const INTERVAL: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{bar:30} {msg}";

/// Shows a bar whenever there is a backlog, until the publisher has ended.
pub(crate) fn show(log: &Log, status: Arc<dyn Fn() -> Status + Send + Sync>) {
    if log::is_json() || !io::stderr().is_terminal() {
        return;
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let Ok(style) = ProgressStyle::with_template(TEMPLATE) else {
        return;
    };
    bar.set_style(style);
    bar.finish_and_clear();
    log.share_terminal(bar.clone());
    let draws = move || {
        let mut is_shown = false;
        loop {
            let status = status();
            match &status.backlog {
                Some(backlog) => {
                    if !is_shown {
                        bar.reset();
                    }
                    bar.set_length(backlog.total);
                    bar.set_message(backlog.to_string());
                    bar.set_position(backlog.total.saturating_sub(backlog.left));
                }
                None if is_shown => bar.finish_and_clear(),
                None => {}
            }
            is_shown = status.backlog.is_some();
            if matches!(status.phase, Phase::Stopped | Phase::Failed) {
                return bar.finish_and_clear();
            }
            std::thread::sleep(INTERVAL);
        }
    };
    let thread = std::thread::Builder::new().name("progress".to_owned());
    if let Err(error) = thread.spawn(draws) {
        tracing::debug!(%error, "no progress bar");
    }
}
