-- The role that outboxd connects as, with the least it needs.
--
-- Safe to repeat. By hand, as a superuser (from Postgres 16 on also as a role with CREATEROLE and
-- REPLICATION that may grant on the table): replace what stands in double braces, role by
-- "outboxd", schema by "outbox", table by "outbox"."outbox",
-- dead_letter by "outbox"."dead_letter" (dead_letter.sql makes it), then
--
--     psql -1 -f role.sql
--
-- It sets no password: use \password, or a client certificate. pg_hba.conf has to admit the role to
-- this database; the keyword "replication" there is about physical replication only. Where CONNECT
-- on the database was taken from PUBLIC, grant it. On managed servers a role of the provider's
-- stands in for the attribute REPLICATION, such as rds_replication.

DO $outboxd$
BEGIN
    -- REPLICATION is what streaming, and every function that creates, copies or drops a slot, asks
    -- for.
    CREATE ROLE {{role}} LOGIN REPLICATION;
EXCEPTION WHEN duplicate_object THEN
    -- Left alone where nothing is missing, since only a superuser may touch the attribute before
    -- Postgres 16.
    IF NOT (SELECT rolcanlogin AND rolreplication FROM pg_catalog.pg_roles
             WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)) THEN
        ALTER ROLE {{role}} LOGIN REPLICATION;
    END IF;
END
$outboxd$;

GRANT USAGE ON SCHEMA {{schema}} TO {{role}};

-- Reads the backlog, and marks rows. It can neither write an event nor change one.
GRANT SELECT, UPDATE (times_attempted, published_at) ON {{table}} TO {{role}};

-- Files what cannot be published, and closes it when a person has decided.
GRANT SELECT, INSERT, UPDATE ON {{dead_letter}} TO {{role}};

-- Only for OUTBOX_AFTER_PUBLISH=delete:
-- GRANT DELETE ON {{table}} TO {{role}};

-- Only to have the transactions named, by query and age, that a new slot waits for:
-- GRANT pg_read_all_stats TO {{role}};
