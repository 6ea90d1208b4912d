//! The judgement over both sides: what is wrong, what deserves attention, and what is not known.
//!
//! Not healthy means that events do not get through. A dead letter or a short wait deserves
//! attention and is not unhealthy: one bad row must not take a deployment down. Healthy needs both
//! sides, because the database cannot know whether Kafka takes the events. Where outboxd serves no
//! HTTP the database judges alone, and the report says so.

use std::time::Instant;

use outboxd::format::{age, count};
use serde::Serialize;
use serde_json::Value;

use crate::cli::dead_letter::plain;
use crate::cli::exit::Verdict;
use crate::cli::status::database::DatabaseSide;
use crate::cli::status::finding::Finding;
use crate::cli::status::instance::Instance;

/// Events do not get through.
const NOT_HEALTHY: u8 = 4;
/// A side did not answer, and the other one shows no problem.
const NOT_KNOWN: u8 = 5;

/// Everything that the command shows.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// When both sides were asked, in UTC.
    pub(super) time: String,
    /// Absent if it is not known.
    pub(super) healthy: Option<bool>,
    /// The sides that `healthy` is about.
    pub(super) judged_by: &'static str,
    pub(super) problems: Vec<Finding>,
    pub(super) attention: Vec<Finding>,
    pub(super) unknown: Vec<Finding>,
    #[serde(flatten)]
    pub(super) database: DatabaseSide,
    /// Absent with `OUTBOX_HTTP_LISTEN=off`.
    pub(super) instance: Option<Instance>,
    /// Since the last report; absent in the first.
    pub(super) rates: Option<Rates>,
}

impl Report {
    pub(super) fn new(
        time: String,
        database: DatabaseSide,
        instance: Option<Instance>,
        rates: Option<Rates>,
    ) -> Report {
        let instance = instance.map(|instance| match database.system_id {
            Some(system_id) => instance.of_server(system_id),
            None => instance,
        });
        let mut problems = database.problems.clone();
        problems.extend(instance.as_ref().and_then(not_ready));
        let mut unknown = Vec::from_iter(database.error.clone());
        let silent = instance.as_ref().and_then(|it| it.error.as_deref());
        unknown.extend(silent.map(|error| Finding::new(error, ASKED_ELSEWHERE)));
        let mut attention: Vec<Finding> = instance.iter().flat_map(instance_attention).collect();
        attention.extend(dead_letters(&database, instance.as_ref()));
        let healthy = match (problems.is_empty(), unknown.is_empty()) {
            (false, _) => Some(false),
            (true, true) => Some(true),
            (true, false) => None,
        };
        Report {
            time,
            healthy,
            judged_by: match instance {
                Some(_) => "database and outboxd",
                None => DATABASE_ALONE,
            },
            problems,
            attention,
            unknown,
            database,
            instance,
            rates,
        }
    }

    /// What the exit code is to say.
    pub(super) fn verdict(&self) -> Result<(), Verdict> {
        let (code, heading, findings) = match self.healthy {
            Some(true) => return Ok(()),
            Some(false) => (NOT_HEALTHY, "not healthy", &self.problems),
            None => (NOT_KNOWN, "health not known", &self.unknown),
        };
        let line =
            |finding: &Finding| (format!("{heading}: {}", finding.text), finding.hint.clone());
        Err(Verdict::new(code, findings.iter().map(line).collect()))
    }
}

/// The judge where `OUTBOX_HTTP_LISTEN` is `off`.
pub(super) const DATABASE_ALONE: &str = "database alone";

const ASKED_ELSEWHERE: &str = "start outboxd, or set OUTBOX_HTTP_LISTEN to the address where it \
                               serves its status, or to off to ask the database alone";

fn not_ready(instance: &Instance) -> Option<Finding> {
    let why = instance.not_ready.as_deref()?;
    let text = format!("outboxd at {} is not ready: {why}", instance.address);
    Some(Finding::plain(text))
}

/// What the instance shows and does not count as a reason not to be ready.
fn instance_attention(instance: &Instance) -> Vec<Finding> {
    let is_told = |detail: &str| {
        instance
            .not_ready
            .as_ref()
            .is_some_and(|why| why.contains(detail))
    };
    let mut attention = Vec::from_iter(instance.field("paused").and_then(paused));
    let waiting = instance.field("waiting").and_then(wait_in_words);
    if let Some((waiting, detail)) = waiting.filter(|(_, detail)| !is_told(detail)) {
        let held = instance.number("in_flight_records").unwrap_or(0);
        let held = match held {
            0 => String::new(),
            held => format!("; {} in flight", count(held, "event")),
        };
        attention.push(Finding::plain(format!("{waiting}: {detail}{held}")));
    }
    for problem in instance
        .field("troubles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |name: &str| {
            problem
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if !is_told(text("detail")) {
            let finding = format!("{}: {}", text("name"), text("detail"));
            attention.push(Finding::new(finding, text("remedy")));
        }
    }
    attention
}

/// A pause, by whom and why.
fn paused(pause: &Value) -> Option<Finding> {
    let text = |name: &str| pause.get(name).and_then(Value::as_str);
    let (by, since) = (text("by")?, text("since")?);
    let lasted = age(pause.get("seconds")?.as_f64()?);
    let reason = text("reason").map_or_else(String::new, |reason| format!(": {reason}"));
    let finding = format!("paused by {by} for {lasted}, since {since}{reason}");
    Some(Finding::new(plain(&finding), "`outboxd resume` ends it"))
}

/// A wait other than that for the instance that publishes, and its detail.
fn wait_in_words(waiting: &Value) -> Option<(String, String)> {
    let on = waiting.get("on")?.as_str()?;
    let seconds = waiting.get("seconds")?.as_f64()?;
    let detail = waiting.get("detail")?.as_str()?.to_owned();
    (on != "lock").then(|| (format!("waiting for {on} for {seconds:.0} s"), detail))
}

/// The open dead letters, as the database counts them or, if it cannot be asked, the instance.
fn dead_letters(database: &DatabaseSide, instance: Option<&Instance>) -> Option<Finding> {
    let text = match &database.dead_letters {
        Some(open) => open
            .describe()
            .map(|text| (open.open.unsigned_abs(), text))?,
        None => {
            let open = instance?.field("dead_letters")?.get("open")?.as_u64()?;
            (open, format!("{open} open"))
        }
    };
    let (open, described) = text;
    let hint = "`outboxd dead-letter summary` names topics and reasons";
    (open > 0).then(|| Finding::new(format!("dead letters: {described}"), hint))
}

/// What two reports tell about the time between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Absent unless the same instance answered both times.
    pub(super) events_per_second: Option<f64>,
    pub(super) wal_bytes_per_second: Option<f64>,
}

/// Counters at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    published: Option<u64>,
    wal_bytes: Option<i64>,
}

impl Sample {
    pub(super) fn take(at: Instant, database: &DatabaseSide, instance: Option<&Instance>) -> Self {
        Sample {
            at,
            published: instance.and_then(|it| it.number("published_total")),
            wal_bytes: database.wal_bytes,
        }
    }

    /// The rates since an earlier sample. A counter that fell began again.
    pub(super) fn since(&self, earlier: &Sample) -> Rates {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let rate = |now: Option<f64>, before: Option<f64>| {
            let more = now? - before?;
            (more >= 0.0 && seconds > 0.0).then(|| more / seconds)
        };
        let events = |sample: &Sample| sample.published.map(|count| count as f64);
        let wal = |sample: &Sample| sample.wal_bytes.map(|bytes| bytes as f64);
        Rates {
            events_per_second: rate(events(self), events(earlier)),
            wal_bytes_per_second: rate(wal(self), wal(earlier)),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
