//! A producer's transactions. Decides nothing: the engine says when one is committed, and what
//! follows from its outcome.
//!
//! librdkafka's calls block, so each has a thread of its own. A transaction begins as soon as the
//! one before it is committed: that is known to the client alone, and costs a broker nothing until
//! a record is sent. A commit is asked for when every record of the transaction is acknowledged;
//! librdkafka repeats its request for as long as that makes sense. What is not clear then is never
//! asked again here: only a new producer of the same id can know.
//!
//! **Requests of an earlier transaction.** The protocol of these transactions has no number for
//! each of them. A request to end one, sent over a connection that was lost, may still reach the
//! broker and end the next one. So a commit during which librdkafka has met any error is reported
//! as in doubt, and the producer has to be replaced before it sends more: a new one's epoch keeps
//! the late request out.

mod progress_topic;
pub(super) mod state;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as K;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::kafka::admin::blocking;
use crate::kafka::context::Context;
use crate::kafka::producer::{Outgoing, SendError, named};
use crate::kafka::transactions::state::Transactions;
use crate::kafka::waking_producer::WakingProducer;
use crate::kafka::{Producer, client_config, error_table, login};
use crate::outbox::TopicName;

pub(crate) use crate::kafka::transactions::progress_topic::{
    Unfit, last_value, unfit_for_progress,
};
pub(crate) use crate::kafka::transactions::state::CommitResult;

/// The longest that a commit may take.
const COMMIT_LIMIT: Duration = Duration::from_secs(8);
/// The pause before a call is repeated that says it may be.
const RETRY: Duration = Duration::from_millis(20);

/// A commit under way.
pub(crate) type Commit = JoinHandle<CommitResult>;

/// The identity of a transactional producer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransactionalId<'a> {
    pub(crate) id: &'a str,
    /// Within this the broker ends a transaction whose producer has vanished.
    pub(crate) timeout_ms: u64,
}

impl Producer {
    /// Makes a producer with transactions, and begins the first one. Every earlier producer of this
    /// id is shut out then, and its transaction is committed or aborted.
    ///
    /// # Errors
    /// Transient: the brokers do not answer within `limit`. Fatal: they refuse transactions.
    pub(crate) async fn transactional(
        config: &Config,
        id: TransactionalId<'_>,
        limit: Duration,
    ) -> Result<Producer> {
        let token = login::token(config).await?;
        let mut settings = client_config::producer(config)?;
        let timeout = id.timeout_ms.to_string();
        settings
            // See `client_config::producer`. librdkafka wants a record's limit to be longer.
            .set("linger.ms", (id.timeout_ms / 2).to_string())
            .set("transactional.id", id.id)
            .set("transaction.timeout.ms", &timeout)
            // librdkafka wants a limit here. A record that reaches it is lost with its transaction.
            .set("message.timeout.ms", &timeout);
        let mut producer = Producer::with(settings, config)?;
        login::log_in(
            producer.client.producer().client(),
            token.as_deref(),
            config,
        )?;
        let client = Arc::clone(&producer.client);
        blocking(move || begin_first(&client, limit)).await?;
        let timeout = Duration::from_millis(id.timeout_ms);
        producer.transactions = Some(Box::new(Transactions::new(timeout)));
        Ok(producer)
    }

    /// Queues a progress record, the last record of its transaction, and lets nothing linger.
    pub(crate) fn send_progress(
        &mut self,
        topic: &str,
        key: &[u8],
        value: &[u8],
        ticket: u64,
    ) -> Result<(), SendError> {
        let parts = Outgoing {
            topic: named(TopicName::new(topic), topic)?,
            key: Some(key),
            value: Some(value),
            partition: Some(0),
            timestamp: None,
        };
        self.send_parts(&parts, std::iter::empty(), ticket)?;
        self.client.flush();
        Ok(())
    }

    /// Commits the transaction and begins the next one. Every record of it has its report. `None`
    /// for a producer without transactions.
    pub(crate) fn commit(&mut self) -> Option<Commit> {
        let client = Arc::clone(&self.client);
        let errors_before = self.transactions.as_mut()?.ends();
        Some(spawn_blocking(move || commit(&client, errors_before)))
    }

    /// Aborts the transaction, so that no reader waits for its time-out. Whether that worked does
    /// not matter: the next producer of the id does the same.
    pub(crate) async fn abort(&mut self, limit: Duration) {
        let transactions = self.transactions.take();
        if !transactions.is_some_and(|it| it.may_abort(Instant::now(), limit)) {
            return;
        }
        let client = Arc::clone(&self.client);
        let aborted = blocking(move || {
            let aborted = client.producer().abort_transaction(limit);
            aborted.map_err(|error| failed("abort the transaction", error))
        });
        if let Err(error) = aborted.await {
            tracing::debug!(
                error = error.report(),
                "the Kafka transaction was not aborted"
            );
        }
    }
}

type Client = WakingProducer<Context>;

fn begin_first(client: &Client, limit: Duration) -> Result<()> {
    let producer = client.producer();
    let began = Instant::now();
    let begun = retrying(began + limit, |left| producer.init_transactions(left));
    begun.map_err(|error| failed("begin transactions", error))?;
    let begun = producer.begin_transaction();
    begun.map_err(|error| failed("begin a transaction", error))
}

fn commit(client: &Client, errors_before: Option<u64>) -> CommitResult {
    let producer = client.producer();
    let until = Instant::now() + COMMIT_LIMIT;
    if let Err(error) = retrying(until, |left| producer.commit_transaction(left)) {
        let code = error.rdkafka_error_code().unwrap_or(K::Unknown);
        return CommitResult::Failed(error_table::name(code), error.to_string());
    }
    let begun = producer.begin_transaction();
    // Errors that were met before the answer stand in the queue before it.
    producer.poll(Duration::ZERO);
    let errors = producer.context().error_count();
    match begun {
        Ok(()) if errors_before.is_none_or(|before| before == errors) => CommitResult::Committed,
        _ => CommitResult::CommittedInDoubt,
    }
}

/// Repeats a call for as long as librdkafka says that it may be.
fn retrying(until: Instant, mut call: impl FnMut(Duration) -> KafkaResult<()>) -> KafkaResult<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match call(left) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {
                thread::sleep(RETRY.min(left));
            }
            ended => return ended,
        }
    }
}

/// The error for a call that did not succeed.
fn failed(what: &str, error: KafkaError) -> Error {
    let code = error.rdkafka_error_code().unwrap_or(K::Unknown);
    let message = format!("Kafka did not {what} ({})", error_table::name(code));
    let hint = match code {
        K::TransactionalIdAuthorizationFailed | K::ClusterAuthorizationFailed => {
            "kafka-acls.sh --bootstrap-server BROKERS --add --allow-principal User:NAME \
             --operation Write --operation Describe --resource-pattern-type prefixed \
             --transactional-id outboxd-, for outboxd's Kafka user"
        }
        K::InvalidTransactionTimeout => {
            "the brokers' transaction.max.timeout.ms has to be 30000 at least"
        }
        K::UnsupportedFeature | K::UnsupportedVersion => {
            "exactly-once needs brokers of Kafka 0.11 or later"
        }
        _ => return Error::transient(Code::Publish, message).with_source(error),
    };
    Error::fatal(Code::Config, message)
        .with_source(error)
        .with_hint(hint)
}
