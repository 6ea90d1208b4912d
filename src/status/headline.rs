//! The state in one sentence, for the status page and the commands. Pure.

use crate::format::{age, grouped_count, rate, short_time};
use crate::status::pause::cost;
use crate::status::{BacklogUnit, FOREIGN_LOCK, LOCK, Phase, Status, WAIT_SHOWS, Waiting};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Events get through.
    Healthy,
    /// A person should look at it, and no event is late because of it, or not for long.
    Attention,
    /// Events do not get through.
    Bad,
}

/// The state in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headline {
    pub(crate) level: Level,
    pub(crate) text: String,
    /// The reason, or what to do.
    pub(crate) detail: Option<String>,
}

impl Headline {
    fn new(level: Level, text: impl Into<String>, detail: Option<String>) -> Headline {
        Headline {
            level,
            text: text.into(),
            detail,
        }
    }

    /// `unready`: why events do not get through, if they do not.
    pub(crate) fn of(status: &Status, unready: Option<&str>) -> Headline {
        if let Some(headline) = of_phase(status) {
            return headline;
        }
        if let Some(problem) = status.problems.iter().find(|problem| problem.loses_events) {
            let text = format!("Events may be missing: {}", problem.detail);
            return Headline::new(Level::Bad, text, Some(problem.hint.clone()));
        }
        if let Some(pause) = &status.paused {
            let text = format!("Paused {}", pause.describe());
            return Headline::new(Level::Attention, text, cost(status.slot_health.as_ref()));
        }
        let wait = shown_wait(status);
        if status.phase == Phase::Backlog && wait.is_none_or(leaves_the_backlog) {
            return backlog(status, wait);
        }
        if let Some(waiting) = wait {
            let bad = waiting.is_long() || unready.is_some();
            let level = if bad { Level::Bad } else { Level::Attention };
            return Headline::new(
                level,
                of_wait(status, waiting),
                Some(waiting.detail.clone()),
            );
        }
        if let Some(unready) = unready {
            return Headline::new(
                Level::Bad,
                "Events do not get through",
                Some(unready.to_owned()),
            );
        }
        flowing(status)
    }
}

/// The phases in which no event flows.
fn of_phase(status: &Status) -> Option<Headline> {
    let error = || status.last_error.clone();
    Some(match status.phase {
        Phase::Failed => Headline::new(Level::Bad, "outboxd has ended with an error", error()),
        Phase::Stopped => Headline::new(Level::Bad, "outboxd has stopped", None),
        Phase::Stopping => {
            Headline::new(Level::Attention, "outboxd is stopping", Some(status.rest()))
        }
        Phase::Standby => standby(status.waiting.as_ref()),
        Phase::Connecting | Phase::Reconnecting => {
            let seconds = status
                .waiting
                .as_ref()
                .map_or(0.0, |waiting| waiting.seconds);
            let level = match status.waiting.as_ref().is_some_and(Waiting::is_long) {
                true => Level::Bad,
                false => Level::Attention,
            };
            let text = match seconds < WAIT_SHOWS.as_secs_f64() {
                true => "Connecting to Postgres".to_owned(),
                false => format!(
                    "Postgres has not let outboxd in for {}; committed events wait in the table, \
                     nothing is lost",
                    age(seconds)
                ),
            };
            Headline::new(level, text, error())
        }
        Phase::Backlog | Phase::Streaming | Phase::Polling => return None,
    })
}

fn standby(waiting: Option<&Waiting>) -> Headline {
    // A wait of before, such as that for the connection, says nothing about the other instance.
    let waiting = waiting.filter(|waiting| [LOCK, FOREIGN_LOCK].contains(&waiting.on));
    let detail = waiting.map(|waiting| waiting.detail.clone());
    match waiting {
        Some(waiting) if waiting.on == FOREIGN_LOCK => Headline::new(
            Level::Bad,
            "A session that is not outboxd holds the lock: no event is published",
            detail,
        ),
        _ => Headline::new(
            Level::Healthy,
            "Standing by: another instance publishes",
            detail,
        ),
    }
}

fn shown_wait(status: &Status) -> Option<&Waiting> {
    let waiting = status.waiting.as_ref();
    waiting.filter(|waiting| waiting.seconds >= WAIT_SHOWS.as_secs_f64())
}

fn of_wait(status: &Status, waiting: &Waiting) -> String {
    let time = age(waiting.seconds);
    let held = grouped_count(status.in_flight_records, "event");
    match waiting.on {
        "kafka" if status.kafka_has_answered => {
            let are = if status.in_flight_records == 1 {
                "is"
            } else {
                "are"
            };
            format!("Kafka has not answered for {time}; {held} {are} held, nothing is lost")
        }
        "kafka" => format!(
            "No Kafka broker has answered since the start, for {time}; events wait, nothing is lost"
        ),
        "write-back" => format!(
            "Published rows have waited for their marks for {time}; events still reach Kafka"
        ),
        "standby" => {
            format!("A standby has not confirmed the last commits for {time}; events wait for it")
        }
        "decoding" => {
            format!("Postgres has decoded changes of other tables for {time}; events come after")
        }
        "snapshot" => {
            format!("The new slot has waited for open transactions for {time}")
        }
        "postgres" => format!("Postgres has not answered for {time}; events wait in the table"),
        other => format!("outboxd has waited for {other} for {time}"),
    }
}

/// Whether a backlog goes on beside this wait.
fn leaves_the_backlog(waiting: &Waiting) -> bool {
    matches!(waiting.on, "write-back" | "snapshot") && !waiting.is_long()
}

fn backlog(status: &Status, wait: Option<&Waiting>) -> Headline {
    let mut text = format!(
        "Publishing the backlog: {} so far, {} a second",
        grouped_count(status.published_total, "event"),
        rate(status.flow.events_per_second),
    );
    let rows = status.backlog.as_ref();
    if let Some(rows) = rows.filter(|it| it.unit == BacklogUnit::Rows && !it.is_more) {
        text += &format!(", {} left", grouped_count(rows.left, "row"));
    }
    let detail = wait.map(|wait| format!("waiting for {}: {}", wait.on, wait.detail));
    Headline::new(Level::Attention, text, detail)
}

fn flowing(status: &Status) -> Headline {
    let flow = &status.flow;
    let mut text = match (flow.p50_seconds, flow.last_event_seconds) {
        (Some(p50), _) if flow.events_per_second > 0.0 => format!(
            "Healthy: {} events/s, {} behind",
            rate(flow.events_per_second),
            short_time(p50)
        ),
        (None, Some(_)) if flow.events_per_second > 0.0 => {
            format!("Healthy: {} events/s", rate(flow.events_per_second))
        }
        (_, Some(last)) => format!("Healthy: idle, the last event was {} ago", age(last)),
        (_, None) => "Healthy: no event since the start".to_owned(),
    };
    let letters = status.dead_letters.open;
    let warning = status.problems.first();
    if letters > 0 {
        let letters = u64::try_from(letters).unwrap_or(0);
        let plural = if letters == 1 {
            "is a dead letter"
        } else {
            "are dead letters"
        };
        text += &format!("; {} {plural}", grouped_count(letters, "event"));
    }
    match warning {
        Some(problem) => {
            let detail = format!("{}: {} ({})", problem.name, problem.detail, problem.hint);
            Headline::new(Level::Attention, text, Some(detail))
        }
        None if letters > 0 => {
            let detail = "`outboxd dead-letter summary` shows topics and reasons".to_owned();
            Headline::new(Level::Attention, text, Some(detail))
        }
        None => Headline::new(Level::Healthy, text, None),
    }
}

#[cfg(test)]
#[path = "tests/headline.rs"]
mod tests;
