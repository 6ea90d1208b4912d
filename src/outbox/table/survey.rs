//! What is unpublished when a process starts, for the decision whether it may be sent.

use std::fmt;

use crate::error::Result;
use crate::outbox::UnpublishedRows;
use crate::postgres::{Session, sql_error};

impl UnpublishedRows {
    /// How many rows are unpublished, the oldest of them, and whether any row was ever marked as
    /// published.
    pub(crate) async fn survey(&self, session: &Session) -> Result<Survey> {
        let what = format!("counting unpublished rows of {}", self.table);
        let row = session.row(&what, &self.survey, &[&(FEW + 1)]).await?;
        let read = || {
            Ok(Survey {
                unpublished: row.try_get(0)?,
                oldest: row.try_get(1)?,
                ever_marked: row.try_get(2)?,
            })
        };
        read().map_err(|error| sql_error(what, error))
    }
}

/// A table with more unpublished rows than this, and none ever marked as published, is sent only
/// with `--backlog publish`.
const FEW: i64 = 1_000;

/// The unpublished rows of a table.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Counted up to one more than [`FEW`].
    unpublished: i64,
    oldest: Option<String>,
    ever_marked: bool,
}

impl Survey {
    /// Whether the table has no unpublished row.
    pub(crate) fn is_empty(&self) -> bool {
        self.unpublished == 0
    }

    /// Whether the rows may be the whole history of a table that was never published from.
    pub(crate) fn is_many_and_never_marked(&self) -> bool {
        self.unpublished > FEW && !self.ever_marked
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unpublished {
            count if count > FEW => write!(f, "over {FEW} unpublished rows")?,
            count => write!(f, "{count} unpublished rows")?,
        }
        if let Some(oldest) = &self.oldest {
            write!(f, ", the oldest from {oldest}")?;
        }
        if self.is_many_and_never_marked() {
            f.write_str(" and no row marked as published")?;
        }
        Ok(())
    }
}
