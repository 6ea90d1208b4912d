-- Lets the role of role.sql stream from a replication slot.
--
-- Safe to repeat; by hand as role.sql. pg_hba.conf must let the role connect to this database; the
-- keyword "replication" there concerns physical replication only. On Amazon RDS and Aurora the role
-- rds_replication replaces the attribute REPLICATION.

-- Streaming, and every function that creates, copies or drops a slot, needs REPLICATION.
DO $outboxd$
DECLARE
    provider CONSTANT regrole := pg_catalog.to_regrole('rds_replication');
BEGIN
    -- A role that has the right is left as it is: before Postgres 16 only a superuser may give it.
    IF EXISTS (SELECT FROM pg_catalog.pg_roles
                WHERE oid = pg_catalog.to_regrole($role${{role}}$role$)
                  AND (rolreplication OR rolsuper
                       OR provider IS NOT NULL AND pg_catalog.pg_has_role(oid, provider, 'USAGE')))
    THEN
        RETURN;
    END IF;
    IF provider IS NULL THEN
        ALTER ROLE {{role}} REPLICATION;
    ELSE
        GRANT rds_replication TO {{role}};
    END IF;
END
$outboxd$;

-- Optional: outboxd then shows how long the transactions that a new slot waits for have been open:
-- GRANT pg_read_all_stats TO {{role}};
