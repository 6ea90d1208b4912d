//! The path of an event to Kafka, of its report back, and of its mark to the table.
//!
//! Owns the engine, the producer, the router and the database worker. Lives as long as the
//! publisher, over sessions and servers, so that records in flight when a session ends are still
//! counted when their reports come. The engine decides.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Config, OnPoison};
use crate::engine::Engine;
use crate::engine::dispatch::Admission;
use crate::engine::exactly_once::progress::ProgressKey;
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{DeliveryResult, End, Limits, Output, SessionOutput, SinkOutput};
use crate::engine::record_checks::{self, RecordFacts};
use crate::engine::tracker::InFlight;
use crate::error::{Error, Result};
use crate::kafka::{Commit, DeliveryReport, KafkaReach, MetadataClient, Producer};
use crate::line_limit::LineLimit;
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::outbox::{
    Event, EventSource, OwnedRecord, Rejection, Router, RowName, Signature, TableLocation, known,
};
use crate::postgres::Session;
use crate::publisher::clock::Clock;
use crate::publisher::marking_alarm::MarkingAlarm;
use crate::publisher::partition_keeper::PartitionKeeper;
use crate::publisher::sink::database_worker::DatabaseWorker;
use crate::publisher::sink::filing_log::FilingLog;
use crate::publisher::sink::kafka_adapter::{committed, failure, send};
use crate::publisher::sink::kafka_queries::KafkaQueries;
use crate::publisher::sink::lasting_errors::LastingErrors;
use crate::publisher::sink::producer_care::ProducerCare;
use crate::publisher::sink::returning_rows::ReturningRows;
use crate::publisher::sink::topic_counters::TopicCounters;
use crate::publisher::sink::work_errors::WorkErrors;
use crate::status::StatusBoard;
use crate::status::summary::Summary;

/// See the module's head.
pub(crate) struct Forwarder {
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<StatusBoard>,
    /// A change was counted and could not be forwarded: the next session must not go on behind it.
    pub(crate) skipped: bool,
    pub(in crate::publisher) config: Arc<Config>,
    pub(in crate::publisher) producer: Producer,
    pub(in crate::publisher) router: Router,
    pub(super) kafka_reach: KafkaReach,
    kafka_queries: KafkaQueries,
    /// Whose progress is recorded, with exactly once.
    pub(in crate::publisher) progress_key: Option<ProgressKey>,
    /// The commit under way, and the engine's generation that has asked for it.
    pub(in crate::publisher) commit: Option<(u64, Commit)>,
    pub(super) topics: TopicCounters,
    pub(super) reports: Vec<DeliveryReport>,
    pub(super) done: Vec<InFlight>,
    database_worker: DatabaseWorker,
    partition_keeper: PartitionKeeper,
    pub(in crate::publisher) work_errors: WorkErrors,
    pub(in crate::publisher) lasting_errors: LastingErrors,
    /// An error of database work that ends the session.
    pub(in crate::publisher) database_error: Option<Error>,
    pub(in crate::publisher) returning_rows: ReturningRows,
    pub(in crate::publisher) filing_log: FilingLog,
    pub(in crate::publisher) marking_alarm: MarkingAlarm,
    pub(super) line_limit: LineLimit,
    pub(super) summary: Summary,
    pub(in crate::publisher) now: Duration,
    pub(in crate::publisher) clock: Clock,
    pub(in crate::publisher) published: u64,
    pub(in crate::publisher) filed: u64,
    pub(in crate::publisher) rewinds: u64,
    /// The records in flight are given up, with all memory.
    pub(in crate::publisher) producer_failed: bool,
    pub(in crate::publisher) producer_care: ProducerCare,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Makes the producer; connects to nothing in Postgres yet.
    pub(crate) fn new(
        config: &Arc<Config>,
        metrics: Arc<Metrics>,
        board: Arc<StatusBoard>,
    ) -> Result<Self> {
        let metadata_client = Arc::new(MetadataClient::new(config));
        Ok(Forwarder {
            engine: Engine::new(Limits::of(config)),
            producer: Producer::new(config)?,
            router: Router::new(&config.mapping),
            kafka_reach: KafkaReach::new(config, Arc::clone(&metadata_client)),
            kafka_queries: KafkaQueries::new(config, metadata_client),
            progress_key: None,
            commit: None,
            topics: TopicCounters::new(),
            reports: Vec::new(),
            done: Vec::new(),
            database_worker: DatabaseWorker::new(config, Arc::clone(&board)),
            partition_keeper: PartitionKeeper::new(config, Arc::clone(&board)),
            work_errors: WorkErrors::default(),
            lasting_errors: LastingErrors::default(),
            database_error: None,
            returning_rows: ReturningRows::default(),
            filing_log: FilingLog::default(),
            marking_alarm: MarkingAlarm::default(),
            line_limit: LineLimit::default(),
            summary: Summary::new(config.log_summary),
            now: Duration::ZERO,
            clock: Clock::new(),
            published: 0,
            filed: 0,
            rewinds: 0,
            producer_failed: false,
            producer_care: ProducerCare::new(config),
            skipped: false,
            config: Arc::clone(config),
            metrics,
            board,
        })
    }

    /// Sets the table that rows are written back to; none when no session holds the lock.
    pub(crate) fn use_place(&mut self, place: Option<TableLocation>) {
        if place.is_none() {
            self.lock_lost();
        }
        self.partition_keeper.use_place(place.clone());
        self.database_worker.use_place(place);
    }

    /// Drops everything that belongs to another history: rows that wait for their marks are others
    /// here, and records still in the producer must not reach Kafka behind newer events.
    pub(crate) fn clear(&mut self) {
        self.producer.purge();
        self.database_worker.clear();
        self.work_errors = WorkErrors::default();
        self.database_error = None;
        self.returning_rows.clear();
        self.engine.reset(Lsn::INVALID);
    }

    /// Drops everything in memory; the next session starts at `start`, or with the table if that is
    /// invalid. Reads the dead letters first. Returns the rows that are already filed.
    ///
    /// # Errors
    /// Of the session, which cannot be used any more; nothing has changed.
    pub(crate) async fn start_over(
        &mut self,
        session: &Session,
        system_id: u64,
        start: Lsn,
    ) -> Result<Vec<(String, Lsn)>> {
        self.database_worker.finish().await;
        let since = (!start.is_invalid()).then_some(start);
        let (outbox, system_id) = (&self.config.table, system_id.to_string());
        let with_parked = self.config.on_poison == OnPoison::ParkKey;
        let known = known(session, outbox, &system_id, since, with_parked).await?;
        self.engine.reset(start);
        self.returning_rows.clear();
        self.engine.load_parked(known.parked);
        self.engine.filed_recently(self.now, known.filed_recently);
        Ok(known.filed)
    }

    /// A row read from the table, inserted by `xid` at `created_micros`.
    pub(crate) fn row(
        &mut self,
        event: &Event<'_>,
        name: RowName,
        xid: u32,
        created_micros: i64,
    ) -> Result<()> {
        self.forward(event, Some(name), EventSource::Table, xid, created_micros)
    }

    /// A row of which only the id could be read.
    pub(crate) fn unreadable(&mut self, row: RowName, xid: u32, rejection: Rejection) {
        let unread = InFlight::of_row(row, xid, self.now);
        self.engine.accept_unreadable(self.now, unread, rejection);
    }

    /// Sends an event, or keeps it. Its latency counts from `since_micros`, or not at all if that
    /// is 0.
    pub(in crate::publisher) fn forward(
        &mut self,
        event: &Event<'_>,
        row: Option<RowName>,
        origin: EventSource,
        xid: u32,
        since_micros: i64,
    ) -> Result<()> {
        let (parts, rejection) = record_checks::prepare(&mut self.router, event, origin)?;
        let mut record = self.router.assemble(&parts, event, origin);
        let rejection = rejection
            .or_else(|| record_checks::own_rejection(&record, &self.engine.limits.required));
        let offered = self.engine.offer(Offer {
            row,
            xid,
            bytes: u32::try_from(record.size()).unwrap_or(u32::MAX),
            since_micros,
            sent_micros: self.now.as_micros() as u64,
            from_table: origin == EventSource::Table,
            facts: RecordFacts::of(&record),
            signature: &|| Signature::of(record.headers()),
            rejection,
        });
        let Some(Offered {
            ticket,
            topic,
            admission,
        }) = offered
        else {
            return Ok(());
        };
        if let Admission::Keep(reason) = admission {
            let record = Box::new(OwnedRecord::from(&record));
            self.engine.keep(self.now, ticket, record, reason);
            return Ok(());
        }
        self.topics.register(&self.metrics, topic, record.topic);
        let given = record.partition;
        record.partition = given.or(self.engine.next_partition(topic));
        let reports = &mut self.reports;
        let sent = send(&mut self.producer, reports, record.topic, |producer| {
            producer.send(&record, ticket)
        });
        if let Err(refusal) = sent {
            record.partition = given;
            let record = OwnedRecord::from(&record);
            self.refused(ticket, &refusal, Some(Box::new(record)));
        }
        Ok(())
    }

    /// The engine's next output for the owner of the session. Outputs for Kafka and the database
    /// are carried out here. When there are no more, the producer sends what it has.
    ///
    /// # Errors
    /// When the producer has failed, or the table is gone or has not fitted the database work for
    /// some time.
    pub(crate) fn output(&mut self) -> Result<Option<SessionOutput>> {
        if let Some(error) = self.database_error.take() {
            return Err(error);
        }
        self.examine_producer();
        while let Some(output) = self.engine.output() {
            match output {
                Output::Sink(output) => self.carry_out(output),
                Output::Session(output) => {
                    self.producer_failed |=
                        matches!(output, SessionOutput::End(End::ProducerFailed(_)));
                    return Ok(Some(output));
                }
            }
        }
        self.producer.push(self.now);
        Ok(None)
    }

    fn carry_out(&mut self, output: SinkOutput) {
        match output {
            SinkOutput::Send { ticket, mut record } => {
                let topic = self.engine.topic(record.topic_name().ok());
                let spread = self.engine.next_partition(topic);
                if spread.is_some() {
                    record.set_partition(spread);
                }
                self.topics.register(&self.metrics, topic, record.topic());
                let reports = &mut self.reports;
                let sent = send(&mut self.producer, reports, record.topic(), |producer| {
                    producer.send_owned(&record, ticket)
                });
                if let Err(refusal) = sent {
                    if spread.is_some() {
                        record.set_partition(None);
                    }
                    self.refused(ticket, &refusal, Some(record));
                }
            }
            SinkOutput::Trust { topic, failure } => self.producer.trust(&topic, failure),
            SinkOutput::ReplaceProducer(reason) => self.withdraw(&reason),
            SinkOutput::RecordProgress(progress) => self.record_progress(&progress),
            SinkOutput::CommitTransaction { generation } => {
                self.commit = self.producer.commit().map(|commit| (generation, commit));
            }
            SinkOutput::QueryTopics(topics) => {
                self.kafka_queries.ask(topics);
            }
            SinkOutput::ReadBack {
                generation,
                topics,
                from,
            } => {
                self.kafka_queries.read_back(generation, topics, from);
            }
            SinkOutput::Work { generation, work } => {
                let needs_position = self.engine.needs_position(&work);
                self.database_worker.begin(generation, work, needs_position);
            }
        }
    }

    /// Takes in the delivery reports that are ready. Never waits.
    pub(crate) fn take_reports(&mut self) {
        self.producer.take_reports(&mut self.reports);
        self.tend_producer();
        if self.reports.is_empty() && self.done.is_empty() {
            return;
        }
        for report in self.reports.drain(..) {
            let result = DeliveryResult {
                ticket: report.ticket,
                suspicion: report.suspicion(),
                failure: report.outcome.err().map(|refusal| failure(&refusal)),
                record: report.record,
            };
            self.engine
                .delivery_finished(self.now, result, &mut self.done);
        }
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall_micros = wall.as_micros() as i64;
        let published = self.done.len();
        for event in self.done.drain(..) {
            self.published += 1;
            let latency_micros = (event.since_micros > 0).then(|| wall_micros - event.since_micros);
            self.topics.published(self.now, &event, latency_micros);
        }
        if published > 0 {
            self.metrics.published_at(wall.as_secs_f64());
        }
        self.producer_care.delivered(published);
    }

    /// Waits for a result from Kafka or the database, and takes it in. Meanwhile the producer sends
    /// what lingers. Cancel-safe.
    pub(crate) async fn progressed(&mut self) {
        let push_at = self.producer.push_deadline();
        let push_in = push_at.map(|at| at.saturating_sub(self.clock.elapsed()));
        tokio::select! {
            biased;
            done = self.database_worker.done() => self.work_finished(done),
            answer = self.kafka_queries.answered() => {
                let now = self.tick();
                answer.give(&mut self.engine, now);
            }
            (generation, outcome) = committed(&mut self.commit) => {
                self.commit = None;
                let now = self.tick();
                self.engine.commit_finished(now, generation, outcome, &mut self.done);
            }
            () = self.partition_keeper.progressed() => {}
            () = self.producer_care.progressed(&mut self.producer) => {
                self.tick();
                self.take_reports();
            }
            () = tokio::time::sleep(push_in.unwrap_or_default()), if push_in.is_some() => {
                let now = self.tick();
                self.producer.push(now);
            }
        }
    }
}
