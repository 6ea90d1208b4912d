//! Open and prepared transactions of the whole server.

use crate::error::Result;
use crate::postgres::session::{Columns, Session};

/// How many of a kind are named at most.
const NAMED_MAX: i64 = 5;

/// A transaction that has been open for some time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenTransaction {
    pub(crate) pid: i32,
    pub(crate) database: String,
    pub(crate) seconds: f64,
    /// Whether it has written something, so that the creation of a slot waits for it.
    pub(crate) has_written: bool,
}

/// A prepared transaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PreparedTransaction {
    pub(crate) gid: String,
    pub(crate) database: String,
    pub(crate) seconds: f64,
}

/// The transactions of the server, the oldest of each kind first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Activity {
    pub(crate) open: Vec<OpenTransaction>,
    pub(crate) prepared: Vec<PreparedTransaction>,
    /// Transactions that have written something, and whose age the role does not see.
    pub(crate) hidden: i64,
}

/// Reads the transactions that have been open for longer than `seconds`, and all prepared ones.
pub(crate) async fn activity(session: &Session, seconds: f64) -> Result<Activity> {
    const OPEN: &str = "SELECT a.pid, coalesce(a.datname::text, ''),
                extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8,
                a.backend_xid IS NOT NULL
           FROM pg_catalog.pg_stat_activity AS a
          WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
            AND extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) > $1::float8
          ORDER BY a.xact_start LIMIT $2";
    const PREPARED: &str = "SELECT p.gid, p.database::text,
                extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8
           FROM pg_catalog.pg_prepared_xacts AS p ORDER BY p.prepared LIMIT $1";
    // Any role sees the lock on a transaction's own id.
    const HIDDEN: &str = "SELECT pg_catalog.count(DISTINCT l.pid)
           FROM pg_catalog.pg_locks AS l
           JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
          WHERE l.locktype = 'transactionid' AND l.granted AND a.xact_start IS NULL
            AND l.pid <> pg_catalog.pg_backend_pid()";
    let what = "listing open transactions";
    let open = session.rows(what, OPEN, &[&seconds, &NAMED_MAX]).await?;
    let prepared = session.rows(what, PREPARED, &[&NAMED_MAX]).await?;
    let hidden = session.row(what, HIDDEN, &[]).await?;
    let open = open.iter().map(|row| {
        Ok(OpenTransaction {
            pid: row.column(0)?,
            database: row.column(1)?,
            seconds: row.column(2)?,
            has_written: row.column(3)?,
        })
    });
    let prepared = prepared.iter().map(|row| {
        Ok(PreparedTransaction {
            gid: row.column(0)?,
            database: row.column(1)?,
            seconds: row.column(2)?,
        })
    });
    Ok(Activity {
        open: open.collect::<Result<_>>()?,
        prepared: prepared.collect::<Result<_>>()?,
        hidden: hidden.column(0)?,
    })
}
