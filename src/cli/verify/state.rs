//! The file of `--state`: where the last comparison ended.

use std::path::Path;

use anyhow::Context as _;
use outboxd::verify::{Moment, Report};
use serde_json::{Value, json};

/// See the module's head.
pub(super) struct State {
    /// In microseconds since 1970.
    since: i64,
}

impl State {
    /// What the last comparison has left; `None` before the first.
    pub(super) fn read(path: &Path) -> anyhow::Result<Option<State>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(failed("read", path)),
        };
        let parsed: Option<Value> = serde_json::from_str(&text).ok();
        let since = parsed.and_then(|parsed| parsed["since"].as_i64());
        let since = since.with_context(|| {
            let path = path.display();
            format!("{path} is no state of `outboxd verify`: remove it to compare everything")
        })?;
        Ok(Some(State { since }))
    }

    /// Where the comparison begins that follows on this one; `None` if nothing tells.
    pub(super) fn of(report: &Report) -> Option<State> {
        match report.follow() {
            Moment::At(since) => Some(State { since }),
            _ => None,
        }
    }

    /// The time from which on rows are compared.
    pub(super) fn since(&self) -> Moment {
        Moment::At(self.since)
    }

    /// Replaces the file, whole.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let text = format!("{}\n", json!({ "since": self.since }));
        std::fs::write(&new, text).with_context(|| failed("write", &new))?;
        std::fs::rename(&new, path).with_context(|| failed("write", path))
    }
}

fn failed(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", path.display())
}
