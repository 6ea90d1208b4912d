//! The rows that were unpublished behind a fence, and how many of them still are.

use crate::config::Config;
use crate::cutover::proof::RowsLeft;
use crate::error::Result;
use crate::outbox::{MissedRows, RowId, RowName, UnpublishedRows};
use crate::postgres::{Session, TableShape};

/// How many rows behind the first batch are watched: enough to see that a batch is larger.
const BEHIND: usize = 100;

/// See the module's head.
#[derive(Debug)]
pub struct FencedRows {
    statements: MissedRows,
    /// In the order in which the table is read.
    rows: Vec<RowName>,
    batch: usize,
}

impl FencedRows {
    /// The unpublished rows of the table now, in batches of this size.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn read(
        session: &Session,
        config: &Config,
        shape: &TableShape,
        batch: usize,
    ) -> Result<Self> {
        let statements = MissedRows::new(&UnpublishedRows::new(config, shape)?);
        let (rows, _) = statements.list(session, batch + BEHIND).await?;
        Ok(FencedRows {
            statements,
            rows,
            batch,
        })
    }

    /// All of them.
    pub fn count(&self) -> RowsLeft {
        let first = self.rows.len().min(self.batch);
        let behind = self.rows.len() - first;
        RowsLeft { first, behind }
    }

    /// Those that are unpublished now.
    ///
    /// # Errors
    /// Of the table or the server.
    pub async fn left(&self, session: &Session) -> Result<RowsLeft> {
        let mut ids: Vec<RowId> = self.rows.iter().map(|row| row.id.clone()).collect();
        ids.sort_unstable();
        let left = self.statements.left(session, &ids).await?;
        let (mut first, mut behind) = (0, 0);
        for name in left.names() {
            match self.rows.iter().position(|row| row == name) {
                Some(at) if at < self.batch => first += 1,
                Some(_) => behind += 1,
                None => {}
            }
        }
        Ok(RowsLeft { first, behind })
    }
}
