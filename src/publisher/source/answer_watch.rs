//! Watches over SQL for the answer to CREATE_REPLICATION_SLOT, which has no time limit.

use crate::error::{Code, Error, Result};
use crate::postgres::{Session, walsender};

/// So many inspections in a row, a second apart, have to find that the walsender has done its
/// command before the answer counts as lost.
const LOST_AFTER: u32 = 3;

/// See the module's head.
pub(super) struct AnswerWatch {
    walsender: i32,
    /// Inspections in a row that found the command done.
    done: u32,
}

impl AnswerWatch {
    pub(super) fn new(walsender: i32) -> Self {
        AnswerWatch { walsender, done: 0 }
    }

    pub(super) async fn look(&mut self, session: &Session) -> Result<()> {
        let runs = walsender::runs_a_command(session, self.walsender).await?;
        self.done = if runs { 0 } else { self.done + 1 };
        if self.done < LOST_AFTER {
            return Ok(());
        }
        let message = "the answer to CREATE_REPLICATION_SLOT was lost: the walsender has done it";
        Err(Error::transient(Code::Connect, message))
    }
}
