//! When an error of the database work ends the session, or the publisher. Pure.
//!
//! A table that was dropped and recreated ends the session at once: work about the dropped one can
//! never be done, and the next session drops what waits for it. A wrong shape of the table can be a
//! moment of a migration, so it is waited for; one that lasts ends the publisher, because nothing
//! is marked or filed meanwhile, and the server retains WAL. An outage is no such error and is
//! waited for without end. Each kind of work counts by itself, since one may succeed while another
//! fails. A pause that cannot be read holds up nothing, and ends nothing.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use crate::engine::output::DatabaseWork;
use crate::error::{Code, Error, cause_of};
use crate::outbox::TableGone;

/// How long the same kind of work may fail for a `CONFIG_ERROR`.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct LastingErrors {
    since: HashMap<Discriminant<DatabaseWork>, Duration>,
}

impl LastingErrors {
    /// Work has ended at `now`, with this error if it failed. Whether the session has to end with
    /// that error.
    pub(crate) fn ends(
        &mut self,
        now: Duration,
        work: &DatabaseWork,
        error: Option<&Error>,
    ) -> bool {
        if error.is_some_and(|error| cause_of::<TableGone>(error).is_some()) {
            return true;
        }
        if matches!(work, DatabaseWork::ReadPause { .. }) {
            return false;
        }
        let kind = discriminant(work);
        let lasts = |error: &&Error| error.code() == Code::Config && !error.is_transient();
        if error.filter(lasts).is_none() {
            self.since.remove(&kind);
            return false;
        }
        now >= *self.since.entry(kind).or_insert(now) + LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_configuration_error_ends_the_publisher_once_it_has_lasted() {
        let mut errors = LastingErrors::default();
        let (marks, files) = (
            DatabaseWork::Mark(Vec::new()),
            DatabaseWork::File(Vec::new()),
        );
        let config = Error::fatal(Code::Config, "the table lacks a column");
        assert!(!errors.ends(S, &marks, Some(&config)));
        assert!(!errors.ends(S * 5, &files, None), "other work succeeds");
        assert!(!errors.ends(S * 10, &marks, Some(&config)));
        assert!(errors.ends(S * 11, &marks, Some(&config)));
        let pause = DatabaseWork::ReadPause {
            stands_still: false,
        };
        for second in 1..60 {
            assert!(!errors.ends(S * second, &pause, Some(&config)));
        }
    }

    #[test]
    fn one_that_passes_and_an_outage_are_waited_for() {
        let mut errors = LastingErrors::default();
        let marks = DatabaseWork::Mark(Vec::new());
        let config = Error::fatal(Code::Config, "the table lacks a column");
        let outage = Error::transient(Code::Connect, "no connection");
        assert!(!errors.ends(S, &marks, Some(&config)));
        assert!(!errors.ends(S * 2, &marks, None));
        assert!(!errors.ends(S * 12, &marks, Some(&config)));
        assert!(!errors.ends(S * 13, &marks, Some(&outage)));
        assert!(!errors.ends(S * 900, &marks, Some(&outage)));
        assert!(!errors.ends(S * 901, &marks, Some(&config)));
    }

    #[test]
    fn a_recreated_table_ends_the_session_at_once() {
        let mut errors = LastingErrors::default();
        let marks = DatabaseWork::Mark(Vec::new());
        let recreated = Error::transient(Code::Write, "the table was dropped and recreated");
        let recreated = recreated.with_source(TableGone);
        assert!(errors.ends(S, &marks, Some(&recreated)));
        assert!(!errors.ends(S, &marks, None));
    }
}
