//! The provider of a managed server, known by the administrators' role that it creates. Pure.

use postgres_protocol::escape::escape_identifier;

/// A provider whose settings and rights are changed in another way than by SQL of a superuser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// RDS and Aurora.
    Amazon,
    AlloyDb,
    CloudSql,
    Azure,
    Neon,
}

/// The roles, the most telling first: a provider may have those of another.
const ROLES: [(&str, Provider); 5] = [
    ("rds_superuser", Provider::Amazon),
    ("alloydbsuperuser", Provider::AlloyDb),
    ("cloudsqlsuperuser", Provider::CloudSql),
    ("azure_pg_admin", Provider::Azure),
    ("neon_superuser", Provider::Neon),
];

impl Provider {
    /// The names of the roles.
    pub(crate) fn roles() -> [&'static str; ROLES.len()] {
        ROLES.map(|(role, _)| role)
    }

    /// The provider of a server that has these of the roles.
    pub(crate) fn of(roles: &[String]) -> Option<Provider> {
        let is_there = |role: &str| roles.iter().any(|found| found == role);
        let found = ROLES.iter().find(|(role, _)| is_there(role));
        found.map(|(_, provider)| *provider)
    }

    /// How logical decoding is switched on.
    pub(crate) fn decoding_hint(self) -> &'static str {
        match self {
            Provider::Amazon => {
                "set rds.logical_replication to 1 in the parameter group (on Aurora in that of the \
                 cluster) and reboot"
            }
            Provider::AlloyDb => "set the flag alloydb.logical_decoding to on",
            Provider::CloudSql => "set the flag cloudsql.logical_decoding to on",
            Provider::Azure => "set the server parameter wal_level to logical and restart",
            Provider::Neon => "enable logical replication in the settings of the project",
        }
    }

    /// How a role may replicate.
    pub(crate) fn replication_hint(self, role: &str) -> String {
        let role = escape_identifier(role);
        match self {
            Provider::Amazon => format!("GRANT rds_replication TO {role}"),
            _ => format!("ALTER ROLE {role} REPLICATION, as the provider's administrator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_administrators() {
        let of = |roles: &[&str]| {
            let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
            Provider::of(&roles)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["azure_pg_admin"]), Some(Provider::Azure));
        let both = ["cloudsqlsuperuser", "alloydbsuperuser"];
        assert_eq!(of(&both), Some(Provider::AlloyDb));
    }
}
