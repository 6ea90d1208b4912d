//! The poller that outboxd replaces, implemented as well as possible: batches, prepared statements,
//! one round trip each, an index for unpublished rows, FOR UPDATE SKIP LOCKED against other
//! pollers, and one flush for a whole batch.
//!
//! It is a process like the others: this program itself, selected by its first argument.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{Client, NoTls, Statement};

/// The first argument that selects the poller.
pub(crate) const WORD: &str = "poller";

const BATCH: i64 = 1_000;
/// Pause after a query that found no row.
const PAUSE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(30);

const SELECT: &str = "SELECT id, event_type, topic, event_payload::text FROM outbox.outbox \
     WHERE published_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";
const MARK: &str = "UPDATE outbox.outbox SET published_at = CURRENT_TIMESTAMP, \
            times_attempted = times_attempted + 1 \
     WHERE id = ANY($1)";

/// Publishes until SIGTERM.
pub(crate) async fn run(database: &str, brokers: &str) -> Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let producer: BaseProducer<Failures> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "1")
        .set("partitioner", "murmur2_random")
        .create_with_context(Failures::default())?;
    let (mut client, connection) = tokio_postgres::connect(database, NoTls).await?;
    tokio::spawn(connection);
    let (select, mark) = (client.prepare(SELECT).await?, client.prepare(MARK).await?);
    loop {
        let found = batch(&mut client, &select, &mark, &producer).await?;
        let pause = if found { Duration::ZERO } else { PAUSE };
        tokio::select! {
            biased;
            _ = stop.recv() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Publishes one batch; returns whether it had rows.
async fn batch(
    client: &mut Client,
    select: &Statement,
    mark: &Statement,
    producer: &BaseProducer<Failures>,
) -> Result<bool> {
    let transaction = client.transaction().await?;
    let rows = transaction.query(select, &[&BATCH]).await?;
    let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
    for row in &rows {
        let (key, topic, value): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let mut record = BaseRecord::to(topic).key(key).payload(value);
        while let Err((error, returned)) = producer.send(record) {
            let full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(full, "{error}");
            record = returned;
            producer.poll(Duration::from_millis(1));
        }
        ids.push(row.get(0));
    }
    if !ids.is_empty() {
        producer
            .flush(LIMIT)
            .context("Kafka does not acknowledge")?;
        ensure!(
            !producer.context().0.load(Ordering::Relaxed),
            "Kafka rejected an event"
        );
        transaction.execute(mark, &[&ids]).await?;
    }
    transaction.commit().await?;
    Ok(!ids.is_empty())
}

/// Whether any record was rejected.
#[derive(Debug, Default)]
struct Failures(AtomicBool);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
