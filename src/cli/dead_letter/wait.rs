//! `retry --wait`: waits for what the publisher makes of the requests, and tells it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use outboxd::config::{Config, time};
use outboxd::format::count;
use outboxd::outbox::dead_letter::admin::Affected;
use outboxd::outbox::dead_letter::outcome::{RetryOutcome, outcome as read};
use outboxd::postgres::Session;

use crate::cli::dead_letter::plain;
use crate::cli::exit::Verdict;

/// The publisher reads requests each second.
const INTERVAL: Duration = Duration::from_millis(250);

/// Refused again: it needs a person.
const REFUSED: u8 = 1;
/// Not carried out yet: it may be later.
const WAITING: u8 = 3;

/// Parses the longest wait.
pub(super) fn limit(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_secs(1)..=Duration::from_secs(3_600))
}

/// Waits until the publisher has carried out every request, for `limit` at most, and tells how many
/// were published. Others are an error.
pub(super) async fn outcome(
    session: &Session,
    config: &Config,
    affected: &Affected,
    limit: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let outcome = loop {
        let outcome = read(session, &config.table, &affected.ids).await?;
        if outcome.waiting == 0 || Instant::now() >= deadline {
            break outcome;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    let mut out = io::stdout().lock();
    for line in told(&outcome) {
        writeln!(out, "{line}")?;
    }
    let unnamed = affected.dead_letters - affected.ids.len() as u64;
    if unnamed > 0 {
        writeln!(out, "{} more are not waited for", unnamed)?;
    }
    match verdict(&outcome, limit) {
        Some(verdict) => Err(verdict.into()),
        None => Ok(()),
    }
}

/// A line for each result that needs nothing more.
fn told(outcome: &RetryOutcome) -> Vec<String> {
    let RetryOutcome {
        published,
        not_marked,
        others,
        ..
    } = outcome;
    let lines = [
        (*published, "published"),
        (
            *not_marked,
            "published, and the table refuses to mark the row",
        ),
        (*others, "discarded, parked or deleted meanwhile"),
    ];
    let lines = lines.into_iter().filter(|(number, _)| *number > 0);
    lines
        .map(|(number, what)| format!("{number} {what}"))
        .collect()
}

/// What is refused again and what still waits.
fn verdict(outcome: &RetryOutcome, limit: Duration) -> Option<Verdict> {
    let refused = outcome.refused.iter().map(|(reason, number)| {
        let text = format!(
            "{} refused again: {} ({})",
            count(*number, "dead letter"),
            plain(&reason.message),
            plain(&reason.code)
        );
        (
            text,
            Some("`outboxd dead-letter show --state dead` shows each".to_owned()),
        )
    });
    let mut lines: Vec<_> = refused.collect();
    let code = if lines.is_empty() { WAITING } else { REFUSED };
    if outcome.waiting > 0 {
        let letters = count(outcome.waiting, "dead letter");
        let text = format!("{letters} still waiting for the publisher after {limit:?}");
        let hint = "is outboxd running? `outboxd status` shows it; the request stays";
        lines.push((text, Some(hint.to_owned())));
    }
    (!lines.is_empty()).then(|| Verdict::new(code, lines))
}
