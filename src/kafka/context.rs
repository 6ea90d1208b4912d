//! What librdkafka tells us: delivery reports, errors, log lines.
//!
//! All of it arrives on the thread that polls the producer, one call after another, so the lock
//! here is never contended; it is there because librdkafka's binding asks for a context that
//! threads may share. Nothing here blocks or calls back into librdkafka.

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

/// A line of one kind is logged once in this time; an outage repeats itself many times a second.
const QUIET: Duration = Duration::from_secs(30);

/// Kinds of lines that are told apart; librdkafka has fewer.
const KINDS_MAX: usize = 32;

/// How much of librdkafka's explanation of an error is kept.
const REASON_MAX: usize = 300;

/// How the producer fares.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Records that were accepted and are not reported yet.
    pub in_flight: u64,
    /// Since when no broker could be reached, while records wait. `None` when a record has been
    /// delivered since, and when nothing waits: without a record to send, nobody can tell.
    pub down_since: Option<Instant>,
    /// The last thing that librdkafka complained of; it may be long over.
    pub last_error: Option<LastError>,
}

/// An error of a connection or of the client, not of a record.
#[derive(Debug, Clone)]
pub struct LastError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// Its explanation, with the broker's address.
    pub reason: String,
    /// When it was reported.
    pub at: Instant,
}

/// Collects what the callbacks bring until the producer takes it.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Nothing is logged: whoever asks for something once gets the error back.
    silent: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reports: Vec<DeliveryReport>,
    suspicion: SuspectPartitions,
    down_since: Option<Instant>,
    last_error: Option<LastError>,
    fatal: bool,
    quiet: Quiet,
}

impl Context {
    /// For questions, whose errors are returned and not logged as well.
    pub(crate) fn silent() -> Self {
        Context {
            silent: true,
            ..Context::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the reports that have come behind those in `into`, and says how many there were.
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

    /// Failures so far.
    pub(crate) fn failure_count(&self) -> u64 {
        self.state().suspicion.failure_count()
    }

    /// Numbers failures behind those of the producer before this one.
    pub(crate) fn count_on_from(&self, failures: u64) {
        self.state().suspicion.count_on_from(failures);
    }

    pub(crate) fn is_fatal(&self) -> bool {
        self.state().fatal
    }

    pub(crate) fn health(&self, in_flight: u64) -> Health {
        let state = self.state();
        Health {
            in_flight,
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
        let (suspect, outcome) = match outcome {
            Ok(()) => {
                state.down_since = None;
                let suspicion = &state.suspicion;
                let suspect = !suspicion.is_none() && suspicion.holds(message.topic(), partition);
                (suspect, Ok(()))
            }
            // What is withdrawn is withdrawn whole, and nothing is appended behind it.
            Err(refusal) if refusal.action() == ErrorAction::Rewind => (true, Err(refusal)),
            Err(refusal) => {
                let number = state.suspicion.suspect(message.topic(), partition);
                (true, Err(refusal.numbered(number)))
            }
        };
        state.reports.push(DeliveryReport {
            ticket: ticket as u64,
            outcome,
            partition,
            record: suspect.then(|| Box::new(copy(message))),
        });
    }
}

/// The record that this report is about: librdkafka holds it until the report has been taken, also
/// when it was appended.
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
        let now = Instant::now();
        let mut state = self.state();
        match code {
            RDKafkaErrorCode::AllBrokersDown => {
                state.down_since.get_or_insert(now);
                // The error before it says why; this one only counts.
                if state.last_error.is_some() {
                    return;
                }
            }
            RDKafkaErrorCode::Fatal => state.fatal = true,
            _ => {}
        }
        let reason = reason.chars().take(REASON_MAX).collect();
        state.last_error = Some(LastError {
            code,
            reason,
            at: now,
        });
    }

    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if self.silent {
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

/// Lets one line of a kind through in a while and counts those that it keeps back.
#[derive(Debug, Default)]
struct Quiet(Vec<Kind>);

#[derive(Debug)]
struct Kind {
    name: String,
    last: Instant,
    suppressed: u64,
}

impl Quiet {
    /// Whether a line of this kind may pass now; if so, how many were kept back since the last.
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
