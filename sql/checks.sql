-- Constraints that keep events out of the outbox which could never be published.
--
-- Optional. For tables whose writers use neither the function nor the crate: one payload of a few
-- kilobytes that prints as more than a gigabyte stops the replication slot for all events behind
-- it. The price is that each insert prints its payload once more, and that the table is locked for
-- a moment while the constraints are added. By hand, as the table's owner: replace what stands in
-- double braces, table by "outbox"."outbox", then
--
--     psql -1 -f checks.sql
--
-- Safe to repeat: a constraint of that name is left as it is. NOT VALID leaves the rows that are
-- there unexamined, so that old ones do not stop this script. Postgres still checks a row whenever
-- it is updated: were published rows not exempt, an old row that breaks a rule could never be
-- marked as published, and each marking would print the payload again.

DO $outboxd$
BEGIN
    ALTER TABLE {{table}} ADD CONSTRAINT outbox_event_type_not_empty
        CHECK (published_at IS NOT NULL OR event_type <> '') NOT VALID;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$outboxd$;

DO $outboxd$
BEGIN
    ALTER TABLE {{table}} ADD CONSTRAINT outbox_topic_not_empty
        CHECK (published_at IS NOT NULL OR topic <> '') NOT VALID;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$outboxd$;

DO $outboxd$
BEGIN
    ALTER TABLE {{table}} ADD CONSTRAINT outbox_payload_at_most_10_mib
        CHECK (published_at IS NOT NULL OR octet_length(event_payload::text) <= 10485760) NOT VALID;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$outboxd$;
