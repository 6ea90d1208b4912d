-- The publication: the changes of the outbox that the replication slot delivers.
--
-- Safe to repeat: an existing publication of that name stays as it is, whatever it publishes. It
-- must exist before the slot, because a slot reads the catalog as of the time when each change was
-- written. By hand, as the table's owner with CREATE on the database: replace the names in double
-- braces, publication by "outboxd" and table by "outbox"."outbox", then
--
--     psql -f publication.sql
--
-- Only inserts: an event is published once, so neither outboxd's marks nor deletions matter. No
-- column list and no row filter: with either, Postgres refuses to drop or retype the columns they
-- name, so that the migrations of the services fail, and DROP COLUMN ... CASCADE takes the table
-- out of the publication without an error. Through the root of a partitioned table, so that events
-- of every partition arrive under its name, those of later partitions included.

DO $outboxd$
BEGIN
    CREATE PUBLICATION {{publication}} FOR TABLE {{table}}
        WITH (publish = 'insert', publish_via_partition_root = true);
EXCEPTION WHEN duplicate_object THEN
    RAISE NOTICE 'the publication exists already and stays as it is';
END
$outboxd$;
