-- The role that outboxd connects as, with the rights that it needs and no others.
--
-- Safe to repeat. By hand, as a superuser (from Postgres 16 on also as a role with CREATEROLE and
-- REPLICATION that may grant on the table): replace the names in double braces, role by "outboxd",
-- schema by "outbox", table by "outbox"."outbox", dead_letter by "outbox"."dead_letter"
-- (dead_letter.sql creates it), then
--
--     psql -1 -f role.sql -f role_replication.sql
--
-- Polling needs no role_replication.sql; OUTBOX_AFTER_PUBLISH=delete needs role_delete.sql as well,
-- and OUTBOX_RETAIN that and role_retain.sql.
--
-- It sets no password: use \password, or a client certificate. pg_hba.conf must let the role
-- connect to this database. Where CONNECT on the database was revoked from PUBLIC, grant it.

DO $outboxd$
BEGIN
    CREATE ROLE {{role}} LOGIN;
EXCEPTION WHEN duplicate_object THEN
    -- A role that can log in is left as it is, so that a repetition needs no right to alter it.
    IF NOT (SELECT rolcanlogin FROM pg_catalog.pg_roles
             WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)) THEN
        ALTER ROLE {{role}} LOGIN;
    END IF;
END
$outboxd$;

GRANT USAGE ON SCHEMA {{schema}} TO {{role}};

-- For reading the backlog and marking rows. The role can neither insert nor change an event.
GRANT SELECT, UPDATE (times_attempted, published_at) ON {{table}} TO {{role}};

-- For filing dead letters, and for closing them after a person's decision.
GRANT SELECT, INSERT, UPDATE ON {{dead_letter}} TO {{role}};
