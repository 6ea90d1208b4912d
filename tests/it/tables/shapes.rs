//! The tables, as their projects' own scripts create them.

use super::Shape;

fn json(i: i32) -> Option<String> {
    Some(format!("{{\"n\": {i}, \"ö\": \"é\"}}"))
}

fn keyed(i: i32) -> Option<String> {
    Some(format!("k{}", i % 3))
}

fn unkeyed(_: i32) -> Option<String> {
    None
}

pub(super) const PGX_OUTBOX: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "pgx-outbox")],
    ddl: "CREATE TABLE outbox_messages (
              id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
              broker text NOT NULL, topic text NOT NULL, metadata jsonb, payload jsonb NOT NULL,
              created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)",
    insert: "INSERT INTO outbox_messages (broker, topic, metadata, payload)
             SELECT 'kafka', $1, '{\"trace\": \"1\"}', jsonb_build_object('n', i, 'ö', 'é')
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE outbox_messages SET topic = $1 WHERE payload ->> 'n' = '91'",
    unmarked: "SELECT count(*) FROM outbox_messages WHERE published_at IS NULL",
    unmark: "UPDATE outbox_messages SET published_at = NULL WHERE payload ->> 'n' = '3'",
    count: "SELECT count(*) FROM outbox_messages",
    key: unkeyed,
    value: json,
};

pub(super) const TOMORROW_ONE: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "tomorrow-one")],
    ddl: "CREATE SEQUENCE outbox_kafka_id_seq;
          CREATE TABLE outbox_kafka (
              id bigint PRIMARY KEY DEFAULT nextval('outbox_kafka_id_seq'),
              create_time timestamptz NOT NULL DEFAULT now(), processed timestamptz,
              topic varchar(128) NOT NULL, key varchar(128), value bytea NOT NULL, headers jsonb)",
    insert: "INSERT INTO outbox_kafka (topic, key, value, headers)
             SELECT $1, CASE WHEN i % 3 > 0 THEN 'k' || i % 3 END,
                    convert_to(jsonb_build_object('n', i, 'ö', 'é')::text, 'UTF8'),
                    '{\"x-value-type\": \"T\"}'
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE outbox_kafka SET topic = $1
            WHERE convert_from(value, 'UTF8')::jsonb ->> 'n' = '91'",
    unmarked: "SELECT count(*) FROM outbox_kafka WHERE processed IS NULL",
    unmark: "UPDATE outbox_kafka SET processed = NULL
              WHERE convert_from(value, 'UTF8')::jsonb ->> 'n' = '3'",
    count: "SELECT count(*) FROM outbox_kafka",
    key: |i| (i % 3 > 0).then(|| format!("k{}", i % 3)),
    value: json,
};

pub(super) const DEBEZIUM: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "debezium")],
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,
              aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)",
    insert: "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload)
             SELECT $1, 'k' || i % 3, 'Created',
                    CASE WHEN i % 4 > 0 THEN jsonb_build_object('n', i, 'ö', 'é') END
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "outbox.event.",
    mend: "UPDATE outboxevent SET aggregatetype = $1 WHERE payload ->> 'n' = '91'",
    unmarked: "",
    unmark: "",
    count: "SELECT count(*) FROM outboxevent",
    key: keyed,
    value: |i| json(i).filter(|_| i % 4 > 0),
};

pub(super) const ZEHELEIN: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "pg-transactional-outbox")],
    ddl: "CREATE TABLE outbox (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type text NOT NULL,
              aggregate_id text NOT NULL, message_type text NOT NULL, segment text,
              concurrency text NOT NULL DEFAULT 'sequential', payload jsonb NOT NULL,
              metadata jsonb, locked_until timestamptz NOT NULL DEFAULT to_timestamp(0),
              created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
              processed_at timestamptz, abandoned_at timestamptz,
              started_attempts smallint NOT NULL DEFAULT 0,
              finished_attempts smallint NOT NULL DEFAULT 0)",
    insert: "INSERT INTO outbox (aggregate_type, aggregate_id, message_type, payload, metadata)
             SELECT $1, 'k' || i % 3, 'created', jsonb_build_object('n', i, 'ö', 'é'), NULL
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE outbox SET aggregate_type = $1 WHERE payload ->> 'n' = '91'",
    unmarked: "SELECT count(*) FROM outbox WHERE processed_at IS NULL",
    unmark: "UPDATE outbox SET processed_at = NULL WHERE payload ->> 'n' = '3'",
    count: "SELECT count(*) FROM outbox",
    key: keyed,
    value: json,
};

pub(super) const EVENTUATE: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "eventuate")],
    ddl: "CREATE SCHEMA eventuate;
          CREATE TABLE eventuate.message (
              id varchar(255) PRIMARY KEY, destination text NOT NULL, headers text NOT NULL,
              payload text NOT NULL, published smallint DEFAULT 0, message_partition smallint,
              creation_time bigint)",
    insert: "INSERT INTO eventuate.message (id, destination, headers, payload, creation_time)
             SELECT '0000018b-' || lpad(i::text, 6, '0'), $1,
                    json_build_object('PARTITION_ID', 'k' || i % 3)::text,
                    jsonb_build_object('n', i, 'ö', 'é')::text,
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE eventuate.message SET destination = $1 WHERE id LIKE '%000091'",
    unmarked: "SELECT count(*) FROM eventuate.message WHERE published = 0",
    unmark: "UPDATE eventuate.message SET published = 0 WHERE id LIKE '%000003'",
    count: "SELECT count(*) FROM eventuate.message",
    key: keyed,
    value: json,
};

pub(super) const MODULITH: Shape = Shape {
    settings: &[
        ("OUTBOX_PRESET", "spring-modulith"),
        (
            "OUTBOX_TOPICS",
            "example.Created=modulith-of-nothing,*=${event_type}",
        ),
        ("OUTBOX_WHERE", "listener_id = 'kafka'"),
    ],
    ddl: "CREATE TABLE event_publication (
              id uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(), listener_id text NOT NULL,
              event_type text NOT NULL, serialized_event text NOT NULL,
              publication_date timestamptz NOT NULL DEFAULT now(), completion_date timestamptz)",
    insert: "INSERT INTO event_publication (listener_id, event_type, serialized_event)
             SELECT l, $1, jsonb_build_object('n', i, 'ö', 'é')::text
               FROM generate_series($2::int, $3::int) i, unnest(ARRAY['kafka', 'mail']) l",
    topic_prefix: "",
    mend: "UPDATE event_publication SET event_type = $1
            WHERE serialized_event LIKE '%: 91,%' AND listener_id = 'kafka'",
    unmarked: "SELECT count(*) FROM event_publication
                WHERE completion_date IS NULL AND listener_id = 'kafka'",
    unmark: "UPDATE event_publication SET completion_date = NULL
              WHERE serialized_event LIKE '%: 3,%' AND listener_id = 'kafka'",
    count: "SELECT count(*) FROM event_publication WHERE listener_id = 'kafka'",
    key: unkeyed,
    value: json,
};

pub(super) const CAP: Shape = Shape {
    settings: &[("OUTBOX_PRESET", "cap")],
    ddl: "CREATE SCHEMA cap;
          CREATE TABLE cap.published (
              \"Id\" bigint PRIMARY KEY NOT NULL, \"Version\" varchar(20) NOT NULL,
              \"Name\" varchar(200) NOT NULL, \"Content\" text, \"Retries\" int NOT NULL,
              \"Added\" timestamp NOT NULL, \"ExpiresAt\" timestamp,
              \"StatusName\" varchar(50) NOT NULL)",
    insert: "INSERT INTO cap.published
             SELECT 4000000000 + i, 'v1', $1,
                    format('{\"Headers\": {\"cap-kafka-key\": \"k%s\"}, \"Value\": %s}',
                           i % 3, jsonb_build_object('n', i, 'ö', 'é')),
                    0, now(), NULL, 'Scheduled'
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE cap.published SET \"Name\" = $1 WHERE \"Id\" = 4000000091",
    unmarked: "SELECT count(*) FROM cap.published WHERE \"StatusName\" <> 'Succeeded'",
    unmark: "UPDATE cap.published SET \"StatusName\" = 'Failed' WHERE \"Id\" = 4000000003",
    count: "SELECT count(*) FROM cap.published",
    key: keyed,
    value: json,
};

pub(super) const COMPOSITE: Shape = Shape {
    settings: &[
        ("OUTBOX_TABLE", "public.events"),
        (
            "OUTBOX_COLUMNS",
            "id=tenant+seq,type=none,topic=stream,payload=body,headers=none,created=none,\
             published=sent,attempts=none",
        ),
        ("OUTBOX_KEY", "${tenant}/${seq}"),
    ],
    ddl: "CREATE TABLE events (
              tenant text NOT NULL, seq int NOT NULL, stream text NOT NULL, body json NOT NULL,
              sent boolean NOT NULL DEFAULT false, PRIMARY KEY (tenant, seq))",
    insert: "INSERT INTO events (tenant, seq, stream, body)
             SELECT 'ten\"ant, ' || i % 2, i, $1, json_build_object('n', i)
               FROM generate_series($2::int, $3::int) i",
    topic_prefix: "",
    mend: "UPDATE events SET stream = $1 WHERE seq = 91",
    unmarked: "SELECT count(*) FROM events WHERE NOT sent",
    unmark: "UPDATE events SET sent = false WHERE seq = 3",
    count: "SELECT count(*) FROM events",
    key: |i| Some(format!("ten\"ant, {}/{i}", i % 2)),
    value: |i| Some(format!("{{\"n\" : {i}}}")),
};

pub(super) const NUMERIC: Shape = Shape {
    settings: &[
        ("OUTBOX_TABLE", "public.msg"),
        (
            "OUTBOX_COLUMNS",
            "id=nr,type=none,topic=none,payload=p,headers=none,created=at,published=done,\
             attempts=tries,order=created",
        ),
        ("OUTBOX_TOPIC", "${kind}"),
        ("OUTBOX_KEY", "none"),
        ("OUTBOX_WHERE", "draft = false AND kind IS NOT NULL"),
    ],
    ddl: "CREATE SEQUENCE nrs;
          CREATE TABLE msg (
              nr numeric PRIMARY KEY DEFAULT nextval('nrs') + 0.50, kind text, p text,
              at timestamp DEFAULT now(), done int, tries bigint, draft boolean NOT NULL)",
    insert: "INSERT INTO msg (kind, p, draft)
             SELECT $1, 'text ' || i, d
               FROM generate_series($2::int, $3::int) i, unnest(ARRAY[true, false]) d",
    topic_prefix: "",
    mend: "UPDATE msg SET kind = $1 WHERE p = 'text 91' AND NOT draft",
    unmarked: "SELECT count(*) FROM msg WHERE coalesce(done, 0) = 0 AND NOT draft",
    unmark: "UPDATE msg SET done = 0 WHERE p = 'text 3' AND NOT draft",
    count: "SELECT count(*) FROM msg WHERE NOT draft",
    key: unkeyed,
    value: |i| Some(format!("text {i}")),
};
