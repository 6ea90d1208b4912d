-- The state of outboxd that outlives its process: a pause, and what the running outboxd has seen of
-- it.
--
-- Safe to repeat: an existing table of that name stays as it is. By hand, as the owner of the
-- schema: replace the name in double braces, state by "outbox"."outboxd_state", then
--
--     psql -1 -f state.sql
--
-- `outboxd pause` and `outboxd resume` write it.

CREATE TABLE IF NOT EXISTS {{state}} (
    name       text PRIMARY KEY,
    value      jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    changed_by text NOT NULL
);
