//! The producer: records in, exactly one report out for each.
//!
//! **An attempt ends with a delivery report, never with a clock.** `message.timeout.ms` is 0:
//! librdkafka keeps a record and tries again for as long as it takes. A time-out would not take the
//! record back: it may be on its way or on the broker's disk, so sending it again makes two of it,
//! and librdkafka goes on with later records of the partition, which leaves the earlier one behind
//! them: an old event as a key's last word. And what times out in an outage is every event alike,
//! so nothing could be learned from it about one. Waiting costs memory that the caller's byte
//! budget bounds, and a report arrives when the cluster is back; the two ways to end the waiting
//! are [`Producer::purge`] and dropping the producer, and after both the caller begins again from
//! what Postgres still holds.
//!
//! **Order.** Idempotence lets five requests of a connection be under way and still appends a
//! partition's records in the order of the [`send`](Producer::send) calls, each once, through
//! retries and leader changes. It does not hold behind a refusal: what was sent after a refused
//! record is appended all the same. So that order can be made good, the reports of a partition come
//! in the order of sending, and from its first failure on each brings its record back, whatever
//! became of it, until [`Producer::trust`] is called.
//! <https://kafka.apache.org/documentation/#producerconfigs_enable.idempotence>
//!
//! All of it happens on the caller's thread: librdkafka's own threads put events on a queue,
//! [`Producer::take_reports`] empties it, [`Producer::reported`] says when that is worth while.

mod lingering;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::kafka::DeliveryReport;
use crate::kafka::context::{Context, Health, Remembered};
use crate::kafka::login::{News, TokenRenewal};
use crate::kafka::producer::lingering::Lingering;
use crate::kafka::transactions::state::Transactions;
use crate::kafka::waking_producer::{WakingProducer, set_token};
use crate::kafka::{DeliveryError, client_config, delivery_error, error_table};
use crate::outbox::{OwnedIdentity, OwnedRecord, Record, TopicName, TopicNameError};

// A ticket travels through librdkafka as a pointer.
const _: () = assert!(usize::BITS >= u64::BITS);

/// Why [`Producer::send`] did not take a record. It will get no report.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The queue is full: take reports, then send again.
    Full,
    /// The record can never be sent: it is too large, or its topic's name is invalid. Or the
    /// producer accepts no record any more.
    Refused(DeliveryError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full => f.write_str("the Kafka producer's queue is full"),
            SendError::Refused(refusal) => write!(f, "refused: {}", refusal.code()),
        }
    }
}

/// A record that is to be sent, but for its headers.
pub(super) struct Outgoing<'a> {
    pub(super) topic: TopicName<'a>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp: Option<i64>,
}

/// One idempotent producer.
///
/// Dropping it withdraws what is not reported yet; no report of it will be seen, so drop it only
/// after the reports are in ([`in_flight`](Producer::in_flight) is 0) or when the events will be
/// sent again anyway. The drop waits for librdkafka's threads, half a second and at times more: not
/// inside a task that others wait for.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(super) client: Arc<WakingProducer<Context>>,
    lingering: Lingering,
    /// Its tokens, where its mechanism needs them.
    tokens: Option<TokenRenewal>,
    /// Names and values that a broker wants beside a token.
    extensions: Vec<(String, String)>,
    /// The producer before this one, while it is ending.
    leaving: Option<JoinHandle<()>>,
    /// Its transactions, if it has any.
    pub(super) transactions: Option<Box<Transactions>>,
}

impl Producer {
    /// Makes a producer; connections are opened in the background. To be called inside a tokio
    /// runtime, which then is the one that [`reported`](Producer::reported) wakes.
    pub(crate) fn new(config: &Config) -> Result<Producer> {
        Producer::with(client_config::producer(config)?, config)
    }

    /// Makes a producer of these properties.
    pub(super) fn with(settings: ClientConfig, config: &Config) -> Result<Producer> {
        let producer: BaseProducer<Context> = settings
            .create_with_context(Context::for_records(&config.mapping))
            .map_err(client_config::refused)?;
        let client = WakingProducer::new(producer).map_err(|error| {
            Error::fatal(
                Code::Lifecycle,
                "cannot create the Kafka producer's wake-up socket",
            )
            .with_source(error)
        })?;
        Ok(Producer {
            client: Arc::new(client),
            lingering: Lingering::default(),
            tokens: TokenRenewal::begin(config),
            extensions: config.kafka_login.extensions.clone(),
            leaving: None,
            transactions: None,
        })
    }

    /// Replaces a producer that can no longer be used. The records that the old one had in flight
    /// get no report: send them again.
    ///
    /// Waits until the old one has closed its connections, which takes a second or two and does not
    /// block the thread: its late records should not overtake the ones sent again. If the future is
    /// dropped, the new one is in place all the same and the old one goes on closing; at most one
    /// does. On an error the old one stays in place.
    pub(crate) async fn replace(&mut self, config: &Config) -> Result<()> {
        self.alone().await;
        self.begin_replacement(config)?;
        self.alone().await;
        Ok(())
    }

    /// Puts a new producer in place. Nothing should be sent before [`alone`](Producer::alone)
    /// resolves.
    pub(crate) fn begin_replacement(&mut self, config: &Config) -> Result<()> {
        self.hand_over_to(Producer::new(config)?);
        Ok(())
    }

    /// Puts this producer in place.
    pub(crate) fn hand_over_to(&mut self, fresh: Producer) {
        let failures = self.client.producer().context().failure_count();
        fresh.client.producer().context().count_on_from(failures);
        let old = mem::replace(self, fresh);
        self.leaving = Some(tokio::task::spawn_blocking(move || drop(old)));
    }

    /// Waits until the producer before this one has closed its connections. Cancel-safe.
    pub(crate) async fn alone(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            // It fails only when the runtime is shutting down.
            let _ = leaving.await;
            self.leaving = None;
        }
    }

    /// Whether the producer before this one has closed its connections.
    pub(crate) fn is_alone(&self) -> bool {
        self.leaving.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Queues a record. When this is `Ok`, exactly one report with `ticket` follows; otherwise
    /// none. Never blocks.
    ///
    /// librdkafka copies topic, key, value and headers: nothing is borrowed after the call.
    pub(crate) fn send(&mut self, record: &Record<'_>, ticket: u64) -> Result<(), SendError> {
        let parts = Outgoing {
            topic: named(record.topic_name(), record.topic)?,
            key: record.key,
            value: record.value,
            partition: record.partition,
            timestamp: record.timestamp,
        };
        self.send_parts(&parts, record.headers(), ticket)?;
        if record.identity().is_some() || record.timestamp.is_some() {
            let identity = record.identity().map(OwnedIdentity::from);
            self.remember(ticket, identity, record.timestamp);
        }
        Ok(())
    }

    /// The same for a record that was kept.
    pub(crate) fn send_owned(
        &mut self,
        record: &OwnedRecord,
        ticket: u64,
    ) -> Result<(), SendError> {
        let parts = Outgoing {
            topic: named(record.topic_name(), record.topic())?,
            key: record.key(),
            value: record.value(),
            partition: record.partition(),
            timestamp: record.timestamp(),
        };
        self.send_parts(&parts, record.headers(), ticket)?;
        if record.identity().is_some() || record.timestamp().is_some() {
            self.remember(ticket, record.identity().cloned(), record.timestamp());
        }
        Ok(())
    }

    /// Keeps what librdkafka would not give back.
    fn remember(&self, ticket: u64, identity: Option<OwnedIdentity>, timestamp: Option<i64>) {
        let remembered = Remembered {
            identity,
            timestamp,
        };
        let context = self.client.producer().context();
        context.remember(ticket as usize, remembered);
    }

    pub(super) fn send_parts<'a>(
        &mut self,
        parts: &Outgoing<'_>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        ticket: u64,
    ) -> Result<(), SendError> {
        let topic = parts.topic.as_str();
        let mut outgoing: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, ticket as usize);
        outgoing.key = parts.key;
        outgoing.payload = parts.value;
        outgoing.partition = parts.partition;
        outgoing.timestamp = parts.timestamp;
        outgoing.headers = list(headers);
        match self.client.producer().send(outgoing) {
            Ok(()) => {
                self.lingering.sent(ticket);
                if let Some(transactions) = &mut self.transactions
                    && transactions.is_empty()
                {
                    let errors = self.client.producer().context().error_count();
                    transactions.sends(Instant::now(), errors);
                }
                Ok(())
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                Err(SendError::Full)
            }
            Err((error, _)) => {
                let code = error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::InvalidArgument);
                Err(refused(code, topic))
            }
        }
    }

    /// Says at `now` that no record follows at once: what lingers is sent where that is due. Waits
    /// for its delivery, a millisecond at most.
    pub(crate) fn push(&mut self, now: Duration) {
        if self.lingering.takes_flush(now) {
            self.client.flush();
        }
    }

    /// When to call [`push`](Producer::push) again.
    pub(crate) fn push_deadline(&self) -> Option<Duration> {
        self.lingering.deadline()
    }

    /// Appends the available reports to `into`. Never blocks.
    pub(crate) fn take_reports(&mut self, into: &mut Vec<DeliveryReport>) {
        self.client.poll_all();
        self.take_token();
        let taken = self.client.producer().context().take(into);
        let reports = &into[into.len() - taken..];
        self.lingering
            .reported(reports.iter().map(|report| report.ticket));
    }

    /// Uses a new token, and has another one fetched when a broker refuses the last one.
    fn take_token(&mut self) {
        let Some(tokens) = &mut self.tokens else {
            return;
        };
        let producer = self.client.producer();
        match tokens.take() {
            Some(News::Token(token)) => {
                // A token that has ended meanwhile is followed by another one.
                let _is_taken = set_token(producer.client(), &token, &self.extensions);
                producer.context().logged_in();
            }
            Some(News::Failure(failure)) => producer.context().has_no_token(&failure.message),
            Some(News::None) | None => {
                if producer.context().was_refused() {
                    tokens.refused();
                }
            }
        }
    }

    /// Trusts all partitions of a topic again: until the next failure its reports no longer include
    /// their records. Call it when all records up to this failure, the last reported one of the
    /// topic, are in order; a later, unread failure keeps the topic suspect.
    pub(crate) fn trust(&mut self, topic: &str, failure: u64) {
        self.client.producer().context().trust(topic, failure);
    }

    /// Resolves when there may be reports to take. It may resolve without any.
    ///
    /// Cancel-safe: it takes nothing. Until [`take_reports`](Producer::take_reports) is called it
    /// resolves at once.
    pub(crate) async fn reported(&self) {
        match &self.tokens {
            None => self.client.woken().await,
            Some(tokens) => tokio::select! {
                () = self.client.woken() => {}
                () = tokens.renewed() => {}
            },
        }
    }

    /// The number of accepted records without a report.
    pub(crate) fn in_flight(&self) -> u64 {
        self.lingering.in_flight()
    }

    /// Withdraws all unacknowledged records, queued or in flight. Does not block: it is done when
    /// [`in_flight`](Producer::in_flight) is 0, since each withdrawn record still gets its report,
    /// with [`ErrorAction::Rewind`](crate::kafka::ErrorAction::Rewind). Call no `send` before that,
    /// as the purge may withdraw that record too.
    pub(crate) fn purge(&mut self) {
        self.client
            .producer()
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// The error after which this producer accepts no record, if there was one. Records in flight
    /// still get their reports.
    ///
    /// The client itself is asked: an error event has the code of the cause, such as
    /// `CLUSTER_AUTHORIZATION_FAILED`, and not librdkafka's `_FATAL`.
    pub(crate) fn fatal(&self) -> Option<Error> {
        let (code, reason) = self.client.producer().client().fatal_error()?;
        // A new producer begins a new sequence, so this passes with `replace`.
        let message = format!(
            "the Kafka producer failed for good ({})",
            error_table::name(code)
        );
        let error = Error::transient(Code::Publish, message).with_source(reason);
        Some(match delivery_error::hint(code) {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    /// The producer's health.
    pub(crate) fn health(&self) -> Health {
        self.client.producer().context().health()
    }
}

/// librdkafka's own list, which it takes over: names and values are copied once, into what is kept
/// until the report. The list is made as long as it will be: it does not grow for free.
fn list<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<OwnedHeaders> {
    let mut headers = headers.peekable();
    headers.peek()?;
    let list = OwnedHeaders::new_with_capacity(headers.size_hint().0);
    Some(headers.fold(list, |list, (key, value)| {
        list.insert(Header { key, value })
    }))
}

/// librdkafka would keep every invalid name in its list of topics and request it again and again.
pub(super) fn named<'a>(
    name: Result<TopicName<'a>, TopicNameError>,
    topic: &str,
) -> Result<TopicName<'a>, SendError> {
    name.map_err(|_| refused(RDKafkaErrorCode::InvalidTopic, topic))
}

fn refused(code: RDKafkaErrorCode, topic: &str) -> SendError {
    SendError::Refused(DeliveryError::new(code, topic, -1))
}
