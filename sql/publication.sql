-- The publication: which changes of the outbox the replication slot hands out.
--
-- Safe to repeat: a publication of that name is left as it is, whatever it publishes. It must exist
-- before the slot, because a slot reads the catalog as it was when each change was written. By
-- hand, as the table's owner with CREATE on the database: replace what stands in double braces,
-- publication by "outboxd" and table by "outbox"."outbox", then
--
--     psql -f publication.sql
--
-- Only inserts: an event is published once, so neither our own marking of rows nor their removal is
-- of interest. No column list and no row filter: with either, Postgres refuses to drop or retype
-- the columns they name, so that the migrations of the services fail, and DROP COLUMN … CASCADE
-- takes the table out of the publication without an error. By the root of a partitioned table, so
-- that events arrive under its name from every partition, later ones included.

DO $outboxd$
BEGIN
    CREATE PUBLICATION {{publication}} FOR TABLE {{table}}
        WITH (publish = 'insert', publish_via_partition_root = true);
EXCEPTION WHEN duplicate_object THEN
    RAISE NOTICE 'the publication exists already and is left as it is';
END
$outboxd$;
