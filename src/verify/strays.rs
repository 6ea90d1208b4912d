//! Judges the records without a row: a phantom, one of a row outside the window, or not to be said.
//!
//! A row that was committed is in the table, or was removed. So a record is a phantom only where
//! rows are not removed, and where it is no older than the oldest row that has arrived.

use crate::error::Result;
use crate::outbox::{RowWindow, WindowRows};
use crate::postgres::Session;
use crate::verify::compare::{Comparison, Oldest, all};
use crate::verify::report::Kind;
use crate::verify::store::entry::RecordEntry;

/// Ids in one statement.
const IDS: usize = 1_000;

/// What records without a row are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    pub(super) window: &'s RowWindow,
    /// Published rows are deleted.
    pub(super) is_deleted: bool,
    /// The topics have no records of other sources.
    pub(super) exclusive: bool,
}

/// Judges every record that no row of the window is for.
///
/// # Errors
/// Of the table, the server or the disk.
pub(super) async fn judge(
    comparison: &mut Comparison<'_>,
    session: &Session,
    window: &WindowRows,
    scope: &Scope<'_>,
) -> Result<()> {
    for bucket in 0..comparison.strays.buckets() {
        let strays: Vec<RecordEntry> = all(&comparison.strays, bucket)?;
        let mut asked = Vec::new();
        for stray in strays {
            if is_outside(&stray, scope.window) {
                comparison.report.outside += 1;
            } else {
                asked.push(stray);
            }
        }
        for part in asked.chunks(IDS) {
            let ids: Vec<&str> = part.iter().map(|stray| &*stray.name).collect();
            let mut known = window.known(session, &ids).await?;
            known.sort_unstable();
            for stray in part {
                let is_there = known.binary_search_by(|id| (**id).cmp(&stray.name)).is_ok();
                if is_there {
                    comparison.report.outside += 1;
                    continue;
                }
                let (kind, reason) = verdict(stray, comparison.oldest, scope);
                comparison.found(kind, stray, reason);
            }
        }
    }
    Ok(())
}

/// Whether the headers say that the record's row is outside the window.
fn is_outside(stray: &RecordEntry, window: &RowWindow) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = |bound: &Option<String>| bound.as_deref().and_then(number);
    let (id, created) = (number(&stray.name), stray.created_at);
    let is_less = |one: Option<i64>, other: Option<i64>| {
        one.zip(other).is_some_and(|(one, other)| one < other)
    };
    is_less(id, bound(&window.from_id))
        || is_less(bound(&window.to_id), id)
        || is_less(created, window.since)
        || window.until.is_some() && !is_less(created, window.until) && created.is_some()
}

/// What is said of a record whose id is not in the table.
fn verdict(stray: &RecordEntry, oldest: Oldest, scope: &Scope<'_>) -> (Kind, &'static str) {
    if scope.is_deleted {
        return (Kind::Unknown, "rows are deleted once they are published");
    }
    if !stray.is_ours && !scope.exclusive {
        return (Kind::Unknown, "it names no source, and no row has its id");
    }
    let id = stray.name.parse::<i64>().ok();
    let is_older = |one: Option<i64>, oldest: Option<i64>| {
        one.zip(oldest).is_some_and(|(one, oldest)| one < oldest)
    };
    let is_comparable = oldest.time.is_some() || oldest.number.is_some();
    let is_older = is_older(id, oldest.number) || is_older(stray.created_at, oldest.time);
    match is_older || !is_comparable {
        true => (Kind::Unknown, "it is older than every row that has arrived"),
        false => (Kind::Phantom, "no committed row has its id"),
    }
}
