//! librdkafka's callbacks: delivery reports, errors, log lines.
//!
//! All callbacks run on the thread that polls the producer, one after another, so the lock here is
//! never contended; it exists because rdkafka requires a context that threads may share. Nothing
//! here blocks or calls back into librdkafka.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::kafka::suspect_partitions::SuspectPartitions;
use crate::kafka::{DeliveryError, DeliveryReport, ErrorAction};
use crate::outbox::OwnedRecord;

/// Lines of one kind are logged once in this time; an outage repeats them many times a second.
const QUIET: Duration = Duration::from_secs(30);

/// The most kinds of lines that are distinguished; librdkafka has fewer.
const KINDS_MAX: usize = 32;

/// The length to which librdkafka's explanation of an error is cut.
const REASON_MAX: usize = 300;

/// The producer's health.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// The time since which no broker could be reached, while records wait. `None` after a later
    /// delivery and when no record waits: without a record to send the state is unknown.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests ask"))]
    pub down_since: Option<Instant>,
    /// librdkafka's last error; it may be long over.
    pub last_error: Option<LastError>,
}

/// An error of a connection or of the client, not of a record.
#[derive(Debug, Clone)]
pub(crate) struct LastError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// Its explanation, with the broker's address.
    pub reason: String,
}

/// Collects the callbacks' data until the producer takes it.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Logs nothing: a one-off request returns its error.
    silent: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reports: Vec<DeliveryReport>,
    suspicion: SuspectPartitions,
    down_since: Option<Instant>,
    last_error: Option<LastError>,
    quiet: Quiet,
}

impl State {
    /// A connection failed in a way that librdkafka only logs: a broker closes it, for instance,
    /// because it expects another protocol.
    fn failed(&mut self, line: &str) {
        let last = self.last_error.as_ref().map(|last| last.code);
        if last.is_none_or(|code| code == RDKafkaErrorCode::AllBrokersDown) {
            let (_, reason) = line.split_once("]: ").unwrap_or(("", line));
            self.last_error = Some(LastError {
                code: RDKafkaErrorCode::BrokerTransportFailure,
                reason: reason.chars().take(REASON_MAX).collect(),
            });
        }
    }
}

impl Context {
    /// For requests, whose errors are returned rather than logged.
    pub(crate) fn silent() -> Self {
        Context {
            silent: true,
            ..Context::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the collected reports to `into` and returns their number.
    pub(crate) fn take(&self, into: &mut Vec<DeliveryReport>) -> usize {
        let mut state = self.state();
        let count = state.reports.len();
        if into.is_empty() {
            std::mem::swap(into, &mut state.reports);
        } else {
            into.append(&mut state.reports);
        }
        count
    }

    pub(crate) fn trust(&self, topic: &str, failure: u64) {
        self.state().suspicion.trust(topic, failure);
    }

    /// The number of failures so far.
    pub(crate) fn failure_count(&self) -> u64 {
        self.state().suspicion.failure_count()
    }

    /// Continues the failure numbers of the previous producer.
    pub(crate) fn count_on_from(&self, failures: u64) {
        self.state().suspicion.count_on_from(failures);
    }

    pub(crate) fn health(&self, in_flight: u64) -> Health {
        let state = self.state();
        Health {
            down_since: state.down_since.filter(|_| in_flight > 0),
            last_error: state.last_error.clone(),
        }
    }

    pub(crate) fn last_error(&self) -> Option<LastError> {
        self.state().last_error.clone()
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let (message, outcome) = match result {
            Ok(message) => (message, Ok(())),
            Err((error, message)) => {
                let code = error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown);
                let refusal = DeliveryError::new(code, message.topic(), message.partition());
                (message, Err(refusal))
            }
        };
        let partition = message.partition();
        let mut state = self.state();
        let (suspicion, outcome) = match outcome {
            Ok(()) => {
                state.down_since = None;
                let suspects = Some(&state.suspicion).filter(|suspects| !suspects.is_none());
                let last = suspects.and_then(|s| s.suspicion(message.topic(), partition));
                (last, Ok(()))
            }
            // A purge withdraws all of a partition's records, so none is appended after them.
            Err(refusal) if refusal.action() == ErrorAction::Rewind => (Some(0), Err(refusal)),
            Err(refusal) => {
                let number = state.suspicion.suspect(message.topic(), partition);
                (Some(number), Err(refusal.numbered(number)))
            }
        };
        state.reports.push(DeliveryReport {
            ticket: ticket as u64,
            outcome,
            partition,
            suspicion: u32::try_from(suspicion.unwrap_or_default()).unwrap_or(u32::MAX),
            record: suspicion.map(|_| Box::new(copy(message))),
        });
    }
}

/// The record of this report, appended or not: librdkafka keeps it until the report has been taken.
fn copy(message: &BorrowedMessage<'_>) -> OwnedRecord {
    let headers = message.headers();
    let headers = headers.into_iter().flat_map(|list| list.iter());
    let headers = headers.map(|header| (header.key, header.value.unwrap_or_default()));
    OwnedRecord::new(message.topic(), message.key(), message.payload(), headers)
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        let mut state = self.state();
        if code == RDKafkaErrorCode::AllBrokersDown {
            state.down_since.get_or_insert_with(Instant::now);
            // The error before it gives the reason; this one only counts brokers.
            if state.last_error.is_some() {
                return;
            }
        }
        let reason = reason.chars().take(REASON_MAX).collect();
        state.last_error = Some(LastError { code, reason });
    }

    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if self.silent {
            if kind == "FAIL" {
                self.state().failed(line);
            }
            return;
        }
        if matches!(level, RDKafkaLogLevel::Debug) {
            tracing::debug!(kind, line, "librdkafka");
            return;
        }
        let Some(suppressed) = self.state().quiet.admit(kind, Instant::now()) else {
            return;
        };
        match level {
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::info!(kind, line, suppressed, "librdkafka");
            }
            _ => tracing::warn!(kind, line, suppressed, "librdkafka"),
        }
    }
}

/// Passes one line of a kind per interval and counts the suppressed ones.
#[derive(Debug, Default)]
struct Quiet(Vec<Kind>);

#[derive(Debug)]
struct Kind {
    name: String,
    last: Instant,
    suppressed: u64,
}

impl Quiet {
    /// If a line of this kind may be logged now, the number suppressed since the last one.
    fn admit(&mut self, name: &str, now: Instant) -> Option<u64> {
        if let Some(kind) = self.0.iter_mut().find(|kind| kind.name == name) {
            if now.duration_since(kind.last) < QUIET {
                kind.suppressed += 1;
                return None;
            }
            kind.last = now;
            return Some(std::mem::take(&mut kind.suppressed));
        }
        if self.0.len() < KINDS_MAX {
            self.0.push(Kind {
                name: name.to_owned(),
                last: now,
                suppressed: 0,
            });
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_kind_of_line_is_let_through_once_in_a_while_and_the_rest_is_counted() {
        let mut quiet = Quiet::default();
        let start = Instant::now();
        assert_eq!(quiet.admit("FAIL", start), Some(0));
        for _ in 0..7 {
            assert_eq!(quiet.admit("FAIL", start + Duration::from_secs(1)), None);
        }
        assert_eq!(
            quiet.admit("GETPID", start + Duration::from_secs(1)),
            Some(0)
        );
        assert_eq!(quiet.admit("FAIL", start + QUIET), Some(7));
        assert_eq!(quiet.admit("FAIL", start + QUIET + QUIET), Some(0));
    }

    #[test]
    fn an_outage_has_one_beginning_keeps_its_reason_and_is_over_when_nothing_waits() {
        let events = Context::default();
        let error = |code| KafkaError::Global(code);
        events.error(
            error(RDKafkaErrorCode::BrokerTransportFailure),
            "b:9092: refused",
        );
        assert!(events.health(1).down_since.is_none());
        events.error(
            error(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        let since = events.health(1).down_since.unwrap();
        events.error(
            error(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        let health = events.health(1);
        assert_eq!(health.down_since, Some(since));
        assert_eq!(health.last_error.unwrap().reason, "b:9092: refused");
        assert!(events.health(0).down_since.is_none());
    }
}
