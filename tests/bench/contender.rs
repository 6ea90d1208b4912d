//! The contenders: each publishes, or at least reads, all events of a load, and is measured from
//! its start until then.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Options;
use crate::connect::{self, Connect};
use crate::debezium::Debezium;
use crate::load::Load;
use crate::poller;
use crate::stage::Stage;
use crate::support::debezium::Source;
use crate::support::ephemeral::{Guard, free_port, new_folder};
use crate::usage::{self, Usage, Watch};

/// Time limit of a run.
const LIMIT: Duration = Duration::from_secs(900);
/// Makes outboxd send in transactions.
const EXACTLY_ONCE: &str = "OUTBOX_DELIVERY=exactly-once";
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How the contender reaches Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Unix => "Unix socket",
        }
    }

    fn url(self, load: &Load) -> &str {
        match self {
            Transport::Tcp => load.database.url(),
            Transport::Unix => load.database.unix_url(),
        }
    }
}

/// One contender.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    /// For the table, and in lower case for `--only`.
    pub(crate) name: String,
    pub(crate) transport: Transport,
    kind: Kind,
    /// The processors that it is kept to.
    cores: Option<String>,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Postgres' own client, which discards what it reads: the floor. With `marks`, an SQL session
    /// marks the rows meanwhile: the cost of reading and marking without publishing.
    Receiver {
        marks: bool,
    },
    Outboxd {
        program: PathBuf,
        after_publish: &'static str,
        /// Further variables, as `NAME=VALUE`.
        settings: Vec<String>,
    },
    /// A process that polls the table.
    Poller,
    Debezium(Debezium),
    /// Debezium's connector on Kafka Connect, exactly once.
    Connect(Connect),
}

/// The figures of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) contender: Usage,
    /// CPU of the walsender.
    pub(crate) walsender: Duration,
    /// CPU of the broker during the run.
    pub(crate) broker: Duration,
}

/// All contenders that the options select.
pub(crate) fn all(options: &Options) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    let mut add = |name: &str, transport: Transport, kind: &dyn Fn() -> Result<Kind>| {
        let name = format!("{name}, {}", transport.name());
        if crate::chosen(&name.to_lowercase(), &options.only) {
            let kind = kind()?;
            all.push(Contender {
                name,
                transport,
                kind,
                cores: options.pin.get(2).cloned(),
            });
        }
        anyhow::Ok(())
    };
    // This build, other builds, and this build with other settings.
    let own = || options.program.clone();
    let exactly_once = vec![EXACTLY_ONCE.to_owned()];
    let mut builds = vec![
        ("outboxd".to_owned(), own(), Vec::new()),
        ("outboxd exactly once".to_owned(), own(), exactly_once),
    ];
    for program in &options.against {
        builds.push((program.display().to_string(), program.clone(), Vec::new()));
    }
    for setting in &options.with {
        builds.push((format!("outboxd {setting}"), own(), vec![setting.clone()]));
    }
    for transport in [Transport::Tcp, Transport::Unix] {
        for (name, marks) in [
            ("pg_recvlogical", false),
            ("pg_recvlogical beside marks", true),
        ] {
            add(name, transport, &|| Ok(Kind::Receiver { marks }))?;
        }
        for (name, program, settings) in &builds {
            for after_publish in ["keep", "mark", "delete"] {
                let kind = || {
                    Ok(Kind::Outboxd {
                        program: program.clone(),
                        after_publish,
                        settings: settings.clone(),
                    })
                };
                add(&format!("{name} {after_publish}"), transport, &kind)?;
            }
        }
    }
    add("poller", Transport::Unix, &|| Ok(Kind::Poller))?;
    let server = || Debezium::find().map(Kind::Debezium);
    let connect = || Connect::find().map(Kind::Connect);
    let peers: [(&str, &dyn Fn() -> Result<Kind>); 2] = [
        ("Debezium Server", &server),
        ("Debezium on Kafka Connect exactly once", &connect),
    ];
    for (name, kind) in peers {
        if let Err(error) = add(name, Transport::Tcp, kind) {
            eprintln!("not offered here: {error:#}");
        }
    }
    Ok(all)
}

impl Contender {
    /// Whether it discards what it reads.
    pub(crate) fn is_floor(&self) -> bool {
        matches!(self.kind, Kind::Receiver { marks: false })
    }

    /// Whether it publishes to Kafka.
    pub(crate) fn publishes(&self) -> bool {
        !matches!(self.kind, Kind::Receiver { .. })
    }

    /// Whether it reads the WAL through a slot.
    fn has_slot(&self) -> bool {
        !matches!(self.kind, Kind::Poller)
    }

    /// Whether it marks rows as published.
    pub(crate) fn marks(&self) -> bool {
        let marks = |after_publish| after_publish != "keep";
        match self.kind {
            Kind::Outboxd { after_publish, .. } => marks(after_publish),
            Kind::Receiver { marks } => marks,
            Kind::Poller => true,
            Kind::Debezium(_) | Kind::Connect(_) => false,
        }
    }

    /// Whether it sends in transactions, whose markers take offsets of their own.
    fn is_exactly_once(&self) -> bool {
        match &self.kind {
            Kind::Outboxd { settings, .. } => settings.iter().any(|it| it == EXACTLY_ONCE),
            Kind::Connect(_) => true,
            _ => false,
        }
    }

    /// How many offsets of a partition so many events take, each written after the one before has
    /// arrived: a transaction ends with a marker.
    pub(crate) fn offsets(&self, events: i64) -> i64 {
        match self.is_exactly_once() {
            true => events * 2,
            false => events,
        }
    }

    /// Starts the process on an existing slot.
    pub(crate) async fn start(&self, stage: &Stage, load: &Load, slot: &str) -> Result<Running> {
        let folder = new_folder("bench", None)?;
        let mut guard = Guard::new(&folder, None, "KILL")?;
        // A slot of one run knows nothing of the transactions of another.
        let progress = match self.is_exactly_once() {
            true => load.progress_settings(slot).await?.to_vec(),
            false => Vec::new(),
        };
        let (mut command, worker) = self.command(stage, load, slot, &folder, progress)?;
        if let Some(cores) = &self.cores {
            command.splice(0..0, ["taskset", "-c", cores].map(str::to_owned));
        }
        let began = Instant::now();
        let pid = guard.start(&command)?;
        let running = Running {
            name: self.name.clone(),
            guard,
            pid,
            began,
            has_slot: self.has_slot(),
        };
        if let Some(http) = worker {
            let source = Source {
                host: "127.0.0.1",
                port: &stage.server.port().to_string(),
                database: &load.database.name,
                slot,
                publication: "outboxd",
                table: "outbox.outbox",
            };
            connect::submit(http, &source, || running.must_run()).await?;
        }
        Ok(running)
    }

    /// One run over the whole load.
    pub(crate) async fn run(&self, stage: &Stage, load: &Load) -> Result<Measured> {
        let slot = "run";
        load.rewind(slot).await?;
        let before = stage.records(&load.topics)?;
        let broker = stage.broker()?;
        let broker_before = usage::of(broker).context("the broker's usage")?.cpu;
        let mut running = self.start(stage, load, slot).await?;
        let watch = Watch::begin(running.pid);
        let walsender = running.walsender(load, slot).await?.map(Watch::begin);
        let done = self.until_done(stage, load, &running, before, slot).await?;
        let seconds = (done - running.began).as_secs_f64();
        let measured = Measured {
            seconds,
            contender: watch.end()?,
            walsender: match walsender {
                Some(walsender) => walsender.end()?.cpu,
                None => Duration::ZERO,
            },
            broker: usage::of(broker).context("the broker's usage")?.cpu - broker_before,
        };
        if self.publishes() {
            running.stop()?;
            self.check(stage, load, before, slot).await?;
        }
        load.drop_slot(slot).await?;
        stage.delete_records(&load.topics).await?;
        Ok(measured)
    }

    /// The command, and the port where a worker takes its connector.
    fn command(
        &self,
        stage: &Stage,
        load: &Load,
        slot: &str,
        folder: &Path,
        progress: Vec<String>,
    ) -> Result<(Vec<String>, Option<u16>)> {
        let url = self.transport.url(load).to_owned();
        let brokers = stage.kafka.brokers();
        let words = match &self.kind {
            Kind::Receiver { .. } => vec![
                receiver()?,
                format!("--dbname={url}"),
                format!("--slot={slot}"),
                "--start".to_owned(),
                "--no-loop".to_owned(),
                format!("--endpos={}", load.end),
                "--option=proto_version=1".to_owned(),
                "--option=publication_names=outboxd".to_owned(),
                "--file=/dev/null".to_owned(),
            ],
            Kind::Outboxd {
                program,
                after_publish,
                settings,
            } => {
                let mut words = vec![
                    "env".to_owned(),
                    "-i".to_owned(),
                    format!("DATABASE_URL={url}"),
                    format!("KAFKA_BROKERS={brokers}"),
                    format!("OUTBOX_SLOT={slot}"),
                    format!("OUTBOX_AFTER_PUBLISH={after_publish}"),
                    format!("OUTBOX_HTTP_LISTEN=127.0.0.1:{}", free_port()?),
                ];
                words.extend(settings.iter().cloned());
                words.extend(progress);
                words.extend([program.display().to_string(), "run".to_owned()]);
                words
            }
            Kind::Poller => {
                let program = std::env::current_exe()?;
                vec![
                    program.display().to_string(),
                    poller::WORD.to_owned(),
                    url,
                    brokers,
                ]
            }
            Kind::Debezium(debezium) => debezium.command(
                stage.server.port(),
                &load.database.name,
                slot,
                &brokers,
                folder,
            )?,
            Kind::Connect(connect) => {
                let (words, http) = connect.worker(&load.run_name(slot), &brokers, folder)?;
                return Ok((words, Some(http)));
            }
        };
        Ok((words, None))
    }

    /// Waits until the last event is discarded, acknowledged by Kafka, or marked and confirmed, and
    /// returns when that was.
    async fn until_done(
        &self,
        stage: &Stage,
        load: &Load,
        running: &Running,
        before: i64,
        slot: &str,
    ) -> Result<Instant> {
        if !self.publishes() {
            if self.marks() {
                load.mark().await?;
            }
            return match running.guard.wait(LIMIT) {
                Some(0) => Ok(Instant::now()),
                other => bail!("{other:?}, {}", running.guard.last_words()),
            };
        }
        let end = Instant::now() + LIMIT;
        let events = load.events as i64;
        loop {
            let arrived = stage.records(&load.topics)? - before;
            // Each query costs the broker time: few of them until the end is near.
            let near = arrived * 100 > events * 97;
            tokio::time::sleep(Duration::from_millis(if near { 5 } else { 50 })).await;
            let marked = async || match self.has_slot() {
                true => load.is_confirmed(slot).await,
                false => Ok(load.unpublished().await? == 0),
            };
            // A marker counts as a record, so confirmed is what tells the end of transactions.
            let by_slot = self.marks() || self.is_exactly_once();
            if let Kind::Connect(_) = self.kind {
                if arrived >= events {
                    let last = stage.at_rest(&load.topics).await?;
                    if stage.committed_records(&load.topics)? == events {
                        return Ok(last);
                    }
                }
            } else if arrived >= events && (!by_slot || marked().await?) {
                return Ok(Instant::now());
            }
            running.must_run()?;
            ensure!(Instant::now() < end, "{} timed out", self.name);
        }
    }

    /// A run counts only if each event arrived once and the slot is confirmed to the end.
    async fn check(&self, stage: &Stage, load: &Load, before: i64, slot: &str) -> Result<()> {
        let arrived = match self.is_exactly_once() {
            true => stage.committed_records(&load.topics)?,
            false => stage.records(&load.topics)? - before,
        };
        let events = load.events as i64;
        ensure!(
            arrived == events,
            "{}: {arrived} records of {events} events",
            self.name
        );
        // Debezium confirms an event only after it has received the next one.
        let lags = matches!(self.kind, Kind::Debezium(_) | Kind::Connect(_));
        let confirms = self.has_slot() && !lags;
        let confirmed = !confirms || load.is_confirmed(slot).await?;
        ensure!(confirmed, "{}: the slot is behind", self.name);
        let unmarked = if self.marks() {
            load.unpublished().await?
        } else {
            0
        };
        ensure!(
            unmarked == 0,
            "{}: {unmarked} rows are not marked",
            self.name
        );
        Ok(())
    }
}

/// A running contender.
pub(crate) struct Running {
    name: String,
    guard: Guard,
    pid: u32,
    began: Instant,
    has_slot: bool,
}

impl Running {
    /// Fails if the process has ended.
    pub(crate) fn must_run(&self) -> Result<()> {
        match self.guard.wait(Duration::ZERO) {
            Some(code) => bail!("{} has ended with {code}: {}", self.name, self.guard.log()),
            None => Ok(()),
        }
    }

    /// Its usage so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        usage::of(self.pid).with_context(|| format!("{} is gone", self.name))
    }

    /// Waits for its walsender, if it uses a slot.
    pub(crate) async fn walsender(&self, load: &Load, slot: &str) -> Result<Option<u32>> {
        if !self.has_slot {
            return Ok(None);
        }
        loop {
            if let Some(pid) = load.walsender(slot).await? {
                return Ok(Some(pid));
            }
            self.must_run()?;
        }
    }

    /// Sends SIGTERM; the process must exit cleanly.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.guard.signal("TERM")?;
        let code = self.guard.wait(STOP_LIMIT);
        // The exit code of Java after SIGTERM is 143.
        ensure!(
            matches!(code, Some(0 | 143)),
            "{} ended with {code:?}: {}",
            self.name,
            self.guard.last_words()
        );
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.guard.signal("KILL")?;
        let ended = self.guard.wait(STOP_LIMIT).is_some();
        ensure!(ended, "{} survived a kill", self.name);
        Ok(())
    }
}

/// The path of `pg_recvlogical`: on the `PATH`, or in Debian's folders.
fn receiver() -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let packaged = versions.flatten().map(|entry| entry.path().join("bin"));
    let mut dirs = std::env::split_paths(&path).chain(packaged);
    let found = dirs
        .find(|dir| Path::is_file(&dir.join("pg_recvlogical")))
        .context("there is no pg_recvlogical (Debian: apt-get install postgresql-client)")?;
    Ok(found.join("pg_recvlogical").display().to_string())
}
