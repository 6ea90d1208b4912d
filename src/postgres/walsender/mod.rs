//! What a walsender does, as another session sees it in `pg_stat_activity`.
//!
//! See <https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE>.

pub(crate) mod synchronous_standby;

use crate::error::Result;
use crate::postgres::session::{Columns, Session};

/// The name of the session that streams, in `pg_stat_activity` and for
/// `synchronous_standby_names`.
pub(crate) const APPLICATION_NAME: &str = "outboxd";

const WAIT_EVENT: &str = "SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE pid = $1";

/// The wait of a walsender that may not send changes which a standby lacks, from Postgres 17 on.
const WAITS_FOR_STANDBY: &str = "WaitForStandbyConfirmation";

/// The waits of a walsender that has sent everything, or whose client does not read.
const IDLE: [&str; 3] = ["WalSenderWaitForWAL", "WalSenderMain", "WalSenderWriteData"];

/// The wait for the client's next command.
const WAITS_FOR_COMMAND: &str = "ClientRead";

/// What a walsender does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WalsenderActivity {
    /// It waits for a standby of `synchronized_standby_slots`.
    WaitsForStandby,
    /// It waits for WAL or for its client.
    Idle,
    /// It works, or waits for something inside the server.
    Busy,
}

/// What the walsender with this process id does; `None` when there is no such process.
pub(crate) async fn activity(session: &Session, pid: i32) -> Result<Option<WalsenderActivity>> {
    let row = session
        .for_slots()
        .row_if_any("reading the walsender's wait event", WAIT_EVENT, &[&pid])
        .await?;
    row.map(|row| Ok(of_wait_event(row.column(0)?))).transpose()
}

/// Whether the walsender with this process id still works on a command. When it waits for the next
/// one or has exited, the answer to the last is on its way or lost.
pub(crate) async fn runs_a_command(session: &Session, pid: i32) -> Result<bool> {
    let row = session
        .for_slots()
        .row_if_any("reading the walsender's wait event", WAIT_EVENT, &[&pid])
        .await?;
    let event = row.map(|row| row.column::<Option<String>>(0)).transpose()?;
    Ok(event.is_some_and(|event| event.as_deref() != Some(WAITS_FOR_COMMAND)))
}

fn of_wait_event(event: Option<&str>) -> WalsenderActivity {
    match event {
        Some(WAITS_FOR_STANDBY) => WalsenderActivity::WaitsForStandby,
        Some(event) if IDLE.contains(&event) => WalsenderActivity::Idle,
        _ => WalsenderActivity::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walsender_without_a_wait_or_with_an_unknown_one_is_busy() {
        assert_eq!(of_wait_event(None), WalsenderActivity::Busy);
        assert_eq!(of_wait_event(Some("DataFileRead")), WalsenderActivity::Busy);
        let waits = of_wait_event(Some("WaitForStandbyConfirmation"));
        assert_eq!(waits, WalsenderActivity::WaitsForStandby);
        for event in IDLE {
            assert_eq!(of_wait_event(Some(event)), WalsenderActivity::Idle);
        }
    }
}
