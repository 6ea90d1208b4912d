//! Requests to the cluster outside the stream of records: is it reachable, create or delete these
//! topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::{Config, Token};
use crate::error::{Code, Error, Result};
use crate::kafka::context::{Context, LastError};
use crate::kafka::{certificate, client_config, connection_hint, login};

/// The interval at which the errors of an unanswered request are checked.
const SLICE: Duration = Duration::from_millis(100);

/// The cluster's data about itself.
#[derive(Debug, Clone)]
pub struct ClusterInfo {
    /// The cluster's ID; empty where the brokers are too old to have one.
    pub id: String,
}

/// Requests metadata from the brokers and waits at most `timeout` for an answer.
///
/// Without an answer the error is a transient `CONNECT_ERROR` that names the brokers. Wrong
/// credentials end the wait early.
pub async fn reachable(config: &Config, timeout: Duration) -> Result<ClusterInfo> {
    let (config, token) = (config.clone(), login::token(config).await?);
    let cancelled = CancelOnDrop::default();
    let flag = Arc::clone(&cancelled.0);
    let answer = blocking(move || fetch_cluster(&config, token, timeout, &flag)).await;
    drop(cancelled);
    answer
}

/// Signals the requesting thread that its caller has gone.
#[derive(Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs blocking work on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|cancelled| {
        let message = "the Kafka request was cancelled";
        Err(Error::transient(Code::Lifecycle, message).with_source(cancelled))
    })
}

fn fetch_cluster(
    config: &Config,
    token: Option<Arc<Token>>,
    timeout: Duration,
    cancelled: &AtomicBool,
) -> Result<ClusterInfo> {
    let client: BaseProducer<Context> = client_config::client(config)?
        .create_with_context(Context::silent())
        .map_err(client_config::refused)?;
    login::log_in(client.client(), token.as_deref(), config)?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(id) = client.client().fetch_cluster_id(SLICE.min(left)) {
            return Ok(ClusterInfo { id });
        }
        client.poll(Duration::from_millis(1));
        let last = client.context().last_error();
        let is_over = left.is_zero() || cancelled.load(Ordering::Relaxed);
        if is_over || last.as_ref().is_some_and(is_about_credentials) {
            return Err(unreachable(
                config,
                last.map(|last| explained(config, last)),
            ));
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

/// The error with the reason why a certificate is refused, if that is what it is about.
fn explained(config: &Config, mut last: LastError) -> LastError {
    let uses_tls = connection_hint::protocol(config).ends_with("SSL");
    let (address, problem) = connection_hint::split(&last.reason);
    let is_reached = !["refused", "resolve", "imed out"]
        .iter()
        .any(|word| problem.contains(word));
    if !uses_tls || !is_reached {
        return last;
    }
    let is_brokers = problem.contains("certificate");
    let address = address.filter(|_| is_brokers);
    let why = address.and_then(|address| Some((address, certificate::problem(config, address)?)));
    if let Some((address, why)) = why {
        last.reason = format!("{address}: the broker's certificate is not accepted: {why}");
    } else if let Some(problem) = certificate::own_problem(config) {
        last.reason = problem;
    }
    last
}

/// The error for a cluster that does not answer; `last` is what librdkafka met.
pub(crate) fn unreachable(config: &Config, last: Option<LastError>) -> Error {
    let message = format!("no Kafka broker answers at {}", config.brokers);
    let reason = last.as_ref().map_or("", |last| last.reason.as_str());
    let hint = connection_hint::hint(config, reason);
    let error = Error::transient(Code::Connect, message).with_hint(hint);
    match last {
        Some(last) => error.with_source(last.reason),
        None => error,
    }
}

/// Creates the missing topics, each with the given number of partitions and the cluster's default
/// replication.
pub async fn create_topics(
    config: &Config,
    topics: &[(&str, i32)],
    timeout: Duration,
) -> Result<()> {
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|&(name, partitions)| NewTopic::new(name, partitions, TopicReplication::Fixed(-1)))
        .collect();
    let results = admin_client(config)
        .await?
        .create_topics(&new, &options(timeout))
        .await;
    first_failure(results, "create", RDKafkaErrorCode::TopicAlreadyExists)
}

/// Deletes the topics that exist, with their records.
pub async fn delete_topics(config: &Config, topics: &[&str], timeout: Duration) -> Result<()> {
    let results = admin_client(config)
        .await?
        .delete_topics(topics, &options(timeout))
        .await;
    first_failure(results, "delete", RDKafkaErrorCode::UnknownTopicOrPartition)
}

pub(super) async fn admin_client(config: &Config) -> Result<AdminClient<Context>> {
    let token = login::token(config).await?;
    let client: AdminClient<Context> = client_config::client(config)?
        .create_with_context(Context::silent())
        .map_err(client_config::refused)?;
    login::log_in(client.inner(), token.as_deref(), config)?;
    Ok(client)
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}

/// An error for the first topic that Kafka did not `verb`, except with the code that means there
/// was nothing to do.
fn first_failure(
    results: KafkaResult<Vec<TopicResult>>,
    verb: &str,
    nothing_to_do: RDKafkaErrorCode,
) -> Result<()> {
    let results = results.map_err(|error| {
        let message = format!("Kafka did not {verb} the topics");
        Error::transient(Code::Connect, message).with_source(error)
    })?;
    for result in results {
        match result {
            Ok(_) => {}
            Err((_, code)) if code == nothing_to_do => {}
            Err((topic, code)) => {
                let message = format!("Kafka did not {verb} the topic {topic}");
                return Err(Error::fatal(Code::Publish, message).with_source(code));
            }
        }
    }
    Ok(())
}
