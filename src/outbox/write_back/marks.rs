//! What a mark did to each row of a batch: read back from the table, never inferred from a count.
//!
//! Decides for each row whether it is settled, and drops none. Runs no statement itself: the table
//! is a [`MarkedTable`]. Uses no clock: a row that is not visible is judged by the transaction that
//! inserted it, since under synchronous replication an event is streamed before its row is visible,
//! for as long as the standby is away.
//!
//! A statement that changed a row proves nothing, because a trigger may have kept or restored what
//! was there, and may do so as late as the commit. So the rows are looked at afterwards, by a
//! statement of its own. A row that is visible and still unpublished was either locked or refused
//! its mark: `SKIP LOCKED` returns only rows without a lock, so a row that it returns was refused.

use std::collections::{HashMap, HashSet};

/// One row to mark or delete, and the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Identifies the event for the publisher.
    pub(crate) ticket: u64,
    pub(crate) row: i64,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// Set by the write-back.
    pub(crate) outcome: Outcome,
}

/// The outcome for a row that was to be marked or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was not written back, or that is unknown: the row is locked, or the statement failed.
    Open,
    /// The row is not visible yet: its transaction has committed and waits for a synchronous
    /// standby.
    Hidden,
    /// The table keeps the row unpublished. The write-back files such a row, which settles it.
    Refused,
    /// It is written back, or does not need to be.
    Settled,
}

/// The statements about the rows of one table.
pub(super) trait MarkedTable {
    type Error;

    /// Marks those of the rows that are unpublished, and returns the ids of those that the
    /// statement changed. `None` if a lock of another session was in the way.
    async fn mark(&self, ids: &[i64]) -> Result<Option<HashSet<i64>>, Self::Error>;

    /// Marks those of the rows that are unpublished and not locked, and returns the ids of those
    /// that it was to change.
    async fn mark_free(&self, ids: &[i64]) -> Result<HashSet<i64>, Self::Error>;

    /// Those of the rows that are visible, and whether they are unpublished.
    async fn look(&self, ids: &[i64]) -> Result<HashMap<i64, bool>, Self::Error>;

    /// Those of the transactions that are not over for other sessions.
    async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Self::Error>;
}

/// Marks these rows and sets the outcome of each.
///
/// # Errors
/// Of a statement: the outcome of the rows that are not settled is unknown.
pub(super) async fn settle<T: MarkedTable>(table: &T, marks: &mut [Mark]) -> Result<(), T::Error> {
    let ids: Vec<i64> = marks.iter().map(|mark| mark.row).collect();
    if let Some(changed) = table.mark(&ids).await? {
        let seen = table.look(&ids).await?;
        let is_marked = |id: &i64| changed.contains(id) && seen.get(id) != Some(&true);
        let marked = marks.iter_mut().filter(|mark| is_marked(&mark.row));
        marked.for_each(|mark| mark.outcome = Outcome::Settled);
    }
    let rest = marks.iter_mut();
    let mut rest: Vec<&mut Mark> = rest
        .filter(|mark| mark.outcome != Outcome::Settled)
        .collect();
    if rest.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = rest.iter().map(|mark| mark.row).collect();
    let mut xids: Vec<u32> = rest.iter().map(|mark| mark.xid).collect();
    xids.sort_unstable();
    xids.dedup();
    // Queried before the deciding mark: a transaction that was over by then has shown its rows to
    // that statement.
    let running = table.running(&xids).await?;
    let free = table.mark_free(&ids).await?;
    let seen = table.look(&ids).await?;
    for mark in &mut rest {
        let unpublished = seen.get(&mark.row).copied();
        mark.outcome = judge(
            unpublished,
            free.contains(&mark.row),
            running.contains(&mark.xid),
        );
    }
    Ok(())
}

/// The outcome for a row that is visible and `unpublished`, or not visible (`None`), after a mark
/// that it was to get if it `is_free`. The transaction that inserted it `is_running`, or was over
/// before that mark.
fn judge(unpublished: Option<bool>, is_free: bool, is_running: bool) -> Outcome {
    match unpublished {
        Some(false) => Outcome::Settled,
        Some(true) if is_free => Outcome::Refused,
        Some(true) => Outcome::Open,
        None if is_running => Outcome::Hidden,
        None => Outcome::Settled,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use super::*;

    #[derive(Debug, Clone, Copy, Default)]
    struct Row {
        xid: u32,
        visible: bool,
        locked: bool,
        published: bool,
        /// A trigger suppresses the mark.
        swallows: bool,
        /// A trigger undoes the mark.
        undoes: bool,
        marks: u32,
    }

    type Event = (usize, fn(&mut Row));

    /// A model of the table. Before the statement of this number, `event` happens.
    struct Table {
        rows: RefCell<HashMap<i64, Row>>,
        statements: RefCell<Vec<&'static str>>,
        event: Option<Event>,
    }

    impl Table {
        fn new(rows: &[(i64, Row)]) -> Self {
            Table {
                rows: RefCell::new(rows.iter().copied().collect()),
                statements: RefCell::default(),
                event: None,
            }
        }

        fn begin(&self, statement: &'static str) {
            let mut statements = self.statements.borrow_mut();
            if let Some((number, event)) = self.event
                && number == statements.len()
            {
                self.rows.borrow_mut().values_mut().for_each(event);
            }
            statements.push(statement);
        }

        fn mark_row(row: &mut Row) -> bool {
            if row.swallows || row.published {
                return false;
            }
            row.published = !row.undoes;
            row.marks += 1;
            true
        }

        async fn outcome(&self, id: i64) -> Outcome {
            let xid = self.rows.borrow().get(&id).map_or(7, |row| row.xid);
            let mut marks = [Mark {
                ticket: 1,
                row: id,
                xid,
                outcome: Outcome::Open,
            }];
            let Ok(()) = settle(self, &mut marks).await;
            marks[0].outcome
        }
    }

    impl MarkedTable for Table {
        type Error = Infallible;

        async fn mark(&self, ids: &[i64]) -> Result<Option<HashSet<i64>>, Infallible> {
            self.begin("mark");
            let mut rows = self.rows.borrow_mut();
            if ids
                .iter()
                .any(|id| rows.get(id).is_some_and(|row| row.visible && row.locked))
            {
                return Ok(None);
            }
            let mut changed = HashSet::new();
            for id in ids {
                if let Some(row) = rows.get_mut(id).filter(|row| row.visible)
                    && Table::mark_row(row)
                {
                    changed.insert(*id);
                }
            }
            Ok(Some(changed))
        }

        async fn mark_free(&self, ids: &[i64]) -> Result<HashSet<i64>, Infallible> {
            self.begin("mark free");
            let mut free = HashSet::new();
            for id in ids {
                if let Some(row) = self.rows.borrow_mut().get_mut(id)
                    && row.visible
                    && !row.locked
                    && !row.published
                {
                    free.insert(*id);
                    Table::mark_row(row);
                }
            }
            Ok(free)
        }

        async fn look(&self, ids: &[i64]) -> Result<HashMap<i64, bool>, Infallible> {
            self.begin("look");
            let rows = self.rows.borrow();
            let seen = ids.iter().filter_map(|id| Some((*id, rows.get(id)?)));
            let seen = seen.filter(|(_, row)| row.visible);
            Ok(seen.map(|(id, row)| (id, !row.published)).collect())
        }

        async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Infallible> {
            self.begin("running");
            let rows = self.rows.borrow();
            let running = rows.values().filter(|row| !row.visible).map(|row| row.xid);
            Ok(running.filter(|xid| xids.contains(xid)).collect())
        }
    }

    const THERE: Row = Row {
        xid: 7,
        visible: true,
        locked: false,
        published: false,
        swallows: false,
        undoes: false,
        marks: 0,
    };

    #[tokio::test]
    async fn a_row_is_settled_when_it_is_seen_published_or_gone() {
        let table = Table::new(&[(1, THERE)]);
        assert_eq!(table.outcome(1).await, Outcome::Settled);
        assert_eq!(*table.statements.borrow(), ["mark", "look"]);
        let published = Row {
            published: true,
            ..THERE
        };
        let table = Table::new(&[(1, published)]);
        assert_eq!(table.outcome(1).await, Outcome::Settled);
        assert_eq!(table.rows.borrow()[&1].marks, 0, "not marked again");
        assert_eq!(Table::new(&[]).outcome(1).await, Outcome::Settled);
    }

    #[tokio::test]
    async fn a_row_that_is_not_visible_is_not_marked() {
        let hidden = Row {
            visible: false,
            ..THERE
        };
        let table = Table::new(&[(1, hidden)]);
        assert_eq!(table.outcome(1).await, Outcome::Hidden);
        assert_eq!(judge(None, false, true), Outcome::Hidden);
    }

    /// Whenever the row of a running transaction becomes visible, it is marked or stays open.
    #[tokio::test]
    async fn a_row_that_becomes_visible_between_two_statements_is_not_taken_for_a_deleted_one() {
        for number in 0..6 {
            let hidden = Row {
                visible: false,
                ..THERE
            };
            let mut table = Table::new(&[(1, hidden)]);
            table.event = Some((number, |row| row.visible = true));
            let outcome = table.outcome(1).await;
            let published = table.rows.borrow()[&1].published;
            assert_eq!(
                outcome == Outcome::Settled,
                published,
                "before {number}: {outcome:?}"
            );
            assert_ne!(outcome, Outcome::Refused, "before {number}");
        }
    }

    #[tokio::test]
    async fn transactions_are_looked_up_before_the_mark_that_decides() {
        let hidden = Row {
            visible: false,
            ..THERE
        };
        let table = Table::new(&[(1, hidden)]);
        table.outcome(1).await;
        let statements = table.statements.borrow();
        assert_eq!(
            *statements,
            ["mark", "look", "running", "mark free", "look"]
        );
    }

    #[tokio::test]
    async fn a_row_that_is_free_and_stays_unpublished_has_refused_its_mark() {
        let swallows = Row {
            swallows: true,
            ..THERE
        };
        let undoes = Row {
            undoes: true,
            ..THERE
        };
        for row in [swallows, undoes] {
            assert_eq!(Table::new(&[(1, row)]).outcome(1).await, Outcome::Refused);
            let locked = Row {
                locked: true,
                ..row
            };
            let table = Table::new(&[(1, locked), (2, THERE)]);
            assert_eq!(table.outcome(1).await, Outcome::Open);
            assert_eq!(table.outcome(2).await, Outcome::Settled);
        }
    }
}
