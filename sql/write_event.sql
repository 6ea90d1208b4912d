-- outbox.write_event(event_type, topic, payload): writes one event and returns its id.
--
-- For services in any language, in the transaction that also changes the data:
--
--     SELECT outbox.write_event('OrderCreated', 'orders', '{"number": 7}');
--
-- It refuses an event that could never be published, with a message that says what to do. Optional:
-- a plain INSERT works too. Safe to repeat. By hand, as the table's owner: replace the names in
-- double braces, schema by "outbox" and table by "outbox"."outbox", then
--
--     psql -f write_event.sql
--
-- It runs with the caller's rights: USAGE on the schema, INSERT and SELECT (id) on the table.

CREATE OR REPLACE FUNCTION {{schema}}.write_event(event_type text, topic text, payload jsonb)
RETURNS bigint
LANGUAGE plpgsql
AS $outboxd$
DECLARE
    -- Measured as Postgres prints it, because that text goes to Kafka: a number like 1e131071 is
    -- short here and long there.
    largest CONSTANT integer := 10 * 1024 * 1024;
    printed integer;
    event_id bigint;
BEGIN
    IF coalesce(write_event.event_type, '') = '' THEN
        RAISE EXCEPTION 'the event type is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name the kind of event, such as OrderCreated.';
    END IF;
    IF coalesce(write_event.topic, '') = '' THEN
        RAISE EXCEPTION 'an event of type % names no topic', write_event.event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name the Kafka topic that the event is for.';
    END IF;
    IF write_event.topic !~ '^[a-zA-Z0-9._-]{1,249}$' OR write_event.topic IN ('.', '..') THEN
        RAISE EXCEPTION 'Kafka does not take % for a topic',
                quote_literal(left(write_event.topic, 300))
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 249 ASCII letters, digits, ".", "_" and "-"; not "." or "..".';
    END IF;
    IF write_event.payload IS NULL THEN
        RAISE EXCEPTION 'an event of type % has no payload', write_event.event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON value; null as JSON is one.';
    END IF;
    BEGIN
        printed := octet_length(write_event.payload::text);
    EXCEPTION WHEN program_limit_exceeded THEN
        RAISE EXCEPTION 'the payload of an event of type % prints as more than Postgres can hold',
                write_event.event_type
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Look for numbers with large exponents in it.';
    END;
    IF printed > largest THEN
        RAISE EXCEPTION 'the payload of an event of type % prints as % bytes, of at most %',
                write_event.event_type, printed, largest
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store the large part elsewhere and put a reference to it into the event.';
    END IF;
    INSERT INTO {{table}} (event_type, topic, event_payload)
        VALUES (write_event.event_type, write_event.topic, write_event.payload)
        RETURNING id INTO event_id;
    RETURN event_id;
END
$outboxd$;
