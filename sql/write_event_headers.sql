-- outbox.write_event(event_type, topic, payload, headers, key): the same as write_event.sql, for a
-- table with a column headers of type jsonb or with a column that the key is taken from.
--
--     SELECT outbox.write_event('OrderCreated', 'orders', '{"number": 7}',
--                               headers => '{"traceparent": "00-..."}', key => 'order-7');
--
-- headers is a JSON object or null. The key may be left out; it takes the type of its column.
-- Safe to repeat, and does nothing where the table has neither column. By hand, after
-- write_event.sql and with its names; replace key by the column that OUTBOX_KEY names, or by "key"
-- where it names none, then
--
--     psql -f write_event_headers.sql
--
-- It runs with the caller's rights, which need INSERT on those columns as well.

DO $outboxd$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                    WHERE attrelid = pg_catalog.to_regclass($name${{table}}$name$)
                      AND attname IN ('headers',
                                      (pg_catalog.parse_ident($name${{key}}$name$))[1])
                      AND NOT attisdropped) THEN
        RAISE NOTICE 'the table has no column for headers or keys';
        RETURN;
    END IF;
    -- Beside the function of write_event.sql for this table, and beside no other.
    IF EXISTS (SELECT FROM pg_catalog.pg_proc
                WHERE pronamespace = pg_catalog.to_regnamespace($name${{schema}}$name$)
                  AND proname = (pg_catalog.parse_ident($name${{function}}$name$))[1]
                  AND (pronargs <> 3
                       OR pg_catalog.strpos(prosrc, $name$INSERT INTO {{table}} ($name$) = 0)) THEN
        RAISE NOTICE 'a function of that name exists already and stays as it is';
        RETURN;
    END IF;
    CREATE FUNCTION {{schema}}.{{function}}(
        event_type text, topic text, payload jsonb, headers jsonb, key text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql
    AS $function$
    DECLARE
        -- Measured as Postgres prints it, because that text goes to Kafka: a number like 1e131071
        -- is short here and long there.
        largest CONSTANT integer := 10 * 1024 * 1024;
        printed integer;
        header_bytes bigint;
        event_id bigint;
    BEGIN
        IF coalesce({{function}}.event_type, '') = '' THEN
            RAISE EXCEPTION 'the event type is empty'
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Name the kind of event, such as OrderCreated.';
        END IF;
        IF coalesce({{function}}.topic, '') = '' THEN
            RAISE EXCEPTION 'an event of type % names no topic', {{function}}.event_type
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Name the Kafka topic that the event is for.';
        END IF;
        IF {{function}}.topic !~ '^[a-zA-Z0-9._-]{1,249}$' OR {{function}}.topic IN ('.', '..') THEN
            RAISE EXCEPTION 'Kafka does not take % for a topic',
                    quote_literal(left({{function}}.topic, 300))
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Use 1 to 249 ASCII letters, digits, ".", "_" and "-"; '
                             'not "." or "..".';
        END IF;
        IF {{function}}.payload IS NULL THEN
            RAISE EXCEPTION 'an event of type % has no payload', {{function}}.event_type
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Pass a JSON value; null as JSON is one.';
        END IF;
        BEGIN
            printed := octet_length({{function}}.payload::text);
        EXCEPTION WHEN program_limit_exceeded THEN
            RAISE EXCEPTION 'the payload of an event of type % prints as more than Postgres '
                            'can hold', {{function}}.event_type
                USING ERRCODE = 'program_limit_exceeded',
                      HINT = 'Look for numbers with large exponents in it.';
        END;
        IF printed > largest THEN
            RAISE EXCEPTION 'the payload of an event of type % prints as % bytes, of at most %',
                    {{function}}.event_type, printed, largest
                USING ERRCODE = 'program_limit_exceeded',
                      HINT = 'Store the large part elsewhere and put a reference to it into the '
                             'event.';
        END IF;
        IF jsonb_typeof({{function}}.headers) NOT IN ('object', 'null') THEN
            RAISE EXCEPTION 'the headers of an event of type % are no JSON object',
                    {{function}}.event_type
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Pass an object such as {"traceparent": "00-..."}.';
        END IF;
        IF jsonb_typeof({{function}}.headers) = 'object' THEN
            SELECT sum(octet_length(h.key) + coalesce(octet_length(h.value), 0)),
                   count(*)
              INTO header_bytes, printed
              FROM jsonb_each_text({{function}}.headers) AS h (key, value);
            IF header_bytes > 1024 * 1024 OR printed > 1000 THEN
                RAISE EXCEPTION 'an event of type % has % headers with % bytes',
                        {{function}}.event_type, printed, header_bytes
                    USING ERRCODE = 'program_limit_exceeded',
                          HINT = 'Pass at most 1000 headers with 1048576 bytes.';
            END IF;
        END IF;
        IF octet_length({{function}}.key) > 1024 * 1024 THEN
            RAISE EXCEPTION 'the key of an event of type % has % bytes, of at most %',
                    {{function}}.event_type, octet_length({{function}}.key), 1024 * 1024
                USING ERRCODE = 'program_limit_exceeded',
                      HINT = 'Let the key be an id.';
        END IF;
        -- A column that is given nothing keeps its default, and need not be there.
        IF {{function}}.key IS NOT NULL AND {{function}}.headers IS NOT NULL THEN
            -- A literal takes the type of its column, whatever that is.
            EXECUTE $insert$
                    INSERT INTO {{table}} (event_type, topic, event_payload, headers, {{key}})
                    VALUES ($1, $2, $3, $4, $insert$ || quote_literal({{function}}.key)
                    || ') RETURNING id'
                INTO event_id
                USING {{function}}.event_type, {{function}}.topic, {{function}}.payload,
                      {{function}}.headers;
        ELSIF {{function}}.key IS NOT NULL THEN
            EXECUTE $insert$
                    INSERT INTO {{table}} (event_type, topic, event_payload, {{key}})
                    VALUES ($1, $2, $3, $insert$ || quote_literal({{function}}.key)
                    || ') RETURNING id'
                INTO event_id
                USING {{function}}.event_type, {{function}}.topic, {{function}}.payload;
        ELSIF {{function}}.headers IS NOT NULL THEN
            INSERT INTO {{table}} (event_type, topic, event_payload, headers)
                VALUES ({{function}}.event_type, {{function}}.topic, {{function}}.payload,
                        {{function}}.headers)
                RETURNING id INTO event_id;
        ELSE
            INSERT INTO {{table}} (event_type, topic, event_payload)
                VALUES ({{function}}.event_type, {{function}}.topic, {{function}}.payload)
                RETURNING id INTO event_id;
        END IF;
        RETURN event_id;
    END
    $function$;
END
$outboxd$;
