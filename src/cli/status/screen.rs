//! The status as text: a block of lines, which is drawn again in its place on a terminal.

use std::io::{self, IsTerminal, Write};

use outboxd::format::{age, bytes, count, grouped};
use serde_json::Value;

use crate::cli::dead_letter::plain;
use crate::cli::status::instance::Instance;
use crate::cli::status::report::{DATABASE_ALONE, Rates, Report};
use crate::cli::terminal;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// Standard output.
pub(super) struct Screen {
    /// Whether each block takes the place of the last one.
    redraws: bool,
    colours: bool,
    /// The lines of the block that is shown.
    drawn: usize,
}

impl Screen {
    pub(super) fn new(watch: bool) -> Screen {
        Screen {
            redraws: watch && io::stdout().is_terminal(),
            colours: terminal::takes_colours(&io::stdout()),
            drawn: 0,
        }
    }

    /// Shows the report; `heading` stands above it.
    pub(super) fn show(&mut self, report: &Report, heading: Option<String>) -> io::Result<()> {
        let mut rows = Vec::from_iter(heading);
        let lines = lines(report);
        rows.extend(
            lines
                .into_iter()
                .map(|(name, value)| format!("{name:<17} {value}")),
        );
        let mut text = String::new();
        if self.redraws {
            let (columns, height) = terminal::size().unwrap_or((80, 24));
            fit(&mut rows, columns, height);
            if self.drawn > 0 {
                // Back to the first line of the block, and clear to the end.
                text.push_str(&format!("\x1b[{}F\x1b[J", self.drawn));
            }
            self.drawn = rows.len();
        } else {
            rows.push(String::new());
        }
        for row in rows {
            text.push_str(&self.coloured(row, report.healthy));
            text.push('\n');
        }
        io::stdout().lock().write_all(text.as_bytes())
    }

    fn coloured(&self, row: String, healthy: Option<bool>) -> String {
        let colour = match healthy {
            Some(true) => GREEN,
            Some(false) => RED,
            None => YELLOW,
        };
        match self.colours && row.starts_with("healthy ") {
            true => format!("{colour}{row}{RESET}"),
            false => row,
        }
    }
}

/// Cuts the rows so that none wraps and none scrolls away.
fn fit(rows: &mut Vec<String>, columns: usize, height: usize) {
    // The cursor stands on the line below the block.
    let room = height.saturating_sub(1).max(1);
    if rows.len() > room {
        let hidden = rows.len() - room + 1;
        rows.truncate(room - 1);
        rows.push(format!("… {}", count(hidden as u64, "more line")));
    }
    for row in rows {
        if row.chars().count() > columns {
            let cut: String = row.chars().take(columns.saturating_sub(1)).collect();
            *row = format!("{cut}…");
        }
    }
}

type Line = (&'static str, String);

fn lines(report: &Report) -> Vec<Line> {
    let database = &report.database;
    let mut lines = vec![
        ("database", database.database.clone()),
        ("table", database.table.clone()),
    ];
    lines.extend(source_lines(report));
    lines.push(("unpublished rows", unpublished(report)));
    let dead_letters = database.dead_letters.as_ref();
    let open = dead_letters.map_or_else(none, |it| it.describe().unwrap_or("none".to_owned()));
    lines.push(("dead letters", open));
    let groups = dead_letters.iter().flat_map(|it| &it.groups);
    lines.extend(groups.map(|group| ("", plain(&group.describe()))));
    lines.extend(instance_lines(report.instance.as_ref()));
    lines.extend(report.rates.as_ref().map(|rates| ("rate", rate(rates))));
    let findings = [
        ("problem", &report.problems),
        ("attention", &report.attention),
        ("not known", &report.unknown),
    ];
    for (name, findings) in findings {
        lines.extend(findings.iter().map(|it| (name, plain(&it.line()))));
    }
    let healthy = match report.healthy {
        Some(true) if report.judged_by == DATABASE_ALONE => {
            "yes, by the database alone, which does not see whether Kafka takes the events"
        }
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    };
    lines.push(("healthy", healthy.to_owned()));
    lines
}

fn none() -> String {
    "-".to_owned()
}

fn source_lines(report: &Report) -> Vec<Line> {
    let database = &report.database;
    let reader = database.active_pid.map_or_else(none, |pid| pid.to_string());
    let Some(slot) = &database.slot else {
        return vec![("polled by pid", reader)];
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_else(none);
    let until_lost = match (database.safe_wal_size, database.slot_exists) {
        (Some(size), _) => until_lost(size, report.instance.as_ref()),
        (None, Some(true)) => "no limit".to_owned(),
        (None, _) => none(),
    };
    vec![
        ("publication", text(&database.publication)),
        ("slot", slot.clone()),
        ("read by pid", reader),
        ("confirmed", text(&database.confirmed_lsn)),
        ("lag", database.lag_bytes.map_or_else(none, bytes)),
        (
            "WAL retained",
            database.retained_bytes.map_or_else(none, bytes),
        ),
        ("WAL status", text(&database.wal_status)),
        ("WAL until lost", until_lost),
    ]
}

/// How much may be written, and for how long as the running outboxd forecasts it.
fn until_lost(size: i64, instance: Option<&Instance>) -> String {
    let forecast = |it: &Instance| {
        let slot = it.field("slot_health")?;
        slot.get("seconds_until_lost")?.as_f64()
    };
    match instance.and_then(forecast) {
        Some(seconds) => format!("{}, in {} at the present rate", bytes(size), age(seconds)),
        None => bytes(size),
    }
}

/// How many rows, and what they wait for.
fn unpublished(report: &Report) -> String {
    let database = &report.database;
    let Some(rows) = database.unpublished_rows else {
        return none();
    };
    let more = if database.unpublished_more { "+" } else { "" };
    let (waiting, held) = (database.waiting_rows, database.held_rows);
    match (waiting, held, database.dead_rows()) {
        (Some(waiting), Some(held), Some(dead)) if rows > 0 => {
            format!("{rows}{more}: {waiting}{more} waiting, {held} held, {dead} dead")
        }
        _ => format!("{rows}{more}"),
    }
}

fn instance_lines(instance: Option<&Instance>) -> Vec<Line> {
    let Some(instance) = instance else {
        return vec![("outboxd", "not asked: OUTBOX_HTTP_LISTEN is off".to_owned())];
    };
    let Some(phase) = instance.text("phase") else {
        let why = instance.error.clone();
        return vec![("outboxd", plain(&why.unwrap_or_else(none)))];
    };
    let ready = match instance.ready {
        Some(true) => "ready",
        _ => "not ready",
    };
    let number = |name: &str| instance.number(name).unwrap_or(0);
    let seconds = |name: &str| instance.field(name).and_then(Value::as_f64).unwrap_or(0.0);
    let in_flight = format!(
        "{}, {}, the oldest for {:.1} s",
        count(number("in_flight_records"), "record"),
        bytes(number("in_flight_bytes")),
        seconds("oldest_unacknowledged_seconds")
    );
    let published = grouped(number("published_total"));
    let mut lines = vec![
        (
            "outboxd",
            format!("{phase}, {ready}, at {}", instance.address),
        ),
        ("published", format!("{published} since it was started")),
        ("in flight", in_flight),
    ];
    lines.extend(retention(instance).map(|text| ("retention", text)));
    let error = instance.text("last_error");
    lines.extend(error.map(|error| ("last error", plain(error))));
    lines
}

/// What `OUTBOX_RETAIN` has done; `None` where it is off.
fn retention(instance: &Instance) -> Option<String> {
    let field = |name| instance.field("retention")?.get(name);
    let deleted = grouped(field("deleted_rows")?.as_u64()?);
    let oldest = match field("oldest_row_seconds").and_then(Value::as_f64) {
        Some(seconds) => format!("the oldest that is left is {} old", age(seconds)),
        None => "none is left".to_owned(),
    };
    Some(match field("last_pass").and_then(Value::as_f64) {
        Some(_) => format!("{deleted} rows deleted, {oldest}"),
        None => format!("{deleted} rows deleted, in the first pass"),
    })
}

fn rate(rates: &Rates) -> String {
    let events = rates
        .events_per_second
        .map_or_else(none, |rate| format!("{rate:.1}"));
    let wal = rates
        .wal_bytes_per_second
        .map_or_else(none, |rate| bytes(rate as i64));
    format!("{events} events/s, {wal}/s of WAL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str) -> Instance {
        Instance {
            address: String::new(),
            error: None,
            ready: None,
            not_ready: None,
            status: serde_json::from_str(status).ok(),
        }
    }

    #[test]
    fn retention_is_shown_where_it_is_on() {
        let pass = of(r#"{"retention": {"deleted_rows": 25000, "last_pass": 1.0,
                          "oldest_row_seconds": 518400.0}}"#);
        let shown = retention(&pass).unwrap_or_default();
        assert_eq!(
            shown,
            "25\u{202f}000 rows deleted, the oldest that is left is 6 days old"
        );
        let first = of(r#"{"retention": {"deleted_rows": 0, "last_pass": null}}"#);
        let shown = retention(&first).unwrap_or_default();
        assert_eq!(shown, "0 rows deleted, in the first pass");
        assert_eq!(retention(&of(r#"{"retention": null}"#)), None);
        assert_eq!(retention(&of("{}")), None);
    }

    #[test]
    fn the_time_until_the_slot_is_lost_is_that_of_the_running_outboxd() {
        let falls_behind = of(r#"{"slot_health": {"seconds_until_lost": 7200.0}}"#);
        let shown = until_lost(1 << 30, Some(&falls_behind));
        assert_eq!(shown, "1.0 GiB, in 2 h at the present rate");
        let keeps_up = of(r#"{"slot_health": {"seconds_until_lost": null}}"#);
        assert_eq!(until_lost(1 << 30, Some(&keeps_up)), "1.0 GiB");
        assert_eq!(until_lost(1 << 30, None), "1.0 GiB");
    }

    #[test]
    fn a_block_that_is_redrawn_neither_wraps_nor_scrolls() {
        let mut rows: Vec<String> = (0..10).map(|row| "x".repeat(row * 10)).collect();
        fit(&mut rows, 20, 6);
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[4], "… 6 more lines");
        assert_eq!(rows[3], format!("{}…", "x".repeat(19)));
        assert!(rows.iter().all(|row| row.chars().count() <= 20));
    }
}
