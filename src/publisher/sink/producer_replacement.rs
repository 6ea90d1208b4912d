//! The forwarder's care for its producer: notices that only a new one helps, and carries the
//! replacement out.
//!
//! The engine decides what happens to the records (see `engine::producer`). The producer is
//! replaced when librdkafka has met an error that is fatal for it, when a file with a password,
//! certificates or keys has changed after an error, and when the engine asks. A producer that fails
//! at once is replaced with growing delays.
//!
//! Exactly once, a producer is never replaced while the engine keeps its memory: it is given up,
//! and the next one begins with the progress that Kafka has.

use std::time::{Duration, Instant};

use crate::engine::exactly_once::limits::TRANSACTION_TIMEOUT_MS;
use crate::engine::exactly_once::progress::{Progress, ProgressKey};
use crate::engine::exactly_once::transaction::PROGRESS_TICKET;
use crate::engine::output::DeliveryResult;
use crate::engine::tracker::Ticket;
use crate::error::{Code, Error, Result};
use crate::kafka::{DeliveryError, Producer, TransactionalId, last_value, login_files_digest};
use crate::outbox::OwnedRecord;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::kafka_adapter::{failure, send_progress};
use crate::publisher::sink::producer_care::{ProducerCare, RETRY_FIRST, Step};

/// A producer without a fatal error for this long works.
const WORKS_AFTER: Duration = Duration::from_secs(15);
/// How often the log tells of producers that fail one after another.
const LOG: Duration = Duration::from_secs(60);
/// How often records that do not come back are withdrawn.
const PURGE: Duration = Duration::from_secs(2);
/// How often the files are compared after an error.
const FILES: Duration = Duration::from_secs(5);
/// How long the brokers may take to shut out an earlier producer, and then to show its progress.
/// The publisher loses its lock after thirty seconds without a word to the server.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long an abort may take. The broker aborts a transaction by itself, later.
const ABORT_LIMIT: Duration = Duration::from_secs(3);

impl Forwarder {
    /// A record that the producer did not accept. A progress record is not kept.
    pub(super) fn refused(
        &mut self,
        ticket: Ticket,
        refusal: &DeliveryError,
        record: Option<Box<OwnedRecord>>,
    ) {
        let result = DeliveryResult {
            ticket,
            failure: Some(failure(refusal)),
            suspicion: 0,
            record,
        };
        self.engine
            .delivery_finished(self.now, result, &mut self.done);
    }

    /// Exactly once: drops all memory, puts a producer in place that shuts out every earlier one of
    /// this key, and reads the key's progress.
    ///
    /// # Errors
    /// Transient: the brokers do not answer. Fatal: they refuse, or the record is not understood.
    pub(in crate::publisher) async fn begin_producer(
        &mut self,
        key: ProgressKey,
        topic: &str,
    ) -> Result<Option<Progress>> {
        self.clear();
        self.board
            .wait_unless_named("kafka", "beginning transactions");
        let id = format!("outboxd-{key}");
        let id = TransactionalId {
            id: &id,
            timeout_ms: TRANSACTION_TIMEOUT_MS,
        };
        let producer = Producer::transactional(&self.config, id, BEGIN_LIMIT).await?;
        self.producer.hand_over_to(producer);
        let value = last_value(&self.config, topic, key.encode(), BEGIN_LIMIT).await?;
        let progress = value.map(|value| Progress::decode(&key, &value));
        let progress = progress.transpose().map_err(|error| {
            let message = format!("topic {topic} has a record of {key} that cannot be used");
            Error::fatal(Code::Config, message).with_source(error)
        })?;
        self.progress_key = Some(key);
        Ok(progress)
    }

    /// Exactly once: gives the producer up, and memory with it.
    pub(in crate::publisher) async fn give_producer_up(&mut self) {
        self.commit = None;
        self.producer.abort(ABORT_LIMIT).await;
        self.clear();
        self.producer_failed = false;
    }

    /// Sends the progress record.
    pub(super) fn record_progress(&mut self, progress: &Progress) {
        let (Some(key), Some(settings)) = (&self.progress_key, &self.config.exactly_once) else {
            return;
        };
        let (producer, topic) = (&mut self.producer, &settings.progress_topic);
        let sent = send_progress(producer, &mut self.reports, topic, key, progress);
        if let Err(refusal) = sent {
            self.refused(PROGRESS_TICKET, &refusal, None);
        }
    }

    /// The producer's records are to come back, and a new producer is to follow.
    pub(super) fn withdraw(&mut self, reason: &str) {
        let in_flight = self.producer.in_flight();
        let care = &mut self.producer_care;
        if care.logged_at.is_none_or(|at| at.elapsed() >= LOG) {
            care.logged_at = Some(Instant::now());
            tracing::info!(reason, in_flight, "replacing the Kafka producer");
        }
        self.producer.purge();
        let care = &mut self.producer_care;
        (care.step, care.purged_at) = (Step::Withdrawing, Instant::now());
    }

    /// Goes on with a replacement. Never waits.
    pub(super) fn tend_producer(&mut self) {
        match self.producer_care.step {
            Step::Withdrawing if self.producer.in_flight() == 0 => self.make_producer(),
            // A record may have been on its way between two queues.
            Step::Withdrawing if self.producer_care.purged_at.elapsed() > PURGE => {
                self.producer_care.purged_at = Instant::now();
                self.producer.purge();
            }
            Step::Closing if self.producer.is_alone() => {
                self.producer_care.step = Step::Steady;
                self.engine.producer_replaced();
            }
            Step::Steady | Step::Withdrawing | Step::Closing => {}
        }
    }

    /// Notices that the producer has to be replaced.
    pub(super) fn examine_producer(&mut self) {
        if self.engine.replacement_reason().is_some() {
            return;
        }
        let care = &mut self.producer_care;
        if let Some(error) = self.producer.fatal() {
            let reason = error.describe();
            self.metrics.error(error.code());
            care.make_at = Instant::now() + care.retry.next_delay();
            care.failure = Some(reason.clone());
            return self.engine.replace_producer(self.now, &reason);
        }
        if care.failure.is_some() && care.made_at.elapsed() > WORKS_AFTER {
            care.works();
        }
        if care.files_at.elapsed() < FILES || self.producer.health().last_error.is_none() {
            return;
        }
        care.files_at = Instant::now();
        if login_files_digest(&self.config) != care.files_digest {
            let reason = "a file with a password, certificates or keys has changed after an error";
            self.engine.replace_producer(self.now, reason);
        }
    }

    fn make_producer(&mut self) {
        let (care, now) = (&mut self.producer_care, Instant::now());
        if now < care.make_at {
            return;
        }
        let files_digest = login_files_digest(&self.config);
        match self.producer.begin_replacement(&self.config) {
            Ok(()) => {
                self.metrics.producer_replacements.inc();
                (care.step, care.made_at) = (Step::Closing, now);
                (care.files_digest, care.files_at) = (files_digest, now);
            }
            // A file that is being renewed, for instance.
            Err(error) => {
                care.make_at = now + care.retry.next_delay();
                care.failure = Some(error.report());
                self.log_error(&error, "no new Kafka producer, retrying");
            }
        }
    }

    /// Replaces the producer if its records are given up. True if so: all memory has to be dropped
    /// then.
    pub(crate) async fn replace_producer(&mut self) -> bool {
        let given_up = std::mem::take(&mut self.producer_failed);
        if given_up {
            while let Err(error) = self.producer.replace(&self.config).await {
                self.log_error(&error, "no new Kafka producer, retrying");
                self.board.wait(Some(("kafka", error.report())));
                tokio::time::sleep(RETRY_FIRST).await;
            }
            self.metrics.producer_replacements.inc();
            self.producer_care = ProducerCare::new(&self.config);
            self.engine.producer_replaced();
        }
        given_up
    }
}
