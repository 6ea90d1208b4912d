//! What publishing needs of the server and of outboxd's role, and the problems with it.

use postgres_protocol::escape::escape_identifier;

use crate::error::Result;
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::Session;

/// From this version on, the first logical slot turns logical decoding on.
const DECODING_ON_DEMAND: i64 = 190_000;

/// The server's settings and the role's right to replicate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerSettings {
    pub(crate) in_recovery: bool,
    /// `server_version_num`, such as 150018.
    pub(crate) version: i64,
    pub(crate) encoding: String,
    pub(crate) wal_level: String,
    pub(crate) role: String,
    pub(crate) may_replicate: bool,
}

impl ServerSettings {
    /// Reads them. Any role may.
    pub(crate) async fn read(session: &Session) -> Result<Self> {
        // On Amazon RDS, membership in rds_replication replaces the attribute REPLICATION.
        const SQL: &str = "SELECT pg_catalog.pg_is_in_recovery(),
                    pg_catalog.current_setting('server_version_num')::int8,
                    pg_catalog.current_setting('server_encoding'),
                    pg_catalog.current_setting('wal_level'),
                    current_user::text,
                    EXISTS (SELECT FROM pg_catalog.pg_roles
                             WHERE rolname = current_user AND (rolsuper OR rolreplication))
                    OR EXISTS (SELECT FROM pg_catalog.pg_roles
                                WHERE rolname = 'rds_replication'
                                  AND pg_catalog.pg_has_role(oid, 'USAGE'))";
        let row = session.row("checking the server", SQL, &[]).await?;
        Ok(ServerSettings {
            in_recovery: row.get(0),
            version: row.get(1),
            encoding: row.get(2),
            wal_level: row.get(3),
            role: row.get(4),
            may_replicate: row.get(5),
        })
    }

    /// Records are UTF-8, and so must be the database.
    pub(crate) fn encoding_problem(&self) -> Option<ServerProblem> {
        (self.encoding != "UTF8").then(|| {
            ServerProblem::config(
                format!("the database is encoded in {}", self.encoding),
                "records are UTF-8: move the table to a database with encoding UTF8",
            )
        })
    }

    /// A slot needs logical decoding.
    pub(crate) fn wal_level_problem(&self) -> Option<ServerProblem> {
        let decodes = self.wal_level == "logical" || self.version >= DECODING_ON_DEMAND;
        (!decodes).then(|| {
            ServerProblem::config(
                format!("wal_level is {}", self.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical' and restart the server",
            )
        })
    }

    /// A slot needs a role that may replicate.
    pub(crate) fn role_problem(&self) -> Option<ServerProblem> {
        (!self.may_replicate).then(|| {
            ServerProblem::config(
                format!("role {} may not replicate", self.role),
                format!("ALTER ROLE {} REPLICATION", escape_identifier(&self.role)),
            )
        })
    }
}
