//! Managed servers, simulated: a real Postgres with the provider's roles, whose administrator is no
//! superuser, and without the functions that the provider takes away.
//!
//! What this cannot show: a provider's own changes to the server's code. RDS lets a member of
//! `rds_replication` stream, which a real Postgres allows by the attribute alone. So
//! [`Simulated::let_replicate`] gives the attribute and hides it from SQL.

use anyhow::Result;

use super::postgres::{self, Database, Server, Session};

/// The administrator's role. At some providers it is named `postgres`, which here is the superuser
/// that belongs to the provider.
pub(crate) const ADMIN: &str = "admin_user";

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Rds,
    Aurora,
    CloudSql,
    AlloyDb,
    Azure,
    Supabase,
    Neon,
}

/// What differs between two servers of one provider.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// Logical decoding is on.
    pub(crate) decodes: bool,
    /// The administrator may give REPLICATION: on a real server, from Postgres 16 on.
    pub(crate) gives_replication: bool,
}

/// A server of a provider, and a database that belongs to its administrator.
pub(crate) struct Simulated {
    pub(crate) server: Server,
    pub(crate) database: Database,
}

const NO_CONTROL: &str = "
    REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system(), pg_catalog.pg_control_checkpoint(),
                               pg_catalog.pg_control_recovery(), pg_catalog.pg_control_init()
      FROM PUBLIC;";

/// Aurora's functions of the WAL, which refuse without logical decoding. The server calls built-in
/// functions by their numbers, so each gets another name, and a new one takes its place.
const AURORA: &str = "
    SET allow_system_table_mods = on;
    CREATE FUNCTION pg_catalog.aurora_wal_check() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('wal_level') <> 'logical' THEN
            RAISE EXCEPTION 'wal_level must be set to ''logical'''
                USING ERRCODE = '55000',
                      HINT = 'WAL control functions cannot be executed when wal_level < logical.';
        END IF;
    END $$;
    DO $do$
    DECLARE name text;
    BEGIN
        FOREACH name IN ARRAY ARRAY['pg_current_wal_lsn', 'pg_current_wal_insert_lsn',
                                    'pg_current_wal_flush_lsn']
        LOOP
            EXECUTE format('ALTER FUNCTION pg_catalog.%s() RENAME TO aurora_%1$s', name);
            EXECUTE format('CREATE FUNCTION pg_catalog.%s() RETURNS pg_lsn LANGUAGE plpgsql AS $$
                BEGIN
                    PERFORM pg_catalog.aurora_wal_check();
                    RETURN pg_catalog.aurora_%1$s();
                END $$', name);
        END LOOP;
    END $do$;
    ALTER FUNCTION pg_catalog.pg_walfile_name(pg_lsn) RENAME TO aurora_pg_walfile_name;
    CREATE FUNCTION pg_catalog.pg_walfile_name(lsn pg_lsn) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.aurora_wal_check();
        RETURN pg_catalog.aurora_pg_walfile_name(lsn);
    END $$;
    RESET allow_system_table_mods;";

/// Supabase watches every DDL statement, and keeps extensions in a schema of their own.
const SUPABASE: &str = "
    CREATE SCHEMA extensions;
    CREATE SCHEMA graphql;
    CREATE TABLE graphql.seen (command text, object text);
    CREATE FUNCTION extensions.watch() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO graphql.seen
        SELECT d.command_tag, d.object_identity FROM pg_event_trigger_ddl_commands() AS d;
    END $$;
    CREATE EVENT TRIGGER issue_graphql_placeholder ON ddl_command_end
        EXECUTE FUNCTION extensions.watch();";

impl Provider {
    /// As the manual names it in a comment.
    pub(crate) fn of_name(name: &str) -> Option<Provider> {
        Some(match name {
            "rds" => Provider::Rds,
            "aurora" => Provider::Aurora,
            "cloudsql" => Provider::CloudSql,
            "alloydb" => Provider::AlloyDb,
            "azure" => Provider::Azure,
            "supabase" => Provider::Supabase,
            "neon" => Provider::Neon,
            _ => return None,
        })
    }

    /// The role of the administrators, and other roles that belong to the provider.
    fn roles(self) -> &'static str {
        match self {
            Provider::Rds | Provider::Aurora => {
                "CREATE ROLE rds_superuser; CREATE ROLE rds_replication; CREATE ROLE rds_iam;
                 GRANT rds_replication, rds_iam TO rds_superuser WITH ADMIN OPTION;
                 GRANT rds_superuser TO admin_user;"
            }
            Provider::CloudSql => {
                "CREATE ROLE cloudsqlsuperuser CREATEROLE CREATEDB;
                 GRANT cloudsqlsuperuser TO admin_user;"
            }
            Provider::AlloyDb => {
                "CREATE ROLE alloydbsuperuser CREATEROLE CREATEDB;
                 GRANT alloydbsuperuser TO admin_user;"
            }
            Provider::Azure => "CREATE ROLE azure_pg_admin; GRANT azure_pg_admin TO admin_user;",
            Provider::Supabase => "CREATE ROLE supabase_admin SUPERUSER LOGIN;",
            Provider::Neon => {
                "CREATE ROLE neon_superuser CREATEROLE CREATEDB;
                 GRANT neon_superuser TO admin_user;"
            }
        }
    }

    fn in_database(self) -> &'static str {
        match self {
            Provider::Aurora => AURORA,
            Provider::Supabase => SUPABASE,
            _ => "",
        }
    }

    /// The line of the setting that switches logical decoding on.
    fn setting(self, decodes: bool) -> &'static str {
        match (self, decodes) {
            (Provider::Rds | Provider::Aurora, true) => "rds.logical_replication = 1",
            (Provider::Rds | Provider::Aurora, false) => "rds.logical_replication = 0",
            (Provider::CloudSql, true) => "cloudsql.logical_decoding = on",
            (Provider::AlloyDb, true) => "alloydb.logical_decoding = on",
            _ => "",
        }
    }
}

impl Simulated {
    pub(crate) async fn start(provider: Provider, major: u32, state: State) -> Result<Simulated> {
        let level = match state.decodes {
            true => "wal_level = logical",
            false => "wal_level = replica",
        };
        let server = postgres::private(major, &[level, provider.setting(state.decodes)])?;
        let database = Database::create_empty(&server).await?;
        let session = database.connect().await?;
        let replication = match state.gives_replication {
            true => "REPLICATION",
            false => "",
        };
        let create = format!("CREATE ROLE {ADMIN} LOGIN CREATEDB CREATEROLE {replication}");
        session.batch_execute(&create).await?;
        let name = &database.name;
        for sql in [
            provider.roles(),
            NO_CONTROL,
            provider.in_database(),
            &format!("ALTER DATABASE {name} OWNER TO {ADMIN}"),
        ] {
            session.batch_execute(sql).await?;
        }
        Ok(Simulated { server, database })
    }

    /// A session of the administrator.
    pub(crate) async fn admin(&self) -> Result<Session> {
        Session::open(&self.database.url_as(ADMIN)).await
    }

    /// Switches logical decoding on or off, by a restart.
    pub(crate) fn restart(&mut self, decodes: bool) -> Result<()> {
        let level = if decodes { "logical" } else { "replica" };
        self.server.configure(&[format!("wal_level = {level}")])?;
        self.server.stop(super::ephemeral::Stop::Fast)?;
        self.server.resume()
    }

    /// Lets this member of `rds_replication` stream, as RDS does: by the attribute, which the view
    /// of the roles does not show.
    pub(crate) async fn let_replicate(&self, role: &str) -> Result<()> {
        let sql = format!(
            "ALTER ROLE {role} REPLICATION;
             SET allow_system_table_mods = on;
             DO $do$ BEGIN
                 EXECUTE 'CREATE OR REPLACE VIEW pg_catalog.pg_roles AS ' || regexp_replace(
                     pg_get_viewdef('pg_catalog.pg_roles'::regclass),
                     '(pg_authid\\.)?rolreplication', 'false AS rolreplication');
             END $do$;
             RESET allow_system_table_mods"
        );
        Ok(self.database.connect().await?.batch_execute(&sql).await?)
    }
}
