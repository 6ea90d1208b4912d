//! What a mark did to each row of a batch: read back from the table, never inferred from a count.
//!
//! Decides for each row whether it is settled, and drops none. Runs no statement itself: the table
//! is a [`MarkedTable`]. Uses no clock: a row that is not visible is judged by the transaction that
//! inserted it, since under synchronous replication an event is streamed before its row is visible,
//! for as long as the standby is away.
//!
//! A statement that changed a row proves nothing where the table has a trigger or a rule: that may
//! have kept or restored what was there, and may do so as late as the commit. So the rows are
//! looked at afterwards, by a statement of its own, which costs a quarter of a mark. It is left out
//! where the first statement returns that the table has neither.
//!
//! A row that is visible and still unpublished was locked, or was refused its mark, or another
//! session has removed the mark since, so that the event is published again. Only `SKIP LOCKED`
//! tells the first, by leaving the row out. The others differ in a transaction that is rolled back:
//! there a refused row stays unpublished, and a mark that was removed stays removed.
//!
//! A row that is found marked, though no statement of any outboxd can have marked it, was marked by
//! another program. From the moment a statement is sent until its reply is there, the row counts as
//! tried; the reply takes that back for the rows that the statement did not change. A row that was
//! deleted tells nothing.

use std::collections::{HashMap, HashSet};

use crate::outbox::{RowId, RowName};

/// One row to mark or delete, and the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Identifies the event for the publisher.
    pub(crate) ticket: u64,
    pub(crate) row: RowName,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// What can have marked the row. The write-back keeps it up to date, also when it fails.
    pub(crate) marker: Marker,
    /// Set by the write-back.
    pub(crate) outcome: Outcome,
}

/// What has marked a row that is found marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// It may be outboxd: this statement, an earlier one, or another instance.
    Outboxd,
    /// It is no outboxd, and the row was not found marked yet.
    Untried,
    /// A statement that marks the row was sent, and its reply is not there.
    Trying,
    /// The row was found marked, and no outboxd had tried to.
    Other,
}

impl Marker {
    /// Of the row of an event. `untried`: no outboxd can have marked it.
    pub(crate) fn of_event(untried: bool) -> Self {
        match untried {
            true => Marker::Untried,
            false => Marker::Outboxd,
        }
    }
}

/// The outcome for a row that was to be marked or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was not written back, or that is unknown: the row is locked, or the statement failed.
    Open,
    /// The row is not visible yet: its transaction has committed and waits for a synchronous
    /// standby.
    Hidden,
    /// The table keeps the row unpublished. The write-back files such a row.
    Refused,
    /// The same, and its dead letter is filed, which settles it.
    Filed,
    /// It is written back, or does not need to be.
    Settled,
}

/// The rows that a statement has changed.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) ids: HashSet<RowId>,
    /// A trigger or a rule of the table may have kept or restored what was there.
    pub(crate) may_be_undone: bool,
}

/// The statements about the rows of one table. Each call names rows with ascending ids, each once.
pub(crate) trait MarkedTable {
    type Error;

    /// Marks those of the rows that are unpublished. `None` if a lock of another session was in the
    /// way.
    async fn mark(&self, rows: &[RowName]) -> Result<Option<Changed>, Self::Error>;

    /// Marks those of the rows that are unpublished and not locked, and returns the ids of those
    /// that it was to change.
    async fn mark_free(&self, rows: &[RowName]) -> Result<HashSet<RowId>, Self::Error>;

    /// Those of the rows that are visible, and whether they are unpublished.
    async fn look(&self, rows: &[RowName]) -> Result<HashMap<RowId, bool>, Self::Error>;

    /// What [`mark_free`](Self::mark_free) and then [`look`](Self::look) return in a transaction
    /// that fires deferred triggers at once and is rolled back.
    async fn try_mark(
        &self,
        rows: &[RowName],
    ) -> Result<(HashSet<RowId>, HashMap<RowId, bool>), Self::Error>;

    /// Those of the transactions that are not over for other sessions.
    async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Self::Error>;
}

/// Marks these rows and sets the outcome of each.
///
/// # Errors
/// Of a statement: the outcome of the rows that are not settled is unknown.
pub(crate) async fn settle<T: MarkedTable>(
    table: &T,
    mut marks: &mut [Mark],
) -> Result<(), T::Error> {
    while !marks.is_empty() {
        let count = once_each(marks);
        let (part, rest) = marks.split_at_mut(count);
        settle_part(table, part).await?;
        marks = rest;
    }
    Ok(())
}

/// Sorts the marks so that the first ones, as many as returned, have ascending ids, each once. A
/// row that is gone and a new one may both wait under one id.
fn once_each(marks: &mut [Mark]) -> usize {
    marks.sort_unstable_by(|one, other| one.row.cmp(&other.row));
    let mut count = 0;
    for at in 0..marks.len() {
        if count == 0 || marks[count - 1].row.id != marks[at].row.id {
            marks.swap(count, at);
            count += 1;
        } else {
            // The mark of the row that goes first may be found on this one.
            marks[at].marker = Marker::Outboxd;
        }
    }
    count
}

async fn settle_part<T: MarkedTable>(table: &T, marks: &mut [Mark]) -> Result<(), T::Error> {
    marks
        .iter_mut()
        .for_each(|mark| mark.outcome = Outcome::Open);
    let rows = names(marks.iter());
    begin_trial(marks.iter_mut());
    let changed = table.mark(&rows).await?;
    end_trial(marks.iter_mut(), changed.as_ref().map(|it| &it.ids));
    if let Some(Changed { ids, may_be_undone }) = changed {
        let seen = match may_be_undone {
            true => table.look(&rows).await?,
            false => HashMap::new(),
        };
        for mark in marks.iter_mut().filter(|it| ids.contains(&it.row.id)) {
            mark.outcome = match seen.get(&mark.row.id) {
                Some(true) => Outcome::Refused,
                _ => Outcome::Settled,
            };
        }
    }
    mark_rest(table, &mut of_outcome(marks, Outcome::Open)).await?;
    confirm_refusals(table, &mut of_outcome(marks, Outcome::Refused)).await
}

fn of_outcome(marks: &mut [Mark], outcome: Outcome) -> Vec<&mut Mark> {
    let marks = marks.iter_mut();
    marks.filter(|mark| mark.outcome == outcome).collect()
}

fn names<'a>(marks: impl Iterator<Item = &'a Mark>) -> Vec<RowName> {
    marks.map(|mark| mark.row.clone()).collect()
}

/// A statement is sent that may mark each of these.
fn begin_trial<'a>(marks: impl Iterator<Item = &'a mut Mark>) {
    for mark in marks {
        mark.marker = match mark.marker {
            Marker::Untried => Marker::Trying,
            Marker::Trying => Marker::Outboxd,
            known => known,
        };
    }
}

/// The statement has `changed` these, or none.
fn end_trial<'a>(marks: impl Iterator<Item = &'a mut Mark>, changed: Option<&HashSet<RowId>>) {
    let is_changed = |id: &RowId| changed.is_some_and(|changed| changed.contains(id));
    for mark in marks.filter(|mark| mark.marker == Marker::Trying) {
        mark.marker = match is_changed(&mark.row.id) {
            true => Marker::Outboxd,
            false => Marker::Untried,
        };
    }
}

/// Those that the first statement has not changed.
async fn mark_rest<T: MarkedTable>(table: &T, rest: &mut [&mut Mark]) -> Result<(), T::Error> {
    if rest.is_empty() {
        return Ok(());
    }
    let rows = names(rest.iter().map(|mark| &**mark));
    let mut xids: Vec<u32> = rest.iter().map(|mark| mark.xid).collect();
    xids.sort_unstable();
    xids.dedup();
    // Queried before the deciding mark: a transaction that was over by then has shown its rows to
    // that statement.
    let running = table.running(&xids).await?;
    begin_trial(rest.iter_mut().map(|mark| &mut **mark));
    let free = table.mark_free(&rows).await?;
    end_trial(rest.iter_mut().map(|mark| &mut **mark), Some(&free));
    let seen = table.look(&rows).await?;
    judge_each(rest, &free, &seen, &running);
    Ok(())
}

/// Those that were marked, or were to be, and are unpublished. A row that takes another mark has
/// lost the first one to another session. It is settled, and stays unpublished: the audit sends it.
async fn confirm_refusals<T: MarkedTable>(
    table: &T,
    refused: &mut [&mut Mark],
) -> Result<(), T::Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let rows = names(refused.iter().map(|mark| &**mark));
    let (free, seen) = table.try_mark(&rows).await?;
    // A row that was marked, or was to be, has been visible.
    judge_each(refused, &free, &seen, &HashSet::new());
    Ok(())
}

/// Sets the outcome of each, where these rows were `free`, were then `seen` unpublished or not, and
/// these transactions were `running`.
fn judge_each(
    marks: &mut [&mut Mark],
    free: &HashSet<RowId>,
    seen: &HashMap<RowId, bool>,
    running: &HashSet<u32>,
) {
    for mark in marks {
        let unpublished = seen.get(&mark.row.id).copied();
        let is_free = free.contains(&mark.row.id);
        if unpublished == Some(false) && mark.marker == Marker::Untried {
            mark.marker = Marker::Other;
        }
        mark.outcome = judge(unpublished, is_free, running.contains(&mark.xid));
    }
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
#[path = "../tests/marks.rs"]
mod tests;
