//! The status page: one table, no script, refreshed by the browser. Every text from outside is
//! escaped.

use std::fmt::Write;

use crate::format::{bytes, grouped};
use crate::publisher::{OpenDeadLetters, Status};

/// The most groups of dead letters on the page.
const GROUPS_SHOWN: usize = 5;

const STYLE: &str = "
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; }
.phase { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; }
.phase { color: #fff; background: #b45309; }
.ready { background: #15803d; }
.why { margin: .8rem 0; padding: .6rem .9rem; overflow-wrap: anywhere; }
.why { border-left: 4px solid #b45309; }
table { width: 100%; border-collapse: collapse; margin-top: 1rem; }
th, td { text-align: left; vertical-align: top; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid #8884; }
th { font-weight: normal; opacity: .75; width: 45%; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
footer { margin-top: 1.2rem; opacity: .75; }
";

/// The whole page; `unready` is the reason why events do not get through, if they do not.
pub(crate) fn render(status: &Status, unready: Option<&str>) -> String {
    let mut rows = String::new();
    for (name, value) in rows_of(status) {
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>",
            escape(&value)
        );
    }
    let phase = format!("{:?}", status.phase).to_lowercase();
    let class = match (unready, status.dead_letters.open) {
        (None, 0) => "phase ready",
        _ => "phase",
    };
    let why = unready
        .map(|why| format!("<p class=\"why\">{}</p>\n", escape(why)))
        .unwrap_or_default();
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta http-equiv=\"refresh\" content=\"2\">
<title>outboxd: {phase}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>outboxd</h1>
<p><span class=\"{class}\">{phase}</span> {table} → Kafka</p>
{why}<table>
{rows}</table>
<footer>outboxd {version} · <a href=\"/status\">status</a> · <a href=\"/metrics\">metrics</a> ·
<a href=\"/livez\">livez</a> · <a href=\"/readyz\">readyz</a></footer>
</body>
</html>
",
        table = escape(&status.table),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn rows_of(status: &Status) -> Vec<(&'static str, String)> {
    let absent = || "–".to_owned();
    let mut rows = vec![
        (
            "events published since the start",
            grouped(status.published_total),
        ),
        (
            "in flight to Kafka",
            format!(
                "{} records, {}",
                grouped(status.in_flight_records),
                bytes(status.in_flight_bytes)
            ),
        ),
        (
            "oldest unacknowledged record",
            match status.in_flight_records {
                0 => absent(),
                _ => format!("{:.1} s", status.oldest_unacknowledged_seconds),
            },
        ),
        (
            "published, not yet written back",
            grouped(status.unmarked_records),
        ),
    ];
    if let Some(waiting) = &status.waiting {
        let wait = format!(
            "{} for {:.0} s: {}",
            waiting.on, waiting.seconds, waiting.detail
        );
        rows.push(("waiting for", wait));
    }
    rows.extend(dead_letter_rows(&status.dead_letters));
    for problem in &status.problems {
        let (name, hint) = (problem.name, &problem.hint);
        rows.push(("problem", format!("{name}: {} ({hint})", problem.detail)));
    }
    rows.extend(slot_rows(status));
    rows.push(("reconnects", grouped(status.reconnects)));
    rows.push((
        "last error",
        status
            .last_error
            .clone()
            .unwrap_or_else(|| "none".to_owned()),
    ));
    rows
}

/// The rows about dead letters: one for all, and one for each of the largest groups.
fn dead_letter_rows(dead_letters: &OpenDeadLetters) -> Vec<(&'static str, String)> {
    let Some(all) = dead_letters.describe() else {
        return vec![("dead letters", "none".to_owned())];
    };
    let command = "outboxd dead-letter summary";
    let mut rows = vec![("dead letters", format!("{all}: `{command}`"))];
    let groups = dead_letters.groups.iter().take(GROUPS_SHOWN);
    rows.extend(groups.map(|group| ("", group.describe())));
    rows
}

/// The rows about slot and publication.
fn slot_rows(status: &Status) -> Vec<(&'static str, String)> {
    let absent = || "–".to_owned();
    let mut rows = Vec::new();
    if let Some(slot) = &status.slot {
        rows.push(("slot", slot.clone()));
    }
    if let Some(slot) = &status.slot_health {
        let unsigned = |value: i64| bytes(value.max(0));
        rows.push(("slot lag", unsigned(slot.lag_bytes)));
        rows.push(("WAL retained", unsigned(slot.retained_bytes)));
        rows.push((
            "WAL until the slot is lost",
            slot.safe_wal_size.map_or("no limit".to_owned(), unsigned),
        ));
        let state = slot.wal_status.clone().unwrap_or_else(absent);
        let active = if slot.active { "active" } else { "not active" };
        rows.push(("slot state", format!("{state}, {active}")));
    }
    if let Some(publication) = &status.publication {
        rows.push(("publication", publication.clone()));
        let up_to = |lsn: &Option<String>| lsn.clone().unwrap_or_else(absent);
        rows.push(("received up to", up_to(&status.received_lsn)));
        rows.push(("confirmed up to", up_to(&status.confirmed_lsn)));
    }
    if status.slot.is_some() {
        let (open, total) = (status.missed_events, status.missed_events_total);
        let missed = format!("{} ({} not published yet)", grouped(total), grouped(open));
        rows.push(("events that the slot missed", missed));
    }
    rows
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
