//! Requests a pause and its end for a person, and waits until the publisher has seen it.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::outbox::pause::{PAUSE, Request, SEEN, Seen, json, read_sql, write};
use crate::postgres::facts::state_table;
use crate::postgres::{Columns, Session, advisory_lock};

/// How often it is read whether the publisher has seen the request.
const LOOK: Duration = Duration::from_millis(200);

/// A request that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    version: String,
    stands_still: bool,
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The running instance has carried it out.
    Done,
    /// No instance runs: the next start carries it out.
    NoneRuns,
    /// The running instance has seen it, and events are still in flight.
    InFlight,
    /// The running instance has not seen it yet.
    NotSeen,
}

/// Requests a pause, in the place of an earlier request. `limit`: after this time the publisher
/// warns; `None`: never.
///
/// # Errors
/// `CONFIG_ERROR` where the state's table is missing or the role lacks a right on it.
pub async fn pause(
    session: &Session,
    config: &Config,
    reason: Option<&str>,
    limit: Option<Duration>,
    by: &str,
) -> Result<Written> {
    let request = Request {
        paused: true,
        reason: reason.map(str::to_owned),
        limit_seconds: limit.map_or(0, |limit| limit.as_secs()),
    };
    request_it(session, config, &request, by).await
}

/// Requests that publishing goes on. Returns `None`, and writes nothing, if no pause was requested.
///
/// # Errors
/// Those of [`pause`].
pub async fn resume(session: &Session, config: &Config, by: &str) -> Result<Option<Written>> {
    let table = config.table.state();
    check(session, config).await?;
    let what = format!("reading {table}");
    let row = session
        .row_if_any(&what, &read_sql(&table), &[&PAUSE])
        .await?;
    let value: Option<String> = row.map(|row| row.column(0)).transpose()?;
    let request: Option<Request> = value.and_then(|value| serde_json::from_str(&value).ok());
    if request.is_none_or(|request| !request.paused) {
        return Ok(None);
    }
    let request = Request {
        paused: false,
        reason: None,
        limit_seconds: 0,
    };
    request_it(session, config, &request, by).await.map(Some)
}

/// Waits until the running instance has carried the request out, for at most this long.
///
/// # Errors
/// Of the session.
pub async fn outcome(
    session: &Session,
    config: &Config,
    written: &Written,
    limit: Duration,
) -> Result<Outcome> {
    let table = config.table.state();
    let (what, read) = (format!("reading {table}"), read_sql(&table));
    let deadline = Instant::now() + limit;
    loop {
        let row = session.row_if_any(&what, &read, &[&SEEN]).await?;
        let value: Option<String> = row.map(|row| row.column(0)).transpose()?;
        let seen: Option<Seen> = value.and_then(|value| serde_json::from_str(&value).ok());
        let seen = seen.filter(|seen| seen.request == written.version);
        let outcome = match seen {
            Some(seen) if seen.stands_still == written.stands_still => return Ok(Outcome::Done),
            _ if !runs(session, config).await? => return Ok(Outcome::NoneRuns),
            Some(_) => Outcome::InFlight,
            None => Outcome::NotSeen,
        };
        if Instant::now() >= deadline {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn request_it(
    session: &Session,
    config: &Config,
    request: &Request,
    by: &str,
) -> Result<Written> {
    check(session, config).await?;
    let value = json(request)?;
    let version = write(session, &config.table.state(), PAUSE, &value, by).await?;
    Ok(Written {
        version,
        stands_still: request.paused,
    })
}

/// Fails unless the state's table can be used.
async fn check(session: &Session, config: &Config) -> Result<()> {
    let table = config.table.state();
    match state_table::read(session, &table).await? {
        Some(found) if found.is_ours => found.check_rights(&table),
        Some(_) => {
            let message = format!("{table} is not the table of outboxd's state");
            Err(Error::fatal(Code::Config, message)
                .with_hint("move the outbox to another schema, or rename that table"))
        }
        None => {
            let message = format!("there is no table {table} for outboxd's state");
            Err(Error::fatal(Code::Config, message).with_hint("run `outboxd init`"))
        }
    }
}

/// Whether an instance publishes this table.
async fn runs(session: &Session, config: &Config) -> Result<bool> {
    let holder = advisory_lock::holder(session, &config.slot).await?;
    Ok(holder.is_some())
}
