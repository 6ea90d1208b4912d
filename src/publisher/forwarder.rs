//! From an event to Kafka, back with the report, and on to the table: the one path for every source.
//!
//! Owns the engine, the producer, the router and the write-back; lives as long as the publisher, over sessions and servers, so
//! that what is in flight when a session ends is still counted when its report comes. Decides nothing: the engine does.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{AfterPublish, Config};
use crate::error::{Code, Error, Result};
use crate::kafka::{Producer, Report, SendError};
use crate::metrics::{FlightGauges, Metrics, TopicMetrics};
use crate::outbox::{CurrentServer, Event, Mark, Origin, Router, WriteBack};
use crate::postgres::Server;
use crate::publisher::decision::Limits;
use crate::publisher::engine::Engine;
use crate::publisher::status::Board;
use crate::publisher::tracker::Accepted;

/// How long a record may find the producer's queue full before the session is given up.
const FULL_LIMIT: Duration = Duration::from_secs(10);
/// A record that Kafka has not acknowledged for so long makes Kafka what is waited for.
const KAFKA_WAIT: Duration = Duration::from_secs(5);

type Write = Pin<Box<dyn Future<Output = (WriteBack, Vec<Mark>, Result<()>)>>>;

/// See the module's head.
pub(crate) struct Forwarder {
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
    /// A change was counted and could not be forwarded: to go on behind it would skip it.
    pub(crate) skipped: bool,
    config: Arc<Config>,
    producer: Producer,
    router: Router,
    topics: Topics,
    reports: Vec<Report>,
    server: CurrentServer,
    /// At rest here, or inside `write`; neither where nothing is written back.
    write_back: Option<WriteBack>,
    write: Option<Write>,
    write_error: Option<String>,
    now: Duration,
    born: Instant,
    published: u64,
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
        board: Arc<Board>,
    ) -> Result<Self> {
        let server = CurrentServer::default();
        let write_back = WriteBack::new(Arc::clone(config), Rc::clone(&server));
        Ok(Forwarder {
            engine: Engine::new(Limits::of(config)),
            producer: Producer::new(config)?,
            router: Router::new(&config.key),
            topics: Topics {
                metrics: Arc::clone(&metrics),
                known: HashMap::new(),
                list: Vec::new(),
            },
            reports: Vec::new(),
            server,
            write_back: (config.after_publish != AfterPublish::Keep).then_some(write_back),
            write: None,
            write_error: None,
            now: Duration::ZERO,
            born: Instant::now(),
            published: 0,
            skipped: false,
            config: Arc::clone(config),
            metrics,
            board,
        })
    }

    /// Reads the clock; the engine is told this time until the next call.
    pub(crate) fn tick(&mut self) -> Duration {
        self.now = self.born.elapsed();
        self.now
    }

    /// How long until the engine wants to be polled, at most `limit`.
    pub(crate) fn rest(&self, limit: Duration) -> Duration {
        let deadline = self.engine.deadline().unwrap_or(Duration::MAX);
        deadline.saturating_sub(self.born.elapsed()).min(limit)
    }

    /// From now on rows are written back on this server and on no other.
    pub(crate) fn use_server(&mut self, server: Option<Server>) {
        *self.server.borrow_mut() = server;
    }

    /// Drops everything that belongs to another lineage: what the producer still has must not reach Kafka behind newer events.
    pub(crate) fn forget(&mut self) {
        self.producer.purge();
        self.forget_writes();
    }

    /// Drops a write-back that is out; its connection goes with it.
    pub(crate) fn forget_writes(&mut self) {
        if self.write.take().is_some() {
            let (config, server) = (Arc::clone(&self.config), Rc::clone(&self.server));
            self.write_back = Some(WriteBack::new(config, server));
        }
    }

    /// An insert from the stream.
    pub(crate) fn insert(&mut self, event: &Event<'_>, origin: Origin, xid: u32) -> Result<()> {
        let since_micros = match origin {
            Origin::Stream { committed_at, .. } => committed_at.unix_micros(),
            Origin::Table => 0,
        };
        self.forward(event, origin, xid, since_micros)
    }

    /// A row read from the table, inserted by `xid` at `created_micros`.
    pub(crate) fn row(&mut self, event: &Event<'_>, xid: u32, created_micros: i64) -> Result<()> {
        self.forward(event, Origin::Table, xid, created_micros)
    }

    /// A row that is marked without being sent.
    pub(crate) fn mark_unsent(&mut self, row: i64, xid: u32) {
        let sent_micros = self.now.as_micros() as u64;
        let unsent = Accepted {
            row,
            xid,
            bytes: 0,
            topic: 0,
            since_micros: 0,
            sent_micros,
        };
        let ticket = self.engine.accept_row(unsent);
        self.engine.delivered(self.now, ticket, Ok(()));
    }

    fn forward(
        &mut self,
        event: &Event<'_>,
        origin: Origin,
        xid: u32,
        since_micros: i64,
    ) -> Result<()> {
        let record = self.router.record(event, origin)?;
        let accepted = Accepted {
            row: event.row_id.unwrap_or(0),
            xid,
            bytes: u32::try_from(record.size()).unwrap_or(u32::MAX),
            topic: self.topics.index(record.topic),
            since_micros,
            sent_micros: self.now.as_micros() as u64,
        };
        let ticket = match origin {
            Origin::Stream { .. } => self.engine.accept(accepted),
            Origin::Table => Some(self.engine.accept_row(accepted)),
        };
        let Some(ticket) = ticket else { return Ok(()) };
        let mut full_since = None;
        loop {
            match self.producer.send(&record, ticket) {
                Ok(()) => return Ok(()),
                Err(SendError::Refused(refusal)) => {
                    self.engine.delivered(self.now, ticket, Err(refusal.into()));
                    return Ok(());
                }
                Err(SendError::Fatal(error)) => return Err(error),
                // The memory limit lies far below the queue's: this is met only where a setting has shrunk the queue.
                Err(SendError::Full)
                    if full_since.get_or_insert_with(Instant::now).elapsed() < FULL_LIMIT =>
                {
                    self.producer.take_reports(&mut self.reports);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(SendError::Full) => {
                    let message = "the producer's queue stays full";
                    return Err(Error::transient(Code::Publish, message)
                        .hint("raise queue.buffering.max.messages or lower the memory limit"));
                }
            }
        }
    }

    /// Takes in the delivery reports that are ready. Never waits.
    pub(crate) fn take_reports(&mut self) -> Result<()> {
        self.producer.take_reports(&mut self.reports);
        if self.reports.is_empty() {
            return self.producer.fatal().map_or(Ok(()), Err);
        }
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall_micros = wall.as_micros() as i64;
        for report in self.reports.drain(..) {
            if let Err(refusal) = &report.outcome {
                self.metrics.topic(refusal.topic()).failed(1);
            }
            let outcome = report.outcome.map_err(Error::from);
            let Some(event) = self.engine.delivered(self.now, report.ticket, outcome) else {
                continue;
            };
            self.published += 1;
            if let Some(topic) = self.topics.list.get(event.topic as usize) {
                topic.metrics.processed(1);
                topic
                    .metrics
                    .observe((wall_micros - event.since_micros) as f64 / 1e6);
            }
        }
        Ok(())
    }

    /// Writes these rows back; [`progressed`](Forwarder::progressed) tells the engine how it went.
    pub(crate) fn write(&mut self, mut marks: Vec<Mark>) {
        let Some(mut write_back) = self.write_back.take() else {
            debug_assert!(
                false,
                "one write-back at a time, and none without a table to write to"
            );
            return;
        };
        self.write = Some(Box::pin(async move {
            let result = write_back.write(&mut marks).await;
            (write_back, marks, result)
        }));
    }

    /// Waits until Kafka or the table has something to tell, and takes it in. Cancel-safe.
    pub(crate) async fn progressed(&mut self) -> Result<()> {
        let written = tokio::select! {
            biased;
            written = finished(&mut self.write) => Some(written),
            () = self.producer.reported() => None,
        };
        self.tick();
        let Some((write_back, marks, result)) = written else {
            return self.take_reports();
        };
        self.write = None;
        self.write_back = Some(write_back);
        self.engine.written_back(self.now, &marks);
        match result {
            Ok(()) => self.write_error = None,
            Err(error) => {
                self.metrics.error(error.code());
                tracing::warn!(error = %error.report(), "write-back failed, trying again");
                self.write_error = Some(error.report());
            }
        }
        Ok(())
    }

    /// Puts the figures on the board and into the gauges, and names what is waited for.
    pub(crate) fn show(&self) {
        let snapshot = self.engine.snapshot();
        let oldest_seconds = snapshot.oldest.map_or(0.0, |oldest| {
            self.now.as_secs_f64() - Duration::from_micros(oldest.sent_micros).as_secs_f64()
        });
        let gauges = FlightGauges {
            records: snapshot.in_flight_count,
            bytes: snapshot.in_flight_bytes as u64,
            oldest_seconds,
            unmarked_records: snapshot.unmarked_count as u64,
        };
        self.metrics.flight(gauges);
        self.board.update(|status| {
            status.published_total = self.published;
            status.in_flight_records = gauges.records;
            status.in_flight_bytes = gauges.bytes;
            status.unmarked_records = gauges.unmarked_records;
            status.oldest_unacknowledged_seconds = oldest_seconds;
            status.received_lsn = Some(snapshot.received.to_string());
            status.confirmed_lsn = Some(snapshot.confirmed.to_string());
        });
        let waiting = match snapshot.oldest {
            Some(oldest) if oldest_seconds > KAFKA_WAIT.as_secs_f64() => {
                let topic = self
                    .topics
                    .list
                    .get(oldest.topic as usize)
                    .map_or("", |topic| &topic.name);
                Some(("kafka", self.kafka_trouble(topic)))
            }
            _ if snapshot.decoding => Some((
                "decoding",
                "the server decodes changes that are not ours".to_owned(),
            )),
            _ => match &self.write_error {
                Some(error) => Some(("write-back", error.clone())),
                None if snapshot.deferred_count > 0 => {
                    let rows = snapshot.deferred_count;
                    Some((
                        "write-back",
                        format!("{rows} rows are locked or not visible yet"),
                    ))
                }
                None => None,
            },
        };
        self.board.wait(waiting);
    }

    fn kafka_trouble(&self, topic: &str) -> String {
        match self.producer.health().last_error {
            Some(error) => format!("no acknowledgement for topic {topic}: {}", error.reason),
            None => format!("no acknowledgement for topic {topic}"),
        }
    }
}

/// The outcome of the write-back that is out; waits for ever when there is none.
async fn finished(write: &mut Option<Write>) -> (WriteBack, Vec<Mark>, Result<()>) {
    match write {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}

/// Topic names by number, so that an event in flight needs no string.
struct Topics {
    metrics: Arc<Metrics>,
    known: HashMap<Box<str>, u32>,
    list: Vec<Topic>,
}

struct Topic {
    name: Box<str>,
    metrics: TopicMetrics,
}

/// Beyond so many topics the rest share a number.
const TOPICS_MAX: usize = 10_000;

impl Topics {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.known.get(name) {
            return *index;
        }
        let index = self.list.len().min(TOPICS_MAX) as u32;
        if self.list.len() <= TOPICS_MAX {
            let metrics = self.metrics.topic(name);
            self.list.push(Topic {
                name: name.into(),
                metrics,
            });
        }
        if self.known.len() < TOPICS_MAX {
            self.known.insert(name.into(), index);
        }
        index
    }
}
