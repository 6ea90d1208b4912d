//! A pause: a request in the database that publishing stops, which survives restarts and a change
//! of the instance.
//!
//! Owns the two rows of the state's table that are about it: `pause`, which [`admin`] writes for a
//! person, and `pause-seen`, which the publisher writes when it has seen the first and, again, when
//! nothing is in flight any more. A table that `init` has not made yet, or an unrelated one of its
//! name, means that there is no pause.

pub mod admin;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::TableName;
use crate::error::{Code, Error, Result};
use crate::postgres::facts::state_table;
use crate::postgres::{Columns, Session};

/// The name of the row that requests a pause.
const PAUSE: &str = "pause";
/// The name of the row that says what the publisher has seen.
const SEEN: &str = "pause-seen";

/// A pause that was requested.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestedPause {
    /// Why, if the person has said so.
    pub reason: Option<String>,
    /// When, as the server prints it.
    pub since: String,
    /// For how long, by the server's clock.
    pub lasted: Duration,
    /// By whom.
    pub by: String,
    /// After this time the publisher warns; `None`: never.
    pub limit: Option<Duration>,
}

/// The row `pause`.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    paused: bool,
    #[serde(default)]
    reason: Option<String>,
    /// 0 if there is no limit.
    #[serde(default)]
    limit_seconds: u64,
}

/// The row `pause-seen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// The `changed_at` of the request.
    request: String,
    /// Nothing is in flight.
    stands_still: bool,
}

/// The request as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PauseRequest {
    /// `None` while publishing is wanted.
    pub(crate) pause: Option<RequestedPause>,
    /// Its `changed_at`; `None` if nothing was ever requested.
    version: Option<String>,
}

/// Reads the request, and tells the person who has made it what the publisher has seen.
#[derive(Debug)]
pub(crate) struct PauseReader {
    table: TableName,
    read: String,
    /// What this session has written last.
    told: Option<Seen>,
}

impl PauseReader {
    pub(crate) fn new(outbox: &TableName) -> Self {
        let table = outbox.state();
        PauseReader {
            read: read_sql(&table),
            table,
            told: None,
        }
    }

    /// Reads the request.
    ///
    /// # Errors
    /// Of the session; fatal if the role lacks a right on the table, or its row was edited into
    /// something else.
    pub(crate) async fn read(&self, session: &Session) -> Result<PauseRequest> {
        let found = state_table::read(session, &self.table).await?;
        let Some(found) = found.filter(|found| found.is_ours) else {
            return Ok(PauseRequest::default());
        };
        found.check_rights(&self.table)?;
        let what = format!("reading {}", self.table);
        let row = session.row_if_any(&what, &self.read, &[&PAUSE]).await?;
        let Some(row) = row else {
            return Ok(PauseRequest::default());
        };
        let (value, since): (&str, String) = (row.column(0)?, row.column(1)?);
        let request: Request = serde_json::from_str(value).map_err(|error| {
            let message = format!("row {PAUSE} of {} is no request", self.table);
            Error::fatal(Code::Config, message)
                .with_source(error)
                .with_hint("`outboxd pause` or `outboxd resume` writes it again")
        })?;
        let pause = request.paused.then_some(RequestedPause {
            reason: request.reason,
            since: since.clone(),
            lasted: Duration::try_from_secs_f64(row.column::<f64>(2)?).unwrap_or_default(),
            by: row.column(3)?,
            limit: (request.limit_seconds > 0)
                .then_some(Duration::from_secs(request.limit_seconds)),
        });
        Ok(PauseRequest {
            pause,
            version: Some(since),
        })
    }

    /// Writes down that the publisher has seen the request, and whether it stands still.
    ///
    /// # Errors
    /// Of the session.
    pub(crate) async fn tell(
        &mut self,
        session: &Session,
        request: &PauseRequest,
        stands_still: bool,
    ) -> Result<()> {
        let Some(version) = request.version.clone() else {
            return Ok(());
        };
        let seen = Seen {
            request: version,
            stands_still: stands_still && request.pause.is_some(),
        };
        if self.told.as_ref() == Some(&seen) {
            return Ok(());
        }
        write(session, &self.table, SEEN, &json(&seen)?, "outboxd").await?;
        self.told = Some(seen);
        Ok(())
    }
}

/// `$1`: the name of the row.
fn read_sql(table: &TableName) -> String {
    format!(
        "SELECT s.value::text, s.changed_at::text, \
                extract(epoch FROM pg_catalog.clock_timestamp() - s.changed_at)::float8, \
                s.changed_by \
           FROM {} AS s WHERE s.name = $1",
        table.quoted()
    )
}

/// Writes a row; returns its `changed_at`.
async fn write(
    session: &Session,
    table: &TableName,
    name: &str,
    value: &str,
    by: &str,
) -> Result<String> {
    let sql = format!(
        "INSERT INTO {} AS s (name, value, changed_at, changed_by) \
         VALUES ($1, $2::text::jsonb, pg_catalog.clock_timestamp(), $3) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, \
             changed_at = greatest(excluded.changed_at, s.changed_at + interval '1 microsecond'), \
             changed_by = excluded.changed_by \
         RETURNING s.changed_at::text",
        table.quoted()
    );
    let what = format!("writing {table}");
    let row = session.row(&what, &sql, &[&name, &value, &by]).await?;
    row.column(0)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| {
        Error::fatal(Code::Write, "a state cannot be written as JSON").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written_and_without_what_a_person_left_out() {
        let request = Request {
            paused: true,
            reason: Some("a ö \"b\"".to_owned()),
            limit_seconds: 60,
        };
        let text = json(&request).unwrap_or_default();
        let read = serde_json::from_str::<Request>(&text).ok();
        assert_eq!(read.and_then(|it| it.reason), request.reason);
        let short = serde_json::from_str::<Request>(r#"{"paused": true}"#).ok();
        assert_eq!(
            short.map(|it| (it.paused, it.limit_seconds)),
            Some((true, 0))
        );
        assert!(serde_json::from_str::<Request>("{}").is_err());
    }
}
