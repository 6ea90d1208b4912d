//! A secret that a command prints, such as a password or a token that is valid for some minutes.
//!
//! The command runs each time that the secret is needed, since the next one may be another. It gets
//! no input, and nothing that it prints is shown: its output is the secret, and what it writes to
//! standard error may hold one too. Refused: a command that fails, takes too long, or prints
//! nothing, more than a secret, or a zero byte.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::config::Secret;
use crate::error::{Code, Error, Result};

/// The longest secret.
const SECRET_MAX: u64 = 64 << 10;

/// What the command of this setting prints, without the end of the line. It runs for `limit` at
/// most.
///
/// # Errors
/// Transient: the command has no secret now.
pub(crate) async fn run(
    setting: &str,
    command: &Secret<String>,
    limit: Duration,
) -> Result<Secret<Vec<u8>>> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command.expose());
    shell.stdin(Stdio::null()).stdout(Stdio::piped());
    shell.stderr(Stdio::null()).kill_on_drop(true);
    // What the shell has started ends with it.
    shell.process_group(0);
    let failed = |error| failure(setting, "cannot be run").with_source(error);
    let mut child = shell.spawn().map_err(failed)?;
    let group = child.id();
    let ended = tokio::time::timeout(limit, read(&mut child)).await;
    if ended.is_err() {
        end(group);
    }
    let (printed, status) = ended
        .map_err(|_elapsed| failure(setting, format!("did not end within {limit:?}")))?
        .map_err(failed)?;
    secret(setting, printed, status)
}

async fn read(child: &mut Child) -> std::io::Result<(Vec<u8>, ExitStatus)> {
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = stdout.take(SECRET_MAX + 1);
        stdout.read_to_end(&mut printed).await?;
    }
    Ok((printed, child.wait().await?))
}

fn end(group: Option<u32>) {
    let group = group.and_then(|id| i32::try_from(id).ok());
    if let Some(group) = group.and_then(Pid::from_raw) {
        // It may have ended just now.
        let _best_effort = kill_process_group(group, Signal::KILL);
    }
}

fn secret(setting: &str, mut printed: Vec<u8>, status: ExitStatus) -> Result<Secret<Vec<u8>>> {
    let failure = |problem: &str| failure(setting, problem);
    let is_long = printed.len() as u64 > SECRET_MAX;
    if !status.success() && !is_long {
        return Err(failure(&format!("ended with {status}")));
    }
    for end in [b"\n", b"\r"] {
        if printed.ends_with(end) {
            printed.pop();
        }
    }
    match printed.as_slice() {
        [] => Err(failure("printed nothing")),
        _ if is_long => Err(failure(&format!("printed more than {SECRET_MAX} bytes"))),
        bytes if bytes.contains(&0) => Err(failure("printed a zero byte")),
        _ => Ok(Secret::new(printed)),
    }
}

fn failure(setting: &str, problem: impl std::fmt::Display) -> Error {
    let message = format!("the command of {setting} {problem}");
    let hint = "run it by hand, as the user and in the environment of outboxd";
    Error::transient(Code::Connect, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn printed(command: &str, limit: Duration) -> Result<Vec<u8>> {
        let secret = run("A_COMMAND", &Secret::new(command.to_owned()), limit).await?;
        Ok(secret.expose().clone())
    }

    #[tokio::test]
    async fn the_secret_is_what_the_command_prints_without_the_end_of_the_line() -> Result<()> {
        for (command, expected) in [
            ("echo hunter2", "hunter2"),
            ("printf 'a b,c=d'", "a b,c=d"),
            ("printf 'x\\r\\n'", "x"),
            ("printf ' x \\n\\n'", " x \n"),
            ("cat /dev/null; printf é; echo noise >&2", "é"),
        ] {
            let printed = printed(command, LIMIT).await?;
            assert_eq!(printed, expected.as_bytes(), "{command}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_command_without_a_secret_is_named_and_nothing_that_it_prints_is() {
        for (command, problem) in [
            ("echo hunter2; exit 3", "ended with exit status: 3"),
            ("/no/such/hunter2", "ended with exit status: 127"),
            ("kill -9 $$", "ended with signal: 9"),
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            ("printf 'hunter2\\0x'", "printed a zero byte"),
            ("yes hunter2", "printed more than 65536 bytes"),
        ] {
            let error = printed(command, LIMIT).await.expect_err(command);
            assert!(error.is_transient());
            let report = error.report();
            assert!(report.contains(problem), "{report}");
            assert!(!report.contains("hunter2"), "{report}");
        }
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", file.display());
        let error = printed(&command, Duration::from_millis(500)).await;
        let report = error.expect_err("it does not end").report();
        assert!(report.contains("did not end within 500ms"), "{report}");
        let pid = std::fs::read_to_string(&file).expect("it has begun");
        let proc = format!("/proc/{}/stat", pid.trim());
        let is_over = || match std::fs::read_to_string(&proc) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        for _ in 0..600 {
            if is_over() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("process {pid} goes on");
    }
}
