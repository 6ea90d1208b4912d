//! What a broker's or librdkafka's error code means for the record that got it.
//!
//! One table ([`Refusal::cause`]) decides, by code alone and never by text. A code that is not in
//! it is taken for an outage: something new must be waited out and seen by a person, it must never
//! cost an event. The codes: <https://kafka.apache.org/protocol.html#protocol_error_codes>

use std::fmt;

use rdkafka::types::RDKafkaErrorCode;

use crate::error::{Code, Error};

/// Why a record was not appended. One pointer wide, since nearly every outcome is a success.
#[derive(Clone)]
pub struct Refusal(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: RDKafkaErrorCode,
    topic: String,
    partition: i32,
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The record's own, or that of a neighbour in its batch: size, timestamp, a missing key on a
    /// compacted topic.
    Record,
    /// The topic is not there, may not be written, or its name is not allowed.
    Topic,
    /// The cluster's: it may pass, and no event may be blamed for it.
    Outage,
    /// Nobody's: the record was withdrawn by [`Producer::purge`](crate::kafka::Producer::purge) or
    /// by a dying producer.
    Purged,
    /// The producer's: it can be used no longer, a new one is needed.
    Producer,
}

impl Refusal {
    pub(crate) fn new(code: RDKafkaErrorCode, topic: &str, partition: i32) -> Self {
        Refusal(Box::new(Inner {
            code,
            topic: topic.to_owned(),
            partition,
        }))
    }

    /// The error code, as librdkafka names it.
    pub fn code(&self) -> RDKafkaErrorCode {
        self.0.code
    }

    /// The topic that the record was meant for.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// The partition, or `None` where the record did not get as far as being given one.
    pub fn partition(&self) -> Option<i32> {
        (self.0.partition >= 0).then_some(self.0.partition)
    }

    /// Whether the record may have been appended all the same: it was under way when it was
    /// withdrawn.
    pub fn may_be_appended(&self) -> bool {
        self.code() == RDKafkaErrorCode::PurgeInflight
    }

    /// Whose fault it is.
    pub fn cause(&self) -> Cause {
        use RDKafkaErrorCode as K;
        match self.code() {
            K::MessageSizeTooLarge
            | K::MessageBatchTooLarge
            | K::InvalidMessage
            | K::InvalidMessageSize
            | K::InvalidRecord
            | K::InvalidDifferentRecord
            | K::InvalidTimestamp
            | K::UnsupportedForMessageFormat
            | K::PolicyViolation => Cause::Record,
            K::InvalidTopic
            | K::UnknownTopic
            | K::UnknownTopicOrPartition
            | K::UnknownPartition
            | K::TopicAuthorizationFailed => Cause::Topic,
            K::PurgeQueue | K::PurgeInflight => Cause::Purged,
            K::Fatal
            | K::Fenced
            | K::ProducerFenced
            | K::GaplessGuarantee
            | K::OutOfOrderSequenceNumber
            | K::DuplicateSequenceNumber
            | K::UnknownProducerId
            | K::InvalidProducerEpoch
            | K::BrokerDestroy => Cause::Producer,
            _ => Cause::Outage,
        }
    }

    /// What a person can do about it, where that is known.
    fn remedy(&self) -> Option<&'static str> {
        use RDKafkaErrorCode as K;
        Some(match self.code() {
            K::MessageSizeTooLarge | K::MessageBatchTooLarge | K::InvalidMessageSize => {
                "raise the topic's max.message.bytes, and message.max.bytes in the Kafka properties"
            }
            K::InvalidTopic => "a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ -",
            K::UnknownTopic | K::UnknownTopicOrPartition | K::UnknownPartition => {
                "create the topic, or set allow.auto.create.topics=true in the Kafka properties"
            }
            K::TopicAuthorizationFailed => "give the Kafka user WRITE and DESCRIBE on the topic",
            K::ClusterAuthorizationFailed => {
                "give the Kafka user IDEMPOTENT_WRITE on the cluster, or WRITE on the topic"
            }
            K::InvalidRecord => {
                "a compacted topic takes no record without a key, and a topic may limit timestamps"
            }
            K::InvalidTimestamp => {
                "see the topic's message.timestamp.before.max.ms and message.timestamp.after.max.ms"
            }
            _ => return None,
        })
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("code", &self.0.code)
            .field("topic", &self.0.topic)
            .field("partition", &self.0.partition)
            .finish()
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let place = match refusal.partition() {
            Some(partition) => format!("topic {} partition {partition}", refusal.topic()),
            None => format!("topic {}", refusal.topic()),
        };
        let error = match refusal.cause() {
            Cause::Record | Cause::Topic => {
                Error::fatal(Code::Publish, format!("Kafka refused a record for {place}"))
            }
            Cause::Outage => Error::transient(
                Code::Publish,
                format!("Kafka could not take a record for {place}"),
            ),
            Cause::Purged => Error::transient(
                Code::Publish,
                format!("a record for {place} was withdrawn before Kafka had acknowledged it"),
            ),
            Cause::Producer => Error::transient(
                Code::Publish,
                format!("the Kafka producer failed with a record for {place} in hand"),
            ),
        };
        let error = error.source(refusal.code());
        match refusal.remedy() {
            Some(remedy) => error.hint(remedy),
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
        ] {
            let refusal = Refusal::new(code, "orders", 0);
            assert_eq!(refusal.cause(), Cause::Outage, "{code:?}");
            assert!(Error::from(refusal).is_transient());
        }
    }

    #[test]
    fn an_error_names_topic_partition_reason_and_remedy() {
        let error = Error::from(Refusal::new(
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
        let error = Error::from(Refusal::new(RDKafkaErrorCode::InvalidTopic, "a b", -1));
        assert_eq!(error.message(), "Kafka refused a record for topic a b");
    }

    #[test]
    fn a_refusal_does_not_make_the_common_outcome_larger() {
        assert_eq!(size_of::<Result<(), Refusal>>(), size_of::<usize>());
    }
}
