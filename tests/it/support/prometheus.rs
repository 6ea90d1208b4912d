//! The programs that read outboxd's metrics: promtool, Prometheus and the parser of Python's
//! client.
//!
//! They come from Debian's packages, unpacked in the cache: nothing is installed, and no service
//! starts. Where that is not possible, the test names what is not offered.

use std::io::Write;
use std::net::SocketAddr;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::debian::package;
use super::ephemeral::{Guard, free_port, new_folder};
use super::outboxd::get;
use super::wait::wait_until;

/// A busy machine starts it in seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs promtool with this text on its standard input; `None` where there is none.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Result<Option<Output>> {
    let Some(package) = package("prometheus", &[]) else {
        return Ok(None);
    };
    let mut command = Command::new(package.join("usr/bin/promtool"));
    run_with(command.args(arguments), input).map(Some)
}

/// Reads a page with this module of Python's prometheus_client; its standard output names each
/// family. `None` where there is none.
pub(crate) fn python_parser(module: &str, page: &str) -> Result<Option<Output>> {
    let Some(package) = package("python3-prometheus-client", &[]) else {
        return Ok(None);
    };
    let program = format!(
        "import sys; from {module} import text_string_to_metric_families as parse\n\
         for family in parse(sys.stdin.read()): print(family.name, family.type)"
    );
    let mut command = Command::new("python3");
    command
        .args(["-c", &program])
        .env("PYTHONPATH", package.join("usr/lib/python3/dist-packages"));
    run_with(&mut command, page).map(Some)
}

fn run_with(command: &mut Command, input: &str) -> Result<Output> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_owned();
    // A program that reads nothing closes the pipe.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writing.join();
    Ok(output)
}

/// A running Prometheus, which scrapes each target and evaluates the rules each second. It ends
/// with this value.
pub(crate) struct Prometheus {
    guard: Guard,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it with these rules for these targets of the job outboxd; `None` where there is none.
    pub(crate) async fn start(rules: &str, targets: &[SocketAddr]) -> Result<Option<Prometheus>> {
        let Some(package) = package("prometheus", &[]) else {
            return Ok(None);
        };
        let folder = new_folder("prometheus", None)?;
        let targets: Vec<String> = targets.iter().map(|it| format!("\"{it}\"")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [alerts.yaml]\n\
             scrape_configs:\n  - job_name: outboxd\n    static_configs: \
             [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        std::fs::write(folder.join("alerts.yaml"), rules)?;
        std::fs::write(folder.join("prometheus.yaml"), config)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut guard = Guard::new(&folder, None, "KILL")?;
        guard.start(&[
            package.join("usr/bin/prometheus").display().to_string(),
            "--config.file=prometheus.yaml".to_owned(),
            "--storage.tsdb.path=data".to_owned(),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ])?;
        let prometheus = Prometheus { guard, address };
        wait_until("Prometheus to be ready", START_LIMIT, async || {
            ensure!(
                prometheus.guard.pid().is_some(),
                prometheus.guard.last_words()
            );
            Ok(match get(address, "/-/ready").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await?;
        Ok(Some(prometheus))
    }

    /// The result of an instant query: each series' labels with its value.
    pub(crate) async fn query(&self, expression: &str) -> Result<Vec<(Value, String)>> {
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let (code, body) = get(self.address, &path).await?;
        ensure!(code == 200, "{expression}: {code} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let series = answer["data"]["result"].as_array();
        let series = series.with_context(|| format!("{expression}: {body}"))?;
        let value = |it: &Value| it["value"][1].as_str().unwrap_or_default().to_owned();
        Ok(series
            .iter()
            .map(|it| (it["metric"].clone(), value(it)))
            .collect())
    }

    /// The alerts that fire now, each with its labels.
    pub(crate) async fn firing(&self) -> Result<Vec<(String, Value)>> {
        let series = self.query("ALERTS{alertstate=\"firing\"}").await?;
        let name = |labels: &Value| labels["alertname"].as_str().unwrap_or_default().to_owned();
        Ok(series
            .into_iter()
            .map(|(labels, _)| (name(&labels), labels))
            .collect())
    }

    /// Waits until exactly these alerts fire, in the order of their names.
    pub(crate) async fn wait_until_firing(&self, names: &[&str], limit: Duration) -> Result<()> {
        wait_until(&format!("the alerts {names:?}"), limit, async || {
            let mut firing: Vec<String> = self.firing().await?.into_iter().map(|it| it.0).collect();
            firing.sort_unstable();
            firing.dedup();
            Ok(if firing == names {
                Ok(())
            } else {
                Err(format!("{firing:?}"))
            })
        })
        .await
    }
}

/// For a URL: everything but letters and digits as `%XX`.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}
