//! `doctor`: examines both servers and prints what it finds, with the statement or command that
//! fixes it.
//!
//! Exit code 0 means that nothing fails, 1 that something does.

use std::io::{self, Write};

use anyhow::bail;
use outboxd::config::{Config, Settings};
use outboxd::doctor::{self, Check, Report, Verdict};
use serde_json::json;

use crate::cli::dead_letter::plain;
use crate::cli::terminal;

/// The arguments of `doctor`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 when nothing fails, warnings included; 1 when a check fails; 2 when a setting is not
valid

Examples:
  outboxd doctor
  outboxd doctor --json")]
pub(crate) struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Examines and prints.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::from_settings(args.settings)?;
    let report = Box::pin(doctor::examine(&config)).await;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json(&report))?;
    } else {
        let colours = terminal::takes_colours(&io::stdout());
        write!(out, "{}", text(&report, colours))?;
    }
    match report.count(Verdict::Fails) {
        0 => Ok(()),
        count => bail!("{count} of {} checks fail", report.checks.len()),
    }
}

fn json(report: &Report) -> serde_json::Value {
    json!({
        "verdict": report.verdict(),
        "ok": report.count(Verdict::Ok),
        "warnings": report.count(Verdict::Warning),
        "fails": report.count(Verdict::Fails),
        "cannot_say": report.count(Verdict::CannotSay),
        "checks": report.checks,
    })
}

fn text(report: &Report, colours: bool) -> String {
    let mut text = String::new();
    let mut side = None;
    for check in &report.checks {
        if side.replace(check.side) != Some(check.side) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}\n", check.side.as_str()));
        }
        text.push_str(&lines(check, colours));
    }
    text.push_str(&format!(
        "\n{} ok, {} warnings, {} fail, {} cannot say\n",
        report.count(Verdict::Ok),
        report.count(Verdict::Warning),
        report.count(Verdict::Fails),
        report.count(Verdict::CannotSay)
    ));
    text
}

/// A line with the verdict and the reason, and one with the fix.
fn lines(check: &Check, colours: bool) -> String {
    let code = match check.verdict {
        Verdict::Ok => "32",
        Verdict::Warning => "33",
        Verdict::Fails => "31",
        _ => "36",
    };
    let verdict = format!("{:<10}", check.verdict.as_str());
    let verdict = match colours {
        true => format!("\u{1b}[{code}m{verdict}\u{1b}[0m"),
        false => verdict,
    };
    let name = check.name.as_str();
    let mut lines = format!("  {verdict}  {name:<23} {}\n", plain(&check.reason));
    if let Some(fix) = &check.fix {
        lines.push_str(&format!("{:38}→ {}\n", "", plain(fix)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_stands_below_its_reason_and_colours_are_only_for_terminals() {
        let report = Report::default();
        let shown = text(&report, true);
        assert_eq!(shown, "\n0 ok, 0 warnings, 0 fail, 0 cannot say\n");
        assert_eq!(json(&report)["verdict"], "ok");
    }
}
