//! The server of a session: its identity, its version and the history of its WAL.
//!
//! Some providers take the functions that show the history away, or let them fail while logical
//! decoding is off. What cannot be read is unknown here, and proves neither sameness nor
//! difference. The start of the postmaster can always be read, and tells two servers apart.

use crate::error::Result;
use crate::postgres::session::{Columns, Session};
use crate::postgres::sqlstate::ServerError;

/// One history of the WAL. LSNs and row ids of one lineage mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The system identifier that initdb gave the cluster. 0 where the role may not read it.
    pub system_id: u64,
    /// The timeline; a promotion begins a new one. 0 where it is unknown: on some standbys, while
    /// `wal_level` is not `logical`, and where the role may not read it.
    pub timeline: u32,
}

impl Lineage {
    /// Whether both may be the same: what is known of both is equal.
    pub(crate) fn agrees_with(self, other: Lineage) -> bool {
        let agree = |one: u64, other: u64| one == other || one == 0 || other == 0;
        agree(self.system_id, other.system_id) && agree(self.timeline.into(), other.timeline.into())
    }
}

/// The server of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The history of its WAL.
    pub lineage: Lineage,
    /// When the postmaster was started, in seconds since 1970 as text. Two sessions with the same
    /// lineage and the same start are on the same server.
    pub postmaster_start: String,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    /// Whether it is a standby, or still in crash recovery.
    pub in_recovery: bool,
}

impl Server {
    /// Whether both are one server that was not restarted in between. A promotion does not restart
    /// a standby, but outboxd uses none.
    pub fn is_same(&self, other: &Server) -> bool {
        self.postmaster_start == other.postmaster_start && self.lineage.agrees_with(other.lineage)
    }
}

/// When the postmaster was started, as text that does not depend on the session's time zone.
const POSTMASTER_START: &str = "extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// The statement that reads the postmaster's start and the server process, for the replication
/// connection.
pub(crate) fn process_sql() -> String {
    format!("SELECT {POSTMASTER_START}, pg_catalog.pg_backend_pid()")
}

const SYSTEM_ID: &str = "(SELECT system_identifier FROM pg_catalog.pg_control_system())";

/// The name of the WAL file that is written now, which begins with the timeline. After a promotion,
/// `pg_control_checkpoint()` shows the old timeline until the next checkpoint.
///
/// Without logical decoding only polling is possible, which needs no timeline: nothing is asked of
/// the WAL then, since Amazon Aurora refuses it.
const WAL_FILE: &str = "
    CASE WHEN pg_catalog.pg_is_in_recovery()
         THEN (SELECT pg_catalog.lpad(pg_catalog.to_hex(min_recovery_end_timeline), 8, '0')
                 FROM pg_catalog.pg_control_recovery())
         WHEN pg_catalog.current_setting('wal_level') = 'logical'
         THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())
    END";

/// Reads the identity of the session's server. Any role may; what it may not read of the lineage is
/// unknown.
///
/// # Errors
/// Those of the session.
pub async fn server(session: &Session) -> Result<Server> {
    match read(session, SYSTEM_ID, WAL_FILE).await {
        Err(error) if ServerError::of(&error).is_some() => {}
        read => return read,
    }
    let mut parts = [SYSTEM_ID, WAL_FILE];
    for part in &mut parts {
        let sql = format!("SELECT {part}");
        if let Err(error) = session.row("reading the server's history", &sql, &[]).await {
            if ServerError::of(&error).is_none() {
                return Err(error);
            }
            tracing::debug!(error = error.report(), "a part of the history is not shown");
            *part = "NULL";
        }
    }
    read(session, parts[0], parts[1]).await
}

async fn read(session: &Session, system_id: &str, wal_file: &str) -> Result<Server> {
    let sql = format!(
        "SELECT pg_catalog.pg_is_in_recovery(),
                pg_catalog.current_setting('server_version_num')::int8,
                {POSTMASTER_START}, {system_id}::int8, {wal_file}::text"
    );
    let row = session
        .row("reading the server's identity", &sql, &[])
        .await?;
    let wal_file: Option<String> = row.column(4)?;
    let timeline = wal_file
        .and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        .unwrap_or_default();
    Ok(Server {
        // The server's type is unsigned. SQL has only signed ones, so the sign bit is part of it.
        lineage: Lineage {
            system_id: row
                .column::<Option<i64>>(3)?
                .unwrap_or_default()
                .cast_unsigned(),
            timeline,
        },
        postmaster_start: row.column(2)?,
        version: row.column::<i64>(1)?.try_into().unwrap_or_default(),
        in_recovery: row.column(0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_history_tells_no_two_apart() {
        let lineage = |system_id, timeline| Lineage {
            system_id,
            timeline,
        };
        for (other, agrees) in [
            (lineage(7, 2), true),
            (lineage(7, 0), true),
            (lineage(0, 2), true),
            (lineage(0, 0), true),
            (lineage(8, 2), false),
            (lineage(7, 3), false),
            (lineage(0, 3), false),
            (lineage(8, 0), false),
        ] {
            assert_eq!(lineage(7, 2).agrees_with(other), agrees, "{other:?}");
            assert_eq!(other.agrees_with(lineage(7, 2)), agrees, "{other:?}");
        }
    }

    #[test]
    fn two_servers_differ_by_their_start_even_if_nothing_else_is_known() {
        let server = |system_id, start: &str| Server {
            lineage: Lineage {
                system_id,
                timeline: 0,
            },
            postmaster_start: start.to_owned(),
            version: 170_000,
            in_recovery: false,
        };
        assert!(server(0, "1.5").is_same(&server(7, "1.5")));
        assert!(!server(0, "1.5").is_same(&server(0, "1.6")));
        assert!(!server(7, "1.5").is_same(&server(8, "1.5")));
    }
}
