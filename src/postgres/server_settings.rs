//! What publishing needs of the server and of outboxd's role, and the problems with it.

use postgres_protocol::escape::escape_identifier;

use crate::config::Database;
use crate::error::Result;
use crate::postgres::facts::Provider;
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::{Columns, Session};

/// From this version on, the first logical slot turns logical decoding on where `wal_level` is
/// `replica`. `effective_wal_level` shows it, and `wal_level` stays as it was set.
const DECODING_ON_DEMAND: i64 = 190_000;

/// Minor releases, as `server_version_num`, in which each DDL transaction that commits adds its
/// invalidation messages to every open transaction, and these to others in turn. Beyond 1 GiB the
/// walsender fails, and fails again at the same place. The next minor release has the fix: see
/// <https://www.postgresql.org/docs/release/17.6/>.
const GROWING_INVALIDATIONS: [i64; 5] = [130_021, 140_018, 150_013, 160_009, 170_005];

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
    pub(crate) provider: Option<Provider>,
}

impl ServerSettings {
    /// Reads them, and whether the role of the login for replication may replicate. Any role may
    /// read that.
    pub(crate) async fn read(session: &Session, database: &Database) -> Result<Self> {
        // On Amazon RDS, membership in rds_replication replaces the attribute REPLICATION.
        const SQL: &str = "SELECT pg_catalog.pg_is_in_recovery(),
                    pg_catalog.current_setting('server_version_num')::int8,
                    pg_catalog.current_setting('server_encoding'),
                    pg_catalog.current_setting('wal_level'),
                    coalesce($1, current_user::text),
                    EXISTS (SELECT FROM pg_catalog.pg_roles AS r
                             WHERE r.rolname = coalesce($1, current_user::text)
                               AND (r.rolsuper OR r.rolreplication
                                    OR EXISTS (SELECT FROM pg_catalog.pg_roles AS p
                                                WHERE p.rolname = 'rds_replication'
                                                  AND pg_catalog.pg_has_role(r.oid, p.oid,
                                                                             'USAGE')))),
                    ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles
                           WHERE rolname::text = ANY ($2))";
        let role = database.replication.as_ref().map(|it| it.user());
        let roles = Provider::roles();
        let row = session
            .row("checking the server", SQL, &[&role, &roles.as_slice()])
            .await?;
        let roles: Vec<String> = row.column(6)?;
        Ok(ServerSettings {
            in_recovery: row.column(0)?,
            version: row.column(1)?,
            encoding: row.column(2)?,
            wal_level: row.column(3)?,
            role: row.column(4)?,
            may_replicate: row.column(5)?,
            provider: Provider::of(&roles),
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
        let decodes = self.wal_level == "logical" || self.decodes_on_demand();
        (!decodes).then(|| {
            ServerProblem::config(
                format!("wal_level is {}", self.wal_level),
                self.provider.map_or(
                    "ALTER SYSTEM SET wal_level = 'logical' and restart the server",
                    Provider::decoding_hint,
                ),
            )
        })
    }

    /// Whether the first slot turns logical decoding on, without a restart.
    pub(crate) fn decodes_on_demand(&self) -> bool {
        self.wal_level == "replica" && self.version >= DECODING_ON_DEMAND
    }

    /// What this minor release does wrong in logical decoding.
    pub(crate) fn release_problem(&self) -> Option<ServerProblem> {
        release_problem(self.version)
    }

    /// A slot needs a role that may replicate.
    pub(crate) fn role_problem(&self) -> Option<ServerProblem> {
        (!self.may_replicate).then(|| {
            ServerProblem::config(
                format!("role {} may not replicate", self.role),
                match self.provider {
                    Some(provider) => provider.replication_hint(&self.role),
                    None => format!("ALTER ROLE {} REPLICATION", escape_identifier(&self.role)),
                },
            )
        })
    }
}

/// What the minor release of this `server_version_num` does wrong in logical decoding.
pub(crate) fn release_problem(version: i64) -> Option<ServerProblem> {
    GROWING_INVALIDATIONS.contains(&version).then(|| {
        let (major, minor) = (version / 10_000, version % 10_000);
        ServerProblem::config(
            format!(
                "Postgres {major}.{minor} may fail to decode WAL for good (\"invalid memory alloc \
                 request size\") when tables are created or altered beside open transactions"
            ),
            format!(
                "update Postgres to {major}.{} or a later minor release",
                minor + 1
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(version: i64, wal_level: &str, provider: Option<Provider>) -> ServerSettings {
        ServerSettings {
            in_recovery: false,
            version,
            encoding: "UTF8".to_owned(),
            wal_level: wal_level.to_owned(),
            role: "relay".to_owned(),
            may_replicate: false,
            provider,
        }
    }

    #[test]
    fn from_19_on_a_server_decodes_at_replica_and_never_at_minimal() {
        for (version, wal_level, accepted) in [
            (140_000, "logical", true),
            (180_006, "replica", false),
            (180_006, "logical", true),
            (190_000, "replica", true),
            (190_001, "logical", true),
            (190_000, "minimal", false),
            (200_000, "replica", true),
        ] {
            let problem = settings(version, wal_level, None).wal_level_problem();
            assert_eq!(problem.is_none(), accepted, "{version} {wal_level}");
        }
    }

    #[test]
    fn what_to_do_at_a_provider_is_what_its_administrator_can_do() {
        let of = |provider| {
            let found = settings(170_000, "replica", provider);
            let problems = [found.wal_level_problem(), found.role_problem()];
            problems.map(|problem| problem.expect("a problem").hint)
        };
        let [decoding, role] = of(Some(Provider::Amazon));
        assert!(decoding.contains("rds.logical_replication"), "{decoding}");
        assert_eq!(role, "GRANT rds_replication TO \"relay\"");
        let [decoding, role] = of(Some(Provider::CloudSql));
        assert!(decoding.contains("cloudsql.logical_decoding"), "{decoding}");
        assert!(
            role.starts_with("ALTER ROLE \"relay\" REPLICATION"),
            "{role}"
        );
        let [decoding, _] = of(None);
        assert!(decoding.starts_with("ALTER SYSTEM"), "{decoding}");
    }

    #[test]
    fn a_release_that_fails_at_decoding_is_named_with_the_one_that_does_not() {
        for (version, names, fixed) in [
            (170_005, "17.5 ", "17.6 "),
            (160_009, "16.9 ", "16.10 "),
            (150_013, "15.13 ", "15.14 "),
        ] {
            let found = release_problem(version).expect("a problem");
            assert!(found.problem.contains(names), "{}", found.problem);
            assert!(found.hint.contains(fixed), "{}", found.hint);
        }
        for version in [140_017, 150_014, 160_010, 170_004, 170_006, 180_000] {
            assert!(release_problem(version).is_none(), "{version}");
        }
    }
}
