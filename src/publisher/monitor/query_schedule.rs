//! Which query runs next beside the stream, and what an answer means for the session. Pure.
//!
//! One query at a time. The catalogs come first when they are due: an audit can take long, and a
//! table that was recreated has to end the session soon. Missed rows are read before the next audit
//! begins, and only once those that were read have found room.

use std::time::Duration;

use crate::engine::output::Intake;
use crate::lsn::Lsn;
use crate::publisher::monitor::audit::{Audit, AuditQuery};
use crate::publisher::monitor::problems::READ_INTERVAL;

/// The delay after a query that failed as if the table had been altered.
const REREAD_AFTER: Duration = Duration::from_secs(1);

/// The query that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Catalogs,
    /// The next missed rows.
    Rows,
    Audit(AuditQuery),
}

/// What goes on beside the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    /// No query runs.
    pub(crate) is_idle: bool,
    pub(crate) intake: Intake,
    /// Missed rows that were read wait for room.
    pub(crate) has_rows: bool,
    /// Missed rows are not read yet.
    pub(crate) has_unread: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct QuerySchedule {
    /// When the catalogs are to be read next.
    read_at: Duration,
}

impl QuerySchedule {
    /// At the beginning of a session: the catalogs are due at once.
    pub(crate) fn new(now: Duration) -> Self {
        QuerySchedule { read_at: now }
    }

    /// The query to start now, if any. `confirmed` is the position that the server was sent last.
    /// A publisher that stops starts none.
    pub(crate) fn next(
        &mut self,
        now: Duration,
        beside: Beside,
        audit: &mut Audit,
        confirmed: Lsn,
    ) -> Option<Due> {
        if !beside.is_idle || beside.intake == Intake::Discard {
            return None;
        }
        if now >= self.read_at {
            self.read_at = now + READ_INTERVAL;
            return Some(Due::Catalogs);
        }
        if beside.has_unread && !beside.has_rows {
            return Some(Due::Rows);
        }
        audit.query(now, confirmed).map(Due::Audit)
    }

    /// A query has failed as if the table had been altered.
    pub(crate) fn read_soon(&mut self, now: Duration) {
        self.read_at = self.read_at.min(now + REREAD_AFTER);
    }
}

/// Whether an audit is due at once: a problem `has_ended` that kept events from the slot, and no
/// missed row of an earlier audit is left to be sent.
pub(crate) fn audits_at_once(has_ended: bool, has_rows: bool, has_unread: bool) -> bool {
    has_ended && !has_rows && !has_unread
}

/// Whether the table that the catalogs show is another one than the session's, so that the session
/// has to end: every row that it names is gone.
pub(crate) fn is_recreated(found: Option<u32>, table: u32) -> bool {
    found.is_some_and(|found| found != table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};

    const S: Duration = Duration::from_secs(1);

    fn audit() -> Audit {
        let config = Config::from_settings(Settings {
            database_url: Some("postgres://outboxd@db/orders".to_owned()),
            kafka_brokers: Some("kafka:9092".to_owned()),
            ..Settings::default()
        });
        Audit::new(&config.expect("the settings are valid"))
    }

    const IDLE: Beside = Beside {
        is_idle: true,
        intake: Intake::Open,
        has_rows: false,
        has_unread: false,
    };

    #[test]
    fn catalogs_come_before_missed_rows_and_these_before_an_audit() {
        let (mut schedule, mut audit) = (QuerySchedule::new(S), audit());
        let mut next = |now, beside| schedule.next(now, beside, &mut audit, Lsn::INVALID);
        let unread = Beside {
            has_unread: true,
            ..IDLE
        };
        assert_eq!(next(S, unread), Some(Due::Catalogs));
        assert_eq!(next(S, unread), Some(Due::Rows));
        let waiting = Beside {
            has_rows: true,
            ..unread
        };
        assert_eq!(next(S, waiting), Some(Due::Audit(AuditQuery::List)));
        assert_eq!(next(S * 8, waiting), None, "one audit at a time");
        assert_eq!(next(S * 9, waiting), Some(Due::Catalogs));
    }

    #[test]
    fn nothing_starts_beside_a_query_or_while_stopping() {
        let (mut schedule, mut audit) = (QuerySchedule::new(S), audit());
        let busy = Beside {
            is_idle: false,
            ..IDLE
        };
        let stopping = Beside {
            intake: Intake::Discard,
            ..IDLE
        };
        for beside in [busy, stopping] {
            assert_eq!(schedule.next(S, beside, &mut audit, Lsn::INVALID), None);
        }
    }

    #[test]
    fn the_catalogs_are_read_soon_after_an_error_that_an_altered_table_gives() {
        let (mut schedule, mut audit) = (QuerySchedule::new(S), audit());
        let mut next = |schedule: &mut QuerySchedule, now| {
            let due = schedule.next(now, IDLE, &mut audit, Lsn::INVALID);
            due == Some(Due::Catalogs)
        };
        assert!(next(&mut schedule, S));
        schedule.read_soon(S * 2);
        assert!(!next(&mut schedule, S * 2) && next(&mut schedule, S * 3));
    }

    #[test]
    fn what_the_catalogs_show_ends_a_session_or_begins_an_audit() {
        assert!(is_recreated(Some(2), 1) && !is_recreated(Some(1), 1) && !is_recreated(None, 1));
        assert!(audits_at_once(true, false, false));
        assert!(!audits_at_once(false, false, false));
        assert!(!audits_at_once(true, true, false) && !audits_at_once(true, false, true));
    }
}
