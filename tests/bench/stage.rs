//! The servers of a run, and their description.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::Options;
use crate::report::Report;
use crate::support::kafka::{self, Kafka};
use crate::support::postgres::{self, Server};
use crate::support::wait::wait_for;
use crate::usage;

const LIMIT: Duration = Duration::from_secs(30);
/// The broker's JIT compilers count as idle after this much time without work.
const SETTLED: Duration = Duration::from_secs(1);
const SETTLED_LIMIT: Duration = Duration::from_secs(120);

/// As many headers as the contenders' records have.
const WARM_HEADERS: [&str; 6] = [
    "id",
    "created_at",
    "event_type",
    "lsn",
    "index",
    "committed_at",
];

/// Keeps the server's own background work out of the measurements.
const CONFIG: [&str; 5] = [
    "autovacuum = off",
    "shared_buffers = 256MB",
    "max_wal_size = 32GB",
    "checkpoint_timeout = 1d",
    "log_replication_commands = off",
];

/// One Postgres and one Kafka.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) kafka: Kafka,
    consumer: BaseConsumer,
}

impl Stage {
    /// Starts both, adds their description to the report, and warms up the broker.
    pub(crate) async fn start(options: &Options, report: &mut Report) -> Result<Stage> {
        let server = postgres::private(options.postgres, &CONFIG)?;
        let kafka = kafka::fast()?;
        let consumer = kafka.client().create()?;
        let stage = Stage {
            server,
            kafka,
            consumer,
        };
        report.add(format!("{}\n", stage.describe()?))?;
        if let [server, broker, contender] = options.pin.as_slice() {
            stage.pin(server, broker)?;
            report.add(format!(
                "Processors of the server: {server}, of the broker: {broker}, of a contender: \
                 {contender}\n"
            ))?;
        }
        stage.warm_up(options.warm_up()).await?;
        Ok(stage)
    }

    /// Keeps the server and the broker to these processors. Each session of the server inherits
    /// those of the server.
    fn pin(&self, server: &str, broker: &str) -> Result<()> {
        let pid = self.server.pid().context("the server is a process")?;
        for (pid, cores) in [(pid, server), (self.broker()?, broker)] {
            let pid = pid.to_string();
            let mut taskset = Command::new("taskset");
            taskset.args(["-a", "-c", "-p", cores, &pid]);
            // It prints a line for each thread.
            let status = taskset.stdout(Stdio::null()).status()?;
            ensure!(status.success(), "taskset: {status}");
        }
        Ok(())
    }

    /// The machine and the versions, as the first line of a report.
    fn describe(&self) -> Result<String> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let cores = std::thread::available_parallelism()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        Ok(format!(
            "{cores} cores ({}), Linux {}; Postgres {}, Kafka 4.1.0 (one broker, acks=all), \
             librdkafka {librdkafka}; all on one machine",
            model.unwrap_or("unknown"),
            kernel.trim(),
            self.server.version(),
        ))
    }

    /// Lets the broker take this many records in large requests, and a quarter as many in small
    /// ones: its JIT compiles while it runs, and the first contender would pay for that, at several
    /// times the later cost of a request.
    async fn warm_up(&self, records: usize) -> Result<()> {
        let topics = Topics::create(&self.kafka, 1, 4).await?;
        for (records, batch, linger) in [(records / 4, "10", "0"), (records, "10000", "5")] {
            let mut settings = self.kafka.client();
            settings
                .set("acks", "all")
                .set("enable.idempotence", "true")
                .set("batch.num.messages", batch)
                .set("linger.ms", linger);
            let producer: BaseProducer = settings.create()?;
            produce(&producer, &topics.names[0], records)?;
        }
        self.delete_records(&topics).await?;
        self.settle().await
    }

    /// Waits until the broker's JIT is idle: it would take CPU from the next measurement.
    pub(crate) async fn settle(&self) -> Result<()> {
        let broker = self.broker()?;
        wait_for(
            "the broker's compilers to rest",
            SETTLED_LIMIT,
            async || {
                let before = usage::compilers(broker);
                tokio::time::sleep(SETTLED).await;
                // The JVM ends idle compiler threads, so the sum may fall.
                let spent = usage::compilers(broker).saturating_sub(before);
                Ok((spent < SETTLED / 20).then_some(()))
            },
        )
        .await
    }

    /// The number of records that these topics have received since their creation.
    pub(crate) fn records(&self, topics: &Topics) -> Result<i64> {
        let mut sum = 0;
        for topic in &topics.names {
            for partition in 0..topics.partitions {
                let (_, high) = self.consumer.fetch_watermarks(topic, partition, LIMIT)?;
                sum += high;
            }
        }
        Ok(sum)
    }

    /// The number of committed records in these topics.
    pub(crate) fn committed_records(&self, topics: &Topics) -> Result<i64> {
        let reader: BaseConsumer = self
            .kafka
            .client()
            .set("group.id", "committed")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for topic in &topics.names {
            for partition in 0..topics.partitions {
                assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        reader.assign(&assignment)?;
        let (mut records, mut open) = (0, assignment.count());
        while open > 0 {
            match reader.poll(LIMIT).context("a partition is not read")? {
                Ok(_) => records += 1,
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    /// Waits until these topics receive nothing for a while, and returns when the last record came.
    /// For a contender that does not show how far it is.
    pub(crate) async fn at_rest(&self, topics: &Topics) -> Result<Instant> {
        let (mut records, mut last) = (self.records(topics)?, Instant::now());
        while last.elapsed() < SETTLED {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.records(topics)?;
            if now != records {
                (records, last) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// Deletes the records of these topics; [`records`](Stage::records) still counts them.
    pub(crate) async fn delete_records(&self, topics: &Topics) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.kafka.client().create()?;
        let mut offsets = TopicPartitionList::new();
        for topic in &topics.names {
            for partition in 0..topics.partitions {
                offsets.add_partition_offset(topic, partition, Offset::End)?;
            }
        }
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let deleted = admin.delete_records(&offsets, &options).await?;
        for element in deleted.elements() {
            element.error().context("deleting records")?;
        }
        Ok(())
    }

    /// The broker's process id.
    pub(crate) fn broker(&self) -> Result<u32> {
        match self.kafka.pid() {
            Some(pid) => Ok(pid),
            None => bail!("Kafka does not run"),
        }
    }
}

fn produce(producer: &BaseProducer, topic: &str, records: usize) -> Result<()> {
    let value = [b'x'; 400];
    for n in 0..records {
        let key = (n % 1000).to_string();
        let record = || {
            let headers = OwnedHeaders::new_with_capacity(WARM_HEADERS.len());
            let headers = WARM_HEADERS.iter().fold(headers, |headers, name| {
                let value = Some(key.as_bytes());
                headers.insert(Header { key: name, value })
            });
            BaseRecord::to(topic)
                .key(&key)
                .payload(&value[..])
                .headers(headers)
        };
        while producer.send(record()).is_err() {
            producer.poll(Duration::from_millis(10));
        }
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(LIMIT)?;
    Ok(())
}

/// Topics that have the same number of partitions.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    pub(crate) names: Vec<String>,
    pub(crate) partitions: i32,
}

impl Topics {
    /// Creates the topics.
    pub(crate) async fn create(kafka: &Kafka, count: usize, partitions: i32) -> Result<Topics> {
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(kafka.topic("events", partitions).await?);
        }
        Ok(Topics { names, partitions })
    }
}
