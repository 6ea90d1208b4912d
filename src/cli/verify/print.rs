//! What a comparison has found, as text and as JSON.

use outboxd::format::grouped;
use outboxd::verify::{Finding, Kind, Report};
use serde_json::{Map, Value, json};

use crate::cli::dead_letter::plain;

/// One object: a number for each kind, and the events.
pub(super) fn json(report: &Report) -> Value {
    let mut object = Map::new();
    for kind in Kind::ALL {
        object.insert(kind.as_str().to_owned(), report.count(kind).into());
    }
    for (name, number) in numbers(report) {
        object.insert(name.to_owned(), number.into());
    }
    let unknown = report.unknown_reasons();
    let unknown: Map<String, Value> = unknown
        .map(|(reason, count)| (reason.to_owned(), count.into()))
        .collect();
    object.insert("unknown_reasons".to_owned(), unknown.into());
    object.insert("seconds".to_owned(), json!(report.seconds));
    object.insert("notes".to_owned(), json!(report.notes));
    let events: Vec<Value> = report.findings.iter().map(event).collect();
    object.insert("events".to_owned(), events.into());
    object.into()
}

fn numbers(report: &Report) -> [(&'static str, u64); 9] {
    [
        ("matched", report.matched),
        ("pending", report.pending),
        ("dead_lettered", report.dead_lettered),
        ("replayed", report.replayed),
        ("foreign", report.foreign),
        ("outside", report.outside),
        ("order_unknown", report.order_unknown),
        ("rows", report.rows),
        ("records", report.records),
    ]
}

fn event(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.as_str(),
        "id": finding.id,
        "topic": finding.topic,
        "partition": finding.place.map(|(partition, _)| partition),
        "offset": finding.place.map(|(_, offset)| offset),
        "reason": finding.reason,
    })
}

/// A table of numbers, a line for each event that is wrong, and one for each reason why nothing can
/// be said.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let wrong = Kind::ALL.into_iter().filter(|kind| kind.is_wrong());
    let wrong = wrong.map(|kind| (kind.as_str(), report.count(kind)));
    let unknown = [("unknown", report.count(Kind::Unknown))];
    let always = ["matched", "rows", "records"];
    let others = numbers(report).into_iter();
    let others = others.filter(|(name, number)| always.contains(name) || *number > 0);
    for (name, number) in wrong.chain(unknown).chain(others) {
        let name = name.replace('_', " ");
        text.push_str(&format!("{name:<14} {:>14}\n", grouped(number)));
    }
    let listed = report.findings.iter().filter(|it| it.kind.is_wrong());
    let listed: Vec<_> = listed.map(line).collect();
    let rest = report.wrong().saturating_sub(listed.len() as u64);
    if !listed.is_empty() {
        text.push_str(&format!("\n{}\n", listed.join("\n")));
    }
    if rest > 0 {
        text.push_str(&format!("… and {} more\n", grouped(rest)));
    }
    let mut is_first = true;
    for (reason, count) in report.unknown_reasons() {
        let gap = if std::mem::take(&mut is_first) {
            "\n"
        } else {
            ""
        };
        text.push_str(&format!("{gap}unknown: {}: {reason}\n", grouped(count)));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {}\n", plain(note)));
    }
    text
}

fn line(finding: &Finding) -> String {
    let id = finding.id.as_deref();
    let id = id.map_or_else(
        || "an event".to_owned(),
        |id| format!("event {}", plain(id)),
    );
    let place = finding
        .place
        .map_or_else(String::new, |(partition, offset)| {
            format!(", partition {partition}, offset {offset}")
        });
    format!(
        "{}: {id} in {}{place}: {}",
        finding.kind.as_str().replace('_', " "),
        plain(&finding.topic),
        finding.reason
    )
}
