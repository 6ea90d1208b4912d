//! The database work that fails, and since when. Pure.
//!
//! Kinds of work alternate: one that fails for ever stands between others that succeed. So each has
//! an error of its own, which lasts from its first failure to its next success.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use crate::engine::output::DatabaseWork;

/// Work that failed is retried within seconds. An error that does not come back for this long, and
/// one statement, belongs to work that was dropped.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Failing {
    kind: Discriminant<DatabaseWork>,
    error: String,
    since: Duration,
    last: Duration,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct WorkErrors {
    failing: Vec<Failing>,
}

impl WorkErrors {
    /// This work has failed.
    pub(crate) fn failed(&mut self, now: Duration, work: &DatabaseWork, error: String) {
        let kind = discriminant(work);
        let known = self.failing.iter().find(|failing| failing.kind == kind);
        let since = known.map_or(now, |known| known.since);
        self.failing.retain(|failing| failing.kind != kind);
        self.failing.push(Failing {
            kind,
            error,
            since,
            last: now,
        });
    }

    /// This work has succeeded.
    pub(crate) fn succeeded(&mut self, work: &DatabaseWork) {
        let kind = discriminant(work);
        self.failing.retain(|failing| failing.kind != kind);
    }

    /// The error that has lasted longest, and since when. A statement takes at most `statement`.
    pub(crate) fn oldest(&self, now: Duration, statement: Duration) -> Option<(&str, Duration)> {
        let comes_back = |one: &&Failing| now < one.last + FORGOTTEN_AFTER + statement;
        let failing = self.failing.iter().filter(comes_back);
        let oldest = failing.min_by_key(|failing| failing.since)?;
        Some((&oldest.error, oldest.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_error_lasts_from_the_first_failure_to_the_success_of_the_same_work() {
        let (mark, file) = (DatabaseWork::Mark(vec![]), DatabaseWork::File(vec![]));
        let mut errors = WorkErrors::default();
        let oldest = |errors: &WorkErrors, now: u32| {
            let oldest = errors.oldest(SECOND * now, SECOND);
            oldest.map(|(error, since)| (error.to_owned(), since))
        };
        for now in 1..=10 {
            errors.failed(SECOND * now, &file, "full".to_owned());
            errors.succeeded(&mark);
            assert_eq!(oldest(&errors, now), Some(("full".to_owned(), SECOND)));
        }
        errors.failed(SECOND * 11, &mark, "locked".to_owned());
        assert_eq!(oldest(&errors, 11), Some(("full".to_owned(), SECOND)));
        errors.succeeded(&file);
        assert_eq!(
            oldest(&errors, 11),
            Some(("locked".to_owned(), SECOND * 11))
        );
        assert_eq!(oldest(&errors, 72), None, "the work was dropped");
    }
}
