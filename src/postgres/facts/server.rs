//! Connection, limits, settings and clock of the server.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::PgLsn;

use crate::error::Result;
use crate::postgres::session::{Columns, Session};

/// How this session is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Protocol and cipher; `None` without TLS.
    pub(crate) tls: Option<String>,
    /// A Unix socket, a loopback address, or the server's own address.
    pub(crate) is_local: bool,
}

/// Reads how this session is connected.
pub(crate) async fn transport(session: &Session) -> Result<Transport> {
    const SQL: &str = "SELECT s.ssl, pg_catalog.concat_ws(' ', s.version, s.cipher),
                coalesce(pg_catalog.inet_client_addr() = pg_catalog.inet_server_addr()
                      OR pg_catalog.inet_client_addr() <<= '127.0.0.0/8'::inet
                      OR pg_catalog.inet_client_addr() = '::1'::inet, true)
           FROM pg_catalog.pg_stat_ssl AS s WHERE s.pid = pg_catalog.pg_backend_pid()";
    let row = session.row("reading the connection", SQL, &[]).await?;
    let tls: bool = row.column(0)?;
    Ok(Transport {
        tls: tls.then(|| row.column(1)).transpose()?,
        is_local: row.column(2)?,
    })
}

/// What the server has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) senders_used: i64,
    pub(crate) senders_max: i64,
    /// Connections of clients that ordinary roles may have.
    pub(crate) connections_used: i64,
    pub(crate) connections_max: i64,
}

/// Reads the server's limits.
pub(crate) async fn limits(session: &Session) -> Result<Limits> {
    const SQL: &str = "SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication),
                pg_catalog.current_setting('max_wal_senders')::int8,
                (SELECT pg_catalog.sum(numbackends)::int8 FROM pg_catalog.pg_stat_database),
                pg_catalog.current_setting('max_connections')::int8
                  - pg_catalog.current_setting('superuser_reserved_connections')::int8
                  - coalesce(pg_catalog.current_setting('reserved_connections', true)::int8, 0)";
    let row = session.row("reading the limits", SQL, &[]).await?;
    Ok(Limits {
        senders_used: row.column(0)?,
        senders_max: row.column(1)?,
        connections_used: row.column(2)?,
        connections_max: row.column(3)?,
    })
}

/// The limits of outboxd's role.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoleLimits {
    pub(crate) name: String,
    /// `None` without a limit.
    pub(crate) connections_max: Option<i64>,
    /// Seconds until the password expires; `None` if it does not.
    pub(crate) valid_seconds: Option<f64>,
}

/// Reads the limits of the session's role.
pub(crate) async fn role_limits(session: &Session) -> Result<RoleLimits> {
    const SQL: &str = "SELECT r.rolname::text,
                CASE WHEN r.rolconnlimit >= 0 AND NOT r.rolsuper THEN r.rolconnlimit END::int8,
                CASE WHEN pg_catalog.isfinite(r.rolvaliduntil)
                     THEN extract(epoch FROM r.rolvaliduntil - pg_catalog.clock_timestamp())
                END::float8
           FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user";
    let row = session.row("reading the role's limits", SQL, &[]).await?;
    Ok(RoleLimits {
        name: row.column(0)?,
        connections_max: row.column(1)?,
        valid_seconds: row.column(2)?,
    })
}

/// The values of these settings, each in its own unit. A setting that this version does not have is
/// absent.
pub(crate) async fn settings(session: &Session, names: &[&str]) -> Result<HashMap<String, String>> {
    const SQL: &str = "SELECT s.name, s.setting FROM pg_catalog.pg_settings AS s
                        WHERE s.name = ANY ($1)";
    let rows = session.rows("reading settings", SQL, &[&names]).await?;
    rows.iter()
        .map(|row| Ok((row.column(0)?, row.column(1)?)))
        .collect()
}

/// The physical standbys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standbys {
    /// Physical slots that a standby has, by name, and whether one reads from each.
    pub(crate) slots: Vec<(String, bool)>,
    /// Connected walsenders other than outboxd's that read no logical slot.
    pub(crate) connected: i64,
}

/// Reads which standbys there are.
pub(crate) async fn standbys(session: &Session) -> Result<Standbys> {
    const SLOTS: &str = "SELECT s.slot_name::text, s.active
                           FROM pg_catalog.pg_replication_slots AS s
                          WHERE s.slot_type = 'physical' ORDER BY 1 LIMIT 100";
    const CONNECTED: &str = "SELECT pg_catalog.count(*)
           FROM pg_catalog.pg_stat_replication AS r
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s
                             WHERE s.active_pid = r.pid AND s.slot_type = 'logical')";
    let slots = session.rows("reading the standbys", SLOTS, &[]).await?;
    let connected = session.row("reading the standbys", CONNECTED, &[]).await?;
    Ok(Standbys {
        slots: slots
            .iter()
            .map(|row| Ok((row.column(0)?, row.column(1)?)))
            .collect::<Result<_>>()?,
        connected: connected.column(0)?,
    })
}

/// The server's clock beside this machine's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ServerNow {
    /// Seconds that the server's clock is ahead.
    pub(crate) ahead: f64,
    /// How far the figure may be off: half of the time that the answer took.
    pub(crate) tolerance: f64,
}

/// Reads the server's clock.
pub(crate) async fn now(session: &Session) -> Result<ServerNow> {
    const SQL: &str = "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8";
    // The first answer also brings the statement's preparation.
    session.row("reading the clock", SQL, &[]).await?;
    let before = seconds_now();
    let row = session.row("reading the clock", SQL, &[]).await?;
    let after = seconds_now();
    Ok(ServerNow {
        ahead: row.column::<f64>(0)? - (before + after) / 2.0,
        tolerance: (after - before).abs() / 2.0,
    })
}

fn seconds_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A position of the WAL and when it was reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalMark {
    lsn: PgLsn,
    seconds: f64,
}

/// How fast the server writes WAL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WalRate {
    pub(crate) bytes: i64,
    pub(crate) seconds: f64,
}

impl WalRate {
    /// Bytes in a second.
    pub(crate) fn per_second(&self) -> f64 {
        match self.seconds > 0.0 {
            true => self.bytes as f64 / self.seconds,
            false => 0.0,
        }
    }
}

/// The WAL position now.
pub(crate) async fn wal_mark(session: &Session) -> Result<WalMark> {
    const SQL: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn(),
                              extract(epoch FROM pg_catalog.clock_timestamp())::float8";
    let row = session.row("reading the WAL position", SQL, &[]).await?;
    Ok(WalMark {
        lsn: row.column(0)?,
        seconds: row.column(1)?,
    })
}

/// How much WAL was written since `mark`.
pub(crate) async fn wal_rate(session: &Session, mark: WalMark) -> Result<WalRate> {
    const SQL: &str = "SELECT pg_catalog.pg_wal_lsn_diff(
                                  pg_catalog.pg_current_wal_insert_lsn(), $1)::int8,
                              extract(epoch FROM pg_catalog.clock_timestamp())::float8 - $2";
    let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&mark.lsn, &mark.seconds];
    let row = session.row("measuring the WAL rate", SQL, params).await?;
    Ok(WalRate {
        bytes: row.column(0)?,
        seconds: row.column(1)?,
    })
}
