-- Lets the role of role.sql stream from a replication slot.
--
-- Safe to repeat; by hand as role.sql. pg_hba.conf must let the role connect to this database; the
-- keyword "replication" there concerns physical replication only. On managed servers a role of the
-- provider, such as rds_replication, replaces the attribute REPLICATION.

-- Streaming, and every function that creates, copies or drops a slot, needs REPLICATION.
DO $outboxd$
BEGIN
    -- A role that has it is left as it is: before Postgres 16 only a superuser may alter it.
    IF NOT (SELECT rolreplication FROM pg_catalog.pg_roles
             WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)) THEN
        ALTER ROLE {{role}} REPLICATION;
    END IF;
END
$outboxd$;

-- Optional: outboxd then shows how long the transactions that a new slot waits for have been open:
-- GRANT pg_read_all_stats TO {{role}};
