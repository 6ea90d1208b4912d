//! The sections of the page.

use std::fmt::Write;
use std::time::Duration;

use crate::format::{age, bytes, grouped, rate, short_time};
use crate::http::page::chart::{Chart, Line};
use crate::http::page::text::{escape, in_code};
use crate::publisher::{OpenDeadLetters, Phase, SlotHealth, Status, TopicFlow};
use crate::status::{LOCK, Sample, WAIT_SHOWS};

/// The most groups of dead letters on the page.
const GROUPS_SHOWN: usize = 8;

/// Of each section its id, its title and its inside, in their order.
pub(super) fn all(status: &Status) -> Vec<(&'static str, &'static str, String)> {
    let mut parts = vec![("instance", "This instance", instance(status))];
    parts.push(("flow", "The last minutes", charts(status)));
    parts.push(("topics", "Topics", topics(&status.flow.topics)));
    parts.push((
        "letters",
        "Dead letters",
        dead_letters(&status.dead_letters),
    ));
    parts.push(("problems", "Problems", problems(status)));
    if status.slot.is_some() {
        parts.push((
            "wal",
            "WAL kept for the slot",
            wal(status.slot_health.as_ref()),
        ));
    }
    parts.push(("counters", "Counters", counters(status)));
    parts
}

fn charts(status: &Status) -> String {
    let now = Duration::from_secs_f64(status.instance.uptime_seconds.max(0.0));
    let points = |value: fn(&Sample) -> Option<f64>| {
        let samples = status.history.samples();
        let points = samples.filter_map(|sample| Some((sample.at, value(sample)?)));
        points.collect::<Vec<_>>()
    };
    let line = |name, value| Line {
        name,
        points: points(value),
    };
    let mut charts = vec![
        Chart {
            title: "Events per second",
            lines: vec![line("", |sample| Some(sample.events_per_second))],
            shown: rate,
        },
        Chart {
            title: "Commit to Kafka",
            lines: vec![
                line("p50", |sample| sample.p50_seconds),
                line("p99", |sample| sample.p99_seconds),
            ],
            shown: short_time,
        },
    ];
    if status.slot.is_some() {
        charts.push(Chart {
            title: "Slot lag",
            lines: vec![line("", |sample| {
                sample.lag_bytes.map(|lag| lag.max(0) as f64)
            })],
            shown: |value| bytes(value as i64),
        });
    }
    let figures: String = charts.iter().map(|chart| chart.render(now)).collect();
    format!("<div class=\"charts\">\n{figures}</div>")
}

fn topics(topics: &[TopicFlow]) -> String {
    if topics.is_empty() {
        return none("No event since the start.");
    }
    let rows = topics.iter().map(|topic| {
        let total = grouped(topic.published_total);
        [escape(&topic.topic), rate(topic.events_per_second), total]
    });
    table(
        &[
            ("topic", ""),
            ("events/s", "number"),
            ("since the start", "number"),
        ],
        rows,
    )
}

/// All of them, the largest groups, and the commands to type.
fn dead_letters(letters: &OpenDeadLetters) -> String {
    let Some(all) = letters.describe() else {
        return none("None is open.");
    };
    let groups = letters.groups.iter().take(GROUPS_SHOWN);
    let rows = groups.map(|group| {
        let topic = group.topic.as_deref().unwrap_or("?");
        let count = u64::try_from(group.count).unwrap_or(0);
        [
            escape(topic),
            escape(&group.code),
            escape(&group.state),
            grouped(count),
            age(group.oldest_seconds),
        ]
    });
    let columns = [
        ("topic", ""),
        ("reason", ""),
        ("state", ""),
        ("events", "number"),
        ("oldest", "number"),
    ];
    format!(
        "<p>{}. To see them: {}. After the fix: {}.</p>\n{}",
        escape(&all),
        in_code("`outboxd dead-letter list`"),
        in_code("`outboxd dead-letter retry --all`"),
        table(&columns, rows)
    )
}

fn problems(status: &Status) -> String {
    let mut html = String::new();
    for problem in &status.problems {
        let _ = writeln!(
            html,
            "<p><b>{}</b>: {}. To do: {}</p>",
            escape(problem.name),
            in_code(&problem.detail),
            in_code(&problem.hint)
        );
    }
    let wait = status.waiting.as_ref();
    let wait = wait.filter(|wait| wait.on != LOCK && wait.seconds >= WAIT_SHOWS.as_secs_f64());
    let wait = wait.map(|wait| (format!("waiting for {}", wait.on), wait));
    if let Some((name, wait)) = &wait {
        let (time, detail) = (age(wait.seconds), in_code(&wait.detail));
        let _ = writeln!(html, "<p><b>{}</b> for {time}: {detail}</p>", escape(name));
    }
    if html.is_empty() {
        html += &none("None now.");
    }
    let is_present = |name: &String| wait.as_ref().is_some_and(|(present, _)| name == present);
    let recent = status.recent_problems.iter();
    let recent: Vec<_> = recent.filter(|recent| !is_present(&recent.name)).collect();
    let rows = recent.into_iter().map(|recent| {
        let hint = recent.hint.as_ref();
        let hint = hint.map_or_else(String::new, |hint| format!(". To do: {}", in_code(hint)));
        [
            format!("{} ago", age(recent.seconds)),
            escape(&recent.name),
            format!("{}{hint}", in_code(&recent.detail)),
        ]
    });
    if rows.len() > 0 {
        html += "<p>The last ones:</p>\n";
        html += &table(&[("when", "number"), ("what", ""), ("detail", "")], rows);
    }
    html
}

fn wal(slot: Option<&SlotHealth>) -> String {
    let Some(slot) = slot else {
        return none("The server has not been asked yet.");
    };
    let kept = slot.retained_bytes.max(0);
    let state = escape(slot.wal_status.as_deref().unwrap_or("unknown"));
    let when = slot.seconds_until_lost.map(age);
    let when = when.map_or_else(String::new, |it| format!(", in {it} at the present rate"));
    let (meter, limit) = match slot.safe_wal_size {
        Some(left) => {
            let left = left.max(0);
            let all = kept.saturating_add(left).max(1);
            let high = all - all / 4;
            let meter = format!(
                "<meter min=\"0\" max=\"{all}\" low=\"{}\" high=\"{high}\" optimum=\"0\" \
                 value=\"{kept}\" aria-label=\"WAL kept, of what the slot may keep\"></meter>",
                all / 2
            );
            (
                meter,
                format!("{} more until the slot is lost{when}", bytes(left)),
            )
        }
        None => {
            let limit = "no limit is set (max_slot_wal_keep_size): the disk is the limit";
            (String::new(), limit.to_owned())
        }
    };
    format!(
        "<div class=\"wal\">{meter}<p><b>{}</b> kept for the slot; {limit}. State: {state}, {}.</p>\
         </div>",
        bytes(kept),
        if slot.active {
            "a session reads it"
        } else {
            "no session reads it"
        },
    )
}

fn instance(status: &Status) -> String {
    let instance = &status.instance;
    let mut facts = vec![
        ("role", role(status.phase).to_owned()),
        ("database", instance.database.clone()),
        ("table", status.table.clone()),
    ];
    facts.extend(status.slot.clone().map(|slot| ("slot", slot)));
    let publication = status.publication.clone();
    facts.extend(publication.map(|publication| ("publication", publication)));
    facts.push((
        "host",
        format!("{}, process {}", instance.host, instance.pid),
    ));
    facts.push(("version", instance.version.to_owned()));
    facts.push(("running for", age(instance.uptime_seconds)));
    if let Some(system_id) = &status.system_id {
        let timeline = status.timeline.unwrap_or_default();
        facts.push(("server", format!("system {system_id}, timeline {timeline}")));
    }
    list(facts)
}

fn role(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Standby => "stands by",
        Phase::Backlog => "publishes the backlog",
        Phase::Streaming => "publishes from the slot",
        Phase::Polling => "publishes by polling",
        Phase::Reconnecting => "connecting again",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Failed => "ended by an error",
    }
}

fn counters(status: &Status) -> String {
    let records = grouped(status.in_flight_records);
    let in_flight = format!("{records} records, {}", bytes(status.in_flight_bytes));
    let oldest = match status.in_flight_records {
        0 => "–".to_owned(),
        _ => short_time(status.oldest_unacknowledged_seconds),
    };
    let unpublished = match (status.unpublished_rows, status.unpublished_more) {
        (Some(rows), false) => grouped(rows),
        (Some(rows), true) => format!("more than {}", grouped(rows)),
        (None, _) => "–".to_owned(),
    };
    let mut facts = vec![
        ("published since the start", grouped(status.published_total)),
        ("in flight to Kafka", in_flight),
        ("oldest unacknowledged record", oldest),
        (
            "published, not yet written back",
            grouped(status.unmarked_records),
        ),
        ("unpublished rows in the table", unpublished),
        ("sessions lost", grouped(status.reconnects)),
    ];
    if status.slot.is_some() {
        let up_to = |lsn: &Option<String>| lsn.clone().unwrap_or_else(|| "–".to_owned());
        let (open, total) = (status.missed_events, status.missed_events_total);
        let missed = format!("{} ({} not published yet)", grouped(total), grouped(open));
        facts.push(("received up to", up_to(&status.received_lsn)));
        facts.push(("confirmed up to", up_to(&status.confirmed_lsn)));
        facts.push(("events that the slot missed", missed));
    }
    list(facts)
}

fn list(facts: Vec<(&'static str, String)>) -> String {
    let facts = facts.into_iter();
    let items = facts.map(|(name, value)| {
        let value = escape(&value);
        format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")
    });
    format!("<dl>\n{}</dl>", items.collect::<String>())
}

/// Columns with their classes; the cells are HTML. Wide tables scroll by themselves.
fn table<const N: usize>(
    columns: &[(&str, &str); N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (name, class) in columns {
        let _ = write!(html, "<th scope=\"col\" class=\"{class}\">{name}</th>");
    }
    html += "</tr></thead>\n<tbody>";
    for row in rows {
        html += "<tr>";
        for ((_, class), cell) in columns.iter().zip(row) {
            let _ = write!(html, "<td class=\"{class}\">{cell}</td>");
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>"
}

fn none(text: &str) -> String {
    format!("<p class=\"none\">{text}</p>\n")
}
