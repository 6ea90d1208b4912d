-- Lets the role of role.sql stream from a replication slot.
--
-- Safe to repeat; by hand as role.sql. pg_hba.conf has to admit the role to this database; the
-- keyword "replication" there is about physical replication only. On managed servers a role of the
-- provider's stands in for the attribute REPLICATION, such as rds_replication.

-- Streaming, and every function that creates, copies or drops a slot, needs REPLICATION.
DO $outboxd$
BEGIN
    -- A role that has it is left as it is: before Postgres 16 only a superuser may touch it.
    IF NOT (SELECT rolreplication FROM pg_catalog.pg_roles
             WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)) THEN
        ALTER ROLE {{role}} REPLICATION;
    END IF;
END
$outboxd$;

-- Only to have the transactions named, by query and age, that a new slot waits for:
-- GRANT pg_read_all_stats TO {{role}};
