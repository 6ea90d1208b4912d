-- The outbox: the table into which services write their events, in the transaction that also
-- changes their data.
--
-- Safe on a database that has the table already: it only adds what is missing. By hand, as a role
-- that may create schemas: replace the names in double braces, schema by "outbox" and table by
-- "outbox"."outbox", then
--
--     psql -1 -f schema.sql
--
-- On a large table in use, first create the second index with CREATE INDEX CONCURRENTLY: otherwise
-- writers wait while the index is built. For a second outbox in the same schema, give the indexes
-- other names. The columns may be in any order, and the table may have more; headers is optional.

CREATE SCHEMA IF NOT EXISTS {{schema}};

CREATE TABLE IF NOT EXISTS {{table}} (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_type      text NOT NULL,
    topic           text NOT NULL,
    event_payload   jsonb NOT NULL,
    created_at      timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
    times_attempted integer DEFAULT 0,
    published_at    timestamp,
    headers         jsonb
);

CREATE INDEX IF NOT EXISTS idx_outbox_unpublished
    ON {{table}} (published_at) WHERE published_at IS NULL;

-- Finds the oldest unpublished rows. Without it, a read in order of id walks past every row that
-- was ever published.
CREATE INDEX IF NOT EXISTS idx_outbox_unpublished_id
    ON {{table}} (id) WHERE published_at IS NULL;
