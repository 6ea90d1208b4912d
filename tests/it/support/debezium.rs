//! Debezium Server, which tests and benchmarks compare outboxd with.
//!
//! It is downloaded by Maven and needs Java 21 or later; the newest Java on the machine runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::ephemeral::{Guard, cached, free_port, new_folder};
use super::wait::wait_until;

/// The newest version that Maven Central has.
pub(crate) const NEWEST: &str = "3.6.0.Final";

/// How long it may take to start, and to stop.
const LIMIT: Duration = Duration::from_secs(120);

/// JVM options for a fast start and little memory.
pub(crate) const SMALL: [&str; 4] = [
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
];

/// One table of a database, which a connector reads through its slot.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: &'a str,
    pub(crate) database: &'a str,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    /// With its schema.
    pub(crate) table: &'a str,
}

impl Source<'_> {
    /// The options of the connector itself.
    pub(crate) fn connector(&self) -> Vec<(&'static str, &str)> {
        vec![
            (
                "connector.class",
                "io.debezium.connector.postgresql.PostgresConnector",
            ),
            ("database.hostname", self.host),
            ("database.port", self.port),
            ("database.user", "postgres"),
            ("database.password", "none"),
            ("database.dbname", self.database),
            ("topic.prefix", "debezium"),
            ("plugin.name", "pgoutput"),
            ("slot.name", self.slot),
            ("publication.name", self.publication),
            ("publication.autocreate.mode", "disabled"),
            ("snapshot.mode", "no_data"),
            ("table.include.list", self.table),
            ("tombstones.on.delete", "false"),
        ]
    }

    /// The options of Debezium Server, with such a connector, that sends the events of this table
    /// to Kafka by the Outbox Event Router.
    pub(crate) fn options(&self, brokers: &str) -> String {
        let connector = self.connector().into_iter();
        let connector = connector.map(|(name, value)| format!("debezium.source.{name}={value}\n"));
        let connector: String = connector.collect();
        format!(
            "{connector}debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers={brokers}
quarkus.log.console.json=false
"
        )
    }
}

/// The unpacked distribution, and the Java that runs it.
#[derive(Debug, Clone)]
pub(crate) struct Distribution {
    home: PathBuf,
    java: PathBuf,
}

impl Distribution {
    /// Downloads it if necessary.
    ///
    /// # Errors
    ///
    /// Why it is not offered on this machine.
    pub(crate) fn find(version: &str) -> Result<Distribution> {
        // One download for all tests of this process.
        static FETCHING: Mutex<()> = Mutex::new(());
        let _turn = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
        let java = java()?;
        let home = cached(&format!("debezium-server-{version}"), |dir| {
            fetch(dir, version)
        })?;
        Ok(Distribution {
            home: home.join("debezium-server"),
            java,
        })
    }

    /// The command that runs it with the `application.properties` of this folder.
    pub(crate) fn command(&self, machine: &[&str], folder: &Path) -> Result<Vec<String>> {
        let jars = fs::read_dir(&self.home)?
            .flatten()
            .map(|entry| entry.path());
        let runner = jars
            .into_iter()
            .find(|path| path.to_string_lossy().ends_with("-runner.jar"))
            .context("Debezium Server has no runner")?;
        let classes = format!(
            "{}:{}:{}",
            folder.display(),
            runner.display(),
            self.classes()
        );
        let mut words = vec![self.java.to_string_lossy().into_owned()];
        words.extend(machine.iter().map(|word| (*word).to_owned()));
        words.push(format!("-Djava.io.tmpdir={}", folder.display()));
        words.extend(["-cp".to_owned(), classes]);
        words.push("io.debezium.server.Main".to_owned());
        Ok(words)
    }

    /// Runs a Java source file with the classes of the distribution, and returns what it prints.
    pub(crate) fn run_source(&self, source: &Path) -> Result<String> {
        let output = Command::new(&self.java)
            .args(["-cp", &self.classes()])
            .arg(source)
            .stdin(Stdio::null())
            .output()
            .context("Java does not start")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {error}", source.display());
        Ok(String::from_utf8(output.stdout)?)
    }

    fn classes(&self) -> String {
        format!("{}/lib/*", self.home.display())
    }
}

fn fetch(dir: &Path, version: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    // The archive alone is wanted, and Maven reads the parent of its POM first. A mirror may lack
    // that one.
    let parent = dir.with_extension("pom");
    fs::write(
        &parent,
        format!(
            "<project><modelVersion>4.0.0</modelVersion><groupId>io.debezium</groupId>\
             <artifactId>debezium-server</artifactId><version>{version}</version>\
             <packaging>pom</packaging></project>"
        ),
    )?;
    maven(
        dir,
        &[
            "org.apache.maven.plugins:maven-install-plugin:3.1.1:install-file".to_owned(),
            format!("-Dfile={}", parent.display()),
            format!("-DpomFile={}", parent.display()),
        ],
    )?;
    unpack(dir, "debezium-server-dist", version, None)
}

/// The folder of Debezium's connector for Kafka Connect, as its `plugin.path` names it; downloaded
/// if necessary.
///
/// # Errors
///
/// Why it is not offered on this machine.
pub(crate) fn connect_plugin(version: &str) -> Result<PathBuf> {
    cached(&format!("debezium-connect-{version}"), |dir| {
        fs::create_dir_all(dir)?;
        unpack(dir, "debezium-connector-postgres", version, Some("plugin"))
    })
}

/// Downloads an archive of Debezium's into this folder, and unpacks it there.
fn unpack(dir: &Path, artifact: &str, version: &str, classifier: Option<&str>) -> Result<()> {
    let suffix = |sign: char| classifier.map_or_else(String::new, |name| format!("{sign}{name}"));
    maven(
        dir,
        &[
            "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy".to_owned(),
            format!(
                "-Dartifact=io.debezium:{artifact}:{version}:tar.gz{}",
                suffix(':')
            ),
            format!("-DoutputDirectory={}", dir.display()),
        ],
    )?;
    let archive = dir.join(format!("{artifact}-{version}{}.tar.gz", suffix('-')));
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(dir)
        .status()
        .context("tar does not start")?;
    ensure!(status.success(), "{} cannot be unpacked", archive.display());
    fs::remove_file(archive)?;
    Ok(())
}

/// Runs Maven with a repository of its own beside this folder.
fn maven(dir: &Path, arguments: &[String]) -> Result<()> {
    let repository = dir.with_extension("m2");
    let status = Command::new("mvn")
        .args(["--quiet", "--batch-mode"])
        .arg(format!("-Dmaven.repo.local={}", repository.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .context("mvn does not start")?;
    ensure!(status.success(), "mvn could not fetch Debezium");
    Ok(())
}

/// The newest Java on this machine, if it is new enough.
pub(crate) fn java() -> Result<PathBuf> {
    let machines = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    let installed = machines.map(|machine| machine.path().join("bin/java"));
    let all = installed.chain([PathBuf::from("java")]);
    let versions = all.filter_map(|java| Some((java_version(&java)?, java)));
    let newest = versions.max_by_key(|(version, _)| *version);
    newest
        .filter(|(version, _)| *version >= 21)
        .map(|(_, java)| java)
        .context("Debezium Server needs Java 21 or later")
}

fn java_version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, rest) = text.split_once("version \"")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A running or ended Debezium Server. Dropping it kills the process and removes its files.
pub(crate) struct Connector {
    guard: Guard,
}

impl Connector {
    /// Starts it with these options, beside those of its own files and of its HTTP server.
    pub(crate) fn start(distribution: &Distribution, options: &str) -> Result<Connector> {
        let folder = new_folder("debezium", None)?;
        let guard = Guard::new(&folder, None, "KILL")?;
        let text = format!(
            "{options}
debezium.source.offset.storage=org.apache.kafka.connect.storage.FileOffsetBackingStore
debezium.source.offset.storage.file.filename={}
debezium.source.offset.flush.interval.ms=0
quarkus.http.host=127.0.0.1
quarkus.http.port={}
",
            folder.join("offsets.dat").display(),
            free_port()?,
        );
        fs::write(folder.join("application.properties"), text)?;
        let mut connector = Connector { guard };
        let command = distribution.command(&SMALL, &folder)?;
        connector.guard.start(&command)?;
        Ok(connector)
    }

    /// Its settings.
    pub(crate) fn file(&self) -> PathBuf {
        self.guard.dir().join("application.properties")
    }

    /// Waits until it streams. Its slot is active before: it leaves out what is committed until
    /// it has noted its position.
    pub(crate) async fn wait_streaming(&self) -> Result<()> {
        wait_until("Debezium to stream", LIMIT, async || {
            self.must_run()?;
            Ok(match self.guard.log().contains("Processing messages") {
                true => Ok(()),
                false => Err(self.guard.last_words()),
            })
        })
        .await
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&self) -> Result<()> {
        match self.guard.wait(Duration::ZERO) {
            Some(code) => bail!("Debezium has ended with {code}: {}", self.guard.log()),
            None => Ok(()),
        }
    }

    /// Clean shutdown, by SIGTERM.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.guard.signal("TERM")?;
        match self.guard.wait(LIMIT) {
            Some(_) => Ok(()),
            None => bail!("Debezium did not stop: {}", self.guard.last_words()),
        }
    }
}
