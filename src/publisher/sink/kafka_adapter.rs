//! Translates between the types of `kafka` and those of the engine, which knows no librdkafka.

use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use crate::engine::exactly_once::progress::{Progress, ProgressKey};
use crate::engine::exactly_once::transaction::{CommitOutcome, PROGRESS_TICKET};
use crate::engine::output::{DeliveryFailure, FailureKind};
use crate::error::Error;
use crate::kafka::{
    Commit, CommitResult, DeliveryError, DeliveryReport, ErrorAction, Producer, SendError,
};
use crate::outbox::Rejection;

/// How long a record waits for room in the producer's queue. Status updates wait meanwhile, so this
/// is far less than the silence after which the server ends a session.
const FULL_LIMIT: Duration = Duration::from_secs(1);

/// Sends a record with the producer, and waits a moment while its queue is full. The producer does
/// not have a record that comes back with an error.
pub(crate) fn send(
    producer: &mut Producer,
    reports: &mut Vec<DeliveryReport>,
    topic: &str,
    mut send: impl FnMut(&mut Producer) -> Result<(), SendError>,
) -> Result<(), DeliveryError> {
    let mut full_since = None;
    loop {
        match send(producer) {
            Ok(()) => return Ok(()),
            Err(SendError::Refused(refusal)) => return Err(refusal),
            // The memory limit lies far below the queue's, so this happens only if an event takes
            // more memory there than was counted.
            Err(SendError::Full)
                if full_since.get_or_insert_with(Instant::now).elapsed() < FULL_LIMIT =>
            {
                producer.take_reports(reports);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(SendError::Full) => {
                return Err(DeliveryError::new(RDKafkaErrorCode::QueueFull, topic, -1));
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

/// The outcome of the commit under way, and the engine's generation that has asked for it; waits
/// for ever if there is none.
pub(crate) async fn committed(commit: &mut Option<(u64, Commit)>) -> (u64, CommitOutcome) {
    let Some((generation, commit)) = commit else {
        return std::future::pending().await;
    };
    let result = commit.await.unwrap_or_else(|cancelled| {
        CommitResult::Failed("CANCELLED".to_owned(), cancelled.to_string())
    });
    let outcome = match result {
        CommitResult::Committed => CommitOutcome::Committed,
        CommitResult::CommittedInDoubt => CommitOutcome::CommittedInDoubt,
        CommitResult::Failed(code, message) => CommitOutcome::Failed(Rejection { code, message }),
    };
    (*generation, outcome)
}

/// Sends a progress record of this topic and key.
pub(crate) fn send_progress(
    producer: &mut Producer,
    reports: &mut Vec<DeliveryReport>,
    topic: &str,
    key: &ProgressKey,
    progress: &Progress,
) -> Result<(), DeliveryError> {
    let (key, value) = (key.encode(), progress.encode(key));
    send(producer, reports, topic, |producer| {
        producer.send_progress(topic, &key, &value, PROGRESS_TICKET)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
    use crate::error::Result;
    use crate::outbox::{Event, RowName, TextValue};
    use crate::publisher::sink::forwarder::Forwarder;
    use crate::publisher::sink::forwarder_tests::forwarder;

    /// As many records as the producer's queue holds; see `client_config`.
    const QUEUE: usize = 100_000;

    fn event(topic: &str) -> Event<'_> {
        Event {
            id: "1".into(),
            row_id: Some(1.into()),
            topic,
            event_type: Some("created"),
            key: Some(TextValue::Verbatim(b"created")),
            payload: Some(TextValue::Verbatim(b"{}")),
            ..Event::of_nulls()
        }
    }

    #[tokio::test]
    async fn a_held_record_that_a_full_producer_does_not_take_is_kept() -> Result<()> {
        let (_, mut forwarder) = forwarder(Some("1MiB"))?;
        let exists = |forwarder: &mut Forwarder, topic: &str| {
            forwarder.engine.poll(Duration::ZERO);
            forwarder.output()?;
            let known = MetadataAnswer::Known(TopicLimits::default());
            let answers = Some(vec![(topic.to_owned(), known)]);
            forwarder.engine.topics_answered(Duration::ZERO, answers);
            forwarder.output()
        };
        let send = |forwarder: &mut Forwarder, topic| {
            forwarder.row(&event(topic), RowName::of_id(1), 7, 0)
        };
        send(&mut forwarder, "a")?;
        exists(&mut forwarder, "a")?;
        for _ in 1..QUEUE {
            send(&mut forwarder, "a")?;
        }
        send(&mut forwarder, "b")?;
        let output = exists(&mut forwarder, "b");
        assert!(output.is_ok(), "a session ends: {output:?}");
        let held = forwarder.engine.stats().in_flight_count;
        assert_eq!(held, QUEUE as u64 + 1);
        assert_eq!(forwarder.engine.unreported_count(), QUEUE as u64);
        Ok(())
    }
}
