//! The newest Debezium connector with its Outbox Event Router on Kafka Connect, tuned, and exactly
//! once: a worker of its own, whose producer sends each batch of the connector and its offset in
//! one transaction.
//!
//! The worker comes with the jars of the broker. Its three topics belong to one slot, so a worker
//! that starts again goes on with the connector and the offset of the one before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::debezium::{NEWEST, Source, connect_plugin, java};
use crate::support::ephemeral::free_port;
use crate::support::kafka;

/// How long the worker may take until it accepts a connector.
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// The connector's options, beside those of its source.
const OPTIONS: [(&str, &str); 14] = [
    ("tasks.max", "1"),
    ("exactly.once.support", "required"),
    ("transaction.boundary", "poll"),
    // A logical message of another contender would be a record of a topic that does not exist.
    ("message.prefix.exclude.list", ".*"),
    ("poll.interval.ms", "5"),
    ("max.batch.size", "8192"),
    ("max.queue.size", "32768"),
    ("transforms", "outbox"),
    (
        "transforms.outbox.type",
        "io.debezium.transforms.outbox.EventRouter",
    ),
    ("transforms.outbox.table.field.event.id", "id"),
    ("transforms.outbox.table.field.event.key", "event_type"),
    (
        "transforms.outbox.table.field.event.payload",
        "event_payload",
    ),
    ("transforms.outbox.route.by.field", "topic"),
    (
        "transforms.outbox.route.topic.replacement",
        "${routedByValue}",
    ),
];

/// The connector's folder, and what runs a worker.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    plugin: PathBuf,
    java: PathBuf,
    jars: PathBuf,
}

impl Connect {
    /// Downloads what is missing.
    ///
    /// # Errors
    ///
    /// Why it is not offered on this machine.
    pub(crate) fn find() -> Result<Connect> {
        Ok(Connect {
            plugin: connect_plugin(NEWEST)?,
            java: java()?,
            jars: kafka::jars()?,
        })
    }

    /// The command that runs a worker, and the port of its HTTP interface; writes its settings to
    /// `folder`.
    pub(crate) fn worker(
        &self,
        name: &str,
        brokers: &str,
        folder: &Path,
    ) -> Result<(Vec<String>, u16)> {
        let http = free_port()?;
        let text = format!(
            "bootstrap.servers={brokers}
group.id=connect-{name}
plugin.path={plugin}
plugin.discovery=service_load
listeners=http://127.0.0.1:{http}
exactly.once.source.support=enabled
config.storage.topic=connect-{name}-config
offset.storage.topic=connect-{name}-offsets
status.storage.topic=connect-{name}-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
producer.batch.size=262144
producer.buffer.memory=67108864
",
            plugin = self.plugin.display(),
        );
        let file = folder.join("worker.properties");
        fs::write(&file, text)?;
        let words = [
            self.java.display().to_string(),
            "-Xmx512m".to_owned(),
            format!("-Djava.io.tmpdir={}", folder.display()),
            "-cp".to_owned(),
            format!("{}/*", self.jars.display()),
            "org.apache.kafka.connect.cli.ConnectDistributed".to_owned(),
            file.display().to_string(),
        ];
        Ok((words.to_vec(), http))
    }
}

/// Lets the worker at this port run the connector, as soon as it accepts it. `must_run` fails once
/// the worker has ended.
pub(crate) async fn submit(
    http: u16,
    source: &Source<'_>,
    must_run: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut options: BTreeMap<&str, &str> = source.connector().into_iter().collect();
    options.extend(OPTIONS);
    let body = json!(options).to_string();
    let request = format!(
        "PUT /connectors/outbox/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let end = Instant::now() + LIMIT;
    loop {
        must_run()?;
        // Before its port is open there is no answer, and before the group has met it is an error.
        let answer = ask(http, &request).await.unwrap_or_default();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        match status {
            "200" | "201" => return Ok(()),
            "400" | "422" => bail!("the worker refuses the connector: {answer}"),
            _ if Instant::now() > end => bail!("the worker takes no connector: {answer}"),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn ask(http: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.context("the answer is no text")?;
    Ok(answer)
}
