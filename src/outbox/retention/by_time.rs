//! A table that is partitioned by ranges of one timestamp, as the catalogs show it.

use std::time::Duration;

use tokio_postgres::Row;

use crate::error::Result;
use crate::outbox::retention::bounds::Partition;
use crate::outbox::retention::changes::{TABLE, partitions};
use crate::outbox::row_filter;
use crate::postgres::table_shape::row_mark::now_of;
use crate::postgres::table_shape::{TIMESTAMP, TIMESTAMPTZ};
use crate::postgres::{Session, TableShape, sql_error};

/// A table that is partitioned by time.
#[derive(Debug)]
pub(super) struct ByTime {
    pub(super) column: String,
    pub(super) column_type: String,
    pub(super) owner: String,
    pub(super) may_change: bool,
    pub(super) partitions: Vec<Partition>,
    pub(super) now: i64,
}

impl ByTime {
    /// `None` if the table is not partitioned by ranges of one timestamp.
    pub(super) async fn read(session: &Session, shape: &TableShape) -> Result<Option<ByTime>> {
        if !shape.partitioned {
            return Ok(None);
        }
        let what = format!("reading the partitions of {}", shape.name);
        let Some(row) = session.row_if_any(&what, TABLE, &[&shape.oid]).await? else {
            return Ok(None);
        };
        let read = |error| sql_error(&what, error);
        let column_type: String = row.try_get(1).map_err(read)?;
        if ![TIMESTAMP, TIMESTAMPTZ].contains(&column_type.as_str()) {
            return Ok(None);
        }
        let column: String = row.try_get(0).map_err(read)?;
        let found = shape.column(&column);
        let now = found.map_or_else(|| "CURRENT_TIMESTAMP".to_owned(), |it| now_of(shape, it));
        let now = format!("SELECT extract(epoch FROM {now})::float8");
        let now: f64 = session
            .row(&what, &now, &[])
            .await?
            .try_get(0)
            .map_err(read)?;
        let list = partitions(&column_type);
        let rows = session.rows(&what, &list, &[&shape.oid]).await?;
        let partitions: Result<_, _> = rows.iter().map(partition).collect();
        Ok(Some(ByTime {
            column,
            owner: row.try_get(2).map_err(read)?,
            may_change: row.try_get(3).map_err(read)?,
            partitions: partitions.map_err(read)?,
            now: now as i64,
            column_type,
        }))
    }
}

impl ByTime {
    /// Whether partitions are taken away: this role may, and every row is an event.
    pub(super) fn may_take(&self, shape: &TableShape) -> bool {
        self.may_change && row_filter::condition(shape, "t").is_none()
    }
}

fn partition(row: &Row) -> Result<Partition, tokio_postgres::Error> {
    let finite = |at| {
        let seconds: Option<f64> = row.try_get(at)?;
        Ok(seconds.filter(|it| it.is_finite()).map(|it| it as i64))
    };
    Ok(Partition {
        name: row.try_get(0)?,
        is_default: row.try_get::<_, Option<bool>>(1)?.unwrap_or(false),
        from: finite(2)?,
        to: finite(3)?,
        leaves: row.try_get(4)?,
    })
}

/// The leaves that are taken away as a whole, with their partition.
#[derive(Debug, Default)]
pub(super) struct WholeLeaves {
    /// Their partition goes on, or has ended too short a while ago.
    pub(super) young: Vec<u32>,
    /// It may be taken away.
    pub(super) ended: Vec<u32>,
}

impl WholeLeaves {
    /// Those of the table of this shape; none if its partitions are not outboxd's to take away.
    pub(super) async fn read(
        session: &Session,
        shape: &TableShape,
        retain: Duration,
    ) -> Result<WholeLeaves> {
        let mut whole = WholeLeaves::default();
        let table = ByTime::read(session, shape).await?;
        let Some(table) = table.filter(|it| it.may_take(shape)) else {
            return Ok(whole);
        };
        let cutoff = table.now - retain.as_secs() as i64;
        for partition in &table.partitions {
            match partition.to {
                _ if partition.is_default => {}
                Some(to) if to <= cutoff => whole.ended.extend(&partition.leaves),
                _ => whole.young.extend(&partition.leaves),
            }
        }
        Ok(whole)
    }

    /// Whether the rows of a leaf are not deleted one by one. They are, once its partition could
    /// have been taken away since an earlier pass, in which these had `ended_before`.
    pub(super) fn leaves_out(&self, leaf: u32, ended_before: &[u32]) -> bool {
        let is_stuck = ended_before.contains(&leaf);
        self.young.contains(&leaf) || self.ended.contains(&leaf) && !is_stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_partition_are_deleted_one_by_one_only_once_it_was_not_taken_away() {
        let whole = WholeLeaves {
            young: vec![1],
            ended: vec![2, 3],
        };
        let left_out = |ended_before: &[u32]| {
            let leaves = (1..=4).filter(|leaf| whole.leaves_out(*leaf, ended_before));
            leaves.collect::<Vec<_>>()
        };
        assert_eq!(left_out(&[]), [1, 2, 3]);
        assert_eq!(left_out(&[3]), [1, 2]);
    }
}
