//! Docker for the tests: the machine's daemon, or one that `tests/docker/lend` starts for as long
//! as this process lives; and a Postgres in a container of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::ephemeral::{self, Options, Stop, free_port};
use super::{debian, is_long_run, kafka, not_offered, note};

/// Time limit for a start and for a stop of a container, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Time limit for a build of the image: the first one compiles all crates as shipped.
const BUILD_LIMIT: Duration = Duration::from_secs(3000);

/// The exit code of `lend` where the machine has no Docker to lend.
const NOTHING_TO_LEND: i32 = 3;

/// A daemon, and the images that the tests need in it.
pub(crate) struct Docker {
    /// What each container, network, volume and image of this process carries.
    id: String,
    variables: Vec<(String, String)>,
    /// `lend` returns the daemon when its standard input closes, at the latest with this process.
    _lender: Child,
}

/// The daemon for a test that runs with `--docker` or `--all` alone. Otherwise, or where the
/// machine has none, `what` is named in the summary.
pub(crate) fn lent(what: &str) -> Result<Option<&'static Docker>> {
    let asked = std::env::var_os("OUTBOXD_TEST_DOCKER").is_some();
    if !asked && !is_long_run(what) {
        return Ok(None);
    }
    Ok(daemon()?
        .inspect_err(|lack| not_offered(&format!("{what}: {lack}")))
        .ok())
}

/// The daemon, or what this machine lacks.
fn daemon() -> Result<Result<&'static Docker, &'static str>> {
    static DAEMON: OnceLock<Result<Result<Docker, String>>> = OnceLock::new();
    match DAEMON.get_or_init(borrow) {
        Ok(Ok(docker)) => Ok(Ok(docker)),
        Ok(Err(lack)) => Ok(Err(lack)),
        Err(error) => bail!("{error:#}"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn borrow() -> Result<Result<Docker, String>> {
    let seconds = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let id = format!("{}-{seconds}", std::process::id());
    let mut said = tempfile::tempfile()?;
    let mut lender = Command::new(root().join("tests/docker/lend"))
        .arg(&id)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(said.try_clone()?)
        // Ctrl-C reaches this process alone, whose end `lend` notices.
        .process_group(0)
        .spawn()?;
    let output = lender.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(output).lines();
    let mut variables = HashMap::new();
    for line in lines.by_ref() {
        let line = line?;
        if line == "ready" {
            let stands_in = variables
                .remove("IMAGES")
                .is_some_and(|it| it == "stand-in");
            let store = variables.remove("STORE").context("no store")?;
            let docker = Docker {
                id,
                variables: variables.into_iter().collect(),
                _lender: lender,
            };
            if stands_in {
                docker.stand_in(Path::new(&store))?;
            }
            return Ok(Ok(docker));
        }
        let (name, value) = line.split_once('=').context("a variable")?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let status = lender.wait()?;
    said.rewind()?;
    let mut text = String::new();
    said.read_to_string(&mut text)?;
    let reason = text.lines().last().unwrap_or_default().to_owned();
    ensure!(status.code() == Some(NOTHING_TO_LEND), "{status}: {text}");
    Ok(Err(reason))
}

impl Docker {
    /// Makes what stands in for images that no registry gives; the summary names each.
    fn stand_in(&self, store: &Path) -> Result<()> {
        let postgres = ephemeral::fetch(Some(17))?.dir;
        let prometheus = debian::package("prometheus", &[]).context("no Prometheus")?;
        let script = root().join("tests/docker/stand-ins");
        let mut command = self.command(&script.display().to_string(), BUILD_LIMIT);
        command.arg(store).arg(kafka::jars()?);
        command.arg(postgres.parent().context("a folder")?);
        let made = output(command.arg(prometheus))?;
        for line in made.lines() {
            note("stand-in", line, "OUTBOXD_TEST_STAND_INS");
        }
        Ok(())
    }

    /// What a command needs in its environment to reach the daemon.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.variables.iter();
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The name of this process' image of outboxd, and of its project of Compose.
    pub(crate) fn project(&self) -> String {
        format!("outboxd-tests-{}", self.id)
    }

    fn command(&self, program: &str, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        command.arg(limit.as_secs().to_string()).arg(program);
        command.envs(self.variables()).current_dir(root());
        command
    }

    /// Runs `docker` with these arguments in the root of the repository; gives its output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        output(self.command("docker", LIMIT).args(arguments))
    }

    /// The same for a line of a shell.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        output(self.command("sh", LIMIT).args(["-c", line]))
    }

    /// Starts a line of a shell and does not wait for it.
    pub(crate) fn begin(&self, line: &str) -> Result<Child> {
        let mut command = self.command("sh", LIMIT);
        let command = command.args(["-c", line]).stdin(Stdio::null());
        Ok(command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    }

    /// Builds the image as the manual does, with further arguments; gives its name.
    pub(crate) fn build(&self, arguments: &[&str]) -> Result<String> {
        let name = self.project();
        let mut command = self.command("docker", BUILD_LIMIT);
        command.args(["build", "-f", "docker/Dockerfile", "-t", &name]);
        output(command.args(arguments).arg("."))?;
        Ok(name)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {said}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A Postgres in a container, at a published port of 127.0.0.1. Dropping it removes it.
pub(crate) struct Container {
    docker: &'static Docker,
    name: String,
    port: u16,
}

impl Container {
    /// Creates one from the official image of this major version, or from its stand-in.
    pub(crate) fn start(major: u32, options: Options<'_>) -> Result<Container> {
        let docker = daemon()?.map_err(|lack| anyhow::anyhow!("{lack}"))?;
        let port = free_port()?;
        let container = Container {
            docker,
            name: format!("outboxd-tests-{}-postgres-{port}", docker.id),
            port,
        };
        let label = format!("outboxd.tests={}", docker.id);
        let published = format!("127.0.0.1:{port}:5432");
        let access = match options.password {
            Some(password) => format!("POSTGRES_PASSWORD={password}"),
            None => "POSTGRES_HOST_AUTH_METHOD=trust".to_owned(),
        };
        let image = format!("docker.io/library/postgres:{major}");
        let mut arguments = vec!["create", "--name", &container.name, "--label", &label];
        arguments.extend(["-p", &published, "-e", &access, &image, "postgres"]);
        let settings = options.config.iter().chain(&["wal_level = logical"]);
        let settings: Vec<String> = settings.filter_map(|line| setting(line)).collect();
        arguments.extend(settings.iter().flat_map(|it| ["-c", it.as_str()]));
        docker.run(&arguments)?;
        container.resume()?;
        Ok(container)
    }

    /// Starts it, again on the same port; returns when it accepts connections.
    pub(crate) fn resume(&self) -> Result<()> {
        self.docker.run(&["start", &self.name])?;
        let end = Instant::now() + LIMIT;
        // Over TCP: while a new data folder is initialised, the server has only its Unix socket.
        let ask = [
            "exec",
            &self.name,
            "pg_isready",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
        ];
        while self.docker.run(&ask).is_err() {
            ensure!(
                Instant::now() < end,
                "{} did not start: {}",
                self.name,
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Sends the server a signal, such as `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        self.docker
            .run(&["kill", "--signal", name, &self.name])
            .map(drop)
    }

    /// Stops the server; its files stay, for [`resume`](Container::resume).
    pub(crate) fn stop(&self, how: Stop) -> Result<()> {
        self.end(match how {
            Stop::Smart => "TERM",
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        })
    }

    /// Kills the container as `kill -9` does.
    pub(crate) fn kill(&self) -> Result<()> {
        self.end("KILL")
    }

    fn end(&self, signal: &str) -> Result<()> {
        self.signal(signal)?;
        self.docker.run(&["wait", &self.name]).map(drop)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The server's log.
    pub(crate) fn log(&self) -> String {
        let log = self
            .docker
            .shell(&format!("docker logs {} 2>&1", self.name));
        log.unwrap_or_default()
    }

    /// A connection string.
    pub(crate) fn url(&self, database: &str, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The lender removes what is left.
        let _ = self.docker.run(&["rm", "-fv", &self.name]);
    }
}

/// A line of `postgresql.conf` as an argument of `-c`.
fn setting(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    Some(format!(
        "{}={}",
        name.trim(),
        value.trim().trim_matches('\'')
    ))
}

/// A file of the repository's folder `docker`.
pub(crate) fn file(name: &str) -> PathBuf {
    root().join("docker").join(name)
}
