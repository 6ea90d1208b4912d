//! Columns that settings name: several meanings, ids, marks, extra columns and the filter.
#![allow(clippy::unwrap_used)]

use crate::config::mapping::{
    ColumnName, Condition, HeadersColumn, MarkedColumn, NamedColumn, PartitionRule, Piece,
    Template, Test, TimestampRule, TopicRule,
};
use crate::config::{KeyRule, Mapping, TableName};
use crate::error::Code;
use crate::outbox::tests::columns::{BYTEA, TEXT, insert, read, relation};
use crate::outbox::{Columns, TextValue};

const BOOLEAN: u32 = 16;
const BIGINT: u32 = 20;
const SMALLINT: u32 = 21;
const TIMESTAMP: u32 = 1114;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// The type of a domain, which no program knows.
const DOMAIN: u32 = 16_500;

fn template(pieces: &[(&str, bool)]) -> Template {
    let piece = |(text, is_column): &(&str, bool)| match is_column {
        true => Piece::Column((*text).to_owned()),
        false => Piece::Text((*text).to_owned()),
    };
    Template {
        pieces: pieces.iter().map(piece).collect(),
    }
}

fn condition(column: &str, test: Test) -> Condition {
    Condition {
        column: column.to_owned(),
        test,
    }
}

fn named(column: &str, name: &str) -> NamedColumn {
    NamedColumn {
        column: column.to_owned(),
        name: name.to_owned(),
    }
}

/// Debezium's conventional table.
fn conventional() -> Mapping {
    let mut mapping = Mapping {
        topic: TopicRule::Template(template(&[("outbox.", false), ("aggregatetype", true)])),
        key: KeyRule::Column("aggregateid".to_owned()),
        ..Mapping::default()
    };
    mapping.columns.payload = "payload".to_owned();
    mapping.columns.event_type = ColumnName::given("type");
    mapping.columns.published.column = ColumnName::none();
    mapping.columns.header_columns = vec![named("type", "eventType")];
    mapping
}

const CONVENTIONAL: [(&str, u32); 5] = [
    ("id", UUID),
    ("aggregatetype", TEXT),
    ("aggregateid", TEXT),
    ("type", TEXT),
    ("payload", JSONB),
];

#[test]
fn the_conventional_table_becomes_an_event() {
    let columns = Columns::of_relation(&relation(&CONVENTIONAL), &conventional()).unwrap();
    let bytes = insert(&[
        (b't', b"5f0c"),
        (b't', b"order"),
        (b't', "kö".as_bytes()),
        (b't', b"OrderCreated"),
        (b't', b"{}"),
    ]);
    let event = read(&columns, &bytes).unwrap();
    assert_eq!((&*event.id, event.row_id), ("5f0c", Some("5f0c".into())));
    assert_eq!((event.topic, event.event_type), ("", Some("OrderCreated")));
    assert_eq!(event.key, Some(TextValue::Verbatim("kö".as_bytes())));
    assert_eq!(event.payload, Some(TextValue::Json(b"{}")));
    let extras = ["order", "OrderCreated"];
    let extras = extras.map(|text| Some(TextValue::Text(text)));
    assert_eq!(*event.extras, extras);
    assert!(event.is_message && !event.published);
}

#[test]
fn one_column_has_all_the_meanings_that_settings_give_it() {
    let mut mapping = Mapping {
        topic: TopicRule::Column("kind".to_owned()),
        key: KeyRule::Column("kind".to_owned()),
        timestamp: TimestampRule::Column("at".to_owned()),
        ..Mapping::default()
    };
    mapping.columns.id = vec!["kind".to_owned()];
    mapping.columns.event_type = ColumnName::given("kind");
    mapping.columns.created = ColumnName::given("at");
    mapping.columns.payload = "content".to_owned();
    mapping.columns.headers = HeadersColumn {
        column: ColumnName::given("content"),
        pointer: Some("/Headers".to_owned()),
    };
    mapping.columns.header_columns = vec![named("kind", "kind")];
    let shape = relation(&[("at", TIMESTAMP), ("content", JSONB), ("kind", TEXT)]);
    let columns = Columns::of_relation(&shape, &mapping).unwrap();
    let bytes = insert(&[(b't', b"2024-05-06 07:08:09"), (b't', b"{}"), (b't', b"7")]);
    let event = read(&columns, &bytes).unwrap();
    let id = Some("7".into());
    assert_eq!((&*event.id, event.row_id, event.topic), ("7", id, "7"));
    let seven = Some(TextValue::Verbatim(b"7"));
    assert_eq!((event.event_type, event.key), (Some("7"), seven));
    assert_eq!(
        (event.created_at, event.headers),
        (Some("2024-05-06 07:08:09"), Some("{}"))
    );
    assert_eq!(
        *event.extras,
        ["2024-05-06 07:08:09", "7"].map(|text| Some(TextValue::Text(text)))
    );
}

#[test]
fn a_composite_id_is_a_json_array_and_has_no_part_that_is_null() {
    let mut mapping = Mapping::default();
    mapping.columns.id = vec!["tenant".to_owned(), "number".to_owned()];
    mapping.filter.conditions = vec![condition("topic", Test::NotNull)];
    let shape = relation(&[
        ("number", BIGINT),
        ("topic", TEXT),
        ("event_payload", JSONB),
        ("event_type", TEXT),
        ("tenant", TEXT),
    ]);
    let columns = Columns::of_relation(&shape, &mapping).unwrap();
    let id = |number: (u8, &[u8]), tenant: (u8, &[u8])| {
        let bytes = insert(&[number, (b't', b"t"), (b't', b"{}"), (b'n', b""), tenant]);
        let event = read(&columns, &bytes).unwrap();
        let row_id = event.row_id.as_ref().map(ToString::to_string);
        assert_eq!(row_id.unwrap_or_default(), event.id);
        assert_eq!(event.extras.len(), 1);
        (event.id.into_owned(), event.not_utf8.map(str::to_owned))
    };
    let acme = (b't', "ac\"mé".as_bytes());
    assert_eq!(
        id((b't', b"7"), acme),
        ("[\"ac\\\"mé\", \"7\"]".to_owned(), None)
    );
    assert_eq!(id((b'n', b""), acme).0, "");
    assert_eq!(id((b't', b"7"), (b'n', b"")).0, "");
    let (id, not_utf8) = id((b't', b"7"), (b't', b"\xff"));
    assert_eq!((&*id, not_utf8.as_deref()), ("", Some("tenant")));
}

#[test]
fn the_type_of_the_mark_decides_what_marks_a_row() {
    let constant = Some("Succeeded");
    for (type_id, constant, text, published) in [
        (TIMESTAMP, None, "2024-05-06 07:08:09", true),
        (TIMESTAMP, None, "-infinity", true),
        (BOOLEAN, None, "t", true),
        (BOOLEAN, None, "f", false),
        (SMALLINT, None, "1", true),
        (SMALLINT, None, "-3", true),
        (BIGINT, None, "0", false),
        (DOMAIN, None, "0", false),
        (DOMAIN, None, "f", false),
        (DOMAIN, None, "2024-05-06", true),
        (TEXT, None, "0", true),
        (TEXT, constant, "Succeeded", true),
        (TEXT, constant, "succeeded", false),
        (TEXT, constant, "", false),
        (DOMAIN, constant, "Succeeded", true),
        (SMALLINT, Some("2"), "2", true),
        (SMALLINT, Some("2"), "1", false),
    ] {
        let mut mapping = Mapping::default();
        mapping.columns.published = MarkedColumn {
            column: ColumnName::given("mark"),
            constant: constant.map(str::to_owned),
        };
        let shape = relation(&[
            ("id", BIGINT),
            ("topic", TEXT),
            ("event_type", TEXT),
            ("event_payload", JSONB),
            ("mark", type_id),
        ]);
        let columns = Columns::of_relation(&shape, &mapping).unwrap();
        let mut row = [(b't', b"7".as_slice()); 5];
        row[4].1 = text.as_bytes();
        let bytes = insert(&row);
        let event = read(&columns, &bytes).unwrap();
        assert_eq!(event.published, published, "{type_id} {constant:?} {text}");
        row[4] = (b'n', b"");
        let bytes = insert(&row);
        assert!(
            !read(&columns, &bytes).unwrap().published,
            "a null is no mark"
        );
    }
}

#[test]
fn only_rows_that_pass_every_condition_are_messages() {
    let list = |values: &[&str]| values.iter().map(|it| (*it).to_owned()).collect();
    let mut mapping = Mapping::default();
    mapping.filter.conditions = vec![
        condition("listener", Test::OneOf(list(&["kafka", "größe"]))),
        condition("state", Test::NoneOf(list(&["draft", ""]))),
        condition("state", Test::NotNull),
        condition("deleted", Test::Null),
    ];
    let shape = relation(&[
        ("id", BIGINT),
        ("topic", TEXT),
        ("event_type", TEXT),
        ("event_payload", JSONB),
        ("listener", TEXT),
        ("state", TEXT),
        ("deleted", BOOLEAN),
    ]);
    let columns = Columns::of_relation(&shape, &mapping).unwrap();
    let text = |text: &'static str| (b't', text.as_bytes());
    let (null, too_long) = ((b'n', b"".as_slice()), (b'u', b"".as_slice()));
    let not_utf8 = (b't', b"\xff".as_slice());
    for (listener, state, deleted, is_message) in [
        (text("kafka"), text("new"), null, true),
        (text("größe"), text("new"), null, true),
        (text("mail"), text("new"), null, false),
        (null, text("new"), null, false),
        (too_long, text("new"), null, false),
        (text("kafka"), text("draft"), null, false),
        (text("kafka"), text(""), null, false),
        (text("kafka"), null, null, false),
        (text("kafka"), too_long, null, true),
        (text("kafka"), not_utf8, null, true),
        (text("kafka"), text("new"), text("f"), false),
        (text("kafka"), text("new"), too_long, false),
    ] {
        let mut row = [(b't', b"7".as_slice()); 7];
        (row[4], row[5], row[6]) = (listener, state, deleted);
        let bytes = insert(&row);
        let event = read(&columns, &bytes).unwrap();
        assert_eq!(
            event.is_message, is_message,
            "{listener:?} {state:?} {deleted:?}"
        );
        // What the filter alone needs spoils no record.
        assert_eq!((event.left_out, event.not_utf8), (None, None));
    }
}

#[test]
fn an_extra_column_that_a_record_needs_spoils_its_event_and_is_named() {
    let mut mapping = conventional();
    mapping.filter.conditions = vec![condition("type", Test::NotNull)];
    let columns = Columns::of_relation(&relation(&CONVENTIONAL), &mapping).unwrap();
    let row = |at: usize, value: (u8, &'static [u8])| {
        let mut row = [(b't', b"7".as_slice()); 5];
        row[at] = value;
        insert(&row)
    };
    let bytes = row(1, (b'u', b""));
    let event = read(&columns, &bytes).unwrap();
    assert_eq!(
        (event.left_out, event.extras[0]),
        (Some("aggregatetype"), None)
    );
    let bytes = row(1, (b't', b"\xff"));
    assert_eq!(
        read(&columns, &bytes).unwrap().not_utf8,
        Some("aggregatetype")
    );
    let bytes = row(3, (b'u', b""));
    let event = read(&columns, &bytes).unwrap();
    assert_eq!((event.left_out, event.is_message), (Some("type"), true));
}

fn error_of(mapping: &Mapping, columns: &[(&str, u32)]) -> String {
    let error = Columns::of_relation(&relation(columns), mapping).unwrap_err();
    assert_eq!(error.code(), Code::Config);
    assert!(error.hint().is_some() && !error.report().contains('\n'));
    error.message().to_owned()
}

#[test]
fn a_column_that_a_setting_names_has_to_be_there_and_the_error_lists_what_is() {
    let has = "it has id, aggregatetype, aggregateid, type, payload";
    let mut of_key = conventional();
    of_key.key = KeyRule::Template(template(&[("aggregateid", true), ("tenant", true)]));
    let mut of_partition = conventional();
    of_partition.partition = PartitionRule::Column("shard".to_owned());
    let mut of_timestamp = conventional();
    of_timestamp.timestamp = TimestampRule::Column("at".to_owned());
    let mut of_headers = conventional();
    of_headers.columns.headers.column = ColumnName::given("meta");
    let mut of_envelope = conventional();
    of_envelope.columns.envelope = vec![named("version", "v")];
    let mut of_filter = conventional();
    of_filter.filter.conditions = vec![condition("listener", Test::NotNull)];
    let mut of_topic = conventional();
    of_topic.topics.other = Some(template(&[("region", true)]));
    let mut of_id = conventional();
    of_id.columns.id = vec!["id".to_owned(), "part".to_owned()];
    let mut of_mark = conventional();
    of_mark.columns.published.column = ColumnName::given("sent");
    for (mapping, column, setting) in [
        (of_key, "tenant", "OUTBOX_KEY"),
        (of_partition, "shard", "OUTBOX_PARTITION"),
        (of_timestamp, "at", "OUTBOX_TIMESTAMP"),
        (of_headers, "meta", "OUTBOX_COLUMNS"),
        (of_envelope, "version", "OUTBOX_COLUMNS"),
        (of_filter, "listener", "OUTBOX_WHERE"),
        (of_topic, "region", "OUTBOX_TOPIC"),
        (of_id, "part", "OUTBOX_COLUMNS"),
        (of_mark, "sent", "OUTBOX_COLUMNS"),
    ] {
        assert_eq!(
            error_of(&mapping, &CONVENTIONAL),
            format!("outbox.outbox has no column {column}, which {setting} names: {has}")
        );
    }
    let mut absent = conventional();
    absent.columns.attempts = ColumnName::given("tries");
    absent.columns.order = Some("sequence".to_owned());
    let found = Columns::of_relation(&relation(&CONVENTIONAL), &absent);
    assert!(found.is_ok(), "no record needs these: {found:?}");
}

#[test]
fn a_table_of_many_columns_is_not_listed_whole() {
    let names: Vec<String> = (0..50).map(|number| format!("c{number}")).collect();
    let columns: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), TEXT)).collect();
    let mut mapping = conventional();
    mapping.columns.id = vec!["key".to_owned()];
    let message = error_of(&mapping, &columns);
    assert!(message.ends_with("c38, c39 and 10 more"), "{message}");
}

#[test]
fn the_table_is_asked_for_the_columns_of_the_mapping_each_once() {
    let table = TableName {
        schema: "outbox".to_owned(),
        name: "outbox".to_owned(),
    };
    let mut mapping = conventional();
    mapping.columns.id = vec!["id".to_owned(), "aggregateid".to_owned()];
    mapping.timestamp = TimestampRule::Column("at".to_owned());
    mapping.columns.created = ColumnName::given("at");
    let shape = [
        ("id", "uuid"),
        ("note", "text"),
        ("aggregatetype", "text"),
        ("aggregateid", "text"),
        ("type", "text"),
        ("payload", "bytea"),
        ("at", "timestamp without time zone"),
    ];
    let columns = Columns::of_table(&table, shape, &mapping, 1_000).unwrap();
    assert_eq!(
        columns.printed(),
        "LATERAL (SELECT o.\"id\"::text AS c0, o.\"aggregatetype\"::text AS c1, \
         o.\"aggregateid\"::text AS c2, o.\"type\"::text AS c3, \
         '\\x' || pg_catalog.encode(o.\"payload\", 'hex') AS c4, o.\"at\"::text AS c5 \
         OFFSET 0) AS v"
    );
    let list = columns.select_list();
    // A record needs the time, so that one too long is no matter of silence.
    assert!(list.contains("octet_length(v.c4) > 2002 THEN 4"), "{list}");
    assert!(
        list.contains("octet_length(v.c5) > 2097154 THEN 5"),
        "{list}"
    );
    let bytea = relation(&[("id", UUID), ("payload", BYTEA), ("aggregateid", TEXT)]);
    assert!(Columns::of_relation(&bytea, &mapping).is_err());
}
