//! Which server a session talks to, and which history its log has.

use crate::error::Result;
use crate::postgres::session::Session;

/// One history of the log. Log positions and row ids of one lineage mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The cluster, as made by initdb.
    pub system_id: u64,
    /// The branch of its history; a promotion begins a new one. 0 where a standby cannot tell.
    pub timeline: u32,
}

/// Which server a session talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The history that its log belongs to.
    pub lineage: Lineage,
    /// When it was started, in seconds since 1970 as text. The same lineage and the same start: the
    /// same server.
    pub postmaster_start: String,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    /// Whether it is a standby, or not through with crash recovery.
    pub in_recovery: bool,
}

/// When the server process was started, as text that does not depend on a session's time zone. Two
/// connections that read the same here (and the same lineage) talk to the same server.
const POSTMASTER_START: &str = "extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// The statement that reads it, for a connection that takes text alone.
pub(crate) fn postmaster_start_sql() -> String {
    format!("SELECT {POSTMASTER_START}")
}

/// Asks the server who it is. Any role may.
///
/// The timeline is the one that the server writes now. `pg_control_checkpoint()` would go on
/// showing the old one after a promotion, until the next checkpoint.
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
        .row("asking the server who it is", &sql, &[])
        .await?;
    let wal_file: Option<String> = row.get(4);
    let timeline = wal_file
        .and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        .unwrap_or_default();
    Ok(Server {
        // The server's own type for it is unsigned; SQL has none, so the sign bit is part of the
        // number.
        lineage: Lineage {
            system_id: row.get::<_, i64>(3).cast_unsigned(),
            timeline,
        },
        postmaster_start: row.get(2),
        version: row.get::<_, i64>(1).try_into().unwrap_or_default(),
        in_recovery: row.get(0),
    })
}
