//! The stream and the table produce the same record for the same row, whatever the types of its
//! columns.

use anyhow::{Context, Result, bail};
use outboxd::config::{KeyRule, Mapping, TableName};
use outboxd::outbox::{Columns, Event, EventSource, Router};
use outboxd::pgoutput::{Message, Relation};

use crate::support::postgres::{self, Database, Session};

const TABLE: &str = "
    CREATE SCHEMA outbox;
    CREATE TABLE outbox.outbox (
        note          text,
        \"the key\"   KEY_TYPE,
        event_payload PAYLOAD_TYPE,
        headers       jsonb,
        published_at  timestamp,
        created_at    timestamptz DEFAULT '2024-05-06 07:08:09.1+00',
        topic         varchar(20) DEFAULT 'orders',
        event_type    text DEFAULT 'ö',
        id            integer PRIMARY KEY
    );
    CREATE PUBLICATION p FOR TABLE outbox.outbox WITH (publish = 'insert');
    ALTER TABLE outbox.outbox DROP COLUMN note;";

/// A record's topic, key, value and headers; both sides are routed as rows of the table, so that
/// the headers can be compared.
type Sent = (
    String,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(String, Vec<u8>)>,
);

fn sent(event: &Event<'_>, mapping: &Mapping) -> Result<Sent> {
    let mut router = Router::new(mapping);
    let record = router.record(event, EventSource::Table)?;
    Ok((
        record.topic.to_owned(),
        record.key.map(<[u8]>::to_vec),
        record.value.map(<[u8]>::to_vec),
        record
            .headers()
            .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
            .collect(),
    ))
}

async fn from_stream(session: &Session, slot: &str, mapping: &Mapping) -> Result<Vec<Sent>> {
    // UTC as on the replication connection, unlike the session that reads the table.
    session.batch_execute("SET timezone = 'UTC'").await?;
    let messages = session
        .query(
            "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
                 'proto_version', '1', 'publication_names', 'p')",
            &[&slot],
        )
        .await?;
    let mut columns = None;
    let mut all = Vec::new();
    for message in &messages {
        match Message::decode(message.try_get(0)?)? {
            Message::Relation(relation) => columns = Some(columns_of(&relation, mapping)?),
            Message::Insert(insert) => {
                let columns = columns.as_ref().context("a relation comes first")?;
                all.push(sent(&columns.event_from_tuple(insert.new)?, mapping)?);
            }
            Message::Begin(_) | Message::Commit(_) | Message::Type(_) => {}
            other => bail!("unexpected {other:?}"),
        }
    }
    Ok(all)
}

fn columns_of(relation: &Relation, mapping: &Mapping) -> Result<Columns> {
    assert_eq!(
        (relation.namespace.as_str(), relation.name.as_str()),
        ("outbox", "outbox")
    );
    Ok(Columns::of_relation(relation, mapping)?)
}

async fn from_table(session: &Session, mapping: &Mapping) -> Result<Vec<Sent>> {
    session
        .batch_execute("SET timezone = 'Asia/Kathmandu'")
        .await?;
    let shape = session
        .query(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = 'outbox.outbox'::regclass AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum",
            &[],
        )
        .await?;
    let shape: Vec<(String, String)> = shape
        .iter()
        .map(|column| (column.get(0), column.get(1)))
        .collect();
    let table: TableName = "outbox.outbox".parse()?;
    let shape = shape
        .iter()
        .map(|(name, kind)| (name.as_str(), kind.as_str()));
    let columns = Columns::of_table(&table, shape, mapping, 1 << 20)?;
    let sql = format!(
        "SELECT {} FROM outbox.outbox AS o, {} ORDER BY o.id",
        columns.select_list(),
        columns.printed()
    );
    let rows = session.query(&sql, &[]).await?;
    rows.iter()
        .map(|row| sent(&columns.event_from_row(row)?, mapping))
        .collect()
}

#[tokio::test]
async fn stream_and_table_send_the_same_for_every_type_of_key_and_payload() -> Result<()> {
    let mut mapping = Mapping::default();
    mapping.key = KeyRule::Column("the key".to_owned());
    for (key_type, keys) in [
        ("text", ["'a'", "''", "NULL"]),
        ("character(9)", ["'a'", "' b '", "NULL"]),
        ("bigint", ["1", "-9223372036854775808", "NULL"]),
        ("numeric", ["1.50", "'NaN'", "1e30"]),
        ("double precision", ["0.1", "1e300", "'-Infinity'"]),
        ("boolean", ["true", "false", "NULL"]),
        (
            "uuid",
            ["'5F0C1B1E-0000-0000-0000-000000000001'", "NULL", "NULL"],
        ),
        ("inet", ["'10.0.0.1'", "'10.0.0.0/8'", "NULL"]),
        ("bytea", ["'\\x00ff'", "''", "NULL"]),
        (
            "timestamptz",
            [
                "'2024-05-06 07:08:09.123+02'",
                "'0044-03-15 23:59:59.5 BC'",
                "'-infinity'",
            ],
        ),
        (
            "interval",
            ["'1 year 2 days 03:04:05.6'", "'-1 day'", "NULL"],
        ),
        ("integer[]", ["'{1,NULL,3}'", "'{}'", "NULL"]),
    ] {
        let payloads = (
            "jsonb",
            ["'{\"b\": 1.50, \"a\": \"ö\"}'", "'null'", "'[1]'"],
        );
        compare((key_type, keys), payloads, &mapping).await?;
    }
    Ok(())
}

#[tokio::test]
async fn stream_and_table_send_the_same_for_every_type_of_payload() -> Result<()> {
    let mapping = Mapping::default();
    for payloads in [
        ("json", ["'{ \"b\":1.50,\"b\":2 }'", "'null'", "NULL"]),
        ("text", ["'plain'", "''", "NULL"]),
        ("bytea", ["'\\x00ff5c78'", "''", "NULL"]),
        ("xml", ["'<a/>'", "'<?xml version=\"1.0\"?><b/>'", "NULL"]),
    ] {
        compare(("text", ["NULL"; 3]), payloads, &mapping).await?;
    }
    Ok(())
}

async fn compare(
    keys: (&str, [&str; 3]),
    payloads: (&str, [&str; 3]),
    mapping: &Mapping,
) -> Result<()> {
    let database = Database::create_empty(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    let table = TABLE
        .replace("KEY_TYPE", keys.0)
        .replace("PAYLOAD_TYPE", payloads.0);
    session.batch_execute(&table).await?;
    let slot = format!("{}_rows", database.name);
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    session.execute(create, &[&slot]).await?;
    for (id, (key, payload)) in keys.1.iter().zip(payloads.1).enumerate() {
        let insert = format!(
            "INSERT INTO outbox.outbox (id, \"the key\", event_payload, headers)
             VALUES ({id}, {key}, {payload}, '{{\"traceparent\": \"00-ab-01\"}}')"
        );
        session.batch_execute(&insert).await.context(insert)?;
    }
    let table = from_table(&session, mapping).await?;
    let stream = from_stream(&session, &slot, mapping).await?;
    assert_eq!(table.len(), 3);
    assert_eq!(
        table, stream,
        "{} as key, {} as payload",
        keys.0, payloads.0
    );
    let (topic, _, _, headers) = &table[0];
    assert_eq!(topic, "orders");
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), &**value))
        .collect();
    assert_eq!(
        headers,
        [
            ("outbox_id", b"0".as_slice()),
            ("outbox_created_at", b"2024-05-06 07:08:09.1+00"),
            ("outbox_event_type", "ö".as_bytes()),
            ("outbox_source", b"table"),
            ("traceparent", b"00-ab-01"),
        ]
    );
    Ok(())
}
