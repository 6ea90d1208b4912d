//! `outboxd doctor`: each planted fault is named by the check that is about it, with what fixes it,
//! and a healthy set-up is clean.
//!
//! A case is planted in a database of its own, so that many run at once on the shared servers. What
//! concerns a whole server is planted in a private one.

mod connection;
mod healthy;
mod kafka;
mod mapping;
mod server;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::outboxd::{Settings, command};

/// An examination ends within a minute, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// What `outboxd doctor --json` has printed, and how it ended.
#[derive(Debug)]
struct Examined {
    code: Option<i32>,
    report: Value,
}

async fn examine(settings: &Settings) -> Result<Examined> {
    let output = command(settings, &["doctor", "--json"], LIMIT).await?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(Examined {
        code: output.status.code(),
        report,
    })
}

impl Examined {
    fn checks(&self) -> &[Value] {
        self.report["checks"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The names of the checks with this verdict.
    fn with(&self, verdict: &str) -> Vec<&str> {
        let with = self.checks().iter().filter(|it| it["verdict"] == verdict);
        with.filter_map(|it| it["check"].as_str()).collect()
    }

    /// The check `name` has this verdict, and its reason and fix have these words.
    fn expect(&self, name: &str, verdict: &str, words: &[&str]) -> Result<()> {
        let mut of_name = self.checks().iter().filter(|it| it["check"] == name);
        let fits = of_name.any(|check| {
            let text = format!("{} {}", check["reason"], check["fix"]);
            check["verdict"] == verdict && words.iter().all(|word| text.contains(word))
        });
        let found: Vec<&Value> = self
            .checks()
            .iter()
            .filter(|it| it["check"] == name)
            .collect();
        ensure!(
            fits,
            "no {name} that is {verdict} with {words:?}: {found:#?}"
        );
        let fails = !self.with("fails").is_empty();
        ensure!(
            self.code == Some(i32::from(fails)),
            "exit code {:?}",
            self.code
        );
        Ok(())
    }
}
