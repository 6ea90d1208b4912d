//! An outbox that is published, and the means to plant faults beside it.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{Session, shared, turn};

pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// What `outboxd verify --json` has answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: Option<i32>,
    pub(super) found: Value,
    pub(super) printed: Output,
}

impl Answer {
    pub(super) fn number(&self, name: &str) -> u64 {
        self.found[name].as_u64().unwrap_or(u64::MAX)
    }

    /// The ids of the events of a kind.
    pub(super) fn ids(&self, kind: &str) -> Vec<String> {
        let events = self.found["events"].as_array();
        let events = events.into_iter().flatten();
        let of_kind = events.filter(|event| event["kind"] == kind);
        of_kind
            .map(|event| event["id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Exactly these numbers differ from 0, of those that say that something is wrong or unknown.
    pub(super) fn expect(&self, expected: &[(&str, u64)]) -> Result<()> {
        let kinds = [
            "missing",
            "duplicate",
            "phantom",
            "altered",
            "out_of_order",
            "unknown",
        ];
        for kind in kinds {
            let wanted = expected.iter().find(|(name, _)| *name == kind);
            let wanted = wanted.map_or(0, |(_, number)| *number);
            ensure!(self.number(kind) == wanted, "{kind} {expected:?}: {self:?}");
        }
        let is_wrong = expected.iter().any(|(name, _)| *name != "unknown");
        ensure!(self.code == Some(i32::from(is_wrong)), "{self:?}");
        Ok(())
    }
}

/// Runs `outboxd verify --json`.
pub(super) async fn verify(settings: &Settings, arguments: &[&str]) -> Result<Answer> {
    let arguments = [&["verify", "--json"], arguments].concat();
    let printed = command(settings, &arguments, LIMIT).await?;
    let found = serde_json::from_slice(&printed.stdout);
    Ok(Answer {
        code: printed.status.code(),
        found: found.with_context(|| format!("{printed:?}"))?,
        printed,
    })
}

/// A database with an outbox and a topic.
pub(super) struct Stage {
    pub(super) fixture: Fixture<'static>,
    pub(super) session: Session,
    pub(super) settings: Settings,
}

impl Stage {
    pub(super) async fn create(settings: &[(&str, &str)]) -> Result<Stage> {
        let fixture = Fixture::create(shared(turn(17)), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let mut all = fixture.settings.clone();
        for (name, value) in settings {
            all = all.set(name, *value);
        }
        Ok(Stage {
            fixture,
            session,
            settings: all,
        })
    }

    /// The same with rows that outboxd has published: five keys, and every row counts.
    pub(super) async fn published(rows: i64, settings: &[(&str, &str)]) -> Result<Stage> {
        let stage = Stage::create(settings).await?;
        let mut outboxd = stage.start().await?;
        stage.insert(rows).await?;
        stage.fixture.all_marked(LIMIT).await?;
        ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
        Ok(stage)
    }

    pub(super) async fn start(&self) -> Result<Outboxd> {
        let outboxd = Outboxd::spawn(&self.settings)?;
        outboxd.wait_until_ready(LIMIT).await?;
        Ok(outboxd)
    }

    pub(super) fn topic(&self) -> &str {
        &self.fixture.topic
    }

    pub(super) fn kafka(&self) -> &'static Kafka {
        self.fixture.kafka
    }

    pub(super) async fn insert(&self, rows: i64) -> Result<()> {
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k' || i % 5, $1, jsonb_build_object('n', i) \
                        FROM generate_series(1, $2::bigint) AS i";
        self.session
            .execute(insert, &[&self.topic(), &rows])
            .await?;
        Ok(())
    }

    pub(super) async fn verify(&self, arguments: &[&str]) -> Result<Answer> {
        verify(&self.settings, arguments).await
    }

    pub(super) async fn records(&self) -> Result<Vec<ConsumedRecord>> {
        self.kafka().consume_all(&[self.topic()]).await
    }

    /// The record of the row with this id.
    pub(super) async fn record(&self, id: i64) -> Result<ConsumedRecord> {
        let records = self.records().await?;
        let mut records = records.into_iter();
        let found = records.find(|record| record.outbox_id() == Some(id));
        found.with_context(|| format!("a record of row {id}"))
    }

    /// Appends a record to its partition.
    pub(super) async fn produce(&self, record: &ConsumedRecord) -> Result<()> {
        produce(self.kafka(), record).await
    }

    /// Removes the records of a partition before an offset.
    pub(super) async fn remove(&self, partition: i32, before: i64) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.kafka().client().create()?;
        let mut records = TopicPartitionList::new();
        records.add_partition_offset(self.topic(), partition, Offset::Offset(before))?;
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let removed = admin.delete_records(&records, &options).await?;
        for partition in removed.elements() {
            partition.error()?;
        }
        Ok(())
    }
}

pub(super) async fn produce(kafka: &Kafka, record: &ConsumedRecord) -> Result<()> {
    let producer: FutureProducer = kafka.client().create()?;
    let mut headers = OwnedHeaders::new();
    for (key, value) in &record.headers {
        let value = Some(value.as_slice());
        headers = headers.insert(Header { key, value });
    }
    let mut sent: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&record.topic)
        .partition(record.partition)
        .headers(headers);
    if let Some(key) = &record.key {
        sent = sent.key(key);
    }
    if let Some(value) = &record.value {
        sent = sent.payload(value);
    }
    let sent = producer.send(sent, LIMIT).await;
    sent.map_err(|(error, _)| error)?;
    Ok(())
}

/// The record with another value of a header.
pub(super) fn with_header(record: &ConsumedRecord, name: &str, value: &str) -> ConsumedRecord {
    let mut changed = record.clone();
    for (key, old) in &mut changed.headers {
        if key == name {
            *old = value.as_bytes().to_vec();
        }
    }
    changed
}
