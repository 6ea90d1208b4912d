//! Writes a batch back in parts, so that a row that the table refuses to change holds up no other.
//!
//! Decides what becomes of a batch, and runs no statement: the table is a [`PartTable`]. A part
//! that fails because of a row is halved down to it. A row that is refused alone, or in silence, is
//! filed as published and not marked, and is settled then. An error of table or server ends the
//! batch.

use crate::outbox::write_back::marks::{Mark, Outcome};
use crate::outbox::{Rejection, RowName};

/// Why the mark of a row is refused.
pub(crate) struct RefusedMark {
    pub(crate) rejection: Rejection,
    /// What the log may show of it: the text of a trigger may quote the row.
    pub(crate) logged: String,
}

impl RefusedMark {
    /// One whose message may be logged.
    pub(crate) fn shown(rejection: Rejection) -> Self {
        RefusedMark {
            logged: rejection.message.clone(),
            rejection,
        }
    }
}

/// A table that a batch is written back to.
pub(crate) trait PartTable {
    /// An error of the table or the server.
    type Error;

    /// Marks the rows of a part and sets the outcome of each. Returns the error that one of the
    /// rows has caused, if any: the outcomes are unknown then.
    async fn write_part(&self, part: &mut [Mark]) -> Result<Option<RefusedMark>, Self::Error>;

    /// The rejection of a row that is refused although no statement has failed.
    fn silent_refusal(&self) -> RefusedMark;

    /// Files that Kafka has the events of these rows, and that their marks are refused. `logged`
    /// says of the first what the log may show.
    async fn file(&self, refused: &[(RowName, Rejection)], logged: &str)
    -> Result<(), Self::Error>;
}

/// Writes the batch back and sets the outcome of every row. Returns whether any was filed.
///
/// # Errors
/// Of the table or the server: the outcome of the rows that are not settled is unknown.
pub(crate) async fn write<T: PartTable>(table: &T, marks: &mut [Mark]) -> Result<bool, T::Error> {
    let (mut refused, mut logged) = (Vec::new(), None);
    let mut refuse = |row, refusal: RefusedMark| {
        logged.get_or_insert(refusal.logged);
        refused.push((row, refusal.rejection));
    };
    {
        // The rest of the batch, the next part last.
        let mut parts = vec![&mut *marks];
        while let Some(part) = parts.pop() {
            let Some(refusal) = table.write_part(part).await? else {
                let silent = part.iter().filter(|it| it.outcome == Outcome::Refused);
                silent.for_each(|mark| refuse(mark.row.clone(), table.silent_refusal()));
                continue;
            };
            if let [mark] = part {
                mark.outcome = Outcome::Refused;
                refuse(mark.row.clone(), refusal);
            } else {
                let (left, right) = part.split_at_mut(part.len() / 2);
                parts.push(right);
                parts.push(left);
            }
        }
    }
    if refused.is_empty() {
        return Ok(false);
    }
    table.file(&refused, &logged.unwrap_or_default()).await?;
    let refused = marks.iter_mut();
    let refused = refused.filter(|mark| mark.outcome == Outcome::Refused);
    refused.for_each(|mark| mark.outcome = Outcome::Filed);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use super::*;
    use crate::outbox::Marker;

    /// Refuses the marks of the rows with these ids: with an error, or in silence.
    #[derive(Debug, Default)]
    struct Table {
        fails: Vec<i64>,
        silent: Vec<i64>,
        parts: RefCell<Vec<Vec<i64>>>,
        filed: RefCell<Vec<(i64, String)>>,
    }

    fn refusal(code: &str) -> RefusedMark {
        RefusedMark::shown(Rejection {
            code: code.to_owned(),
            message: String::new(),
        })
    }

    impl PartTable for Table {
        type Error = Infallible;

        async fn write_part(&self, part: &mut [Mark]) -> Result<Option<RefusedMark>, Infallible> {
            let ids = part.iter().filter_map(|mark| mark.row.id.number());
            let ids: Vec<i64> = ids.collect();
            self.parts.borrow_mut().push(ids.clone());
            if ids.iter().any(|id| self.fails.contains(id)) {
                return Ok(Some(refusal("23514")));
            }
            for mark in part {
                mark.outcome = match mark
                    .row
                    .id
                    .number()
                    .is_some_and(|id| self.silent.contains(&id))
                {
                    true => Outcome::Refused,
                    false => Outcome::Settled,
                };
            }
            Ok(None)
        }

        fn silent_refusal(&self) -> RefusedMark {
            refusal("SILENT")
        }

        async fn file(&self, refused: &[(RowName, Rejection)], _: &str) -> Result<(), Infallible> {
            let rows = refused.iter();
            let rows = rows.filter_map(|(row, why)| Some((row.id.number()?, why.code.clone())));
            self.filed.borrow_mut().extend(rows);
            Ok(())
        }
    }

    fn marks(ids: std::ops::Range<i64>) -> Vec<Mark> {
        let mark = |id| Mark {
            ticket: 0,
            row: RowName::of_id(id),
            xid: 1,
            marker: Marker::Outboxd,
            outcome: Outcome::Open,
        };
        ids.map(mark).collect()
    }

    #[tokio::test]
    async fn a_refused_row_alone_is_filed_and_the_others_are_marked() {
        let table = Table {
            fails: vec![2],
            silent: vec![3],
            ..Table::default()
        };
        let mut batch = marks(0..6);
        assert_eq!(write(&table, &mut batch).await, Ok(true));
        let filed = batch.iter().filter(|it| it.outcome == Outcome::Filed);
        assert_eq!(
            filed.map(|it| it.row.id.clone()).collect::<Vec<_>>(),
            [2, 3]
        );
        let settled = batch.iter().filter(|it| it.outcome == Outcome::Settled);
        assert_eq!(settled.count(), 4);
        let filed = table.filed.into_inner();
        assert_eq!(filed, [(2, "23514".to_owned()), (3, "SILENT".to_owned())]);
        let parts = table.parts.into_inner();
        let halved = [vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2], vec![0]];
        assert_eq!(parts[..3], halved, "halved, in order");
        assert_eq!(parts[3..], [vec![1, 2], vec![1], vec![2], vec![3, 4, 5]]);
    }

    #[tokio::test]
    async fn a_batch_that_nothing_refuses_is_one_part() {
        let table = Table::default();
        assert_eq!(write(&table, &mut marks(0..5)).await, Ok(false));
        assert_eq!(table.parts.into_inner().len(), 1);
        assert!(table.filed.into_inner().is_empty());
    }
}
