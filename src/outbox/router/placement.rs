//! The partition and the time of a record, where a setting takes them from the event. The clock is
//! not read here: a record without a time gets that of sending.

use crate::config::Mapping;
use crate::config::mapping::{PartitionRule, TimestampRule};
use crate::error::{Error, Result};
use crate::outbox::router::origin::EventSource;
use crate::outbox::router::rejected::{PARTITION_INVALID, TIMESTAMP_INVALID, rejected};
use crate::outbox::router::template::Extra;
use crate::outbox::{Event, TextValue, row_name};
use crate::pgoutput::Timestamp;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Placement {
    /// `None` if no column has the partition.
    partition: Option<Extra>,
    time: Time,
}

#[derive(Debug)]
enum Time {
    Sending,
    Column(Extra),
    Commit,
}

impl Placement {
    pub(super) fn of(mapping: &Mapping, extras: &[&str]) -> Self {
        Placement {
            partition: match &mapping.partition {
                PartitionRule::Column(name) => Some(Extra::of(name, extras)),
                PartitionRule::Key | PartitionRule::Spread => None,
            },
            time: match &mapping.timestamp {
                TimestampRule::Now => Time::Sending,
                TimestampRule::Column(name) => Time::Column(Extra::of(name, extras)),
                TimestampRule::Commit => Time::Commit,
            },
        }
    }

    /// Whether the event decides nothing here.
    pub(super) fn is_plain(&self) -> bool {
        self.partition.is_none() && matches!(self.time, Time::Sending)
    }

    /// The partition that the row names; a null names none.
    ///
    /// # Errors
    ///
    /// Of the row, if its value is no number of a partition.
    pub(super) fn partition(&self, event: &Event<'_>) -> Result<Option<i32>> {
        let Some(column) = &self.partition else {
            return Ok(None);
        };
        let Some(value) = column.value(event) else {
            return Ok(None);
        };
        let number = number(value.text()).and_then(|number| i32::try_from(number).ok());
        number.map(Some).ok_or_else(|| {
            let what = format!("has a value in {} that is no partition", column.name);
            let error = rejected(event, &what).with_rejection_code(PARTITION_INVALID);
            error.with_hint("a partition is a whole number from 0")
        })
    }

    /// The time in milliseconds since 1970, if it is not that of sending.
    ///
    /// # Errors
    ///
    /// Of the row, if its value is no time that a record may have.
    pub(super) fn timestamp(&self, event: &Event<'_>, origin: EventSource) -> Result<Option<i64>> {
        match &self.time {
            Time::Sending => Ok(None),
            Time::Commit => Ok(match origin {
                EventSource::Stream { committed_at, .. } => millis(committed_at),
                EventSource::Table => event.created_at.and_then(moment).and_then(millis),
            }),
            Time::Column(column) => match column.value(event) {
                None => Ok(None),
                Some(value) => match time(value) {
                    Some(time) => Ok(Some(time)),
                    None => Err(no_time(event, &column.name)),
                },
            },
        }
    }
}

fn no_time(event: &Event<'_>, column: &str) -> Error {
    let what = format!("has a value in {column} that is no time of a record");
    let error = rejected(event, &what).with_rejection_code(TIMESTAMP_INVALID);
    error.with_hint("a time is a timestamp, a date or a number of milliseconds, after 1970 began")
}

/// The time of a column in milliseconds.
fn time(value: TextValue<'_>) -> Option<i64> {
    let text = value.text();
    match number(text) {
        // Kafka has no time before 1970, and librdkafka takes 0 for the time of sending.
        Some(number) => Some(number).filter(|millis| *millis > 0),
        None => millis(moment(std::str::from_utf8(text).ok()?)?),
    }
}

/// Digits alone.
fn number(text: &[u8]) -> Option<i64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

/// The moment of a `timestamp`, a `timestamp with time zone` or a `date`, as Postgres prints it in
/// UTC.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    let micros = match text.contains(' ') {
        true => row_name::micros(text),
        false => row_name::micros(&format!("{text} 00:00:00")),
    };
    micros.map(Timestamp::from_postgres_micros)
}

fn millis(moment: Timestamp) -> Option<i64> {
    let millis = moment.unix_micros().div_euclid(1_000);
    Some(millis).filter(|millis| *millis > 0)
}
