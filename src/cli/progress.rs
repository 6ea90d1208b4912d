//! Progress bars, where the log is text at a terminal, and the bar of a backlog.
//!
//! A thread of its own draws a bar: a terminal that is stopped must not stop the publisher or its
//! signals. The log's thread takes the bar away while it writes a line.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outboxd::{Phase, Status};

use crate::cli::log::{self, Log};

/// How often a bar is drawn.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{bar:30} {msg}";
/// Without a length.
const SPINNER: &str = "{spinner} {msg}";

/// A bar of this length, if the length is known; `None` where no terminal shows it.
pub(crate) fn bar(length: Option<u64>) -> Option<ProgressBar> {
    if log::is_json() || !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = length.map_or(SPINNER, |_| TEMPLATE);
    bar.set_style(ProgressStyle::with_template(template).ok()?);
    Some(bar)
}

/// Draws in a thread of its own.
pub(crate) fn draw(draws: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("progress".to_owned());
    if let Err(error) = thread.spawn(draws) {
        tracing::debug!(%error, "no progress bar");
    }
}

/// Shows a bar whenever there is a backlog, until the publisher has ended.
pub(crate) fn show(log: &Log, status: Arc<dyn Fn() -> Status + Send + Sync>) {
    let Some(bar) = bar(Some(0)) else { return };
    bar.finish_and_clear();
    log.share_terminal(bar.clone());
    draw(move || {
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
    });
}
