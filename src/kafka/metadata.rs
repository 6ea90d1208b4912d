//! Kafka's metadata about topics, requested before and after a record fails: whether a topic
//! exists, what it accepts, whether it can be written to now.
//!
//! **No request creates a topic.** A request for a topic by name leaves a handle in librdkafka that
//! is refreshed without end, and creates the topic on a broker with automatic creation. One request
//! therefore lists all topics of the cluster, and settings are requested only for existing ones.
//! Where the Kafka user may not read settings they stay unknown, which is no error.
//!
//! **No queue grows.** rdkafka never reads the main queue of its admin client, so anything put
//! there would stay. At this log level librdkafka puts no log lines there, and errors only for
//! clients that register for such events, which this one does not.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier,
};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::kafka::admin::blocking;
use crate::kafka::context::Context;
use crate::kafka::{admin, client_config};

/// The limit for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A request whose caller has gone ends within this time.
const SLICE: Duration = Duration::from_millis(2_500);

/// The limit for the answer about settings: they are useful, but not required.
const DESCRIBE: Duration = Duration::from_secs(4);

/// The number of topics in one request for settings.
const CHUNK: usize = 200;

/// The most partitions that are named.
const NAMED_MAX: usize = 16;

type Client = AdminClient<Context>;

/// Requests metadata about topics. The first request creates the underlying client.
pub(crate) struct MetadataClient {
    settings: ClientConfig,
    brokers: String,
    client: Arc<Mutex<Option<Arc<Client>>>>,
}

/// Kafka's answer about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicAnswer {
    Known(TopicFacts),
    /// The topic does not exist, or the Kafka user may not see it, which looks the same.
    Missing,
}

/// An existing topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicFacts {
    /// The largest batch that it accepts; `None` if unknown.
    pub(crate) max_message_bytes: Option<usize>,
    /// Whether it is compacted and so rejects records without a key; `false` also if unknown.
    pub(crate) compacted: bool,
    pub(crate) partition_count: usize,
    /// Partitions without a leader, which cannot be written to now. The first 16.
    pub(crate) leaderless: Vec<i32>,
    /// Partitions with fewer in-sync replicas than the topic requires for a write. The first 16;
    /// none if the requirement is unknown.
    pub(crate) under_replicated: Vec<i32>,
}

impl TopicFacts {
    /// The problem with the topic's partitions, for a person; `None` if there is none.
    pub(crate) fn problem(&self) -> Option<String> {
        let list = |partitions: &[i32]| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            partitions.join(", ")
        };
        if !self.leaderless.is_empty() {
            return Some(format!(
                "no leader for partition {}",
                list(&self.leaderless)
            ));
        }
        let short = list(&self.under_replicated);
        (!short.is_empty()).then(|| format!("too few in-sync replicas for partition {short}"))
    }
}

/// A partition in the metadata.
#[derive(Debug, Clone, Copy)]
struct Partition {
    id: i32,
    has_leader: bool,
    in_sync: usize,
}

/// The relevant settings, as far as they are known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct TopicSettings {
    max_message_bytes: Option<usize>,
    compacted: bool,
    min_in_sync: Option<usize>,
}

impl MetadataClient {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &Config) -> MetadataClient {
        let mut settings = client_config::client(config);
        settings.set("allow.auto.create.topics", "false");
        settings.set_log_level(RDKafkaLogLevel::Emerg);
        MetadataClient {
            settings,
            brokers: config.brokers.clone(),
            client: Arc::default(),
        }
    }

    /// Kafka's answers about these topics, in their order.
    ///
    /// # Errors
    ///
    /// A transient [`Code::Connect`] when no broker answers within ten seconds, and a fatal
    /// [`Code::Config`] when librdkafka does not accept its properties.
    pub(crate) async fn ask(&self, topics: &[String]) -> Result<Vec<(String, TopicAnswer)>> {
        let deadline = Instant::now() + LIMIT;
        let client = self.client().await?;
        let found = self.list(&client, topics, deadline).await?;
        let there: Vec<&str> = topics
            .iter()
            .zip(&found)
            .filter_map(|(topic, found)| found.as_ref().map(|_| topic.as_str()))
            .collect();
        let mut described = HashMap::new();
        for chunk in there.chunks(CHUNK) {
            self.describe(&client, chunk, deadline, &mut described)
                .await?;
        }
        let answers = topics.iter().zip(found).map(|(topic, found)| {
            let settings = described.get(topic.as_str()).cloned().unwrap_or_default();
            let answer = match (found, settings) {
                (Some(partitions), Some(settings)) => {
                    TopicAnswer::Known(facts(&partitions, &settings))
                }
                // In the second case the topic was deleted between the two requests.
                (None, _) | (Some(_), None) => TopicAnswer::Missing,
            };
            (topic.clone(), answer)
        });
        Ok(answers.collect())
    }

    /// The client that all requests share.
    async fn client(&self) -> Result<Arc<Client>> {
        let (settings, client) = (self.settings.clone(), Arc::clone(&self.client));
        blocking(move || {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(client) = &*client {
                return Ok(Arc::clone(client));
            }
            let made: Client = settings
                .create_with_context(Context::silent())
                .map_err(client_config::refused)?;
            Ok(Arc::clone(client.insert(Arc::new(made))))
        })
        .await
    }

    /// The partitions of each topic, or `None` if it does not exist.
    async fn list(
        &self,
        client: &Arc<Client>,
        topics: &[String],
        deadline: Instant,
    ) -> Result<Vec<Option<Vec<Partition>>>> {
        let waiting = Waiting::default();
        let cancelled = Arc::clone(&waiting.0);
        let (client, topics) = (Arc::clone(client), topics.to_vec());
        let brokers = self.brokers.clone();
        let answer = blocking(move || {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match client.inner().fetch_metadata(None, SLICE.min(left)) {
                    Ok(metadata) => return Ok(select(metadata.topics(), &topics)),
                    Err(_) if left > SLICE && !cancelled.load(Ordering::Relaxed) => {}
                    Err(error) => return Err(unreachable(&brokers, error)),
                }
            }
        })
        .await;
        drop(waiting);
        answer
    }

    /// Adds the settings of these topics; `None` for one that no longer exists.
    async fn describe<'a>(
        &self,
        client: &Client,
        topics: &[&'a str],
        deadline: Instant,
        described: &mut HashMap<&'a str, Option<TopicSettings>>,
    ) -> Result<()> {
        let specifiers: Vec<ResourceSpecifier<'_>> = topics
            .iter()
            .map(|topic| ResourceSpecifier::Topic(topic))
            .collect();
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(DESCRIBE);
        let options = AdminOptions::new().request_timeout(Some(left.max(Duration::from_millis(1))));
        let results = match client.describe_configs(&specifiers, &options).await {
            Ok(results) => results,
            Err(KafkaError::AdminOp(code)) if is_unavailable(code) => {
                described.extend(
                    topics
                        .iter()
                        .map(|topic| (*topic, Some(Default::default()))),
                );
                return Ok(());
            }
            Err(error) => return Err(unreachable(&self.brokers, error)),
        };
        // The results are in the order of the request.
        for (topic, result) in topics.iter().zip(results) {
            let settings = match result {
                Ok(resource) if resource.specifier == owned(topic) => Some(read(&resource)),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => None,
                Ok(_) | Err(_) => Some(TopicSettings::default()),
            };
            described.insert(topic, settings);
        }
        Ok(())
    }
}

impl fmt::Debug for MetadataClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataClient")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

impl Drop for MetadataClient {
    /// Destroying the client waits for its threads, which must not block the thread of the runtime.
    fn drop(&mut self) {
        let client = Arc::clone(&self.client);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

/// Signals the requesting thread that its caller has gone.
#[derive(Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The Kafka user may not read settings, or the broker does not support it: unknown settings are no
/// error.
fn is_unavailable(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedVersion
            | RDKafkaErrorCode::UnsupportedFeature
            | RDKafkaErrorCode::OperationTimedOut
    )
}

fn unreachable(brokers: &str, error: KafkaError) -> Error {
    admin::unreachable(brokers, None).with_source(error)
}

fn owned(topic: &str) -> OwnedResourceSpecifier {
    OwnedResourceSpecifier::Topic(topic.to_owned())
}

/// The requested topics out of all, in the order of the request.
fn select(all: &[MetadataTopic], wanted: &[String]) -> Vec<Option<Vec<Partition>>> {
    let mut found: HashMap<&str, Option<Vec<Partition>>> =
        wanted.iter().map(|name| (name.as_str(), None)).collect();
    for topic in all {
        if let Some(found) = found.get_mut(topic.name()) {
            *found = partitions(topic);
        }
    }
    let of = |name: &String| found.get(name.as_str()).cloned().flatten();
    wanted.iter().map(of).collect()
}

fn partitions(topic: &MetadataTopic) -> Option<Vec<Partition>> {
    use RDKafkaRespErr::*;
    match topic.error() {
        Some(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID) => None,
        // The topic exists, but its partitions are unknown now.
        Some(_) => Some(Vec::new()),
        None => {
            let partitions = topic.partitions().iter().map(|partition| Partition {
                id: partition.id(),
                has_leader: partition.leader() >= 0,
                in_sync: partition.isr().len(),
            });
            Some(partitions.collect())
        }
    }
}

fn read(resource: &ConfigResource) -> TopicSettings {
    let value = |name| resource.get(name).and_then(|entry| entry.value.as_deref());
    TopicSettings {
        max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
        compacted: value("cleanup.policy")
            .is_some_and(|list| list.split(',').any(|policy| policy.trim() == "compact")),
        min_in_sync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
    }
}

fn facts(partitions: &[Partition], settings: &TopicSettings) -> TopicFacts {
    let named = |chosen: &dyn Fn(&Partition) -> bool| {
        let mut ids: Vec<i32> = partitions
            .iter()
            .filter(|it| chosen(it))
            .map(|it| it.id)
            .collect();
        ids.sort_unstable();
        ids.truncate(NAMED_MAX);
        ids
    };
    let least = settings.min_in_sync.unwrap_or(0);
    TopicFacts {
        max_message_bytes: settings.max_message_bytes,
        compacted: settings.compacted,
        partition_count: partitions.len(),
        leaderless: named(&|it| !it.has_leader),
        under_replicated: named(&|it| it.in_sync < least),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_in_trouble_are_named_and_not_more_than_sixteen() {
        let partitions: Vec<Partition> = (0..100)
            .rev()
            .map(|id| Partition {
                id,
                has_leader: id % 2 == 1,
                in_sync: if id == 7 { 1 } else { 2 },
            })
            .collect();
        let settings = TopicSettings {
            min_in_sync: Some(2),
            ..TopicSettings::default()
        };
        let of_all = facts(&partitions, &settings);
        assert_eq!(of_all.leaderless, Vec::from_iter((0..32).step_by(2)));
        assert_eq!(of_all.under_replicated, [7]);
        assert_eq!(of_all.partition_count, 100);
        let unknown = facts(&partitions, &TopicSettings::default());
        assert!(unknown.under_replicated.is_empty());

        let short = TopicFacts {
            under_replicated: vec![1, 3],
            ..TopicFacts::default()
        };
        let problem = short.problem();
        assert_eq!(
            problem.as_deref(),
            Some("too few in-sync replicas for partition 1, 3")
        );
        assert_eq!(TopicFacts::default().problem(), None);
    }
}
