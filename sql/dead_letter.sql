-- The dead letters: events that could not be published, kept until a person decides about them.
--
-- Safe to repeat: an existing table of that name stays as it is, except that one of an earlier
-- version of outboxd gets the column table_oid and an index. outboxd uses no unrelated table of
-- that name: rename it. By hand, as the owner of the schema: replace the name in double braces,
-- dead_letter by "outbox"."dead_letter", then
--
--     psql -1 -f dead_letter.sql
--
-- `outboxd dead-letter list` shows it. `outboxd dead-letter retry` and `discard` decide, or an
-- update that sets state to 'retry' or 'discard' where it is 'dead'. The publisher alone publishes.
-- While a dead letter is open, its row in the outbox stays unpublished, and everything that reads
-- the table leaves the row out.

DO $outboxd$
DECLARE
    letters CONSTANT regclass := pg_catalog.to_regclass($name${{dead_letter}}$name$);
    old regclass;
BEGIN
    IF letters IS NOT NULL THEN
        -- A table of an earlier version takes every row of the same id for that of its letter.
        IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute
             WHERE attrelid = letters AND NOT attisdropped
               AND attname IN ('system_id', 'outbox_id', 'payload_sha256', 'event_created_at',
                               'error_code', 'parks_key', 'state')) = 7
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                            WHERE attrelid = letters AND attname = 'table_oid') THEN
            ALTER TABLE {{dead_letter}} ADD COLUMN table_oid oid;
            CREATE UNIQUE INDEX ON {{dead_letter}} (system_id, outbox_id, payload_sha256,
                    (pg_catalog.hashtextextended(coalesce(event_created_at, ''), 0)))
                WHERE outbox_id IS NOT NULL;
            FOR old IN SELECT indexrelid::regclass FROM pg_catalog.pg_index
                        WHERE indrelid = letters AND indisunique
                          AND pg_catalog.pg_get_indexdef(indexrelid)
                              LIKE '%(system_id, outbox_id, payload_sha256)%'
            LOOP
                EXECUTE pg_catalog.format('DROP INDEX %s', old);
            END LOOP;
        ELSE
            RAISE NOTICE 'the table of dead letters exists already and stays as it is';
        END IF;
        RETURN;
    END IF;
    CREATE TABLE {{dead_letter}} (
        id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        system_id        text NOT NULL,
        outbox_id        text,
        commit_lsn       pg_lsn,
        event_index      integer,
        topic            text,
        event_type       text,
        key              bytea,
        headers          jsonb NOT NULL DEFAULT '[]',
        payload          bytea,
        payload_sha256   bytea NOT NULL,
        event_created_at text,
        error_code       text NOT NULL,
        error            text NOT NULL,
        attempts         integer NOT NULL DEFAULT 0,
        history          jsonb NOT NULL DEFAULT '[]',
        parks_key        boolean NOT NULL DEFAULT false,
        state            text NOT NULL CHECK (state IN ('dead', 'parked', 'retry', 'discard',
                             'retried', 'discarded', 'published-not-marked', 'skipped')),
        filed_at         timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        updated_at       timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        table_oid        oid
    );
    -- The same event is filed once, however often it arrives; another payload or another time is
    -- another event.
    CREATE UNIQUE INDEX ON {{dead_letter}} (system_id, outbox_id, payload_sha256,
            (pg_catalog.hashtextextended(coalesce(event_created_at, ''), 0)))
        WHERE outbox_id IS NOT NULL;
    CREATE UNIQUE INDEX ON {{dead_letter}} (system_id, commit_lsn, event_index, payload_sha256)
        WHERE outbox_id IS NULL;
    CREATE INDEX ON {{dead_letter}} (state, id) WHERE state NOT IN ('retried', 'discarded');
    -- Every reader of the outbox queries this for each row.
    CREATE INDEX ON {{dead_letter}} (outbox_id) WHERE state NOT IN ('retried', 'discarded');
    -- Finds parked keys. A hash index accepts a topic of any length, even one no broker accepts.
    CREATE INDEX ON {{dead_letter}} USING hash (topic) WHERE state = 'dead' AND parks_key;
    COMMENT ON TABLE {{dead_letter}} IS
        'Events of the outbox that could not be published. See `outboxd dead-letter --help`.';
    COMMENT ON COLUMN {{dead_letter}}.id IS
        'The order in which they were filed; the argument of --id.';
    COMMENT ON COLUMN {{dead_letter}}.system_id IS
        'The system identifier of the server, as initdb assigned it.';
    COMMENT ON COLUMN {{dead_letter}}.outbox_id IS
        'The row of the outbox; null for an event without a row.';
    COMMENT ON COLUMN {{dead_letter}}.commit_lsn IS
        'The commit LSN of its transaction; null where the event was read from the table.';
    COMMENT ON COLUMN {{dead_letter}}.event_index IS 'Its place in that transaction.';
    COMMENT ON COLUMN {{dead_letter}}.topic IS
        'Null where the event could not be read and only its row is named.';
    COMMENT ON COLUMN {{dead_letter}}.headers IS
        'An array of [name, value] in order; a value that is not text is {"hex": "..."}.';
    COMMENT ON COLUMN {{dead_letter}}.payload IS
        'The value of the record; null also where only the row is named.';
    COMMENT ON COLUMN {{dead_letter}}.payload_sha256 IS
        'SHA-256 of the payload, or of the empty string where there is none.';
    COMMENT ON COLUMN {{dead_letter}}.event_created_at IS
        'The created_at of the row, as text. With outbox_id it names the row: ids come again after '
        'a TRUNCATE.';
    COMMENT ON COLUMN {{dead_letter}}.table_oid IS
        'The object id of the outbox, to tell its rows from those of a recreated one where '
        'event_created_at cannot; null where it is not known.';
    COMMENT ON COLUMN {{dead_letter}}.error_code IS
        'Stable: a code of outboxd or of the broker, or an SQLSTATE.';
    COMMENT ON COLUMN {{dead_letter}}.attempts IS
        'Attempts before it was filed the last time.';
    COMMENT ON COLUMN {{dead_letter}}.history IS
        'The last fifty times that it was filed, the oldest first.';
    COMMENT ON COLUMN {{dead_letter}}.parks_key IS
        'Later events of the same topic and key wait for it.';
    COMMENT ON COLUMN {{dead_letter}}.state IS
        'dead: waits for a person. parked: waits for an earlier event of its key. retry, discard: '
        'requested, the publisher will do it. retried: published after all. discarded: not '
        'published, its row counts as published. published-not-marked: Kafka has it, the table '
        'refuses to mark its row. skipped: discarded, the table refuses to mark its row.';
END
$outboxd$;
