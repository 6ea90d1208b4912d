//! The last errors, problems and waits, present or gone: each name once, with its latest time.

use std::time::Duration;

use serde::Serialize;

const KEPT: usize = 10;

/// An error, a problem or a wait, and how long ago it was last seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RecentProblem {
    /// The error's code, the problem's name, or `waiting for …`.
    pub name: String,
    /// What it was, the last time.
    pub detail: String,
    /// What to do about it, where the detail does not say it.
    pub hint: Option<String>,
    /// How long ago it was last seen.
    pub seconds: f64,
}

#[derive(Debug, Clone)]
struct Seen {
    name: String,
    detail: String,
    hint: Option<String>,
    at: Duration,
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentProblems(Vec<Seen>);

impl RecentProblems {
    /// Records one that is seen now.
    pub(crate) fn note(&mut self, now: Duration, name: &str, detail: &str, hint: Option<&str>) {
        self.0.retain(|seen| seen.name != name);
        self.0.truncate(KEPT - 1);
        let seen = Seen {
            name: name.to_owned(),
            detail: detail.to_owned(),
            hint: hint.map(str::to_owned),
            at: now,
        };
        self.0.insert(0, seen);
    }

    /// The newest first.
    pub(crate) fn list(&self, now: Duration) -> Vec<RecentProblem> {
        let shown = self.0.iter().map(|seen| RecentProblem {
            name: seen.name.clone(),
            detail: seen.detail.clone(),
            hint: seen.hint.clone(),
            seconds: now.saturating_sub(seen.at).as_secs_f64(),
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_comes_first_and_the_same_name_stands_once() {
        let mut problems = RecentProblems::default();
        for at in 0..30 {
            problems.note(
                Duration::from_secs(at),
                &format!("p{}", at % 12),
                "old",
                None,
            );
        }
        problems.note(Duration::from_secs(31), "p3", "new", Some("fix it"));
        let list = problems.list(Duration::from_secs(40));
        assert_eq!(list.len(), KEPT);
        assert_eq!((&*list[0].name, &*list[0].detail), ("p3", "new"));
        assert_eq!(list[0].seconds, 9.0);
        assert_eq!(list[0].hint.as_deref(), Some("fix it"));
        assert_eq!(list.iter().filter(|one| one.name == "p3").count(), 1);
    }
}
