//! What an examination has found: one verdict for each check, each with its reason and its fix.
//!
//! Pure. A check that could not run because of another one is not left out: [`Report::complete`]
//! names it together with the check that it depends on.

use serde::Serialize;

use crate::config::Config;
use crate::doctor::catalogue::{CATALOGUE, Name, Side};

/// What a check has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is in the way.
    #[serde(rename = "ok")]
    Ok,
    /// outboxd runs, and a person should know this.
    #[serde(rename = "warning")]
    Warning,
    /// outboxd does not start, or events do not arrive.
    #[serde(rename = "fails")]
    Fails,
    /// The rights do not show it, or a check before it fails.
    #[serde(rename = "cannot say")]
    CannotSay,
}

impl Verdict {
    /// The word that text and JSON show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fails => "fails",
            Verdict::CannotSay => "cannot say",
        }
    }
}

/// One check and what it has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The server that it is about.
    pub side: Side,
    /// The check's stable name; a check of topics appears once for each topic with a problem.
    #[serde(rename = "check")]
    pub name: Name,
    /// What the check has shown.
    pub verdict: Verdict,
    /// What was found, or why nothing was.
    pub reason: String,
    /// The statement or command that fixes it, or who may see it.
    pub fix: Option<String>,
}

impl Check {
    fn new(name: Name, verdict: Verdict, reason: String, fix: Option<String>) -> Self {
        let side = name.side();
        Check {
            side,
            name,
            verdict,
            reason,
            fix,
        }
    }

    /// Whether it is one of these checks and keeps those that need it from running.
    pub(super) fn prevents(&self, needed: &[Name]) -> bool {
        needed.contains(&self.name) && self.verdict == Verdict::Fails
    }

    pub(super) fn ok(name: Name, reason: impl Into<String>) -> Self {
        Check::new(name, Verdict::Ok, reason.into(), None)
    }

    pub(super) fn warning(name: Name, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Check::new(name, Verdict::Warning, reason.into(), Some(fix.into()))
    }

    pub(super) fn fails(name: Name, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Check::new(name, Verdict::Fails, reason.into(), Some(fix.into()))
    }

    pub(super) fn cannot_say(
        name: Name,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Check::new(name, Verdict::CannotSay, reason.into(), Some(fix.into()))
    }
}

/// All checks, in the order in which each depends on those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// The report of these checks, with every check of the configuration that did not run.
    pub(super) fn complete(found: Vec<Check>, config: &Config) -> Self {
        let mut checks: Vec<Check> = Vec::new();
        for entry in CATALOGUE.iter().filter(|entry| entry.applies_to(config)) {
            let of_name: Vec<&Check> = found.iter().filter(|it| it.name == entry.name).collect();
            if of_name.is_empty() {
                checks.push(not_reached(entry.name, &checks));
            }
            checks.extend(of_name.into_iter().cloned());
        }
        Report { checks }
    }

    /// The number of checks with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        let with = self.checks.iter().filter(|it| it.verdict == verdict);
        with.count()
    }

    /// The worst verdict: what fails, then a warning.
    pub fn verdict(&self) -> Verdict {
        let verdicts = [Verdict::Fails, Verdict::Warning];
        let worst = verdicts.into_iter().find(|it| self.count(*it) > 0);
        worst.unwrap_or(Verdict::Ok)
    }
}

/// The check that did not run; `before` are the checks before it.
fn not_reached(name: Name, before: &[Check]) -> Check {
    let with = |verdict: Verdict| {
        let mut needed = before.iter().filter(|it| name.needs().contains(&it.name));
        needed.find(|it| it.verdict == verdict)
    };
    let cause = with(Verdict::Fails).or_else(|| with(Verdict::CannotSay));
    let reason = match cause {
        Some(cause) => format!("not reached: it needs the check {}", cause.name.as_str()),
        None => "not reached: the time for this examination was over".to_owned(),
    };
    Check::new(name, Verdict::CannotSay, reason, None)
}

#[cfg(test)]
#[path = "tests/report.rs"]
mod tests;
