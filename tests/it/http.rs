//! Whom the built program answers over HTTP: who reaches it, and under which names.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::support::not_offered;
use crate::support::outboxd::{PROGRAM, get_for};
use crate::support::wait::wait_until;

/// A program without servers, which it goes on looking for.
struct Program(Child);

impl Program {
    fn start(mut command: Command, settings: &[(&str, &str)]) -> Result<Program> {
        let nowhere = [
            ("DATABASE_URL", "postgresql://outboxd@127.0.0.1:1/orders"),
            ("KAFKA_BROKERS", "127.0.0.1:1"),
        ];
        command.env_clear().envs(nowhere).envs(settings.to_vec());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        Ok(Program(command.spawn()?))
    }

    /// Where it serves, by its log.
    fn address(&mut self) -> Result<SocketAddr> {
        let mut said = String::new();
        let log = BufReader::new(self.0.stderr.as_mut().context("no log")?);
        for line in log.lines() {
            let line = line?;
            if let Some((_, address)) = line.split_once("status page address=") {
                return Ok(address.trim().parse()?);
            }
            said.push_str(&line);
        }
        bail!("it does not serve: {said}")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The local addresses at which sockets of this process's network listen, as the kernel writes
/// them: the address in hexadecimal, then the port.
fn listening(process: u32) -> Result<BTreeSet<String>> {
    let mut addresses = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}"))?;
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The state 0A is LISTEN.
            if let [_, local, _, "0A", ..] = words[..] {
                addresses.insert(local.to_owned());
            }
        }
    }
    Ok(addresses)
}

/// In a network of its own, so that the default port is free and nothing else listens there.
#[test]
fn without_a_setting_only_this_machine_reaches_the_program() -> Result<()> {
    let apart = ["--user", "--map-root-user", "--net", "sh", "-c"];
    let up = "ip link set lo up";
    let tried = Command::new("unshare").args(apart).arg(up).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        not_offered("a network of its own (unshare, ip), for the default address of HTTP");
        return Ok(());
    }
    let mut command = Command::new("unshare");
    let script = format!("{up} && exec \"$0\" run");
    command.args(apart).args([&script, PROGRAM]);
    let mut program = Program::start(command, &[])?;
    assert_eq!(program.address()?, SocketAddr::from(([127, 0, 0, 1], 9464)));
    // 127.0.0.1 in the order of this machine's bytes, and 9464.
    let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
    let expected = BTreeSet::from([format!("{loopback:08X}:24F8")]);
    assert_eq!(listening(program.0.id())?, expected);
    Ok(())
}

#[tokio::test]
async fn a_configured_name_is_answered_and_another_is_not() -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("run");
    let settings = [
        ("OUTBOX_HTTP_LISTEN", "127.0.0.1:0"),
        ("OUTBOX_HTTP_HOSTS", "outboxd.example.com,other.example.com"),
    ];
    let mut program = Program::start(command, &settings)?;
    let address = program.address()?;
    let limit = Duration::from_secs(10);
    for (host, code) in [
        ("127.0.0.1", "200"),
        ("192.0.2.7:9464", "200"),
        ("localhost", "200"),
        ("outboxd.example.com", "200"),
        ("Other.Example.com:9464", "200"),
        ("example.com", "421"),
        ("rebound.example", "421"),
    ] {
        wait_until(&format!("{code} for {host}"), limit, async || {
            let (head, _) = get_for(address, host, "/livez").await?;
            let found = head.split(' ').nth(1).unwrap_or_default() == code;
            Ok(if found { Ok(()) } else { Err(head) })
        })
        .await?;
    }
    Ok(())
}
