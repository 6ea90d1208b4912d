//! Why a record was not appended, and what a person can do about it.
//!
//! The table of [`error_table`](crate::kafka::error_table) decides what outboxd does about it.

use std::fmt;

use rdkafka::types::RDKafkaErrorCode;

use crate::error::{Code, Error};
use crate::kafka::error_table::{self, ErrorAction};

/// Why a record was not appended. One pointer wide, since nearly every outcome is a success.
#[derive(Clone)]
pub struct DeliveryError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: RDKafkaErrorCode,
    topic: String,
    partition: i32,
    number: u64,
}

impl DeliveryError {
    pub(crate) fn new(code: RDKafkaErrorCode, topic: &str, partition: i32) -> Self {
        DeliveryError(Box::new(Inner {
            code,
            topic: topic.to_owned(),
            partition,
            number: 0,
        }))
    }

    /// Sets the number of a reported failure.
    pub(crate) fn numbered(mut self, number: u64) -> Self {
        self.0.number = number;
        self
    }

    /// Increases from failure to failure, for [`Producer::trust`](crate::kafka::Producer::trust); 0
    /// for a record that the producer did not accept.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// The error code, as librdkafka names it.
    pub fn code(&self) -> RDKafkaErrorCode {
        self.0.code
    }

    /// The topic that the record was meant for.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// The partition, or `None` if none was chosen yet.
    pub fn partition(&self) -> Option<i32> {
        (self.0.partition >= 0).then_some(self.0.partition)
    }

    /// The reaction to this error. A code missing from the table counts as an outage.
    pub fn action(&self) -> ErrorAction {
        error_table::listed(self.code()).unwrap_or(ErrorAction::Wait)
    }

    /// The code's name for filters and alerts, as librdkafka has it: `INVALID_RECORD`,
    /// `MSG_SIZE_TOO_LARGE`.
    pub fn name(&self) -> String {
        error_table::name(self.code())
    }

    /// What a person can do about it, if known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        hint(self.code())
    }
}

/// What a person can do about an error of this code, if known.
pub(crate) fn hint(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as K;
    Some(match code {
        K::MessageSizeTooLarge | K::MessageBatchTooLarge | K::InvalidMessageSize => {
            "raise the topic's max.message.bytes, and message.max.bytes in the Kafka properties"
        }
        K::InvalidTopic => "a topic name has 1 to 249 characters from a-z A-Z 0-9 . _ -",
        K::UnknownTopic | K::UnknownTopicOrPartition => {
            "create the topic, or grant the Kafka user DESCRIBE on it"
        }
        K::UnknownPartition => "a partition that was just added is known within half a minute",
        K::TopicAuthorizationFailed => "grant the Kafka user WRITE and DESCRIBE on the topic",
        K::ClusterAuthorizationFailed => {
            "grant the Kafka user IDEMPOTENT_WRITE on the cluster, or WRITE on the topic"
        }
        K::InvalidRecord => {
            "a compacted topic rejects records without a key; the broker's log has the reason"
        }
        K::InvalidTimestamp => {
            "a record's timestamp is its send time, unless OUTBOX_TIMESTAMP names another: \
             compare it with the broker's clock; the topic's message.timestamp.*.max.ms limit the \
             difference"
        }
        K::Authentication | K::SaslAuthenticationFailed | K::UnsupportedSASLMechanism => {
            "check security.protocol and sasl.* in the Kafka properties"
        }
        _ => return None,
    })
}

impl fmt::Debug for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryError")
            .field("code", &self.0.code)
            .field("topic", &self.0.topic)
            .field("partition", &self.0.partition)
            .finish()
    }
}

impl From<DeliveryError> for Error {
    fn from(refusal: DeliveryError) -> Error {
        let place = match refusal.partition() {
            Some(partition) => format!("topic {} partition {partition}", refusal.topic()),
            None => format!("topic {}", refusal.topic()),
        };
        let error = match refusal.action() {
            ErrorAction::Refuse => {
                Error::fatal(Code::Publish, format!("Kafka refused a record for {place}"))
            }
            ErrorAction::Wait => Error::transient(
                Code::Publish,
                format!("Kafka could not accept a record for {place}"),
            ),
            ErrorAction::Rewind => Error::transient(
                Code::Publish,
                format!("a record for {place} was withdrawn before Kafka acknowledged it"),
            ),
            ErrorAction::Fatal => Error::transient(
                Code::Publish,
                format!("the Kafka producer failed while it held a record for {place}"),
            ),
        };
        let error = error.with_source(refusal.code());
        match refusal.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_is_an_outage_and_never_the_events_fault() {
        for code in [
            RDKafkaErrorCode::Unknown,
            RDKafkaErrorCode::NotEnoughReplicas,
            RDKafkaErrorCode::Authentication,
            RDKafkaErrorCode::SaslAuthenticationFailed,
            RDKafkaErrorCode::ClusterAuthorizationFailed,
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::ThrottlingQuotaExceeded,
            RDKafkaErrorCode::InvalidTimestamp,
        ] {
            let refusal = DeliveryError::new(code, "orders", 0);
            assert_eq!(refusal.action(), ErrorAction::Wait, "{code:?}");
            assert!(Error::from(refusal).is_transient());
        }
    }

    #[test]
    fn an_error_names_topic_partition_reason_and_remedy() {
        let error = Error::from(DeliveryError::new(
            RDKafkaErrorCode::MessageSizeTooLarge,
            "orders",
            3,
        ));
        assert_eq!(error.code(), Code::Publish);
        let report = error.report();
        assert!(
            report.starts_with(
                "PUBLISH_ERROR: Kafka refused a record for topic orders partition 3: "
            )
        );
        assert!(report.contains("max.message.bytes"), "{report}");
        let error = Error::from(DeliveryError::new(
            RDKafkaErrorCode::InvalidTopic,
            "a b",
            -1,
        ));
        assert_eq!(error.message(), "Kafka refused a record for topic a b");
    }

    #[test]
    fn a_refusal_does_not_make_the_common_outcome_larger() {
        assert_eq!(size_of::<Result<(), DeliveryError>>(), size_of::<usize>());
    }
}
