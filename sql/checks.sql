-- Constraints that refuse events which could never be published.
--
-- Optional, for tables whose writers use neither the function nor the crate: one payload of a few
-- kilobytes that prints as more than a gigabyte stops the replication slot for all events behind
-- it. The price: each insert prints its payload once more, and adding the constraints locks the
-- table for a moment. By hand, as the table's owner: replace the name in double braces, table by
-- "outbox"."outbox", then
--
--     psql -1 -f checks.sql
--
-- Safe to repeat: an existing constraint of that name stays as it is. NOT VALID skips the existing
-- rows, so that old ones do not stop this script. Postgres still checks a row whenever it is
-- updated. Published rows are exempt: otherwise an old row that breaks a rule could never be marked
-- as published, and each mark would print the payload again.

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
