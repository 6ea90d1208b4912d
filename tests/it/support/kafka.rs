//! A real Kafka broker, from its jars: one for all tests of a process, and private ones for tests that stop or freeze theirs.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::throwaway::{Guard, cached, free_port, new_folder};

/// What the broker is, for the cache: the version that `tests/services/kafka/pom.xml` names.
const CACHE_NAME: &str = "kafka-4.1.0";

/// Any sixteen bytes in base64.
const CLUSTER_ID: &str = "b3V0Ym94ZC10ZXN0cy0wMQ";

/// How long a broker may take to start, or to stop in good order.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long reading everything may take.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// One broker, which is its own controller. Dropping it kills the process and removes its files.
pub(crate) struct Kafka {
    guard: Guard,
    port: u16,
    machine: &'static [&'static str],
}

/// A Java machine that starts fast and stays small.
const SMALL: [&str; 4] = [
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
];

/// One that makes its code as fast as it can, for measurements.
const FAST: [&str; 3] = ["-Xms512m", "-Xmx512m", "-XX:+UseSerialGC"];

/// One record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumedRecord {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

impl ConsumedRecord {
    /// The text of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The identity that outboxd gives every record of a row.
    pub(crate) fn outbox_id(&self) -> Option<i64> {
        self.header("outbox_id")?.parse().ok()
    }

    fn read(message: &BorrowedMessage<'_>) -> ConsumedRecord {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (
                header.key.to_owned(),
                header.value.unwrap_or_default().to_vec(),
            )
        };
        ConsumedRecord {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: message
                .headers()
                .map(|all| all.iter().map(header).collect())
                .unwrap_or_default(),
            timestamp: message.timestamp().to_millis(),
        }
    }
}

/// The folder of the broker's jars: `OUTBOXD_TEST_KAFKA_DIR` (a Kafka installation, or its `libs`), or fetched by Maven.
fn jars() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("OUTBOXD_TEST_KAFKA_DIR").map(PathBuf::from) {
        let libs = dir.join("libs");
        return Ok(if libs.is_dir() { libs } else { dir });
    }
    // Once for all tests of this process.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _turn = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    cached(CACHE_NAME, |dir| {
        let pom = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/kafka/pom.xml");
        // A repository of its own, so that neither HOME nor what lies there matters.
        let repository = dir.with_extension("m2");
        let status = Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file", pom])
            .arg(format!("-Dmaven.repo.local={}", repository.display()))
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", dir.display()))
            .stdin(std::process::Stdio::null())
            .status()
            .context(
                "mvn does not start: install Maven, or name a Kafka by OUTBOXD_TEST_KAFKA_DIR",
            )?;
        if !status.success() {
            bail!("mvn could not fetch Kafka");
        }
        Ok(())
    })
}

/// The broker that all tests of this process share: never stop or freeze it.
pub(crate) fn shared() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::start(&SMALL, &[]).expect("Kafka starts"))
}

/// A broker of one's own, with further lines of `server.properties`.
pub(crate) fn private(properties: &[&str]) -> Result<Kafka> {
    Kafka::start(&SMALL, properties)
}

/// A broker of one's own to measure against.
pub(crate) fn fast() -> Result<Kafka> {
    Kafka::start(&FAST, &[])
}

impl Kafka {
    fn start(machine: &'static [&'static str], properties: &[&str]) -> Result<Kafka> {
        let jars = jars()?;
        let dir = new_folder("kafka", None)?;
        let mut kafka = Kafka {
            guard: Guard::new(&dir, None, "KILL")?,
            port: free_port()?,
            machine,
        };
        kafka.configure(&dir, properties)?;
        let format = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            CLUSTER_ID,
            "-c",
            "server.properties",
        ];
        kafka.guard.start(&java(machine, &jars, &format))?;
        if kafka.guard.wait(START_LIMIT) != Some(0) {
            bail!(
                "Kafka's storage was not formatted: {}",
                kafka.guard.last_words()
            );
        }
        kafka.resume()?;
        Ok(kafka)
    }

    fn configure(&self, dir: &Path, properties: &[&str]) -> Result<()> {
        let (port, controller) = (self.port, free_port()?);
        let mut text = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=4194304
",
            dir.join("data").display()
        );
        for property in properties {
            text.push_str(property);
            text.push('\n');
        }
        fs::write(dir.join("server.properties"), text)?;
        let logging = "rootLogger.level=warn\nrootLogger.appenderRefs=out\nrootLogger.appenderRef.out.ref=out\n\
             appenders=out\nappender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n\
             appender.out.layout.pattern=%d %p %m (%c)%n\n";
        fs::write(dir.join("log4j2.properties"), logging)?;
        Ok(())
    }

    /// Starts the broker again after [`stop`](Kafka::stop) or [`kill`](Kafka::kill), at the same address; returns when it
    /// answers.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let server = ["kafka.Kafka", "server.properties"];
        self.guard.start(&java(self.machine, &jars()?, &server))?;
        let end = Instant::now() + START_LIMIT;
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        while Instant::now() < end && self.guard.pid().is_some() {
            if listens() && self.answers() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("Kafka did not start: {}", self.guard.last_words());
    }

    fn answers(&self) -> bool {
        let consumer: Result<BaseConsumer, _> = self.client().create();
        let metadata = consumer.and_then(|it| it.fetch_metadata(None, Duration::from_secs(5)));
        metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    /// The bootstrap servers.
    pub(crate) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process number while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.guard.pid()
    }

    /// Stops the broker in good order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.guard.signal("TERM")?;
        if self.guard.wait(START_LIMIT).is_none() {
            bail!("Kafka did not stop: {}", self.guard.last_words());
        }
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.guard.signal("KILL")?;
        if self.guard.wait(Duration::from_secs(10)).is_none() {
            bail!("Kafka survived a kill");
        }
        Ok(())
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.guard.signal("STOP")
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        self.guard.signal("CONT")
    }

    /// What the broker has logged.
    pub(crate) fn log(&self) -> String {
        self.guard.log()
    }

    /// Settings of a client of this broker.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    /// Makes a topic; its name is `name` and a number that no other topic of this process has.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.create_topic(&name, partitions, &[]).await?;
        Ok(name)
    }

    /// Makes a topic of this very name, with settings such as `("max.message.bytes", "20000000")`.
    pub(crate) async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = admin.create_topics([&topic], &options).await?;
        for result in results {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Gives a topic other settings; those that are not named get their defaults.
    pub(crate) async fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let mut altered = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in settings {
            altered = altered.set(key, value);
        }
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(30)));
        for result in admin.alter_configs([&altered], &options).await? {
            result.map_err(|(name, code)| anyhow::anyhow!("{name:?}: {code}"))?;
        }
        Ok(())
    }

    /// Takes a topic away, with all that is in it; returns when the broker no longer knows it.
    pub(crate) async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in admin.delete_topics(&[name], &options).await? {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Runs one of Kafka's own tools, such as `kafka.admin.AclCommand`, on this broker.
    pub(crate) async fn tool(&self, class: &str, arguments: &[&str]) -> Result<()> {
        let brokers = self.brokers();
        let all = [&[class, "--bootstrap-server", &brokers], arguments].concat();
        let words = java(&SMALL, &jars()?, &all);
        let output = tokio::process::Command::new(&words[0])
            .args(words[1..].iter().filter(|word| !word.contains("log4j2")))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(START_LIMIT, output).await??;
        if !output.status.success() {
            bail!(
                "{class} failed: {} {}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// How many records a consumer could read from these topics now. (A transaction's own markers count, too.)
    pub(crate) async fn record_count(&self, topics: &[&str]) -> Result<i64> {
        self.with_consumer(topics, |consumer, topics| {
            let mut sum = 0;
            for topic in topics {
                for partition in partitions(consumer, topic)? {
                    let (low, high) = consumer.fetch_watermarks(topic, partition, READ_LIMIT)?;
                    sum += high - low;
                }
            }
            Ok(sum)
        })
        .await
    }

    /// Everything in these topics up to their ends as they are now, committed transactions only; topic by topic, each
    /// partition in the order of its offsets.
    pub(crate) async fn consume_all(&self, topics: &[&str]) -> Result<Vec<ConsumedRecord>> {
        self.with_consumer(topics, |consumer, topics| {
            let mut records = Vec::new();
            for topic in topics {
                read_topic(consumer, topic, &mut records)?;
            }
            Ok(records)
        })
        .await
    }

    async fn with_consumer<T: Send + 'static>(
        &self,
        topics: &[&str],
        work: impl FnOnce(&BaseConsumer, &[String]) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "outboxd-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "20")
            .set("fetch.error.backoff.ms", "20")
            .set("message.max.bytes", "100000000")
            .create()?;
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        tokio::task::spawn_blocking(move || work(&consumer, &topics)).await?
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), READ_LIMIT)?;
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none());
    let found = found.with_context(|| format!("there is no topic {topic}"))?;
    Ok(found
        .partitions()
        .iter()
        .map(|partition| partition.id())
        .collect())
}

fn read_topic(
    consumer: &BaseConsumer,
    topic: &str,
    records: &mut Vec<ConsumedRecord>,
) -> Result<()> {
    let mut unread = partitions(consumer, topic)?;
    let mut assignment = TopicPartitionList::new();
    for partition in &unread {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (first, end) = (records.len(), Instant::now() + READ_LIMIT);
    while !unread.is_empty() {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => records.push(ConsumedRecord::read(&message)),
            Some(Err(KafkaError::PartitionEOF(done))) => {
                unread.retain(|partition| *partition != done)
            }
            Some(Err(error)) => return Err(error).context("reading records"),
            None if Instant::now() > end => bail!("partitions {unread:?} of {topic} gave no end"),
            None => {}
        }
    }
    records[first..].sort_by_key(|record| (record.partition, record.offset));
    Ok(())
}

/// `java` with the options of its machine, and what is to be run.
fn java(machine: &[&str], jars: &Path, arguments: &[&str]) -> Vec<String> {
    let classes = format!("{}/*", jars.display());
    let logging = "-Dlog4j2.configurationFile=log4j2.properties";
    let words = [&["java"], machine, &[logging, "-cp", &classes], arguments].concat();
    words.into_iter().map(str::to_owned).collect()
}
