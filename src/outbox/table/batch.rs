//! A batch of unpublished rows while it is being read, part by part, past a row that the server
//! cannot print.
//!
//! A batch begins as a list of ids, which no payload can spoil; the rows are then read by their
//! ids, in parts of limited size. If a statement fails because of a row (its payload prints as more
//! than the server can hold), it is repeated with half of its ids, until the row is alone: that row
//! is returned as [`Read::Unreadable`], and all others are read. This is exact for any plan, since
//! the server prints no row whose id was not named. A row that takes the server longer than the
//! operation time-out, or lies in a file that it cannot read, is unreadable too; [`SlowRows`]
//! distinguishes it from a server that is slow or has no disk.
//!
//! No statement, and so no snapshot, is open on the server between two parts, while the publisher
//! waits for Kafka.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::outbox::table::row::{FoundRow, TableRow};
use crate::outbox::table::slow_rows::{SlowRows, may_be_of_a_slow_row};
use crate::outbox::table::{BATCH, UnpublishedRows};
use crate::outbox::{Rejection, RowId, RowName};
use crate::postgres::{ServerError, Session, sql_error};
use futures_util::{TryStreamExt, pin_mut};

/// The bytes of a part as stored, where payloads are compressed. At least one row is always read.
const STORED_BYTES: i64 = 1 << 20;
/// The bytes of a part as received, plus at most one row.
const READ_BYTES: usize = 4 << 20;

/// A session that imported a snapshot rolls back to this after a statement has failed: the
/// transaction, and so the snapshot, stays.
pub(crate) const SAVEPOINT: &str = "SAVEPOINT outboxd_reads";
const ROLLBACK: &str = "ROLLBACK TO SAVEPOINT outboxd_reads";

/// A row of the table, or the id of one that cannot be read.
#[derive(Debug)]
pub(crate) enum Read {
    Row(TableRow),
    Unreadable {
        row: RowName,
        /// The transaction that inserted the row, or changed it last.
        xid: u32,
        rejection: Rejection,
    },
}

impl Read {
    /// The row's name.
    pub(crate) fn name(&self) -> &RowName {
        match self {
            Read::Row(row) => row.name(),
            Read::Unreadable { row, .. } => row,
        }
    }

    /// The row's id.
    pub(crate) fn id(&self) -> &RowId {
        &self.name().id
    }

    /// The transaction that inserted the row, or changed it last.
    pub(crate) fn xid(&self) -> u32 {
        match self {
            Read::Row(row) => row.xid(),
            Read::Unreadable { xid, .. } => *xid,
        }
    }
}

/// A row that a read of the table has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadPosition {
    /// Its id.
    pub(crate) id: RowId,
    /// The text of the column that orders the reads.
    pub(crate) order: Option<Box<str>>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Batch {
    unread: VecDeque<FoundRow>,
    is_full: bool,
    last: Option<ReadPosition>,
    in_snapshot: bool,
    /// The most rows of a part: fewer after a part that was larger than expected, or a row that
    /// cannot be read.
    part_rows: usize,
}

impl UnpublishedRows {
    /// The next unpublished rows behind a position, at most `limit` of them.
    pub(crate) async fn batch(
        &self,
        session: &Session,
        behind: Option<&ReadPosition>,
        limit: usize,
    ) -> Result<Batch> {
        let found = self.list(session, behind, limit).await?;
        let is_full = found.len() == limit;
        Ok(Batch::new(found, is_full, false))
    }

    /// The same in a session that has imported a snapshot and then set
    /// [`SAVEPOINT`](crate::outbox::SAVEPOINT).
    pub(crate) async fn batch_of_snapshot(
        &self,
        session: &Session,
        behind: Option<&ReadPosition>,
    ) -> Result<Batch> {
        let found = self.list(session, behind, BATCH).await?;
        let is_full = found.len() == BATCH;
        Ok(Batch::new(found, is_full, true))
    }
}

impl Batch {
    pub(super) fn new(found: Vec<FoundRow>, is_full: bool, in_snapshot: bool) -> Self {
        let last = found.last().map(|row| ReadPosition {
            id: row.name.id.clone(),
            order: row.order.clone(),
        });
        let part_rows = found.len();
        Batch {
            unread: found.into(),
            is_full,
            last,
            in_snapshot,
            part_rows,
        }
    }

    /// The row that the next batch follows; `None` if none can follow, since the batch has fewer
    /// rows than the limit.
    pub(crate) fn next(&self) -> Option<ReadPosition> {
        self.last.clone().filter(|_| self.is_full)
    }

    /// The rows that are not read yet.
    pub(crate) fn names(&self) -> impl Iterator<Item = &RowName> {
        self.unread.iter().map(|row| &row.name)
    }

    /// Drops the rows that are not read yet and not wanted.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&RowName) -> bool) {
        self.unread.retain(|row| wanted(&row.name));
    }

    /// The next rows, in order; none at the end of the batch. Rows that were published meanwhile
    /// are left out. `slow` has the results of reads in earlier sessions.
    ///
    /// # Errors
    /// Of the table or the server. An error of a single row is returned as [`Read::Unreadable`].
    pub(crate) async fn read(
        &mut self,
        rows: &UnpublishedRows,
        session: &Session,
        slow: &mut SlowRows,
    ) -> Result<Vec<Read>> {
        while let Some(first) = self.unread.front() {
            if slow.gives_up(&first.name.id) {
                let FoundRow { name: row, xid, .. } = first.clone();
                self.unread.pop_front();
                let rejection = rows.too_slow(&row.id);
                return Ok(vec![Read::Unreadable {
                    row,
                    xid,
                    rejection,
                }]);
            }
            let part = self.next_part(slow);
            let (read, ended) = read_part(rows, session, &part).await;
            let error = match ended {
                Ok(complete) => {
                    let last = read.last().map(Read::id);
                    match last.filter(|_| !complete) {
                        // The part was cut short because of its size: the rest is read in smaller
                        // parts.
                        Some(last) => {
                            self.part_rows = read.len();
                            drop_up_to(&mut self.unread, last);
                        }
                        None => {
                            self.part_rows = (self.part_rows * 2).max(1);
                            self.unread.drain(..part.len());
                        }
                    }
                    if read.is_empty() {
                        continue;
                    }
                    return Ok(read);
                }
                Err(error) => error,
            };
            let server = ServerError::of(&error).filter(|server| server.is_unprintable_row());
            let Some(server) = server else {
                return Err(note_if_slow(slow, &part, &read, error));
            };
            if self.in_snapshot {
                session.run("going on in the snapshot", ROLLBACK).await?;
            }
            // The rows before the failure are good; one of the others caused it.
            if let Some(last) = read.last().map(Read::id) {
                self.part_rows = (part.len() - read.len()).max(1);
                drop_up_to(&mut self.unread, last);
                return Ok(read);
            }
            if let [FoundRow { name: row, xid, .. }] = &part[..] {
                self.unread.pop_front();
                self.part_rows = 1;
                let rejection = rows.unreadable(&row.id, server);
                return Ok(vec![Read::Unreadable {
                    row: row.clone(),
                    xid: *xid,
                    rejection,
                }]);
            }
            self.part_rows = (part.len() / 2).max(1);
        }
        Ok(Vec::new())
    }

    fn next_part(&self, slow: &SlowRows) -> Vec<FoundRow> {
        let mut stored_bytes = 0;
        let fits = |row: &&FoundRow| {
            let first = stored_bytes == 0;
            stored_bytes += row.stored_bytes.max(1);
            first || (stored_bytes <= STORED_BYTES && !slow.begins_with(&row.name.id))
        };
        let most = self.unread.front();
        let most = most.map_or(0, |row| slow.most(&row.name.id));
        let part = self.unread.iter().take(self.part_rows.min(most));
        let part = part.take_while(fits);
        part.cloned().collect()
    }
}

/// Drops the rows up to the last one with this id: in a partitioned table, two partitions may have
/// the same.
fn drop_up_to(unread: &mut VecDeque<FoundRow>, last: &RowId) {
    if let Some(at) = unread.iter().rposition(|row| row.name.id == *last) {
        unread.drain(..=at);
    }
}

/// Notes the first row of the part that was not received, if the error may be that row's.
fn note_if_slow(slow: &mut SlowRows, part: &[FoundRow], read: &[Read], error: Error) -> Error {
    if !may_be_of_a_slow_row(&error) {
        return error;
    }
    let mut missing: VecDeque<FoundRow> = part.iter().cloned().collect();
    if let Some(last) = read.last() {
        drop_up_to(&mut missing, last.id());
    }
    if let Some(first) = missing.front() {
        slow.note(first.name.id.clone(), missing.len());
    }
    error.into_transient()
}

/// The rows that were received, and whether they are all of the part, or the error that ended it.
async fn read_part(
    rows: &UnpublishedRows,
    session: &Session,
    part: &[FoundRow],
) -> (Vec<Read>, Result<bool>) {
    let mut read = Vec::new();
    let ids: Vec<RowId> = part.iter().map(|row| row.name.id.clone()).collect();
    let what = rows.reading();
    let stream = match session.bounded(what, rows.stream(session, &ids)).await {
        Ok(stream) => stream,
        Err(error) => return (read, Err(error)),
    };
    pin_mut!(stream);
    let mut bytes = 0;
    while bytes < READ_BYTES {
        match session.bounded(what, stream.try_next()).await {
            Ok(Some(row)) => {
                bytes += row.raw_size_bytes();
                match TableRow::new(row) {
                    Ok(row) => read.push(Read::Row(row)),
                    Err(error) => return (read, Err(sql_error(what, error))),
                }
            }
            Ok(None) => return (read, Ok(true)),
            Err(error) => return (read, Err(error)),
        }
    }
    // The connection discards the rest of the part.
    (read, Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sizes: &[i64]) -> Vec<FoundRow> {
        let rows = sizes.iter().zip(1..).map(|(bytes, id)| FoundRow {
            name: RowName::of_id(id),
            order: None,
            xid: 7,
            stored_bytes: *bytes,
        });
        rows.collect()
    }

    fn part_of(batch: &Batch) -> Vec<i64> {
        ids(batch, &SlowRows::default())
    }

    fn ids(batch: &Batch, slow: &SlowRows) -> Vec<i64> {
        let part = batch.next_part(slow);
        let ids = part.iter().filter_map(|row| row.name.id.number());
        ids.collect()
    }

    #[test]
    fn the_next_batch_begins_behind_the_last_row_of_one_that_is_full() {
        let of = |id, is_full| {
            let row = FoundRow {
                name: RowName::of_id(id),
                order: None,
                xid: 7,
                stored_bytes: 0,
            };
            let next = Batch::new(vec![row], is_full, false).next();
            next.map(|it| it.id)
        };
        assert_eq!(of(i64::MIN, true), Some(RowId::Number(i64::MIN)));
        assert_eq!(of(5, false), None);
        assert_eq!(Batch::new(Vec::new(), false, false).next(), None);
    }

    #[test]
    fn a_part_holds_as_many_rows_as_are_small_and_one_that_is_not() {
        let mib = STORED_BYTES;
        let batch = Batch::new(found(&[mib / 2, mib / 2, 1, 0]), true, false);
        assert_eq!(part_of(&batch), [1, 2]);
        let batch = Batch::new(found(&[mib * 10, 1]), true, false);
        assert_eq!(part_of(&batch), [1]);
        let batch = Batch::new(found(&[0; 2_000]), true, false);
        assert_eq!(part_of(&batch).len(), 2_000);
    }

    #[test]
    fn a_part_ends_before_the_row_that_the_last_read_did_not_receive() {
        let batch = Batch::new(found(&[1; 8]), true, false);
        let mut slow = SlowRows::default();
        slow.note(RowId::Number(4), 5);
        assert_eq!(ids(&batch, &slow), [1, 2, 3]);
        let behind = Batch::new(found(&[1; 8]).split_off(3), true, false);
        assert_eq!(ids(&behind, &slow), [4, 5]);
    }
}
