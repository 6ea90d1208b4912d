//! Requests about a cluster for a person who examines it: its brokers, why a topic is not listed,
//! and whether the user may write.
//!
//! Each request has a client of its own, which ends with it, and changes nothing: topics are never
//! created, no record is sent. The idempotent producer takes a producer id, which a broker hands
//! out by counting.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::statistics::{self, Statistics};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::config::{Config, Token};
use crate::error::{Error, Result};
use crate::kafka::admin::{blocking, unreachable};
use crate::kafka::context::{Context, LastError};
use crate::kafka::{client_config, login};

/// The interval of the producer's state.
const STATE: Duration = Duration::from_millis(100);

/// A report may have been made before the last broker of an answer was taken in.
const REPORTS_UNTIL_COMPLETE: u32 = 1;

/// A broker as the cluster advertises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why the list of topics lacks one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absence {
    Missing,
    /// The user lacks the right to describe it, whether it exists or not.
    Forbidden,
    /// It is there by now, or the broker answers with another error.
    Unclear(String),
}

/// Whether the user may write idempotently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteRight {
    /// On at least one topic, or on the cluster.
    Granted,
    Refused(String),
    /// No answer in time.
    Unknown(String),
}

/// The cluster's brokers, as the first answer to a new client lists them.
///
/// librdkafka gives up the bootstrap connection once it has that list. A further request would go
/// to the addresses of the list, and to no broker if this machine reaches none of them.
pub(crate) async fn brokers(config: &Config, limit: Duration) -> Result<Vec<Broker>> {
    let (config, token) = (config.clone(), login::token(config).await?);
    blocking(move || {
        let mut settings = client_config::client(&config)?;
        settings
            .set("statistics.interval.ms", STATE.as_millis().to_string())
            .set_log_level(RDKafkaLogLevel::Emerg);
        let client: BaseProducer<ClientState> = settings
            .create_with_context(ClientState::default())
            .map_err(client_config::refused)?;
        login::log_in(client.client(), token.as_deref(), &config)?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            client.poll(STATE);
            let has_answer = client.client().fetch_cluster_id(Duration::ZERO).is_some();
            let mut state = client.context().state();
            if !has_answer {
                state.reports = 0;
            } else if state.reports > REPORTS_UNTIL_COMPLETE && !state.brokers.is_empty() {
                return Ok(std::mem::take(&mut state.brokers));
            }
        }
        let last = client.context().state().last_error.clone();
        Err(unreachable(&config, last))
    })
    .await
}

/// Asks for each of these topics by its name, which tells a missing one from one that the user may
/// not see.
pub(crate) async fn absences(
    config: &Config,
    topics: Vec<String>,
    limit: Duration,
) -> Result<Vec<(String, Absence)>> {
    let (config, token) = (config.clone(), login::token(config).await?);
    blocking(move || {
        let deadline = Instant::now() + limit;
        let client = client(&config, token.as_deref())?;
        let mut found = Vec::new();
        for topic in topics {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let metadata = client.inner().fetch_metadata(Some(&topic), left);
            let metadata = metadata.map_err(|error| unanswered(&config, error))?;
            let listed = metadata.topics().iter().find(|it| it.name() == topic);
            found.push((topic, absence(listed.map(|it| it.error()))));
        }
        Ok(found)
    })
    .await
}

fn absence(listed: Option<Option<RDKafkaRespErr>>) -> Absence {
    use RDKafkaRespErr::*;
    match listed {
        Some(Some(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)) => Absence::Forbidden,
        Some(Some(
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID,
        ))
        | None => Absence::Missing,
        Some(Some(error)) => Absence::Unclear(RDKafkaErrorCode::from(error).to_string()),
        Some(None) => Absence::Unclear("it has appeared just now".to_owned()),
    }
}

/// Whether an idempotent producer of this user gets its id, without which it sends nothing.
pub(crate) async fn write_right(config: &Config, limit: Duration) -> Result<WriteRight> {
    let (config, token) = (config.clone(), login::token(config).await?);
    blocking(move || {
        let mut settings = client_config::producer(&config)?;
        settings
            .set("statistics.interval.ms", STATE.as_millis().to_string())
            .set_log_level(RDKafkaLogLevel::Emerg);
        let producer: BaseProducer<ClientState> = settings
            .create_with_context(ClientState::default())
            .map_err(client_config::refused)?;
        login::log_in(producer.client(), token.as_deref(), &config)?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            producer.poll(STATE);
            if let Some((code, reason)) = producer.client().fatal_error() {
                return Ok(WriteRight::Refused(format!("{reason} ({code:?})")));
            }
            let state = producer.context().state();
            if state.is_assigned {
                return Ok(WriteRight::Granted);
            }
        }
        let last = producer.context().state().last_error.take();
        let reason = last.map(|last| last.reason);
        let reason = reason.unwrap_or_else(|| "no broker has given a producer id".to_owned());
        Ok(WriteRight::Unknown(reason))
    })
    .await
}

/// What a client's callbacks show of its state.
#[derive(Debug, Default)]
struct ClientState {
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    is_assigned: bool,
    /// Those that an answer has listed.
    brokers: Vec<Broker>,
    /// How many reports of its state there were.
    reports: u32,
    last_error: Option<LastError>,
}

impl ClientState {
    fn state(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ClientState {
    fn stats(&self, statistics: Statistics) {
        let producer = statistics.eos.map(|eos| eos.idemp_state);
        let mut state = self.state();
        state.is_assigned |= producer.as_deref() == Some("Assigned");
        let brokers = statistics.brokers.into_values();
        let mut brokers: Vec<Broker> = brokers.filter_map(advertised).collect();
        brokers.sort_by_key(|broker| broker.id);
        state.brokers = brokers;
        state.reports += 1;
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        self.state().last_error = Some(LastError {
            code: code.unwrap_or(RDKafkaErrorCode::Unknown),
            reason: reason.chars().take(300).collect(),
        });
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for ClientState {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A broker that an answer has listed; bootstrap servers have no id.
fn advertised(broker: statistics::Broker) -> Option<Broker> {
    let (host, port) = broker.nodename.rsplit_once(':')?;
    (broker.nodeid >= 0).then(|| Broker {
        id: broker.nodeid,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().unwrap_or_default(),
    })
}

pub(super) fn client(config: &Config, token: Option<&Token>) -> Result<AdminClient<Context>> {
    let mut settings = client_config::client(config)?;
    settings
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Emerg);
    let client: AdminClient<Context> = settings
        .create_with_context(Context::silent())
        .map_err(client_config::refused)?;
    login::log_in(client.inner(), token, config)?;
    Ok(client)
}

fn unanswered(config: &Config, error: KafkaError) -> Error {
    unreachable(config, None).with_source(error)
}
