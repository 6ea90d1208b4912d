//! The server of a session: its identity, its version and the history of its WAL.

use crate::error::Result;
use crate::postgres::session::{Columns, Session};

/// One history of the WAL. LSNs and row ids of one lineage mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The system identifier that initdb gave the cluster.
    pub system_id: u64,
    /// The timeline; a promotion begins a new one. 0 where a standby does not know it.
    pub timeline: u32,
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

/// When the postmaster was started, as text that does not depend on the session's time zone.
const POSTMASTER_START: &str = "extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// The statement that reads the postmaster's start, for the replication connection.
pub(crate) fn postmaster_start_sql() -> String {
    format!("SELECT {POSTMASTER_START}")
}

/// Reads the identity of the session's server. Any role may.
///
/// The timeline is the one that the server writes now. After a promotion,
/// `pg_control_checkpoint()` shows the old one until the next checkpoint.
pub async fn server(session: &Session) -> Result<Server> {
    let sql = format!(
        "SELECT pg_catalog.pg_is_in_recovery(),
                pg_catalog.current_setting('server_version_num')::int8,
                {POSTMASTER_START},
                (SELECT system_identifier FROM pg_catalog.pg_control_system()),
                CASE WHEN pg_catalog.pg_is_in_recovery()
                     THEN (SELECT pg_catalog.lpad(
                                      pg_catalog.to_hex(min_recovery_end_timeline), 8, '0')
                             FROM pg_catalog.pg_control_recovery())
                     ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())
                END"
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
            system_id: row.column::<i64>(3)?.cast_unsigned(),
            timeline,
        },
        postmaster_start: row.column(2)?,
        version: row.column::<i64>(1)?.try_into().unwrap_or_default(),
        in_recovery: row.column(0)?,
    })
}
