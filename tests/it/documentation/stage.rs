//! The servers of one page, and the shell in which its blocks run.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::blocks::{Block, Role};
use super::{root, sql};
use crate::support::docker;
use crate::support::ephemeral::{Guard, Stop, free_port, new_folder};
use crate::support::kafka::{self, Kafka};
use crate::support::outboxd::{PROGRAM, get};
use crate::support::postgres::{self, Server, Session};
use crate::support::provider::{Provider, Simulated, State};
use crate::support::wait::wait_until;

/// How long one block may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a block that needs Docker may take: it builds the image.
const DOCKER_LIMIT: Duration = Duration::from_secs(1800);

/// The password of the superuser `postgres`, in the manual as here.
const PASSWORD: &str = "postgres";

/// Reads the environment that earlier blocks have left, runs this one, and leaves its own.
const IN_SHELL: &str = r#"[ ! -e "$0" ] || . "$0"; . "$1"; export -p >"$0""#;

/// The same for a process that goes on, which takes the place of the shell.
const IN_BACKGROUND: &str = r#"[ ! -e "$0" ] || . "$0"; eval "exec env $1""#;

/// A Postgres with the database `orders`, a Kafka, and a shell.
pub(super) struct Stage {
    server: Server,
    kafka: Kafka,
    http: u16,
    folder: TempDir,
    background: Option<Guard>,
    /// The managed server of the last block that was for one.
    simulated: Option<(Provider, Simulated)>,
}

impl Stage {
    /// Servers for these blocks. Where one of them restarts the server, it begins without
    /// `wal_level = logical`, so that the page has to say how it is set.
    pub(super) async fn set(blocks: &[Block]) -> Result<Stage> {
        let restarts = blocks.iter().any(|block| block.role == Some(Role::Restart));
        let level = if restarts { "replica" } else { "logical" };
        let level = format!("wal_level = {level}");
        let major = postgres::turn(17);
        let server = postgres::private_with(major, Some(PASSWORD), &[&level])?;
        let folder = tempfile::tempdir()?;
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(PROGRAM, bin.join("outboxd"))?;
        kafka::scripts(&bin)?;
        let stage = Stage {
            server,
            kafka: kafka::private(&[])?,
            http: free_port()?,
            folder,
            background: None,
            simulated: None,
        };
        let create = "CREATE DATABASE orders";
        stage
            .session("postgres")
            .await?
            .batch_execute(create)
            .await?;
        Ok(stage)
    }

    pub(super) fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Runs one block, unless its language or role says that it does not run on servers.
    pub(super) async fn run(&mut self, block: &Block) -> Result<()> {
        match (block.language.as_str(), block.role) {
            ("sh", None) => self.shell(block).await,
            ("sh", Some(Role::Background)) => self.start(block).await,
            ("sh", Some(Role::Stopped)) => {
                self.end_background()?;
                self.shell(block).await
            }
            ("sh", Some(Role::Docker)) => self.with_docker(block).await,
            ("sql", None) => self.sql(block).await,
            ("sql", Some(Role::Restart)) => {
                self.sql(block).await?;
                self.server.stop(Stop::Fast)?;
                self.server.resume()
            }
            ("sql", Some(Role::Provider(provider))) => {
                let simulated = self.simulated(provider).await?;
                statements(&simulated.admin().await?, &block.text).await
            }
            ("sql", Some(Role::Allowed(provider))) => {
                let simulated = self.simulated(provider).await?;
                statements(&simulated.database.connect().await?, &block.text).await
            }
            _ => Ok(()),
        }
    }

    /// Stops what runs in the background; it has to end with exit code 0.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.end_background()
    }

    async fn session(&self, database: &str) -> Result<Session> {
        let user = format!("postgres:{PASSWORD}");
        Session::open(&self.server.url(database, &user)).await
    }

    /// The addresses of this stage's servers in the place of those that the manual writes.
    fn addressed(&self, text: &str) -> String {
        let [postgres, kafka, http] = [self.server.port(), self.kafka.port(), self.http]
            .map(|port| format!("127.0.0.1:{port}"));
        text.replace("localhost:5432", &postgres)
            .replace("localhost:9092", &kafka)
            .replace("localhost:9464", &http)
    }

    /// The environment in which a page begins.
    fn variables(&self) -> [(&'static str, String); 4] {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.folder.path().join("bin");
        [
            ("PATH", format!("{}:{path}", bin.display())),
            ("HOME", self.folder.path().display().to_string()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("OUTBOX_HTTP_LISTEN", format!("127.0.0.1:{}", self.http)),
        ]
    }

    fn environment(&self) -> PathBuf {
        self.folder.path().join("environment")
    }

    /// Runs a block again, and returns what it prints.
    pub(super) async fn printed(&self, block: &Block) -> Result<String> {
        let mut command = self.command(block)?;
        let output = tokio::time::timeout(LIMIT, command.output()).await??;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn shell(&self, block: &Block) -> Result<()> {
        let done = output(&mut self.command(block)?, LIMIT).await;
        done.with_context(|| self.log())
    }

    fn command(&self, block: &Block) -> Result<Command> {
        let script = self.folder.path().join("block.sh");
        std::fs::write(&script, self.addressed(&block.text))?;
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", IN_SHELL]);
        command.arg(self.environment()).arg(&script);
        command
            .env_clear()
            .envs(self.variables())
            .current_dir(self.folder.path());
        Ok(command)
    }

    /// What the process in the background has logged last.
    fn log(&self) -> String {
        self.background
            .as_ref()
            .map(Guard::last_words)
            .unwrap_or_default()
    }

    async fn start(&mut self, block: &Block) -> Result<()> {
        self.end_background()?;
        let text = self.addressed(&block.text).replace("\\\n", " ");
        let text = text.trim();
        ensure!(!text.contains('\n'), "a background block is one command");
        let mut words = vec!["env".to_owned(), "-i".to_owned()];
        words.extend(
            self.variables()
                .map(|(name, value)| format!("{name}={value}")),
        );
        words.extend(["bash", "-euo", "pipefail", "-c", IN_BACKGROUND].map(str::to_owned));
        words.extend([self.environment().display().to_string(), text.to_owned()]);
        let mut guard = Guard::new(&new_folder("page", None)?, None, "KILL")?;
        guard.start(&words)?;
        let ready = wait_until("/readyz", LIMIT, async || {
            if let Some(code) = guard.wait(Duration::ZERO) {
                bail!("it ended with {code}: {}", guard.last_words());
            }
            let answer = get(([127, 0, 0, 1], self.http).into(), "/readyz").await;
            Ok(match answer {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}\n{}", guard.last_words())),
            })
        });
        ready.await?;
        self.background = Some(guard);
        Ok(())
    }

    fn end_background(&mut self) -> Result<()> {
        let Some(mut guard) = self.background.take() else {
            return Ok(());
        };
        guard.signal("TERM")?;
        match guard.wait(LIMIT) {
            Some(0) => Ok(()),
            other => bail!("it ended with {other:?}: {}", guard.last_words()),
        }
    }

    async fn sql(&self, block: &Block) -> Result<()> {
        let session = self.session("orders").await?;
        statements(&session, &self.addressed(&block.text)).await
    }

    /// The simulation of this provider, the same for all blocks that follow one another.
    async fn simulated(&mut self, provider: Provider) -> Result<&Simulated> {
        let known = self.simulated.take();
        let simulated = match known.filter(|(of, _)| *of == provider) {
            Some((_, simulated)) => simulated,
            None => {
                let state = State {
                    decodes: true,
                    gives_replication: true,
                };
                Simulated::start(provider, 17, state).await?
            }
        };
        let (_, simulated) = self.simulated.insert((provider, simulated));
        Ok(simulated)
    }

    /// Runs the block at the root of the repository; its image gets a name of this process.
    async fn with_docker(&self, block: &Block) -> Result<()> {
        let Some(docker) = docker::lent(&format!("Docker for {}", block.place()))? else {
            return Ok(());
        };
        let named = format!("-t {} ", docker.project());
        let text = block.text.replace("-t outboxd ", &named);
        let script = self.folder.path().join("docker.sh");
        std::fs::write(&script, text)?;
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail"]).arg(&script);
        command.envs(docker.variables()).current_dir(root());
        output(&mut command, DOCKER_LIMIT).await
    }
}

async fn statements(session: &Session, script: &str) -> Result<()> {
    for statement in sql::statements(script) {
        let done = session.batch_execute(&statement).await;
        done.with_context(|| statement)?;
    }
    Ok(())
}

/// Runs a command, which has to succeed within `limit`.
async fn output(command: &mut Command, limit: Duration) -> Result<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output.with_context(|| format!("it did not end within {limit:?}"))??;
    let [out, err] =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    ensure!(output.status.success(), "{}:\n{out}{err}", output.status);
    Ok(())
}
