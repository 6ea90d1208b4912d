//! The file of `--state`: where the last comparison ended.

use std::path::Path;

use anyhow::Context as _;
use outboxd::verify::{OVERLAP, Report};
use serde_json::{Value, json};

/// See the module's head.
pub(super) struct State {
    next_since: i64,
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
        let next_since = parsed.and_then(|parsed| parsed["next_since"].as_i64());
        let next_since = next_since.with_context(|| {
            let path = path.display();
            format!("{path} is no state of `outboxd verify`: remove it to compare everything")
        })?;
        Ok(Some(State { next_since }))
    }

    /// Where the comparison begins that follows on this one.
    pub(super) fn of(report: &Report) -> State {
        State {
            next_since: report.next_since,
        }
    }

    /// The time from which on rows are compared, in microseconds since 1970.
    pub(super) fn since(&self) -> i64 {
        self.next_since.saturating_sub(OVERLAP)
    }

    /// Replaces the file, whole.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let text = format!("{}\n", json!({ "next_since": self.next_since }));
        std::fs::write(&new, text).with_context(|| failed("write", &new))?;
        std::fs::rename(&new, path).with_context(|| failed("write", path))
    }
}

fn failed(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", path.display())
}
