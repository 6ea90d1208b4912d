-- The outbox of schema.sql, partitioned by the time of creation. The writers' statements are the
-- same. OUTBOX_RETAIN makes further partitions ahead, and takes old ones away.
--
-- By hand, in place of the table of schema.sql: replace the names in double braces as there, period
-- by day or hour, and format by YYYYMMDD or YYYYMMDDHH24.

CREATE TABLE IF NOT EXISTS {{table}} (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    event_type      text NOT NULL,
    topic           text NOT NULL,
    event_payload   jsonb NOT NULL,
    created_at      timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
    times_attempted integer DEFAULT 0,
    published_at    timestamp,
    headers         jsonb,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

-- From 26 hours ago, for writers in other time zones, to a few periods ahead.
DO $outboxd$
DECLARE
    step CONSTANT interval := '1 {{period}}';
    next timestamp := pg_catalog.date_trunc('{{period}}', LOCALTIMESTAMP - INTERVAL '26 hours');
BEGIN
    WHILE next < LOCALTIMESTAMP + INTERVAL '26 hours' + step LOOP
        EXECUTE pg_catalog.format(
            'CREATE TABLE IF NOT EXISTS %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
            $name${{plain_schema}}$name$,
            $name${{plain_table}}$name$ || pg_catalog.to_char(next, '"_p"{{format}}'),
            $name${{table}}$name$, next, next + step);
        next := next + step;
    END LOOP;
END
$outboxd$;
