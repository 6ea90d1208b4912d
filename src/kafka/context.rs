//! librdkafka's callbacks: delivery reports, errors, log lines.
//!
//! All callbacks run on the thread that polls the producer, one after another, so the lock here is
//! never contended; it exists because rdkafka requires a context that threads may share. Nothing
//! here blocks or calls back into librdkafka.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::Mapping;
use crate::config::mapping::PartitionRule;
use crate::kafka::suspect_partitions::SuspectPartitions;
use crate::kafka::{DeliveryError, DeliveryReport, ErrorAction};
use crate::line_limit::LineLimit;
use crate::outbox::{OwnedIdentity, OwnedRecord};

/// The kinds of librdkafka's lines that say what an error says too, and the wait for Kafka shows: a
/// broker that is not reached, and a producer that has failed and is replaced.
const OF_AN_OUTAGE: [&str; 7] = [
    "FAIL",
    "ERROR",
    "REQTMOUT",
    "GETPID",
    "FATAL",
    "TERMINATE",
    "SSL",
];

/// The length to which librdkafka's explanation of an error is cut.
const REASON_MAX: usize = 300;

/// The producer's health.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// When the last connection to a broker was lost, if nothing was delivered since.
    pub down_at: Option<Instant>,
    /// librdkafka's last error since the last delivery.
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

/// What a record in flight has beside what librdkafka gives back.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// What identifies the event, where the headers do not.
    pub(crate) identity: Option<OwnedIdentity>,
    /// A time of its own.
    pub(crate) timestamp: Option<i64>,
}

/// Collects the callbacks' data until the producer takes it.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Logs nothing: a one-off request returns its error.
    silent: bool,
    /// Records name their partitions. Otherwise the partition of a report was chosen when its
    /// record was sent, and is chosen again when it is sent again.
    keeps_partition: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reports: Vec<DeliveryReport>,
    /// By ticket.
    remembered: HashMap<usize, Remembered>,
    suspicion: SuspectPartitions,
    down_at: Option<Instant>,
    last_error: Option<LastError>,
    /// A broker has refused the login.
    refused: bool,
    /// Errors so far.
    error_count: u64,
    lines: LineLimit,
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

    /// For a producer of records by this mapping.
    pub(crate) fn for_records(mapping: &Mapping) -> Self {
        Context {
            keeps_partition: matches!(mapping.partition, PartitionRule::Column(_)),
            ..Context::default()
        }
    }

    /// Keeps this until the report, which brings it back with its record.
    pub(crate) fn remember(&self, ticket: usize, part: Remembered) {
        self.state().remembered.insert(ticket, part);
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

    pub(crate) fn health(&self) -> Health {
        let state = self.state();
        Health {
            down_at: state.down_at,
            last_error: state.last_error.clone(),
        }
    }

    /// There is no token, for this reason: no broker can be reached.
    pub(crate) fn has_no_token(&self, reason: &str) {
        let mut state = self.state();
        state.down_at = Some(Instant::now());
        state.last_error = Some(LastError {
            code: RDKafkaErrorCode::Authentication,
            reason: reason.chars().take(REASON_MAX).collect(),
        });
    }

    /// There is a new token.
    pub(crate) fn logged_in(&self) {
        self.state().refused = false;
    }

    /// Whether a broker has refused the login since this was last asked.
    pub(crate) fn was_refused(&self) -> bool {
        std::mem::take(&mut self.state().refused)
    }

    /// How many errors librdkafka has met.
    pub(crate) fn error_count(&self) -> u64 {
        self.state().error_count
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
                (state.down_at, state.last_error) = (None, None);
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
        let remembered = match state.remembered.is_empty() {
            true => None,
            false => state.remembered.remove(&ticket),
        };
        state.reports.push(DeliveryReport {
            ticket: ticket as u64,
            outcome,
            partition,
            suspicion: u32::try_from(suspicion.unwrap_or_default()).unwrap_or(u32::MAX),
            record: suspicion.map(|_| Box::new(self.copy(message, remembered))),
        });
    }
}

impl Context {
    /// The record of this report, appended or not: librdkafka keeps it until the report has been
    /// taken.
    fn copy(&self, message: &BorrowedMessage<'_>, remembered: Option<Remembered>) -> OwnedRecord {
        let headers = message.headers();
        let headers = headers.into_iter().flat_map(|list| list.iter());
        let headers = headers.map(|header| (header.key, header.value));
        let partition = Some(message.partition()).filter(|id| self.keeps_partition && *id >= 0);
        let Remembered {
            identity,
            timestamp,
        } = remembered.unwrap_or_default();
        OwnedRecord::with_nulls(message.topic(), message.key(), message.payload(), headers)
            .placed(partition, timestamp)
            .identified(identity)
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        let mut state = self.state();
        state.error_count += 1;
        state.refused |= matches!(
            code,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed
        );
        if code == RDKafkaErrorCode::AllBrokersDown {
            state.down_at = Some(Instant::now());
            // The error before it gives the reason; this one only counts brokers.
            if state.last_error.is_some() {
                return;
            }
        }
        let reason = reason.chars().take(REASON_MAX).collect();
        state.last_error = Some(LastError { code, reason });
    }

    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if kind == "FAIL" {
            self.state().failed(line);
        }
        if self.silent {
            return;
        }
        if matches!(level, RDKafkaLogLevel::Debug) || OF_AN_OUTAGE.contains(&kind) {
            tracing::debug!(kind, line, "librdkafka");
            return;
        }
        let Some(suppressed) = self.state().lines.admit(kind, Instant::now()) else {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_outage_keeps_its_reason_and_is_known_by_the_last_connection_that_was_lost() {
        let events = Context::default();
        let error = |code| KafkaError::Global(code);
        events.error(
            error(RDKafkaErrorCode::BrokerTransportFailure),
            "b:9092: refused",
        );
        assert!(events.health().down_at.is_none());
        let mut lost_at = None;
        for _ in 0..2 {
            events.error(
                error(RDKafkaErrorCode::AllBrokersDown),
                "1/1 brokers are down",
            );
            let health = events.health();
            assert!(health.down_at > lost_at);
            assert_eq!(health.last_error.unwrap().reason, "b:9092: refused");
            lost_at = health.down_at;
        }
    }
}
