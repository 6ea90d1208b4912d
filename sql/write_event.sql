-- outbox.write_event(event_type, topic, payload): writes one event and returns its id.
--
-- For services in any language, in the transaction that also changes the data:
--
--     SELECT outbox.write_event('OrderCreated', 'orders', '{"number": 7}');
--
-- It refuses an event that could never be published, with a message that says what to do. Optional:
-- a plain INSERT works too. Safe to repeat: a function of that name stays as it is, with whatever
-- arguments, because a second one could take its calls. By hand, as the table's owner: replace the
-- names in double braces, schema by "outbox", table by "outbox"."outbox" and function by
-- "write_event" (in a schema with several outboxes, another name for each), then
--
--     psql -f write_event.sql
--
-- It runs with the caller's rights: USAGE on the schema, INSERT and SELECT (id) on the table.

DO $outboxd$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_proc
                WHERE pronamespace = pg_catalog.to_regnamespace($name${{schema}}$name$)
                  AND proname = (pg_catalog.parse_ident($name${{function}}$name$))[1]) THEN
        RAISE NOTICE 'a function of that name exists already and stays as it is';
        RETURN;
    END IF;
    CREATE FUNCTION {{schema}}.{{function}}(event_type text, topic text, payload jsonb)
    RETURNS bigint
    LANGUAGE plpgsql
    AS $function$
    DECLARE
        -- Measured as Postgres prints it, because that text goes to Kafka: a number like 1e131071
        -- is short here and long there.
        largest CONSTANT integer := 10 * 1024 * 1024;
        printed integer;
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
        INSERT INTO {{table}} (event_type, topic, event_payload)
            VALUES ({{function}}.event_type, {{function}}.topic, {{function}}.payload)
            RETURNING id INTO event_id;
        RETURN event_id;
    END
    $function$;
END
$outboxd$;
