-- The role that outboxd connects as, with the least it needs.
--
-- Safe to repeat. By hand, as a superuser (from Postgres 16 on also as a role with CREATEROLE and
-- REPLICATION that may grant on the table): replace what stands in double braces, role by
-- "outboxd", schema by "outbox", table by "outbox"."outbox",
-- dead_letter by "outbox"."dead_letter" (dead_letter.sql makes it), then
--
--     psql -1 -f role.sql -f role_replication.sql
--
-- Polling needs no role_replication.sql; OUTBOX_AFTER_PUBLISH=delete needs role_delete.sql as well.
--
-- It sets no password: use \password, or a client certificate. pg_hba.conf has to admit the role to
-- this database. Where CONNECT on the database was taken from PUBLIC, grant it.

DO $outboxd$
BEGIN
    CREATE ROLE {{role}} LOGIN;
EXCEPTION WHEN duplicate_object THEN
    -- A role that may log in already is left as it is, so that repeating this needs no right to
    -- alter it.
    IF NOT (SELECT rolcanlogin FROM pg_catalog.pg_roles
             WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)) THEN
        ALTER ROLE {{role}} LOGIN;
    END IF;
END
$outboxd$;

GRANT USAGE ON SCHEMA {{schema}} TO {{role}};

-- Reads the backlog, and marks rows. It can neither write an event nor change one.
GRANT SELECT, UPDATE (times_attempted, published_at) ON {{table}} TO {{role}};

-- Files what cannot be published, and closes it when a person has decided.
GRANT SELECT, INSERT, UPDATE ON {{dead_letter}} TO {{role}};
