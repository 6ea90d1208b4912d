//! The built program as a process: its settings, log, status and exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ephemeral::{Guard, free_port, new_folder};
use super::kafka::Kafka;
use super::postgres::{Database, Session};
use super::process::{cpu_ticks, freeze, signal};
use super::secrets::Secrets;
use super::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(10);

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_outboxd");

/// The environment of the program, which inherits nothing else but `PATH`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    variables: Vec<(String, String)>,
    http: SocketAddr,
}

impl Settings {
    /// The required settings: this database over its Unix socket, this broker, a free port for
    /// HTTP.
    pub(crate) fn new(database: &Database, kafka: &Kafka) -> Result<Settings> {
        Ok(Settings::nowhere()?
            .set("DATABASE_URL", database.unix_url())
            .set("KAFKA_BROKERS", kafka.brokers()))
    }

    /// Settings without a database and a broker.
    pub(crate) fn nowhere() -> Result<Settings> {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let settings = Settings {
            variables: Vec::new(),
            http,
        };
        Ok(settings
            .set("OUTBOX_HTTP_LISTEN", http.to_string())
            .set("OUTBOX_LOG", "info"))
    }

    /// Adds a variable, or replaces it.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Settings {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The same for a poller, which reads the table often.
    pub(crate) fn polling(&self) -> Settings {
        self.clone()
            .set("OUTBOX_SOURCE", "poll")
            .set("OUTBOX_PROCESS_INTERVAL", "100ms")
    }

    /// Where the program serves HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// The whole environment of the program.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.variables.iter().cloned().chain(inherited())
    }

    /// The secrets in them, as far as they are there now.
    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::of(self.variables.iter().cloned())
    }

    /// Removes a variable.
    pub(crate) fn without(mut self, name: &str) -> Settings {
        self.variables.retain(|(known, _)| known != name);
        self
    }
}

/// Runs one command of the program to its end, such as `outboxd init`.
pub(crate) async fn command(
    settings: &Settings,
    arguments: &[&str],
    limit: Duration,
) -> Result<Output> {
    let mut command = tokio::process::Command::new(PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .envs(settings.variables.iter().cloned())
        .envs(inherited());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("outboxd {}", arguments.join(" "));
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(output) => output.context("outboxd does not start")?,
        Err(_) => bail!("{what} did not end within {limit:?}"),
    };
    let secrets = settings.secrets();
    for printed in [&output.stdout, &output.stderr] {
        secrets.check(&what, &String::from_utf8_lossy(printed))?;
    }
    Ok(output)
}

/// Starts `outboxd run` with its standard error in a pipe that nothing reads.
pub(crate) fn spawn_unread(settings: &Settings) -> Result<std::process::Child> {
    std::process::Command::new(PROGRAM)
        .arg("run")
        .env_clear()
        .envs(settings.variables.iter().cloned())
        .envs(inherited())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("outboxd does not start")
}

/// Starts a command with all its output at a terminal, whose other end is the child's standard
/// output; the child is util-linux's `script`.
pub(crate) fn spawn_at_terminal(settings: &Settings, command: &str) -> Result<std::process::Child> {
    std::process::Command::new("script")
        .args(["-qfec", &format!("exec {PROGRAM} {command}"), "/dev/null"])
        .env_clear()
        .envs(settings.variables.iter().cloned())
        .envs(inherited())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("script does not start: install util-linux")
}

fn inherited() -> Option<(String, String)> {
    std::env::var("PATH")
        .ok()
        .map(|path| ("PATH".to_owned(), path))
}

/// One GET at this address: the status code and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (head, body) = get_as(address, path, "*/*").await?;
    let code = head.split(' ').nth(1).context("no status code")?.parse()?;
    Ok((code, body))
}

/// One GET with this header `Accept`: the status line with the headers, and the body.
pub(crate) async fn get_as(
    address: SocketAddr,
    path: &str,
    accept: &str,
) -> Result<(String, String)> {
    request(
        address,
        path,
        &format!("Host: localhost\r\nAccept: {accept}"),
    )
    .await
}

/// One GET for this host name: the status line with the headers, and the body.
pub(crate) async fn get_for(
    address: SocketAddr,
    host: &str,
    path: &str,
) -> Result<(String, String)> {
    request(address, path, &format!("Host: {host}")).await
}

async fn request(address: SocketAddr, path: &str, headers: &str) -> Result<(String, String)> {
    // HTTP/1.0 has neither chunks nor connections that stay open.
    let request = format!("GET {path} HTTP/1.0\r\n{headers}\r\n\r\n");
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, answer).await;
    let answer = answer.with_context(|| format!("no answer to {path} within {LIMIT:?}"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Runs `outboxd init`.
pub(crate) async fn init(settings: &Settings) -> Result<()> {
    let output = command(settings, &["init"], Duration::from_secs(30)).await?;
    if !output.status.success() {
        bail!(
            "outboxd init failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A running or ended `outboxd run`. Dropping it kills the process, and panics if the process has
/// printed a secret of its settings.
pub(crate) struct Outboxd {
    guard: Guard,
    settings: Settings,
    /// The command and its arguments.
    words: Vec<String>,
    /// Those of all runs.
    secrets: Secrets,
    /// Where the present run's part of the log begins; all runs share one file.
    log_start: usize,
}

impl Outboxd {
    /// Starts `outboxd run` and waits for nothing.
    pub(crate) fn spawn(settings: &Settings) -> Result<Outboxd> {
        Outboxd::spawn_command(settings, &["run"])
    }

    /// The same of another command that publishes, with its arguments.
    pub(crate) fn spawn_command(settings: &Settings, words: &[&str]) -> Result<Outboxd> {
        let guard = Guard::new(&new_folder("run", None)?, None, "KILL")?;
        let mut outboxd = Outboxd {
            guard,
            settings: settings.clone(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            secrets: Secrets::default(),
            log_start: 0,
        };
        outboxd.respawn()?;
        Ok(outboxd)
    }

    /// Starts it again with the same settings, after it has ended.
    pub(crate) fn respawn(&mut self) -> Result<u32> {
        self.log_start = self.guard.log().len();
        self.secrets.extend(self.settings.secrets());
        let mut words = vec!["env".to_owned(), "-i".to_owned()];
        let variables = self.settings.variables.iter().cloned().chain(inherited());
        words.extend(variables.map(|(name, value)| format!("{name}={value}")));
        words.push(PROGRAM.to_owned());
        words.extend(self.words.iter().cloned());
        self.guard.start(&words)
    }

    /// The settings of the next [`respawn`](Outboxd::respawn).
    pub(crate) fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.guard.pid()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        self.guard.signal("TERM")
    }

    /// SIGKILL; waits for the exit.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.guard.signal("KILL")?;
        self.guard
            .wait(Duration::from_secs(10))
            .context("outboxd survived a kill")?;
        Ok(())
    }

    /// SIGSTOP; waits until every thread stands still.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        freeze(self.pid().context("outboxd does not run")?)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        signal(self.pid().context("outboxd does not run")?, "CONT")
    }

    /// A signal that ends it, by its short name: `INT`.
    pub(crate) fn signal(&mut self, name: &str) -> Result<()> {
        self.guard.signal(name)
    }

    /// The exit code (128 plus the signal's number after a kill), `None` while it runs.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.guard.wait(Duration::ZERO)
    }

    /// Waits for the exit; returns the exit code.
    pub(crate) async fn wait(&self, limit: Duration) -> Result<i32> {
        wait_until("outboxd's end", limit, async || {
            Ok(self.exit_code().ok_or_else(|| self.last_words()))
        })
        .await
    }

    /// SIGTERM; waits for the exit and returns the exit code.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<i32> {
        self.terminate()?;
        self.wait(limit).await
    }

    /// All output of the present run.
    pub(crate) fn log(&self) -> String {
        self.guard.log().split_off(self.log_start)
    }

    fn last_words(&self) -> String {
        format!("its log ends:\n{}", self.guard.last_words())
    }

    /// Waits for a log line that contains all of these words, and returns it.
    pub(crate) async fn wait_for_log(&self, words: &[&str], limit: Duration) -> Result<String> {
        wait_until(&format!("a log line with {words:?}"), limit, async || {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)));
            self.must_run(line.is_some())?;
            Ok(line.map(str::to_owned).ok_or_else(|| self.last_words()))
        })
        .await
    }

    /// Waits until a statement returns this value.
    pub(crate) async fn wait_for_value(
        &self,
        session: &Session,
        sql: &str,
        expected: i64,
        limit: Duration,
    ) -> Result<()> {
        let value = session.wait_for_value(sql, sql, expected, limit);
        value.await.with_context(|| self.log())
    }

    /// GET: the status code and the body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let (code, body) = get(self.settings.http, path).await?;
        self.secrets.check(path, &body)?;
        Ok((code, body))
    }

    /// Adds a secret that the settings do not show, such as what a command prints.
    pub(crate) fn has_secret(&mut self, secret: &str) {
        self.secrets.add(secret);
    }

    /// The address of the status page.
    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.settings.http)
    }

    /// `/status`.
    pub(crate) async fn status(&self) -> Result<Value> {
        let (_, body) = self.get("/status").await?;
        serde_json::from_str(&body).with_context(|| body)
    }

    /// One sample of `/metrics`: the value of the series with this name and, as printed, these
    /// labels among others, such as `outbox_errors_total{code="WRITE_ERROR"}`.
    pub(crate) async fn metric(&self, series: &str) -> Result<Option<f64>> {
        let (_, body) = self.get("/metrics").await?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let wanted: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
        let line = body.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.split_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let has = |label: &&str| label.is_empty() || labels.split(',').any(|it| it == *label);
            wanted.iter().all(has).then_some(value)
        });
        Ok(line.map(str::parse).transpose()?)
    }

    /// Waits until `/status` meets a condition, and returns it.
    pub(crate) async fn wait_for_status(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(what, limit, async || {
            let status = self.status().await;
            let reached = status.as_ref().is_ok_and(&condition);
            self.must_run(reached)?;
            let state = || format!("{status:?}, {}", self.last_words());
            if reached {
                Ok(Ok(status?))
            } else {
                Ok(Err(state()))
            }
        })
        .await
    }

    /// Waits until `/status` shows this `phase`.
    pub(crate) async fn wait_for_phase(&self, phase: &str, limit: Duration) -> Result<Value> {
        let what = format!("the phase {phase}");
        self.wait_for_status(&what, limit, |status| status["phase"] == phase)
            .await
    }

    /// Waits until it streams and has published so many more events.
    pub(crate) async fn wait_for_events(&self, more: u64, limit: Duration) -> Result<()> {
        let before = self.status().await?["published_total"].as_u64();
        self.wait_for_status("events to flow", limit, |status| {
            let enough = status["published_total"].as_u64() > before.map(|it| it + more);
            status["phase"] == "streaming" && enough
        })
        .await?;
        Ok(())
    }

    /// Waits until `/readyz` is 200: a broker has answered, and nothing that matters is waited for.
    pub(crate) async fn wait_until_ready(&self, limit: Duration) -> Result<()> {
        wait_until("readiness", limit, async || {
            let answer = self.get("/readyz").await;
            let ready = matches!(answer, Ok((200, _)));
            self.must_run(ready)?;
            Ok(if ready {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            })
        })
        .await
    }

    fn must_run(&self, reached: bool) -> Result<()> {
        match self.exit_code() {
            Some(code) if !reached => bail!("outboxd has ended with {code}; {}", self.last_words()),
            _ => Ok(()),
        }
    }

    /// Resident memory in bytes, from `/proc`.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Peak resident memory in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// CPU time used, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> Result<u64> {
        cpu_ticks(self.pid().context("outboxd does not run")?)
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let pid = self.pid().context("outboxd does not run")?;
        let path = PathBuf::from(format!("/proc/{pid}/status"));
        let text = std::fs::read_to_string(path)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .context("no such field")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Outboxd {
    fn drop(&mut self) {
        self.secrets.extend(self.settings.secrets());
        let checked = self.secrets.check("the log", &self.guard.log());
        if !std::thread::panicking() {
            checked.expect("no secret is printed");
        }
    }
}
