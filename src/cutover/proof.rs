//! When a fenced poller has no batch in hand. Pure.
//!
//! A batch is in hand from a search that succeeded, before the fence, to its last mark. Three
//! things prove that there is none:
//!
//! - No row was unpublished behind the fence, for a batch in hand has rows that are not marked.
//! - Every session that was seen with the poller's statements has searched again since, which was
//!   denied, or has rolled back, or has ended. A poller that uses one session does one thing after
//!   another.
//! - As many rows as a batch has at most were unpublished, the first ones, and all of them are
//!   marked: nothing else can be in hand. If a row behind them is marked too, the batch is larger
//!   than it was said to be, and this is no proof.
//!
//! A session that runs a statement now proves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cutover::sessions::{SessionSeen, Use};

/// How long the marks of a batch must have been complete: a larger batch goes on meanwhile.
const STABLE: Duration = Duration::from_secs(1);

/// Why the poller has no batch in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// No row was unpublished behind the fence.
    NothingUnpublished,
    /// This many rows, all of a batch, are marked.
    BatchMarked(usize),
    /// These server processes have searched in vain, and these sessions have ended.
    SearchDenied {
        /// The processes whose search was denied.
        denied: Vec<i32>,
        /// The processes that have ended.
        ended: Vec<i32>,
    },
}

/// The rows that were unpublished behind the fence, now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowsLeft {
    /// Those of the first batch that are unpublished.
    pub first: usize,
    /// Those behind them.
    pub behind: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Searched,
    Ended,
}

/// See the module's head.
#[derive(Debug)]
pub struct Watch {
    /// When the fence stood, in microseconds of the server's clock.
    fenced_at: i64,
    roles: Vec<String>,
    pollers: BTreeMap<(i32, i64), State>,
    /// At the fence.
    rows: RowsLeft,
    /// Since when the first batch is marked.
    marked_since: Option<Duration>,
}

impl Watch {
    /// The fence stood at `fenced_at` for these roles. `pollers` were seen with the poller's
    /// statements before. Behind the fence these `rows` were unpublished.
    pub fn new<'a>(
        fenced_at: i64,
        roles: &[String],
        pollers: impl IntoIterator<Item = &'a SessionSeen>,
        rows: RowsLeft,
    ) -> Self {
        let pollers = pollers.into_iter();
        let pollers = pollers.map(|seen| ((seen.pid, seen.born), State::Unknown));
        Watch {
            fenced_at,
            roles: roles.to_vec(),
            pollers: pollers.collect(),
            rows,
            marked_since: None,
        }
    }

    /// The sessions and the rows as they are now.
    pub fn look(
        &mut self,
        now: Duration,
        sessions: &[SessionSeen],
        rows: RowsLeft,
    ) -> Option<Proof> {
        if self.rows == RowsLeft::default() {
            return Some(Proof::NothingUnpublished);
        }
        self.look_at(sessions);
        self.denied().or_else(|| self.marked(now, rows))
    }

    /// The processes that have not searched again.
    pub fn unproven(&self) -> Vec<i32> {
        self.of(State::Unknown)
    }

    fn look_at(&mut self, sessions: &[SessionSeen]) {
        let is_there = |key: &(i32, i64)| sessions.iter().any(|it| (it.pid, it.born) == *key);
        for (key, state) in &mut self.pollers {
            if !is_there(key) {
                *state = State::Ended;
            }
        }
        for seen in sessions.iter().filter(|it| self.roles.contains(&it.role)) {
            let is_late = seen.began > self.fenced_at && !seen.is_active;
            let key = (seen.pid, seen.born);
            let is_poller = self.pollers.contains_key(&key);
            let has_searched = match seen.last {
                Use::Search => true,
                Use::Rollback => is_poller,
                Use::Mark | Use::Other => false,
            };
            if is_late && has_searched {
                self.pollers.insert(key, State::Searched);
            }
        }
    }

    fn denied(&self) -> Option<Proof> {
        let is_known = |state: &State| *state != State::Unknown;
        let all = !self.pollers.is_empty() && self.pollers.values().all(is_known);
        let (denied, ended) = (self.of(State::Searched), self.of(State::Ended));
        all.then_some(Proof::SearchDenied { denied, ended })
    }

    fn marked(&mut self, now: Duration, rows: RowsLeft) -> Option<Proof> {
        if rows.first > 0 || rows.behind < self.rows.behind {
            self.marked_since = None;
            return None;
        }
        let since = *self.marked_since.get_or_insert(now);
        (now >= since + STABLE).then_some(Proof::BatchMarked(self.rows.first))
    }

    fn of(&self, state: State) -> Vec<i32> {
        let pollers = self.pollers.iter().filter(|(_, it)| **it == state);
        pollers.map(|((pid, _), _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FENCED: i64 = 1_000;

    fn seen(pid: i32, began: i64, last: Use) -> SessionSeen {
        SessionSeen {
            pid,
            role: "app".to_owned(),
            application: String::new(),
            born: 1,
            began,
            is_active: false,
            last,
            is_visible: true,
        }
    }

    fn watch(pollers: &[SessionSeen], first: usize, behind: usize) -> Watch {
        let rows = RowsLeft { first, behind };
        Watch::new(FENCED, &["app".to_owned()], pollers, rows)
    }

    fn left(first: usize, behind: usize) -> RowsLeft {
        RowsLeft { first, behind }
    }

    #[test]
    fn a_poller_is_done_when_it_searches_again_and_not_before() {
        let poller = seen(7, 900, Use::Mark);
        let mut watch = watch(std::slice::from_ref(&poller), 10, 5);
        for (began, last, is_active) in [
            (900, Use::Search, false),
            (1_000, Use::Search, false),
            (1_001, Use::Mark, false),
            (1_001, Use::Other, false),
            (1_001, Use::Search, true),
        ] {
            let one = SessionSeen {
                is_active,
                ..seen(7, began, last)
            };
            assert_eq!(
                watch.look(MS, &[one], left(10, 5)),
                None,
                "{began} {last:?}"
            );
        }
        assert_eq!(watch.unproven(), [7]);
        let proof = watch.look(MS, &[seen(7, 1_002, Use::Search)], left(10, 5));
        let (denied, ended) = (vec![7], vec![]);
        assert_eq!(proof, Some(Proof::SearchDenied { denied, ended }));
    }

    #[test]
    fn each_of_two_pollers_has_to_be_done_or_gone() {
        let pollers = [seen(7, 900, Use::Search), seen(8, 900, Use::Search)];
        let mut watch = watch(&pollers, 10, 0);
        let first = [seen(7, 1_001, Use::Rollback), seen(8, 900, Use::Search)];
        assert_eq!(watch.look(MS, &first, left(10, 0)), None);
        // Another session has got the number of the process that ended.
        let again = SessionSeen {
            born: 2,
            ..seen(8, 1_002, Use::Other)
        };
        let proof = watch.look(MS, &[seen(7, 1_003, Use::Mark), again], left(10, 0));
        let (denied, ended) = (vec![7], vec![8]);
        assert_eq!(proof, Some(Proof::SearchDenied { denied, ended }));
    }

    #[test]
    fn a_poller_that_was_not_seen_before_is_seen_when_it_searches() {
        let mut watch = watch(&[], 10, 0);
        let writer = seen(5, 1_001, Use::Other);
        assert_eq!(
            watch.look(MS, std::slice::from_ref(&writer), left(10, 0)),
            None
        );
        let other = SessionSeen {
            role: "reports".to_owned(),
            ..seen(6, 1_001, Use::Search)
        };
        assert_eq!(watch.look(MS, &[writer, other], left(10, 0)), None);
        let proof = watch.look(MS, &[seen(7, 1_001, Use::Search)], left(10, 0));
        assert!(matches!(proof, Some(Proof::SearchDenied { .. })));
    }

    #[test]
    fn a_batch_is_marked_when_all_of_it_is_and_no_row_behind_it() {
        let resting = [seen(7, 900, Use::Mark)];
        let mut watched = watch(&resting, 10, 20);
        assert_eq!(watched.look(MS, &resting, left(1, 20)), None);
        assert_eq!(watched.look(MS * 10, &resting, left(0, 20)), None);
        let proof = watched.look(MS * 1_010, &resting, left(0, 20));
        assert_eq!(proof, Some(Proof::BatchMarked(10)));
        let mut watched = watch(&resting, 10, 20);
        for at in [10, 1_010, 9_000] {
            assert_eq!(
                watched.look(MS * at, &resting, left(0, 19)),
                None,
                "a larger batch"
            );
        }
    }

    #[test]
    fn without_an_unpublished_row_nothing_is_in_hand() {
        let mut watch = watch(&[seen(7, 900, Use::Search)], 0, 0);
        assert_eq!(
            watch.look(MS, &[], left(0, 0)),
            Some(Proof::NothingUnpublished)
        );
    }
}
