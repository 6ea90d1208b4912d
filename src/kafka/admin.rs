//! Questions and orders to the cluster outside the stream of records: is it there, create these
//! topics.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::kafka::client_config;
use crate::kafka::context::{Context, LastError};

/// How often a cluster that does not answer is asked whether it has complained meanwhile.
const SLICE: Duration = Duration::from_millis(100);

/// What a cluster says of itself.
#[derive(Debug, Clone)]
pub struct ClusterInfo {
    /// The cluster's id; empty where the brokers are too old to have one.
    pub id: String,
}

/// Asks the brokers for metadata and waits at most `timeout` for an answer.
///
/// No answer is a transient `CONNECT_ERROR` that names the brokers; wrong credentials end the
/// waiting early.
pub async fn reachable(config: &Config, timeout: Duration) -> Result<ClusterInfo> {
    let config = config.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&config, timeout)).await;
    asked.unwrap_or_else(|gone| {
        Err(Error::transient(Code::Lifecycle, "the question to Kafka was given up").source(gone))
    })
}

fn ask(config: &Config, timeout: Duration) -> Result<ClusterInfo> {
    let client: BaseProducer<Context> = client_config::client(config)
        .create_with_context(Context::silent())
        .map_err(client_config::refused)?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(id) = client.client().fetch_cluster_id(SLICE.min(left)) {
            return Ok(ClusterInfo { id });
        }
        client.poll(Duration::from_millis(1));
        let last = client.context().last_error();
        if left.is_zero() || last.as_ref().is_some_and(is_about_credentials) {
            return Err(unreachable(&config.brokers, last));
        }
    }
}

fn is_about_credentials(error: &LastError) -> bool {
    matches!(
        error.code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::SSL
    )
}

pub(crate) fn unreachable(brokers: &str, last: Option<LastError>) -> Error {
    let error = Error::transient(
        Code::Connect,
        format!("no Kafka broker answers at {brokers}"),
    );
    match last {
        Some(last) if is_about_credentials(&last) => error
            .with_hint("check security.protocol, sasl.* and ssl.* in the Kafka properties")
            .source(last.reason),
        Some(last) => error
            .with_hint(
                "is Kafka up, and can this machine reach what its advertised.listeners name?",
            )
            .source(last.reason),
        None => error.with_hint("is Kafka up, and is this its address?"),
    }
}

/// Creates the topics that are not there yet, each with so many partitions and the cluster's
/// default replication.
pub async fn create_topics(
    config: &Config,
    topics: &[(&str, i32)],
    timeout: Duration,
) -> Result<()> {
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|&(name, partitions)| NewTopic::new(name, partitions, TopicReplication::Fixed(-1)))
        .collect();
    let results = admin(config)?.create_topics(&new, &patience(timeout)).await;
    each(results, "create", RDKafkaErrorCode::TopicAlreadyExists)
}

/// Deletes those of the topics that are there, with all that is in them.
pub async fn delete_topics(config: &Config, topics: &[&str], timeout: Duration) -> Result<()> {
    let results = admin(config)?
        .delete_topics(topics, &patience(timeout))
        .await;
    each(results, "delete", RDKafkaErrorCode::UnknownTopicOrPartition)
}

fn admin(config: &Config) -> Result<AdminClient<Context>> {
    client_config::client(config)
        .create_with_context(Context::silent())
        .map_err(client_config::refused)
}

fn patience(timeout: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}

/// The first topic that Kafka did not `verb`, unless the code says that there was nothing to do.
fn each(
    results: KafkaResult<Vec<TopicResult>>,
    verb: &str,
    nothing_to_do: RDKafkaErrorCode,
) -> Result<()> {
    let results = results.map_err(|error| {
        let message = format!("Kafka did not {verb} the topics");
        Error::transient(Code::Connect, message).source(error)
    })?;
    for result in results {
        match result {
            Ok(_) => {}
            Err((_, code)) if code == nothing_to_do => {}
            Err((topic, code)) => {
                let message = format!("Kafka did not {verb} the topic {topic}");
                return Err(Error::fatal(Code::Publish, message).source(code));
            }
        }
    }
    Ok(())
}
