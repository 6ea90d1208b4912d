//! Debezium Server with its Outbox Event Router, tuned: large queues and batches, short polls.
//!
//! It is downloaded by Maven and needs Java 21 or later; the newest Java on the machine runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::support::ephemeral::{cached, free_port};

pub(crate) const VERSION: &str = "3.0.8.Final";

/// The unpacked distribution, and the Java that runs it.
#[derive(Debug, Clone)]
pub(crate) struct Debezium {
    home: PathBuf,
    java: PathBuf,
}

impl Debezium {
    /// Downloads it if necessary.
    ///
    /// # Errors
    ///
    /// Why it is not offered on this machine.
    pub(crate) fn find() -> Result<Debezium> {
        let java = java()?;
        let home = cached(&format!("debezium-server-{VERSION}"), fetch)?;
        Ok(Debezium {
            home: home.join("debezium-server"),
            java,
        })
    }

    /// The command that runs it on a slot; writes its settings to `folder`.
    pub(crate) fn command(
        &self,
        port: u16,
        database: &str,
        slot: &str,
        brokers: &str,
        folder: &Path,
    ) -> Result<Vec<String>> {
        fs::create_dir_all(folder)?;
        let offsets = folder.join("offsets.dat");
        let text = format!(
            "debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.offset.storage.file.filename={offsets}
debezium.source.offset.flush.interval.ms=1000
debezium.source.database.hostname=127.0.0.1
debezium.source.database.port={port}
debezium.source.database.user=postgres
debezium.source.database.password=none
debezium.source.database.dbname={database}
debezium.source.topic.prefix=debezium
debezium.source.plugin.name=pgoutput
debezium.source.slot.name={slot}
debezium.source.publication.name=outboxd
debezium.source.publication.autocreate.mode=disabled
debezium.source.snapshot.mode=no_data
debezium.source.table.include.list=outbox.outbox
debezium.source.tombstones.on.delete=false
debezium.source.poll.interval.ms=5
debezium.source.max.batch.size=8192
debezium.source.max.queue.size=32768
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.table.field.event.id=id
debezium.transforms.outbox.table.field.event.key=event_type
debezium.transforms.outbox.table.field.event.payload=event_payload
debezium.transforms.outbox.route.by.field=topic
debezium.transforms.outbox.route.topic.replacement=\\\\${{routedByValue}}
debezium.format.key=simplestring
debezium.format.value=simplestring
debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers={brokers}
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.acks=all
debezium.sink.kafka.producer.batch.size=262144
debezium.sink.kafka.producer.buffer.memory=67108864
quarkus.http.port={http}
quarkus.log.level=WARN
quarkus.log.console.json=false
",
            offsets = offsets.display(),
            http = free_port()?,
        );
        fs::write(folder.join("application.properties"), text)?;
        let jars = fs::read_dir(&self.home)?
            .flatten()
            .map(|entry| entry.path());
        let runner = jars
            .into_iter()
            .find(|path| path.to_string_lossy().ends_with("-runner.jar"))
            .context("Debezium Server has no runner")?;
        let classes = format!(
            "{}:{}:{}/lib/*",
            folder.display(),
            runner.display(),
            self.home.display()
        );
        let words = [
            self.java.to_string_lossy().into_owned(),
            "-Xmx512m".to_owned(),
            "-cp".to_owned(),
            classes,
            "io.debezium.server.Main".to_owned(),
        ];
        Ok(words.into())
    }
}

fn fetch(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let artifact = format!("io.debezium:debezium-server-dist:{VERSION}:tar.gz");
    let repository = dir.with_extension("m2");
    let status = Command::new("mvn")
        .args(["--quiet", "--batch-mode"])
        .arg(format!("-Dmaven.repo.local={}", repository.display()))
        .arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy")
        .arg(format!("-Dartifact={artifact}"))
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .stdin(Stdio::null())
        .status()
        .context("mvn does not start")?;
    ensure!(status.success(), "mvn could not fetch Debezium Server");
    let archive = dir.join(format!("debezium-server-dist-{VERSION}.tar.gz"));
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(dir)
        .status()
        .context("tar does not start")?;
    ensure!(
        status.success(),
        "the archive of Debezium Server cannot be unpacked"
    );
    fs::remove_file(archive)?;
    Ok(())
}

/// The newest Java on this machine, if it is new enough.
fn java() -> Result<PathBuf> {
    let machines = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    let installed = machines.map(|machine| machine.path().join("bin/java"));
    let all = installed.chain([PathBuf::from("java")]);
    let versions = all.filter_map(|java| Some((version(&java)?, java)));
    let newest = versions.max_by_key(|(version, _)| *version);
    newest
        .filter(|(version, _)| *version >= 21)
        .map(|(_, java)| java)
        .context("Debezium Server needs Java 21 or later")
}

fn version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, rest) = text.split_once("version \"")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
