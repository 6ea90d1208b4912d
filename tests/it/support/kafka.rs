//! A real Kafka broker, run from its jars. All tests of a process share one; tests that stop or
//! freeze a broker start a private one, also behind a proxy, with SASL, or as a cluster of three.

use std::ffi::OsStr;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::ephemeral::{Guard, cached, free_port, new_folder};
use super::process::{freeze, signal};

/// The version, unless `OUTBOXD_TEST_KAFKA_VERSION` names another.
const VERSION: &str = "4.1.0";

/// The name, in the place of a version, of a broker that speaks Kafka's protocol and is not Kafka:
/// franz-go's, which keeps everything in memory.
const COMPATIBLE: &str = "kfake";

/// Any sixteen bytes in base64.
const CLUSTER_ID: &str = "b3V0Ym94ZC10ZXN0cy0wMQ";

/// Time limit for a broker's start and for its clean shutdown.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Time limit for reading whole topics.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// One broker, which is its own controller or one of three. Dropping it kills the process and
/// removes its files.
pub(crate) struct Kafka {
    guard: Guard,
    port: u16,
    machine: &'static [&'static str],
    /// The port of a second listener.
    outer: Option<u16>,
    /// The names and ports of further listeners.
    listeners: Vec<(String, u16)>,
    /// Further options of the JVM.
    options: Vec<String>,
    /// All brokers of the cluster.
    bootstrap: String,
}

/// How a broker is set up.
#[derive(Clone, Copy)]
struct Plan<'a> {
    machine: &'static [&'static str],
    properties: &'a [&'a str],
    outer: Option<Outer<'a>>,
    listeners: &'a [Listener<'a>],
    options: &'a [String],
    place: &'a Place,
    /// The folder for its records; by default one below the temporary folder.
    files: Option<&'a Path>,
}

/// A further listener of a broker with several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener<'a> {
    /// Its name, in capitals.
    pub(crate) name: &'a str,
    /// `SASL_PLAINTEXT`, `SASL_SSL` or `SSL`.
    pub(crate) protocol: &'a str,
    /// The port that the broker advertises where it is not its own, such as a proxy's.
    pub(crate) advertised: Option<u16>,
    pub(crate) port: u16,
}

/// A second listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outer<'a> {
    /// `PLAINTEXT`, `SASL_PLAINTEXT` or `SSL`.
    pub(crate) protocol: &'a str,
    /// The port that the broker advertises where it is not its own, such as a proxy's.
    pub(crate) advertised: Option<u16>,
}

/// A broker's place among the brokers of its cluster.
struct Place {
    id: usize,
    ports: Vec<u16>,
    /// The controller port of the first broker.
    controller: u16,
}

impl Place {
    fn alone() -> Result<Place> {
        Ok(Place {
            id: 1,
            ports: vec![free_port()?],
            controller: free_port()?,
        })
    }

    fn bootstrap(&self) -> String {
        let brokers = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        brokers.collect::<Vec<_>>().join(",")
    }
}

/// JVM options for a fast start and little memory.
const SMALL: [&str; 4] = [
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
];

/// JVM options for measurements: the full compiler.
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
    /// The producer chose the time, and not the broker.
    pub(crate) is_create_time: bool,
}

impl ConsumedRecord {
    /// The text of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The row's id, which outboxd writes as a header of every record.
    pub(crate) fn outbox_id(&self) -> Option<i64> {
        self.header("outbox_id")?.parse().ok()
    }

    /// The commit's LSN, which outboxd writes as a header of every record from the stream.
    pub(crate) fn committed_at(&self) -> Result<u64> {
        let lsn = self.header("outbox_lsn");
        parse_lsn(lsn.context("the stream names the commit")?)
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
            is_create_time: matches!(message.timestamp(), Timestamp::CreateTime(_)),
        }
    }
}

/// An LSN as a number.
pub(crate) fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').context("an LSN")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

/// The folder of the broker's jars: `OUTBOXD_TEST_KAFKA_DIR` (a Kafka installation, or its `libs`),
/// or downloaded by Maven.
pub(crate) fn jars() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("OUTBOXD_TEST_KAFKA_DIR").map(PathBuf::from) {
        let libs = dir.join("libs");
        return Ok(if libs.is_dir() { libs } else { dir });
    }
    // One download for all tests of this process.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _turn = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let version = env::var("OUTBOXD_TEST_KAFKA_VERSION").unwrap_or_else(|_| VERSION.to_owned());
    cached(&format!("kafka-{version}"), |dir| {
        let pom = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/kafka/pom.xml");
        // A repository of its own keeps the result independent of HOME and its contents.
        let repository = dir.with_extension("m2");
        let status = Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file", pom])
            .arg(format!("-Dmaven.repo.local={}", repository.display()))
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", dir.display()))
            .arg(format!("-Dkafka.version={version}"))
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

/// The program of the broker that is not Kafka, built by Go; its argument is a port.
fn compatible_broker() -> Result<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/compatible");
    let dir = cached("compatible-broker-1", |dir| {
        let status = Command::new("go")
            .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
            .arg(dir.join(COMPATIBLE))
            .arg(".")
            .current_dir(source)
            .stdin(std::process::Stdio::null())
            .status()
            .context("go does not start: install Go")?;
        if !status.success() {
            bail!("go could not build {source}");
        }
        Ok(())
    })?;
    Ok(dir.join(COMPATIBLE))
}

/// Writes Kafka's own scripts, such as `kafka-topics.sh`, into a folder: its jars come without
/// them.
pub(crate) fn scripts(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let tools = [
        ("kafka-topics.sh", TOPICS),
        ("kafka-configs.sh", CONFIGS),
        ("kafka-console-consumer.sh", CONSOLE_CONSUMER),
    ];
    let jars = jars()?;
    for (name, tool) in tools {
        let words = java(&SMALL, &jars, &[&tool.class(&jars)?]);
        let words = words.iter().filter(|word| !word.starts_with("-Dlog4j"));
        let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
        let path = folder.join(name);
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The broker that all tests of this process share: never stop or freeze it.
pub(crate) fn shared() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    let wanted = env::var("OUTBOXD_TEST_KAFKA_VERSION").unwrap_or_default();
    KAFKA.get_or_init(|| match wanted == COMPATIBLE {
        true => Kafka::compatible().expect("the compatible broker starts"),
        false => Kafka::start(&SMALL, &[]).expect("Kafka starts"),
    })
}

/// A private broker with further lines of `server.properties`.
pub(crate) fn private(properties: &[&str]) -> Result<Kafka> {
    Kafka::start(&SMALL, properties)
}

/// A private broker for measurements.
pub(crate) fn fast() -> Result<Kafka> {
    Kafka::start(&FAST, &[])
}

/// One of Kafka's own tools, by the name of its class; see [`Kafka::tool`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool(&'static str);

pub(crate) const ACLS: Tool = Tool("AclCommand");
pub(crate) const CONFIGS: Tool = Tool("ConfigCommand");
const TOPICS: Tool = Tool("TopicCommand");
const CONSOLE_CONSUMER: Tool = Tool("ConsoleConsumer");

impl Tool {
    /// Its class in the version of these jars: Kafka moves its tools from one package to another,
    /// each in a version of its own.
    fn class(self, jars: &Path) -> Result<String> {
        const PACKAGES: [&str; 3] = [
            "org/apache/kafka/tools",
            "org/apache/kafka/tools/consumer",
            "kafka/admin",
        ];
        for jar in fs::read_dir(jars)? {
            let jar = jar?.path();
            let name = jar.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if !name.starts_with("kafka-tools-") && !name.starts_with("kafka_") {
                continue;
            }
            // The list of a jar's entries is not compressed.
            let bytes = fs::read(&jar)?;
            for package in PACKAGES {
                let entry = format!("{package}/{}.class", self.0);
                if contains(&bytes, entry.as_bytes()) {
                    return Ok(format!("{package}/{}", self.0).replace('/', "."));
                }
            }
        }
        bail!("no jar in {} has {}", jars.display(), self.0)
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The properties of a broker whose second listener knows the user `app`. That user has the rights
/// that ACLs give it, and the tests' own client has all.
const WITH_ACLS: [&str; 4] = [
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:ANONYMOUS",
    "listener.name.outer.sasl.enabled.mechanisms=PLAIN",
    "listener.name.outer.plain.sasl.jaas.config=\
     org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"right\";",
];

/// A broker with [`WITH_ACLS`].
pub(crate) fn with_acls() -> Result<Kafka> {
    let outer = Outer {
        protocol: "SASL_PLAINTEXT",
        advertised: None,
    };
    with_outer(outer, &WITH_ACLS)
}

/// A private broker with a second listener at [`Kafka::outer_port`].
pub(crate) fn with_outer(outer: Outer<'_>, properties: &[&str]) -> Result<Kafka> {
    let place = Place::alone()?;
    let mut kafka = Kafka::prepare(Plan {
        machine: &SMALL,
        properties,
        outer: Some(outer),
        listeners: &[],
        options: &[],
        place: &place,
        files: None,
    })?;
    kafka.resume()?;
    Ok(kafka)
}

/// A private broker with further listeners, and with further options of its JVM.
pub(crate) fn with_listeners(
    listeners: &[Listener<'_>],
    options: &[String],
    properties: &[&str],
) -> Result<Kafka> {
    let place = Place::alone()?;
    let mut kafka = Kafka::prepare(Plan {
        machine: &SMALL,
        properties,
        outer: None,
        listeners,
        options,
        place: &place,
        files: None,
    })?;
    kafka.resume()?;
    Ok(kafka)
}

/// A private broker that keeps its records in this folder.
pub(crate) fn private_in(files: &Path, properties: &[&str]) -> Result<Kafka> {
    let place = Place::alone()?;
    let mut kafka = Kafka::prepare(Plan {
        machine: &SMALL,
        properties,
        outer: None,
        listeners: &[],
        options: &[],
        place: &place,
        files: Some(files),
    })?;
    kafka.resume()?;
    Ok(kafka)
}

/// Three brokers, the first of which is also the controller. Each lists all three as its bootstrap
/// servers.
pub(crate) fn cluster(properties: &[&str]) -> Result<Vec<Kafka>> {
    let controller = free_port()?;
    cluster_of(properties, controller, controller, &[])
}

/// As [`cluster`]; each broker has a second listener, at [`Kafka::outer_port`], and advertises one
/// of these ports for it, such as a proxy's.
pub(crate) fn cluster_with_outers(advertised: &[u16; 3]) -> Result<Vec<Kafka>> {
    let controller = free_port()?;
    cluster_of(&[], controller, controller, advertised)
}

/// As [`cluster`], with the controller at this port, which the last broker reaches at another one,
/// such as a proxy's.
pub(crate) fn cluster_behind(controller: u16, last: u16) -> Result<Vec<Kafka>> {
    cluster_of(&[], controller, last, &[])
}

fn cluster_of(
    properties: &[&str],
    controller: u16,
    last: u16,
    advertised: &[u16],
) -> Result<Vec<Kafka>> {
    let ports = (0..3).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let mut brokers = Vec::new();
    for id in 1..=3 {
        let place = Place {
            id,
            ports: ports.clone(),
            controller: if id == 3 { last } else { controller },
        };
        let mut broker = Kafka::prepare(Plan {
            machine: &SMALL,
            properties,
            outer: advertised.get(id - 1).map(|port| Outer {
                protocol: "PLAINTEXT",
                advertised: Some(*port),
            }),
            listeners: &[],
            options: &[],
            place: &place,
            files: None,
        })?;
        broker.begin()?;
        brokers.push(broker);
    }
    for broker in &brokers {
        broker.wait_ready()?;
    }
    Ok(brokers)
}

impl Kafka {
    fn start(machine: &'static [&'static str], properties: &[&str]) -> Result<Kafka> {
        let place = Place::alone()?;
        let mut kafka = Kafka::prepare(Plan {
            machine,
            properties,
            outer: None,
            listeners: &[],
            options: &[],
            place: &place,
            files: None,
        })?;
        kafka.resume()?;
        Ok(kafka)
    }

    /// A broker that is not Kafka.
    fn compatible() -> Result<Kafka> {
        let dir = new_folder("kafka", None)?;
        let port = free_port()?;
        let mut kafka = Kafka {
            guard: Guard::new(&dir, None, "KILL")?,
            machine: &SMALL,
            port,
            outer: None,
            listeners: Vec::new(),
            options: Vec::new(),
            bootstrap: format!("127.0.0.1:{port}"),
        };
        let program = compatible_broker()?.display().to_string();
        kafka.guard.start(&[program, port.to_string()])?;
        kafka.wait_ready()?;
        Ok(kafka)
    }

    /// Writes the configuration and formats the storage.
    fn prepare(plan: Plan<'_>) -> Result<Kafka> {
        let jars = jars()?;
        let dir = new_folder("kafka", None)?;
        let mut kafka = Kafka {
            guard: Guard::new(&dir, None, "KILL")?,
            machine: plan.machine,
            port: plan.place.ports[plan.place.id - 1],
            outer: plan.outer.map(|_| free_port()).transpose()?,
            bootstrap: plan.place.bootstrap(),
            listeners: plan
                .listeners
                .iter()
                .map(|listener| (listener.name.to_owned(), listener.port))
                .collect(),
            options: plan.options.to_vec(),
        };
        kafka.configure(&dir, plan)?;
        let format = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            CLUSTER_ID,
            "-c",
            "server.properties",
        ];
        kafka.guard.start(&java(kafka.machine, &jars, &format))?;
        if kafka.guard.wait(START_LIMIT) != Some(0) {
            bail!(
                "Kafka's storage was not formatted: {}",
                kafka.guard.last_words()
            );
        }
        Ok(kafka)
    }

    fn configure(&self, dir: &Path, plan: Plan<'_>) -> Result<()> {
        let Place { id, controller, .. } = plan.place;
        let port = self.port;
        let (roles, control) = if *id == 1 {
            let listener = format!(",CONTROLLER://127.0.0.1:{controller}");
            ("broker,controller", listener)
        } else {
            ("broker", String::new())
        };
        let (mut outer, mut advertised, mut protocol): (String, String, String);
        (outer, advertised, protocol) = Default::default();
        if let (Some(own), Some(wanted)) = (self.outer, plan.outer) {
            outer = format!(",OUTER://127.0.0.1:{own}");
            advertised = format!(",OUTER://127.0.0.1:{}", wanted.advertised.unwrap_or(own));
            protocol = format!(",OUTER:{}", wanted.protocol);
        }
        for listener in plan.listeners {
            let (name, own) = (listener.name, listener.port);
            outer.push_str(&format!(",{name}://127.0.0.1:{own}"));
            let shown = listener.advertised.unwrap_or(own);
            advertised.push_str(&format!(",{name}://127.0.0.1:{shown}"));
            protocol.push_str(&format!(",{name}:{}", listener.protocol));
        }
        let replicas = plan.place.ports.len();
        let files = plan
            .files
            .map_or_else(|| dir.join("data"), Path::to_path_buf);
        let mut text = format!(
            "process.roles={roles}
node.id={id}
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port}{control}{outer}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocol}
inter.broker.listener.name=PLAINTEXT
log.dirs={files}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=4194304
",
            files = files.display()
        );
        for property in plan.properties {
            text.push_str(property);
            text.push('\n');
        }
        fs::write(dir.join("server.properties"), text)?;
        let logging = "rootLogger.level=warn\n\
             rootLogger.appenderRefs=out\n\
             rootLogger.appenderRef.out.ref=out\n\
             appenders=out\n\
             appender.out.type=Console\n\
             appender.out.name=out\n\
             appender.out.layout.type=PatternLayout\n\
             appender.out.layout.pattern=%d %p %m (%c)%n\n";
        fs::write(dir.join("log4j2.properties"), logging)?;
        // For Kafka 3.
        let logging = "log4j.rootLogger=WARN, out\n\
             log4j.appender.out=org.apache.log4j.ConsoleAppender\n\
             log4j.appender.out.layout=org.apache.log4j.PatternLayout\n\
             log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n\n";
        fs::write(dir.join("log4j.properties"), logging)?;
        Ok(())
    }

    /// Starts the broker again at the same address after [`stop`](Kafka::stop) or
    /// [`kill`](Kafka::kill), and waits until it answers.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.begin()?;
        self.wait_ready()
    }

    /// Starts the broker and does not wait for an answer.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let mut words = java(
            self.machine,
            &jars()?,
            &["kafka.Kafka", "server.properties"],
        );
        words.splice(1..1, self.options.iter().cloned());
        self.guard.start(&words)?;
        Ok(())
    }

    /// Waits until the broker answers a metadata request.
    pub(crate) fn wait_ready(&self) -> Result<()> {
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
        let alone = format!("127.0.0.1:{}", self.port);
        let mut config = self.client();
        config.set("bootstrap.servers", alone);
        let consumer: Result<BaseConsumer, _> = config.create();
        let metadata = consumer.and_then(|it| it.fetch_metadata(None, Duration::from_secs(5)));
        metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    /// From now on clients begin at this broker of the cluster alone.
    pub(crate) fn begin_here(&mut self) {
        self.bootstrap = format!("127.0.0.1:{}", self.port);
    }

    /// The bootstrap servers.
    pub(crate) fn brokers(&self) -> String {
        self.bootstrap.clone()
    }

    /// The port on 127.0.0.1 of the second listener.
    pub(crate) fn outer_port(&self) -> Result<u16> {
        self.outer.context("it has one listener")
    }

    /// The address of the further listener of this name.
    pub(crate) fn listener(&self, name: &str) -> Result<String> {
        let found = self.listeners.iter().find(|(known, _)| known == name);
        let (_, port) = found.with_context(|| format!("no listener {name}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// The port of the first listener on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.guard.pid()
    }

    /// Clean shutdown, by SIGTERM.
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

    /// SIGSTOP: connections stay open and requests get no answer from then on.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        freeze(self.guard.pid().context("the broker does not run")?)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        signal(self.guard.pid().context("the broker does not run")?, "CONT")
    }

    /// The broker's log.
    pub(crate) fn log(&self) -> String {
        self.guard.log()
    }

    /// Client settings for this broker.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    /// Creates a topic named `name` and a number that is unique in this process.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.create_topic(&name, partitions, &[]).await?;
        Ok(name)
    }

    /// Creates a topic of exactly this name, with settings such as `("max.message.bytes",
    /// "20000000")`.
    pub(crate) async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        self.create_replicated(name, partitions, 1, settings).await
    }

    /// As [`create_topic`](Kafka::create_topic), with this many replicas. Returns when each
    /// partition has a leader that knows it: a broker learns that it is one after the topic is
    /// created.
    pub(crate) async fn create_replicated(
        &self,
        name: &str,
        partitions: i32,
        replicas: i32,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        self.create(topic).await?;
        let end = Instant::now() + READ_LIMIT;
        while let Err(error) = self.record_count(&[name]).await {
            if Instant::now() > end {
                return Err(error.context(format!("the leaders of topic {name}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Creates a topic of one partition with its replicas on these brokers.
    pub(crate) async fn create_placed(&self, name: &str, brokers: &[i32]) -> Result<()> {
        let place = [brokers];
        self.create(NewTopic::new(name, 1, TopicReplication::Variable(&place)))
            .await
    }

    async fn create(&self, topic: NewTopic<'_>) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = admin.create_topics([&topic], &options).await?;
        for result in results {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// The number of in-sync replicas of each partition of a topic.
    pub(crate) async fn in_sync_counts(&self, topic: &str) -> Result<Vec<usize>> {
        self.with_consumer(&[topic], |consumer, topics| {
            let metadata = consumer.fetch_metadata(Some(&topics[0]), READ_LIMIT)?;
            let partitions = metadata
                .topics()
                .iter()
                .flat_map(|topic| topic.partitions());
            Ok(partitions.map(|partition| partition.isr().len()).collect())
        })
        .await
    }

    /// Sets a topic's settings; those that are not named get their defaults.
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

    /// Adds partitions to a topic, up to this many.
    pub(crate) async fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let grown = [NewPartitions::new(name, partitions)];
        for result in admin.create_partitions(&grown, &options).await? {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes a topic with its records.
    pub(crate) async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in admin.delete_topics(&[name], &options).await? {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Runs one of Kafka's own tools on this broker.
    pub(crate) async fn tool(&self, tool: Tool, arguments: &[&str]) -> Result<()> {
        let (brokers, jars) = (self.brokers(), jars()?);
        let class = tool.class(&jars)?;
        let all = [&[&*class, "--bootstrap-server", &brokers], arguments].concat();
        let words = java(&SMALL, &jars, &all);
        let output = tokio::process::Command::new(&words[0])
            .args(
                words[1..]
                    .iter()
                    .filter(|word| !word.starts_with("-Dlog4j")),
            )
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

    /// The number of records that a consumer could read from these topics now, transaction markers
    /// included.
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

    /// Reads these topics up to their present ends, committed transactions only: topic by topic,
    /// each partition in the order of its offsets.
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

const AWAY: RDKafkaErrorCode = RDKafkaErrorCode::BrokerTransportFailure;

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
            // One broker of a cluster may be down; the others lead its partitions.
            Some(Err(error)) if error.rdkafka_error_code() != Some(AWAY) => {
                return Err(error).context("reading records");
            }
            _ if Instant::now() > end => bail!("partitions {unread:?} of {topic} gave no end"),
            _ => {}
        }
    }
    records[first..].sort_by_key(|record| (record.partition, record.offset));
    Ok(())
}

/// The command line that runs a class on `java`.
fn java(machine: &[&str], jars: &Path, arguments: &[&str]) -> Vec<String> {
    let classes = format!("{}/*", jars.display());
    let logging = [
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-Dlog4j.configuration=file:log4j.properties",
    ];
    let words = [&["java"], machine, &logging, &["-cp", &classes], arguments].concat();
    words.into_iter().map(str::to_owned).collect()
}
