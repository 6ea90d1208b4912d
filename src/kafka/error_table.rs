//! The table of all error codes of Kafka and librdkafka with outboxd's reaction, decided by code
//! alone and never by text.
//!
//! It contains every code that librdkafka defines. A test checks that against librdkafka's own
//! list, so a new version cannot add an unconsidered code. At run time a missing code counts as an
//! outage: a new error must be waited out and seen by a person, and must never cost an event.
//!
//! Kafka's codes: <https://kafka.apache.org/protocol.html#protocol_error_codes>. librdkafka's own,
//! below zero: <https://docs.confluent.io/platform/current/clients/librdkafka/html/rdkafka_8h.html>

use rdkafka::types::RDKafkaErrorCode as K;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// The reaction to a record that was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    /// The error may pass, and no event caused it: send again, without counting an attempt.
    Wait,
    /// The record, its topic or another record of its batch caused the error: count an attempt.
    Refuse,
    /// The record was withdrawn: send it again.
    Rewind,
    /// The producer can no longer be used: replace it, and send again what it had in flight.
    Fatal,
}

/// Errors of a record, of its topic, or of another record in its batch.
const REFUSE: &[K] = &[
    // The record.
    K::MessageSizeTooLarge,
    K::MessageBatchTooLarge,
    K::InvalidMessageSize,
    K::InvalidRecord,
    K::InvalidDifferentRecord,
    K::UnsupportedForMessageFormat,
    K::PolicyViolation,
    // Older brokers report a missing key on a compacted topic as a corrupt message.
    K::InvalidMessage,
    // The topic.
    K::InvalidTopic,
    K::UnknownTopic,
    K::UnknownTopicOrPartition,
    K::UnknownPartition,
    K::TopicAuthorizationFailed,
];

/// Withdrawn records.
const REWIND: &[K] = &[K::PurgeQueue, K::PurgeInflight];

/// The idempotent producer's sequence is broken, or the client is shutting down.
const FATAL: &[K] = &[
    K::Fatal,
    K::Fenced,
    K::ProducerFenced,
    K::GaplessGuarantee,
    K::Inconsistent,
    K::OutOfOrderSequenceNumber,
    K::DuplicateSequenceNumber,
    K::UnknownProducerId,
    K::InvalidProducerEpoch,
    K::InvalidProducerIdMapping,
    K::BrokerDestroy,
];

/// Everything else: outages.
const WAIT: &[K] = &[
    // Brokers, leaders, replicas, controllers.
    K::BrokerTransportFailure,
    K::AllBrokersDown,
    K::Resolve,
    K::UnknownBroker,
    K::DestroyBroker,
    K::NodeUpdate,
    K::RebootstrapRequired,
    K::BrokerNotAvailable,
    K::NetworkException,
    K::LeaderNotAvailable,
    K::NotLeaderForPartition,
    K::PreferredLeaderNotAvailable,
    K::EligibleLeadersNotAvailable,
    K::ElectionNotNeeded,
    K::FencedLeaderEpoch,
    K::UnknownLeaderEpoch,
    K::ReplicaNotAvailable,
    K::NotEnoughReplicas,
    K::NotEnoughReplicasAfterAppend,
    K::ISRInsufficient,
    K::ListenerNotFound,
    K::NotController,
    K::StaleControllerEpoch,
    K::StaleBrokerEpoch,
    K::InconsistentVoterSet,
    K::ReassignmentInProgress,
    K::NoReassignmentInProgress,
    // The topic was recreated, and the client's metadata is older.
    K::UnknownTopicId,
    // Time.
    K::MessageTimedOut,
    K::TimedOutQueue,
    K::OperationTimedOut,
    K::RequestTimedOut,
    K::Retry,
    K::InProgress,
    K::PreviousInProgress,
    K::WaitCache,
    K::Interrupted,
    // A record's timestamp is its send time, so a clock is wrong.
    K::InvalidTimestamp,
    // Credentials and rights that concern all records.
    K::Authentication,
    K::SSL,
    K::SaslAuthenticationFailed,
    K::UnsupportedSASLMechanism,
    K::IllegalSASLState,
    K::SecurityDisabled,
    K::ClusterAuthorizationFailed,
    K::GroupAuthorizationFailed,
    K::TransactionalIdAuthorizationFailed,
    K::DelegationTokenAuthDisabled,
    K::DelegationTokenNotFound,
    K::DelegationTokenOwnerMismatch,
    K::DelegationTokenRequestNotAllowed,
    K::DelegationTokenAuthorizationFailed,
    K::DelegationTokenExpired,
    K::InvalidPrincipalType,
    K::PrincipalDeserializationFailure,
    K::UnacceptableCredential,
    // Quotas, storage, memory.
    K::ThrottlingQuotaExceeded,
    K::QueueFull,
    K::KafkaStorageError,
    K::LogDirNotFound,
    K::FileSystem,
    K::CriticalSystemResource,
    // Coordinators and transactions, which this producer does not use.
    K::WaitingForCoordinator,
    K::CoordinatorLoadInProgress,
    K::CoordinatorNotAvailable,
    K::NotCoordinator,
    K::ConcurrentTransactions,
    K::TransactionCoordinatorFenced,
    K::InvalidTransactionalState,
    K::InvalidTransactionTimeout,
    // Requests that client or broker cannot process, whatever the records contain.
    K::BadMessage,
    K::BadCompression,
    K::UnsupportedCompressionType,
    K::UnknownProtocol,
    K::UnsupportedVersion,
    K::UnsupportedFeature,
    K::NotImplemented,
    K::NotConfigured,
    K::InvalidRequiredAcks,
    K::InvalidRequest,
    K::InvalidArgument,
    K::InvalidType,
    K::InvalidConfig,
    K::Underflow,
    K::Partial,
    K::State,
    K::Conflict,
    K::Outdated,
    K::ReadOnly,
    K::NoEnt,
    K::Noop,
    K::Application,
    K::KeySerialization,
    K::ValueSerialization,
    // Errors of consumers, groups and administrators, which no producer receives.
    K::PartitionEOF,
    K::NoOffset,
    K::OffsetOutOfRange,
    K::OffsetNotAvailable,
    K::OffsetMetadataTooLarge,
    K::InvalidCommitOffsetSize,
    K::UnstableOffsetCommit,
    K::AutoOffsetReset,
    K::LogTruncation,
    K::KeyDeserialization,
    K::ValueDeserialization,
    K::UnknownGroup,
    K::InvalidGroupId,
    K::GroupIdNotFound,
    K::NonEmptyGroup,
    K::GroupMaxSizeReached,
    K::GroupSubscribedToTopic,
    K::InconsistentGroupProtocol,
    K::ExistingSubscription,
    K::AssignPartitions,
    K::RevokePartitions,
    K::AssignmentLost,
    K::PollExceeded,
    K::IllegalGeneration,
    K::UnknownMemberId,
    K::MemberIdRequired,
    K::FencedInstanceId,
    K::UnreleasedInstanceId,
    K::UnsupportedAssignor,
    K::FencedMemberEpoch,
    K::StaleMemberEpoch,
    K::InvalidSessionTimeout,
    K::RebalanceInProgress,
    K::FetchSessionIdNotFound,
    K::InvalidFetchSessionEpoch,
    K::TopicAlreadyExists,
    K::TopicDeletionDisabled,
    K::InvalidPartitions,
    K::InvalidReplicationFactor,
    K::InvalidReplicaAssignment,
    K::OperationNotAttempted,
    K::ResourceNotFound,
    K::DuplicateResource,
    K::InvalidUpdateVersion,
    K::FeatureUpdateFailed,
    K::UnknownSubscriptionId,
    K::TelemetryTooLarge,
    // Generic codes.
    K::Fail,
    K::Unknown,
    K::NoError,
    K::Begin,
    K::End,
    K::EndAll,
];

const TABLE: [(ErrorAction, &[K]); 4] = [
    (ErrorAction::Refuse, REFUSE),
    (ErrorAction::Rewind, REWIND),
    (ErrorAction::Fatal, FATAL),
    (ErrorAction::Wait, WAIT),
];

/// The reaction to this code; `None` if it is not in the table: the binding's list is open, and a
/// later version may have more codes.
pub(crate) fn listed(code: K) -> Option<ErrorAction> {
    let row = TABLE.iter().find(|(_, codes)| codes.contains(&code));
    row.map(|(action, _)| *action)
}

/// librdkafka's name of a code, such as `MSG_SIZE_TOO_LARGE`; a leading `_` marks librdkafka's own
/// codes.
pub(crate) fn name(code: RDKafkaErrorCode) -> String {
    match RDKafkaRespErr::try_from(code as i32) {
        Ok(named) => {
            let named = format!("{named:?}");
            named.replacen("RD_KAFKA_RESP_ERR_", "", 1)
        }
        Err(_) => format!("KAFKA_ERROR_{}", code as i32),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Every code of this build of librdkafka. rdkafka generates its list from the header; it has
    /// the same codes as `rd_kafka_get_err_descs`.
    fn all() -> Vec<RDKafkaErrorCode> {
        let named = (-1_000..1_000).filter_map(|number| RDKafkaRespErr::try_from(number).ok());
        named.map(RDKafkaErrorCode::from).collect()
    }

    #[test]
    fn every_code_that_librdkafka_can_name_is_in_the_table() {
        let codes = all();
        assert!(codes.len() >= 173, "{} codes were found", codes.len());
        let missing: Vec<_> = codes
            .iter()
            .filter(|code| listed(**code).is_none())
            .collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
        let mut listed: Vec<i32> = TABLE
            .iter()
            .flat_map(|(_, codes)| codes.iter().map(|code| *code as i32))
            .collect();
        listed.sort_unstable();
        assert!(
            listed.windows(2).all(|pair| pair[0] != pair[1]),
            "a code is in the table twice: {listed:?}"
        );
    }

    /// The codes that are not an outage. An addition to them costs events or producers, and must be
    /// written down here as well.
    #[test]
    fn nothing_but_these_is_ever_anything_else_than_an_outage() {
        let refuse = "INVALID_MSG INVALID_MSG_SIZE INVALID_RECORD \
            MSG_SIZE_TOO_LARGE POLICY_VIOLATION RECORD_LIST_TOO_LARGE \
            TOPIC_AUTHORIZATION_FAILED TOPIC_EXCEPTION UNKNOWN_TOPIC_OR_PART \
            UNSUPPORTED_FOR_MESSAGE_FORMAT \
            _INVALID_DIFFERENT_RECORD _UNKNOWN_PARTITION _UNKNOWN_TOPIC";
        let rewind = "_PURGE_INFLIGHT _PURGE_QUEUE";
        let fatal = "DUPLICATE_SEQUENCE_NUMBER INVALID_PRODUCER_EPOCH INVALID_PRODUCER_ID_MAPPING \
            OUT_OF_ORDER_SEQUENCE_NUMBER PRODUCER_FENCED UNKNOWN_PRODUCER_ID _DESTROY _FATAL \
            _FENCED _GAPLESS_GUARANTEE _INCONSISTENT";
        for (action, names) in [
            (ErrorAction::Refuse, refuse),
            (ErrorAction::Rewind, rewind),
            (ErrorAction::Fatal, fatal),
        ] {
            let mut found: Vec<String> = all()
                .into_iter()
                .filter(|code| listed(*code) == Some(action))
                .map(name)
                .collect();
            found.sort_unstable();
            assert_eq!(
                found,
                Vec::from_iter(names.split_whitespace()),
                "{action:?}"
            );
        }
    }

    #[test]
    fn names_are_those_of_librdkafka_and_all_different() {
        assert_eq!(name(RDKafkaErrorCode::InvalidRecord), "INVALID_RECORD");
        assert_eq!(
            name(RDKafkaErrorCode::MessageSizeTooLarge),
            "MSG_SIZE_TOO_LARGE"
        );
        assert_eq!(name(RDKafkaErrorCode::UnknownTopic), "_UNKNOWN_TOPIC");
        let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let mut names: Vec<String> = all().into_iter().map(name).collect();
        assert!(
            names.iter().all(|name| name.chars().all(upper)),
            "{names:?}"
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }
}
