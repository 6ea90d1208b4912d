//! Translates between the types of `kafka` and those of the engine, which knows no librdkafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use crate::engine::output::{DeliveryFailure, FailureKind};
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::error::{Code, Error, Result};
use crate::kafka::{
    DeliveryError, DeliveryReport, ErrorAction, MetadataClient, Producer, SendError, TopicAnswer,
};
use crate::outbox::Rejection;

/// How long a record waits for room in the producer's queue before the session ends.
const FULL_LIMIT: Duration = Duration::from_secs(10);

/// Sends a record with the producer, and waits while its queue is full. The inner error is the
/// record's own.
pub(crate) fn send(
    producer: &mut Producer,
    reports: &mut Vec<DeliveryReport>,
    mut send: impl FnMut(&mut Producer) -> Result<(), SendError>,
) -> Result<Result<(), DeliveryError>> {
    let mut full_since = None;
    loop {
        match send(producer) {
            Ok(()) => return Ok(Ok(())),
            Err(SendError::Refused(refusal)) => return Ok(Err(refusal)),
            // The memory limit lies far below the queue's, so this happens only if a setting has
            // made the queue smaller.
            Err(SendError::Full)
                if full_since.get_or_insert_with(Instant::now).elapsed() < FULL_LIMIT =>
            {
                producer.take_reports(reports);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(SendError::Full) => {
                let message = "the producer's queue stays full";
                return Err(Error::transient(Code::Publish, message)
                    .with_hint("raise queue.buffering.max.messages or lower the memory limit"));
            }
        }
    }
}

/// The engine's failure for a record that was not delivered.
pub(crate) fn failure(refusal: &DeliveryError) -> DeliveryFailure {
    let kind = match (refusal.action(), refusal.code()) {
        (
            ErrorAction::Refuse,
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition,
        ) => FailureKind::NoTopic,
        (ErrorAction::Refuse, RDKafkaErrorCode::TopicAuthorizationFailed) => FailureKind::Denied,
        (ErrorAction::Refuse, _) => FailureKind::Refused,
        (ErrorAction::Wait, _) => FailureKind::Outage,
        (ErrorAction::Rewind | ErrorAction::Fatal, _) => FailureKind::Producer,
    };
    DeliveryFailure {
        kind,
        rejection: Rejection {
            code: refusal.name(),
            // The code stands in a field of its own.
            message: Error::from(refusal.clone()).describe(),
        },
        number: refusal.number(),
    }
}

/// Queries the metadata of topics; `None` if Kafka does not answer.
pub(crate) async fn ask(
    metadata_client: Arc<MetadataClient>,
    topics: Vec<String>,
) -> Option<Vec<(String, MetadataAnswer)>> {
    match metadata_client.ask(&topics).await {
        Ok(answers) => {
            let answers = answers.into_iter();
            Some(answers.map(|(name, topic)| (name, answer(topic))).collect())
        }
        Err(error) => {
            tracing::debug!(error = %error.report(), "Kafka metadata query failed");
            None
        }
    }
}

fn answer(topic: TopicAnswer) -> MetadataAnswer {
    match topic {
        TopicAnswer::Missing => MetadataAnswer::Missing,
        TopicAnswer::NoneListed => MetadataAnswer::NoneListed,
        TopicAnswer::Unconfirmed => MetadataAnswer::Unconfirmed,
        TopicAnswer::Known(topic_limits) => MetadataAnswer::Known(TopicLimits {
            batch_bytes_max: topic_limits.max_message_bytes,
            compacted: topic_limits.compacted,
            problem: topic_limits.problem(),
        }),
    }
}
