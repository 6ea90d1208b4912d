//! Reads the records of topics by their offsets, for a comparison: without a group, and without
//! storing anything at the brokers.
//!
//! One topic is assigned at a time, since librdkafka names only the partition whose end it has
//! reached. All calls block: the reader belongs to a thread of its own. Every wait has a limit, and
//! ends early when the caller has gone.

mod backwards;
pub(super) mod ends;
pub(super) mod whole_end;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{Config, Token};
use crate::error::{Code, Error, Result};
use crate::kafka::admin::unreachable;
use crate::kafka::context::LastError;
use crate::kafka::{client_config, login};

/// The limit for a request.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the brokers may send nothing while records are due.
const SILENCE: Duration = Duration::from_secs(60);

/// How long one wait for a record takes.
const SLICE: Duration = Duration::from_millis(100);

/// A topic as the brokers list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listing {
    /// It has these partitions.
    Partitions(Vec<i32>),
    Missing,
    /// The user may not describe it, whether it exists or not.
    Forbidden,
}

/// The offsets of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The first record that is left.
    pub(crate) low: i64,
    /// The offset behind the last record that is committed and has no open transaction before it.
    pub(crate) stable: i64,
    /// The offset behind the last record.
    pub(crate) high: i64,
}

/// The records of a partition that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) partition: i32,
    pub(crate) from: i64,
    /// The offset behind the last.
    pub(crate) to: i64,
}

/// See the module's head.
pub(crate) struct TopicReader {
    brokers: Config,
    consumer: BaseConsumer<Errors>,
    /// Sees what is not committed; none if that does not matter.
    ahead: Option<BaseConsumer<Errors>>,
    cancelled: Arc<AtomicBool>,
}

/// The token that a reader needs; `None` where the mechanism needs none.
///
/// # Errors
/// Transient: there is no token now.
pub(crate) async fn reader_token(config: &Config) -> Result<Option<Arc<Token>>> {
    login::token(config).await
}

impl TopicReader {
    /// Makes the clients. When `cancelled` becomes true, every wait ends with an error.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when librdkafka does not accept its properties.
    pub(crate) fn new(
        config: &Config,
        token: Option<&Token>,
        cancelled: Arc<AtomicBool>,
    ) -> Result<TopicReader> {
        let ahead = client(config, token, true)?;
        let reader = TopicReader::of_committed(config, token, cancelled)?;
        Ok(TopicReader {
            ahead: Some(ahead),
            ..reader
        })
    }

    /// The same for a caller to whom only committed records matter: in [`Ends`] they are all.
    ///
    /// # Errors
    /// As those of [`new`](TopicReader::new).
    fn of_committed(
        config: &Config,
        token: Option<&Token>,
        cancelled: Arc<AtomicBool>,
    ) -> Result<TopicReader> {
        Ok(TopicReader {
            brokers: config.clone(),
            consumer: client(config, token, false)?,
            ahead: None,
            cancelled,
        })
    }

    /// The partitions of a topic.
    ///
    /// # Errors
    /// Transient: no broker answers, or with another error.
    pub(crate) fn list(&self, topic: &str) -> Result<Listing> {
        use RDKafkaRespErr::*;
        let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER);
        let metadata = metadata.map_err(|error| self.unanswered(error))?;
        let listed = metadata.topics().iter().find(|it| it.name() == topic);
        match listed.map(|listed| (listed, listed.error())) {
            Some((listed, None)) => {
                let partitions = listed.partitions().iter();
                Ok(Listing::Partitions(partitions.map(|it| it.id()).collect()))
            }
            Some((_, Some(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED))) => Ok(Listing::Forbidden),
            None
            | Some((
                _,
                Some(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID),
            )) => Ok(Listing::Missing),
            Some((_, Some(error))) => {
                let message = format!("the brokers do not describe topic {topic}");
                let code = RDKafkaErrorCode::from(error);
                Err(Error::transient(Code::Connect, message).with_source(code))
            }
        }
    }

    /// The partitions of a topic that is to be read; none if it is missing.
    ///
    /// # Errors
    /// As those of [`list`](TopicReader::list); fatal if the user may not describe it.
    fn readable(&self, topic: &str) -> Result<Vec<i32>> {
        match self.list(topic)? {
            Listing::Partitions(partitions) => Ok(partitions),
            Listing::Missing => Ok(Vec::new()),
            Listing::Forbidden => Err(forbidden(topic)),
        }
    }

    /// The offsets of a partition now.
    ///
    /// # Errors
    /// Transient: no broker answers.
    pub(crate) fn ends(&self, topic: &str, partition: i32) -> Result<Ends> {
        let of = |consumer: &BaseConsumer<Errors>| {
            let ends = consumer.fetch_watermarks(topic, partition, ANSWER);
            ends.map_err(|error| self.unanswered(error))
        };
        let (low, stable) = of(&self.consumer)?;
        let ahead = self.ahead.as_ref().map(of).transpose()?;
        let high = ahead.map_or(stable, |(_, high)| high);
        Ok(Ends { low, stable, high })
    }

    /// The first offset of each of these partitions whose record is not older than a time in
    /// milliseconds since 1970; `None` where no record is so young.
    ///
    /// # Errors
    /// Transient: no broker answers.
    pub(crate) fn at_time(
        &self,
        topic: &str,
        partitions: &[i32],
        millis: i64,
    ) -> Result<Vec<(i32, Option<i64>)>> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            let at = asked.add_partition_offset(topic, *partition, Offset::Offset(millis));
            at.map_err(|error| self.unanswered(error))?;
        }
        let found = self.consumer.offsets_for_times(asked, ANSWER);
        let found = found.map_err(|error| self.unanswered(error))?;
        let found = found.elements();
        let offset = found.iter().map(|found| {
            let offset = match found.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            (found.partition(), offset)
        });
        Ok(offset.collect())
    }

    /// Reads these spans of a topic, each in the order of its offsets. Fewer records may come than
    /// the offsets say.
    ///
    /// # Errors
    /// Transient: the brokers send nothing for a minute although records are due. Fatal: the user
    /// may not read the topic. `each` may return an error too, which ends the read.
    pub(crate) fn read(
        &self,
        topic: &str,
        spans: &[Span],
        mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut left: Vec<Span> = spans.iter().filter(|it| it.from < it.to).copied().collect();
        let mut assigned = TopicPartitionList::new();
        for span in &left {
            let from = Offset::Offset(span.from);
            let added = assigned.add_partition_offset(topic, span.partition, from);
            added.map_err(|error| self.unanswered(error))?;
        }
        let assigned = self.consumer.assign(&assigned);
        assigned.map_err(|error| self.unanswered(error))?;
        let mut heard_at = Instant::now();
        while !left.is_empty() {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Error::transient(Code::Lifecycle, "the read was cancelled"));
            }
            match self.consumer.poll(SLICE) {
                Some(Ok(record)) => {
                    heard_at = Instant::now();
                    let at = left
                        .iter()
                        .position(|it| it.partition == record.partition());
                    let Some(at) = at else { continue };
                    if record.offset() < left[at].to {
                        each(&record)?;
                    }
                    if record.offset() + 1 >= left[at].to {
                        left.swap_remove(at);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard_at = Instant::now();
                    left.retain(|it| it.partition != partition);
                }
                Some(Err(error)) => self.judge(topic, &error)?,
                None => {}
            }
            if heard_at.elapsed() > SILENCE {
                let last = self.consumer.context().last();
                return Err(unreachable(&self.brokers, last));
            }
        }
        let released = self.consumer.unassign();
        released.map_err(|error| self.unanswered(error))
    }

    /// Whether an error of the consumer ends the read. librdkafka itself tries again after most.
    fn judge(&self, topic: &str, error: &KafkaError) -> Result<()> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(forbidden(topic)),
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => {
                let message = format!("topic {topic} was deleted while it was read");
                Err(Error::transient(Code::Connect, message).with_hint("run the command again"))
            }
            _ => Ok(()),
        }
    }

    fn unanswered(&self, error: KafkaError) -> Error {
        let last = self.consumer.context().last();
        match last {
            Some(last) => unreachable(&self.brokers, Some(last)),
            None => unreachable(&self.brokers, None).with_source(error),
        }
    }
}

fn client(
    config: &Config,
    token: Option<&Token>,
    uncommitted: bool,
) -> Result<BaseConsumer<Errors>> {
    let settings = client_config::consumer(config, uncommitted)?;
    let consumer: BaseConsumer<Errors> = settings
        .create_with_context(Errors::default())
        .map_err(client_config::refused)?;
    login::log_in(consumer.client(), token, config)?;
    Ok(consumer)
}

/// The error for a topic whose records the user may not read.
fn forbidden(topic: &str) -> Error {
    let message = format!("the Kafka user may not read topic {topic}");
    Error::fatal(Code::Config, message).with_hint(format!(
        "kafka-acls.sh --bootstrap-server BROKERS --add --allow-principal User:NAME \
         --operation Read --operation Describe --topic {topic}, for outboxd's Kafka user"
    ))
}

/// Keeps a client's last error, and logs nothing.
#[derive(Debug, Default)]
struct Errors {
    last: Mutex<Option<LastError>>,
}

impl Errors {
    fn last(&self) -> Option<LastError> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}

impl ClientContext for Errors {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let last = LastError {
            code: code.unwrap_or(RDKafkaErrorCode::Unknown),
            reason: reason.chars().take(300).collect(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ConsumerContext for Errors {}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").finish_non_exhaustive()
    }
}
