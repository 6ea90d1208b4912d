//! When the unpublished rows are counted for status and metrics, and how long that may take.
//!
//! A count shares its connection with the marks, so it takes no more than a hundredth of the time:
//! one that took long is followed by a longer pause. It begins only when nothing else is due there.

use std::time::{Duration, Instant};

use crate::outbox::unpublished_count::{Counted, RowCount};
use crate::postgres::Session;

/// Rows are counted up to this number.
const ROWS_MAX: i64 = 1_000_000;
/// The longest count.
const LIMIT: Duration = Duration::from_secs(1);
/// Between two counts: a usual interval of scrapes.
const PAUSE: Duration = Duration::from_secs(15);
/// The pause is at least this many times as long as the count before it.
const PAUSES: u32 = 100;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct RowFigure {
    /// When the rows are to be counted next; at once if that is `None`.
    due: Option<Instant>,
}

impl RowFigure {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// A count began at one time and has ended, counted or not, at another.
    fn ended(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began);
        self.due = Some(now + PAUSE.max(took * PAUSES));
    }

    /// Counts now. `None` if that is not possible within the limits; also whether the session is
    /// still of use.
    pub(super) async fn read(
        &mut self,
        session: &Session,
        count: &RowCount,
    ) -> (Option<Counted>, bool) {
        let began = Instant::now();
        let counted = count.within(session, ROWS_MAX, LIMIT).await;
        self.ended(began, Instant::now());
        match counted {
            Ok(counted) => (counted, true),
            Err(error) => {
                // A figure holds up no work, and a lost connection shows in the next.
                tracing::debug!(error = %error.report(), "unpublished rows cannot be counted");
                (None, false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_at_once_and_then_for_a_hundredth_of_the_time_at_most() {
        let mut figure = RowFigure::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(figure.is_due(start));
        figure.ended(start, at(10));
        assert!(!figure.is_due(at(15_009)));
        assert!(figure.is_due(at(15_010)));
        figure.ended(at(15_010), at(16_010));
        assert!(!figure.is_due(at(116_009)));
        assert!(figure.is_due(at(116_010)));
    }
}
