//! What the engine asks of Kafka beside sending: the metadata of topics, and what stands at their
//! ends. Decides nothing.
//!
//! At most one question of each kind is under way.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers as _};

use crate::config::Config;
use crate::engine::Engine;
use crate::engine::topics::placing::PlacingLimits;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::kafka::{MetadataClient, Seen, TopicAnswer, read_ends};
use crate::lsn::Lsn;
use crate::outbox::{KeyDigest, Signature, StreamedCopy};

type Question<T> = Option<Pin<Box<dyn Future<Output = T>>>>;
type Topics = Option<Vec<(String, MetadataAnswer)>>;
type Ends = (u64, Vec<(String, Vec<StreamedCopy>)>);

/// See the module's head.
pub(super) struct KafkaQueries {
    config: Arc<Config>,
    metadata_client: Arc<MetadataClient>,
    topics: Question<Topics>,
    ends: Question<Ends>,
}

/// What Kafka has answered.
pub(super) enum Answer {
    Topics(Topics),
    Ends(Ends),
}

impl KafkaQueries {
    /// No question yet.
    pub(super) fn new(config: &Arc<Config>, metadata_client: Arc<MetadataClient>) -> Self {
        KafkaQueries {
            config: Arc::clone(config),
            metadata_client,
            topics: None,
            ends: None,
        }
    }

    /// Queries the metadata of these topics.
    pub(super) fn ask(&mut self, topics: Vec<String>) {
        self.topics = Some(Box::pin(ask(Arc::clone(&self.metadata_client), topics)));
    }

    /// Reads the ends of these topics back, for the engine of this generation.
    pub(super) fn read_back(&mut self, generation: u64, topics: Vec<String>, from: Lsn) {
        let config = Arc::clone(&self.config);
        self.ends = Some(Box::pin(async move {
            let source_id = config.mapping.source_id.clone();
            let look = move |record: &BorrowedMessage<'_>| seen(record, source_id.as_bytes(), from);
            let copies = read_ends(config, topics, look).await;
            let copies = copies.unwrap_or_else(|error| {
                let what = "the ends of topics were not read, so events may be sent again";
                tracing::info!(error = %error.report(), "{what}");
                Vec::new()
            });
            for (topic, copies) in copies.iter().filter(|(_, copies)| !copies.is_empty()) {
                tracing::debug!(topic, records = copies.len(), %from, "topic read back");
            }
            (generation, copies)
        }));
    }

    /// Waits for an answer; for ever if nothing was asked. Cancel-safe.
    pub(super) async fn answered(&mut self) -> Answer {
        tokio::select! {
            topics = of(&mut self.topics) => {
                self.topics = None;
                Answer::Topics(topics)
            }
            ends = of(&mut self.ends) => {
                self.ends = None;
                Answer::Ends(ends)
            }
        }
    }
}

impl Answer {
    /// Gives it to the engine.
    pub(super) fn give(self, engine: &mut Engine, now: Duration) {
        match self {
            Answer::Topics(answers) => engine.topics_answered(now, answers),
            Answer::Ends((generation, copies)) => engine.ends_read(now, generation, copies),
        }
    }
}

/// The copy of an event of this source, if the record is one.
fn seen(record: &impl Message, source_id: &[u8], from: Lsn) -> Option<Seen<StreamedCopy>> {
    let headers = record.headers()?;
    let headers = headers.iter().map(|header| (header.key, header.value));
    let signature = Signature::of_source(headers, source_id)?;
    Some(Seen {
        found: StreamedCopy {
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().map(KeyDigest::of),
            signature,
        },
        is_last: signature.place().0 < from,
    })
}

async fn of<T>(question: &mut Question<T>) -> T {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

/// Queries the metadata of topics; `None` if Kafka does not answer.
async fn ask(
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
            placing: PlacingLimits {
                // A topic whose partitions are not known now has some.
                partition_count: i32::try_from(topic_limits.partition_count)
                    .ok()
                    .filter(|count| *count > 0),
                before_max: topic_limits.before_limit,
                after_max: topic_limits.after_limit,
            },
            problem: topic_limits.problem(),
        }),
    }
}
