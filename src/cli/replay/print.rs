//! What `replay` prints.

use std::io::{self, Write};

use outboxd::format::{age, grouped, grouped_count, rate};
use outboxd::outbox::replay::{ReplaySummary, RowAt};
use outboxd::publisher::replay::{FirstRecord, Replayed};

use crate::cli::dead_letter::plain;

/// The most bytes of a value that are printed.
const VALUE_MAX: usize = 400;

/// What would be sent, or will be.
pub(super) fn summary(summary: Option<&ReplaySummary>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let Some(summary) = summary else {
        writeln!(out, "rows      not counted, since that takes too long")?;
        return Ok(());
    };
    let over = if summary.is_cut { "over " } else { "" };
    writeln!(out, "rows      {over}{}", grouped(summary.rows))?;
    for (topic, rows) in &summary.topics {
        let topic = topic.as_deref().unwrap_or("(no topic)");
        writeln!(out, "topic     {}: {}", plain(topic), grouped(*rows))?;
    }
    for (name, row) in [("first", &summary.first), ("last", &summary.last)] {
        if let Some(RowAt { id, created }) = row {
            let created = created.as_ref().map(|it| format!(", created {it}"));
            let created = created.unwrap_or_default();
            writeln!(out, "{name:9} {}{}", plain(id), plain(&created))?;
        }
    }
    Ok(())
}

/// The first records of a dry run.
pub(super) fn records(records: &[FirstRecord]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for FirstRecord { id, record } in records {
        writeln!(out, "\nrow       {}", plain(id))?;
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                writeln!(out, "refused   {}", plain(error))?;
                continue;
            }
        };
        writeln!(out, "topic     {}", plain(record.topic()))?;
        writeln!(out, "key       {}", text(record.key()))?;
        for (name, value) in record.headers() {
            writeln!(out, "header    {}: {}", plain(name), text(value))?;
        }
        writeln!(out, "value     {}", text(record.value()))?;
    }
    writeln!(out, "\nnothing was sent")?;
    Ok(())
}

/// How a replay ended.
pub(super) fn outcome(replayed: &Replayed) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let seconds = replayed.took.as_secs_f64();
    writeln!(out, "sent      {}", grouped_count(replayed.sent, "event"))?;
    if replayed.refused > 0 {
        writeln!(
            out,
            "refused   {}, filed: `outboxd dead-letter list` shows them",
            grouped_count(replayed.refused, "event")
        )?;
    }
    if replayed.unsettled > 0 {
        writeln!(
            out,
            "unsettled {} not acknowledged in time, which may be in Kafka",
            grouped_count(replayed.unsettled, "event")
        )?;
    }
    let per_second = rate(replayed.sent as f64 / seconds.max(0.001));
    writeln!(out, "took      {seconds:.1} s, {per_second} events/s")?;
    Ok(())
}

/// The last replay, which began then, is complete.
pub(super) fn nothing_to_continue(started: &str) -> anyhow::Result<()> {
    let started = plain(started);
    writeln!(
        io::stdout(),
        "nothing to continue: the last replay, which began at {started}, is complete"
    )?;
    Ok(())
}

/// The command that continues.
pub(super) fn continuing(command: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "continue  {command}")?;
    Ok(())
}

/// How far a replay is.
pub(super) fn figures(sent: u64, refused: u64, rows: Option<u64>, seconds: f64) -> String {
    let done = sent + refused;
    let per_second = sent as f64 / seconds.max(0.001);
    let mut text = format!("replayed {}", grouped(sent));
    if let Some(rows) = rows {
        text.push_str(&format!(" of {}", grouped(rows)));
    }
    text.push_str(&format!(", {} events/s", rate(per_second)));
    if refused > 0 {
        text.push_str(&format!(", {} refused", grouped(refused)));
    }
    if let Some(left) = rows.map(|rows| rows.saturating_sub(done))
        && left > 0
        && per_second > 0.0
    {
        text.push_str(&format!(", {} left", age(left as f64 / per_second)));
    }
    text
}

/// Bytes for a terminal, cut at a limit.
fn text(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else {
        return "(null)".to_owned();
    };
    let cut = bytes.get(..VALUE_MAX).unwrap_or(bytes);
    let text = plain(&String::from_utf8_lossy(cut)).to_string();
    match bytes.len() - cut.len() {
        0 => text,
        more => format!("{text}… ({more} bytes more)"),
    }
}
