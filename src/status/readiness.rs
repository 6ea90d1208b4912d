//! Whether the publisher is alive, and whether events get through. Pure: a status in, a verdict
//! out.
//!
//! Alive means that the loop turns: a wait never ends a publisher, because a restart would only
//! begin the wait again. Ready means that events get through, or that another instance publishes
//! them. Only a wait that lasts makes a publisher unready, and the wait for that other instance
//! never does.

use crate::status::{LOCK, Phase, Status, Waiting};

/// A loop that has not turned for this long is stuck.
const LOOP_AGE_MAX_SECONDS: f64 = 30.0;

/// `Err` says why the publisher is not alive.
pub(crate) fn liveness(status: &Status) -> Result<(), String> {
    if status.loop_age_seconds < LOOP_AGE_MAX_SECONDS {
        return Ok(());
    }
    Err(format!(
        "the publisher's loop has not turned for {:.0} s",
        status.loop_age_seconds
    ))
}

/// `Err` says why events do not get through.
pub(crate) fn readiness(status: &Status) -> Result<(), String> {
    liveness(status)?;
    match status.phase {
        // A standby is ready, however long it waits for the instance that publishes.
        Phase::Standby => return long_wait(status),
        Phase::Streaming | Phase::Polling => {}
        Phase::Connecting | Phase::Reconnecting => return Err(unready("not connected", status)),
        // Paused on a person's request.
        Phase::Backlog if status.paused.is_some() => {}
        Phase::Backlog => return Err(unready("publishing the backlog", status)),
        Phase::Stopping => return Err(unready("stopping", status)),
        Phase::Stopped => return Err(unready("stopped", status)),
        Phase::Failed => return Err(unready("failed", status)),
    }
    let mut losing = status.problems.iter().filter(|one| one.loses_events);
    if let Some(problem) = losing.next() {
        let (name, hint) = (problem.name, &problem.hint);
        return Err(format!("{name}: {} ({hint})", problem.detail));
    }
    if !status.kafka_has_answered {
        return Err(unready("no Kafka broker has answered yet", status));
    }
    long_wait(status)
}

fn long_wait(status: &Status) -> Result<(), String> {
    let matters = |waiting: &&Waiting| waiting.on != LOCK && waiting.is_long();
    match status.waiting.as_ref().filter(matters) {
        Some(waiting) => Err(format!(
            "waiting for {} for {:.0} s: {}",
            waiting.on, waiting.seconds, waiting.detail
        )),
        None => Ok(()),
    }
}

fn unready(what: &str, status: &Status) -> String {
    let mut why = what.to_owned();
    if let Some(waiting) = &status.waiting {
        why.push_str(&format!("; waiting for {}: {}", waiting.on, waiting.detail));
    }
    if let Some(error) = &status.last_error {
        why.push_str(&format!("; last error: {error}"));
    }
    why
}
