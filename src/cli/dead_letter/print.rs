//! Dead letters as text for a terminal, and as JSON.

use std::io::{self, Write};

use outboxd::format::count;
use outboxd::outbox::dead_letter::admin::DeadLetterEntry;
use serde_json::Value;

/// The length to which a text in the list is cut.
const CELL_MAX: usize = 40;

/// One JSON object a line.
pub(super) fn print_json(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for entry in entries {
        writeln!(out, "{}", serde_json::to_string(entry)?)?;
    }
    Ok(())
}

/// One line each, in columns.
pub(super) fn print_table(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let heads = [
        "ID", "STATE", "FILED", "TOPIC", "KEY", "ROW", "CODE", "ERROR",
    ];
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(entries.iter().map(cells));
    let widths: [usize; 8] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut out = io::stdout().lock();
    for line in lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn cells(entry: &DeadLetterEntry) -> [String; 8] {
    let none = || "-".to_owned();
    let or_none =
        |text: &Option<String>| text.as_deref().map_or_else(none, |text| cut(&plain(text)));
    [
        entry.id.to_string(),
        entry.state.clone(),
        // To the second, in the server's time zone.
        entry.filed_at.chars().take(19).collect(),
        or_none(&entry.topic),
        entry.key.as_ref().map_or_else(none, |key| cut(&text(key))),
        or_none(&entry.outbox_id),
        cut(&plain(&entry.error_code)),
        plain(&entry.error),
    ]
}

/// Everything about each, with its history.
pub(super) fn print_whole(entries: &[DeadLetterEntry]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for entry in entries {
        let none = || "-".to_owned();
        let or_none = |text: &Option<String>| text.as_deref().map_or_else(none, plain);
        let place = entry.commit_lsn.as_ref().map_or_else(none, |lsn| {
            format!("{lsn}, event {}", entry.event_index.unwrap_or_default())
        });
        let payload = entry
            .payload_bytes
            .map_or_else(none, |bytes| count(bytes.unsigned_abs().into(), "byte"));
        let parks = if entry.parks_key {
            "later events of its key wait for it"
        } else {
            "later events of its key are published"
        };
        let lines = [
            ("id", entry.id.to_string()),
            ("state", entry.state.clone()),
            ("row", or_none(&entry.outbox_id)),
            ("commit", place),
            ("topic", or_none(&entry.topic)),
            ("event type", or_none(&entry.event_type)),
            ("key", entry.key.as_ref().map_or_else(none, text)),
            ("created", or_none(&entry.event_created_at)),
            ("payload", payload),
            ("parks key", parks.to_owned()),
            ("filed", entry.filed_at.clone()),
            ("changed", entry.updated_at.clone()),
            ("attempts", entry.attempts.to_string()),
            ("code", plain(&entry.error_code)),
            ("error", plain(&entry.error)),
        ];
        for (name, value) in lines {
            writeln!(out, "{name:<12} {value}")?;
        }
        for header in entry.headers.as_array().into_iter().flatten() {
            let part = |at: usize| header.get(at).map_or_else(none, text);
            writeln!(out, "{:<12} {}: {}", "header", part(0), part(1))?;
        }
        for event in entry.history.as_array().into_iter().flatten() {
            let part = |name: &str| event.get(name).map_or_else(none, text);
            let attempts = event.get("attempts").and_then(Value::as_u64);
            let attempts = attempts.map_or_else(none, |number| count(number, "attempt"));
            let (at, code, error) = (part("at"), part("error_code"), part("error"));
            writeln!(
                out,
                "{:<12} {at} {code} after {attempts}: {error}",
                "history"
            )?;
        }
        if let Some(payload) = &entry.payload {
            writeln!(out, "\n{}", text(payload))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// Text from events must not contain terminal control characters.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(CELL_MAX - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_filed_commands_a_terminal_or_breaks_the_table() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        let long = "ö".repeat(41);
        assert_eq!(cut(&long).chars().count(), CELL_MAX);
        assert_eq!(cut("short"), "short");
    }
}
