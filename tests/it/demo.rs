//! `outboxd demo` ends by itself or on a signal, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::folder::Folder;
use crate::support::heavy;
use crate::support::outboxd::PROGRAM;
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(120);

fn demo(folder: &Path, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(PROGRAM);
    command.arg("demo").args(arguments).env("TMPDIR", folder);
    command.env_remove("KAFKA_BROKERS").env_remove("OUTBOX_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("the demo does not start")
}

/// The processes with the folder among their arguments or as their working directory.
fn processes(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let uses = |process: &PathBuf| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let works_there = std::fs::read_link(process.join("cwd"));
        arguments.contains(&*folder.to_string_lossy())
            || works_there.is_ok_and(|dir| dir.starts_with(folder))
    };
    let found = entries.map(|entry| entry.path()).filter(uses);
    found.map(|process| process.display().to_string()).collect()
}

async fn text(pipe: impl tokio::io::AsyncRead + Unpin) -> Result<String> {
    let mut text = String::new();
    BufReader::new(pipe).read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_demo_publishes_what_it_commits_ends_by_itself_and_leaves_nothing() -> Result<()> {
    let folder = Folder::open_to_all("demo")?;
    let arguments = ["--events", "30", "--rate", "20"];
    let output = demo(&folder, &arguments)?.wait_with_output();
    let output = tokio::time::timeout(LIMIT, output).await??;
    let (stdout, stderr) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    ensure!(output.status.success(), "{stdout}{stderr}");
    ensure!(stderr.is_empty(), "{stderr}");
    // The slot's lag, as `0 bytes` or `2.5 KiB`, ends the line.
    let is_event = |line: &&str| line.ends_with(['B', 's']) && line.contains(" ms ");
    ensure!(stdout.lines().filter(is_event).count() == 30, "{stdout}");
    ensure!(
        stdout.contains("page                http://127.0.0.1:"),
        "{stdout}"
    );
    ensure!(
        stdout.contains(&format!("psql -h {}/outboxd-pg-", folder.display())),
        "{stdout}"
    );
    ensure!(
        stdout.contains("30 events") && stdout.contains("none missing, 0 duplicates"),
        "{stdout}"
    );
    ensure!(stdout.contains("30 rows, 0 not marked"), "{stdout}");
    ensure!(stdout.contains("rolled back: nothing is sent"), "{stdout}");
    ensure!(!stdout.contains('\x1b'), "colours in a pipe: {stdout}");
    ensure!(folder.names()?.is_empty(), "{:?}", folder.names()?);
    ensure!(processes(&folder).is_empty());
    Ok(())
}

/// The mock cluster answers no request for a topic's settings, and no event waits for that: it
/// would for seconds. Other tests load the machine, so that some hundred events on end are judged.
#[tokio::test]
async fn a_demo_shows_milliseconds_from_its_first_event() -> Result<()> {
    let _alone = heavy().await;
    let folder = Folder::open_to_all("demo")?;
    let output = demo(&folder, &["--events", "500", "--rate", "20"])?.wait_with_output();
    let output = tokio::time::timeout(LIMIT, output).await??;
    let stdout = String::from_utf8(output.stdout)?;
    // An event's line ends with the lag of the slot.
    let events = stdout.lines().filter(|line| line.ends_with(['B', 's']));
    let latency = |line: &str| line.split_once(" ms ")?.0.rsplit(' ').next()?.parse().ok();
    let latencies: Vec<f64> = events.filter_map(latency).collect();
    ensure!(latencies.len() == 500, "{} in {stdout}", latencies.len());
    let slow = |events: &[f64], limit: f64| events.iter().filter(|it| **it >= limit).count();
    ensure!(latencies[0] < 1_000.0, "the first event: {stdout}");
    ensure!(
        slow(&latencies, 1_000.0) <= 5,
        "a p99 of a second: {stdout}"
    );
    let mut hundreds = latencies.windows(100);
    let has_p99 = hundreds.any(|events| slow(events, 100.0) <= 1);
    ensure!(has_p99, "a p99 of 100 ms or more throughout: {stdout}");
    Ok(())
}

/// Its superuser needs no password, so nothing but its own user may reach the server.
#[tokio::test]
async fn a_demo_is_reached_by_its_own_user_alone() -> Result<()> {
    let folder = Folder::open_to_all("demo")?;
    let mut child = demo(&folder, &["--events", "0"])?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let place = async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, place)) = line.split_once("psql -h ") {
                return anyhow::Ok(place.to_owned());
            }
        }
        anyhow::bail!("no database was shown")
    };
    let place = tokio::time::timeout(LIMIT, place).await??;
    let words: Vec<&str> = place.split(' ').collect();
    let (socket, port) = (Path::new(words[0]), words[2].parse::<u16>()?);
    ensure!(socket.join(format!(".s.PGSQL.{port}")).exists(), "{place}");
    let mode = std::fs::metadata(socket)?.permissions().mode();
    ensure!(mode & 0o077 == 0, "{mode:o}");
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    ensure!(tcp.is_err(), "it listens on TCP port {port}");
    let id = child.id().context("it runs")?;
    let mut stop = Command::new("kill");
    stop.args(["-s", "INT", &id.to_string()]);
    ensure!(stop.status().await?.success());
    let drained = async {
        while lines.next_line().await?.is_some() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, drained).await??;
    tokio::time::timeout(LIMIT, child.wait()).await??;
    Ok(())
}

#[tokio::test]
async fn a_demo_that_gets_a_signal_stops_in_good_order() -> Result<()> {
    let folder = Folder::open_to_all("demo")?;
    let mut child = demo(&folder, &["--events", "0"])?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let first_event = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(" ms ") {
                return Ok(());
            }
        }
        anyhow::bail!("no event was shown")
    };
    tokio::time::timeout(LIMIT, first_event).await??;
    let pid = child.id().context("it has ended")?.to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().await?;
    ensure!(killed.success());
    let stderr = child.stderr.take().context("no stderr")?;
    let rest = async {
        let mut rest = String::new();
        while let Some(line) = lines.next_line().await? {
            rest.push_str(&line);
            rest.push('\n');
        }
        anyhow::Ok((child.wait().await?, rest, text(stderr).await?))
    };
    let (status, rest, stderr) = tokio::time::timeout(LIMIT, rest).await??;
    ensure!(status.success(), "{rest}{stderr}");
    ensure!(
        rest.contains("none missing, 0 duplicates"),
        "{rest}{stderr}"
    );
    ensure!(folder.names()?.is_empty(), "{:?}", folder.names()?);
    Ok(())
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_nothing_either() -> Result<()> {
    let folder = Folder::open_to_all("demo")?;
    let mut child = demo(&folder, &["--events", "0"])?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let server = tokio::time::timeout(LIMIT, lines.next_line()).await??;
    ensure!(
        server
            .as_ref()
            .is_some_and(|line| line.starts_with("Postgres ")),
        "{server:?}"
    );
    ensure!(!folder.names()?.is_empty());
    child.kill().await?;
    let what = "the server and its folder to be gone";
    wait_until(what, LIMIT, async || {
        let (names, processes) = (folder.names()?, processes(&folder));
        let gone = names.is_empty() && processes.is_empty();
        Ok(if gone {
            Ok(())
        } else {
            Err(format!("{names:?}, {processes:?}"))
        })
    })
    .await
}
