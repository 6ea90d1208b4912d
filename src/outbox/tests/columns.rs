#![allow(clippy::unwrap_used)]

use crate::config::{KeyRule, Mapping, TableName};
use crate::error::Code;
use crate::outbox::{Columns, Event, TextValue};
use crate::pgoutput::{Message, Relation, RelationColumn, ReplicaIdentity};

pub(super) const TEXT: u32 = 25;
const INT8: u32 = 20;
pub(super) const BYTEA: u32 = 17;

pub(super) fn relation(columns: &[(&str, u32)]) -> Relation {
    Relation {
        id: 1,
        namespace: "outbox".to_owned(),
        name: "outbox".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns
            .iter()
            .map(|&(name, type_id)| RelationColumn {
                key: name == "id",
                name: name.to_owned(),
                type_id,
                type_modifier: -1,
            })
            .collect(),
    }
}

/// The bytes of an insert of these columns: a kind and, for `t` and `b`, a value.
pub(super) fn insert(columns: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"I\0\0\0\x01N".to_vec();
    bytes.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (kind, value) in columns {
        bytes.push(*kind);
        if matches!(kind, b't' | b'b') {
            bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(*value);
        }
    }
    bytes
}

/// A column of type text; an id is an integer.
fn of_text(name: &str) -> (&str, u32) {
    (name, if name == "id" { INT8 } else { TEXT })
}

pub(super) fn read<'a>(columns: &'a Columns, bytes: &'a [u8]) -> crate::error::Result<Event<'a>> {
    match Message::decode(bytes) {
        Ok(Message::Insert(insert)) => columns.event_from_tuple(insert.new),
        other => panic!("no insert: {other:?}"),
    }
}

fn with_key(key: KeyRule) -> Mapping {
    Mapping {
        key,
        ..Mapping::default()
    }
}

fn column(name: &str) -> Mapping {
    with_key(KeyRule::Column(name.to_owned()))
}

fn contract() -> Columns {
    let names = [
        "id",
        "event_type",
        "topic",
        "event_payload",
        "created_at",
        "times_attempted",
        "published_at",
    ];
    Columns::of_relation(&relation(&names.map(of_text)), &column("event_type")).unwrap()
}

#[test]
fn a_row_of_the_contract_becomes_an_event() {
    let bytes = insert(&[
        (b't', b"7"),
        (b't', b"OrderCreated"),
        (b't', b"orders"),
        (b't', b"{}"),
        (b't', b"2024-05-06 07:08:09.1"),
        (b't', b"0"),
        (b'n', b""),
    ]);
    assert_eq!(
        read(&contract(), &bytes).unwrap(),
        Event {
            id: "7".into(),
            row_id: Some(7.into()),
            topic: "orders",
            event_type: Some("OrderCreated"),
            key: Some(TextValue::Verbatim(b"OrderCreated")),
            payload: Some(TextValue::Verbatim(b"{}")),
            created_at: Some("2024-05-06 07:08:09.1"),
            ..Event::of_nulls()
        }
    );
}

#[test]
fn columns_are_found_by_name_in_any_order_among_others() {
    let shape = relation(&[
        ("tenant", TEXT),
        ("event_payload", BYTEA),
        ("headers", TEXT),
        ("published_at", TEXT),
        ("topic", TEXT),
        ("note", TEXT),
        ("id", TEXT),
    ]);
    let columns = Columns::of_relation(&shape, &column("tenant")).unwrap();
    let bytes = insert(&[
        (b't', b"acme"),
        (b't', b"\\x00ff"),
        (b't', b"{\"a\": 1}"),
        (b't', b"2024-05-06 07:08:09"),
        (b't', b"orders"),
        (b'n', b""),
        (b't', b"5f0c"),
    ]);
    assert_eq!(
        read(&columns, &bytes).unwrap(),
        Event {
            id: "5f0c".into(),
            row_id: Some("5f0c".into()),
            topic: "orders",
            key: Some(TextValue::Verbatim(b"acme")),
            payload: Some(TextValue::Hex(b"\\x00ff")),
            headers: Some("{\"a\": 1}"),
            published: true,
            ..Event::of_nulls()
        }
    );
}

#[test]
fn the_key_column_may_be_one_that_is_used_already() {
    let shape = relation(&[("id", TEXT), ("topic", TEXT), ("event_payload", BYTEA)]);
    let bytes = insert(&[(b't', b"7"), (b't', b"orders"), (b't', b"\\x01")]);
    for (name, key) in [
        ("id", TextValue::Verbatim(b"7")),
        ("topic", TextValue::Verbatim(b"orders")),
        ("event_payload", TextValue::Hex(b"\\x01")),
    ] {
        let columns = Columns::of_relation(&shape, &column(name)).unwrap();
        assert_eq!(read(&columns, &bytes).unwrap().key, Some(key), "{name}");
    }
}

#[test]
fn a_missing_column_is_named_together_with_its_table() {
    let all = [("id", TEXT), ("topic", TEXT), ("event_payload", TEXT)];
    for (gone, _) in all {
        let rest: Vec<_> = all.into_iter().filter(|(name, _)| *name != gone).collect();
        let error = Columns::of_relation(&relation(&rest), &with_key(KeyRule::None)).unwrap_err();
        assert_eq!(error.code(), Code::Config);
        assert_eq!(
            error.message(),
            format!("outbox.outbox has no column {gone}")
        );
        assert!(error.hint().is_some());
    }
    for key in ["event_type", "tenant"] {
        let error = Columns::of_relation(&relation(&all), &column(key)).unwrap_err();
        assert_eq!(error.code(), Code::Config);
        assert_eq!(
            error.message(),
            format!(
                "outbox.outbox has no column {key}, which OUTBOX_KEY names: \
                 it has id, topic, event_payload"
            )
        );
    }
    for key in [KeyRule::None, KeyRule::Pointer("/id".to_owned())] {
        let text = key.to_string();
        assert!(
            Columns::of_relation(&relation(&all), &with_key(key)).is_ok(),
            "{text}"
        );
    }
}

#[test]
fn nulls_are_read_as_nothing() {
    let shape = relation(&[
        ("id", TEXT),
        ("event_type", TEXT),
        ("topic", TEXT),
        ("event_payload", TEXT),
        ("created_at", TEXT),
        ("headers", TEXT),
    ]);
    let columns = Columns::of_relation(&shape, &column("event_type")).unwrap();
    let bytes = insert(&[
        (b't', b"7"),
        (b'n', b""),
        (b'n', b""),
        (b'n', b""),
        (b'n', b""),
        (b'n', b""),
    ]);
    let event = read(&columns, &bytes).unwrap();
    assert_eq!((event.topic, event.event_type, event.key), ("", None, None));
    assert_eq!(
        (event.payload, event.created_at, event.headers),
        (None, None, None)
    );

    let bytes = insert(&[(b'n', b"".as_slice()); 6]);
    let event = read(&columns, &bytes).unwrap();
    assert_eq!((&*event.id, event.row_id), ("", None));
}

#[test]
fn a_value_that_was_too_long_to_be_read_is_named_if_it_matters() {
    let names = [
        "id",
        "note",
        "created_at",
        "tenant",
        "topic",
        "event_payload",
    ];
    let shape = relation(&names.map(of_text));
    let left_out = |key: &str, at: &[usize]| {
        let columns = Columns::of_relation(&shape, &column(key)).unwrap();
        let mut row = [(b't', b"7".as_slice()); 6];
        for at in at {
            row[*at] = (b'u', b"");
        }
        let bytes = insert(&row);
        let event = read(&columns, &bytes).unwrap();
        assert_eq!(event.row_id, (!at.contains(&0)).then_some(7.into()));
        event.left_out.map(str::to_owned)
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(left_out("id", &[]), None);
    assert_eq!(left_out("id", &[1, 2, 3]), None);
    assert_eq!(left_out("tenant", &[3]), named("tenant"));
    assert_eq!(left_out("id", &[1, 5]), named("event_payload"));
    assert_eq!(left_out("id", &[4, 5]), named("topic"));
    assert_eq!(left_out("id", &[0]), named("id"));
}

#[test]
fn text_that_is_not_utf8_marks_its_event_and_bytes_pass_as_they_are() {
    let names = [
        "id",
        "created_at",
        "headers",
        "event_payload",
        "event_type",
        "topic",
    ];
    let shape = relation(&names.map(of_text));
    let columns = Columns::of_relation(&shape, &column("event_type")).unwrap();
    let not_utf8 = |at: usize| {
        let mut row = [(b't', b"7".as_slice()); 6];
        row[at] = (b't', b"\xffA");
        let bytes = insert(&row);
        let event = read(&columns, &bytes).unwrap();
        let key = event.key == Some(TextValue::Verbatim(row[4].1));
        let payload = event.payload == Some(TextValue::Verbatim(row[3].1));
        assert!(key && payload && event.created_at.is_some() == (at != 1));
        event.not_utf8.map(str::to_owned)
    };
    let found = [0, 1, 2, 3, 4, 5].map(not_utf8);
    let [id, headers, kind, topic] =
        ["id", "headers", "event_type", "topic"].map(|it| Some(it.to_owned()));
    assert_eq!(found, [id, None, headers, None, kind, topic]);
}

#[test]
fn a_time_of_creation_may_be_anything_and_one_that_is_long_is_left_out() {
    let names = ["id", "topic", "event_payload", "created_at"];
    let columns =
        Columns::of_relation(&relation(&names.map(of_text)), &with_key(KeyRule::None)).unwrap();
    let (longest, longer) = (vec![b'x'; 1024], vec![b'x'; 1025]);
    for (text, is_kept) in [
        (b"infinity".as_slice(), true),
        (b"0044-03-15 00:00:00 BC", true),
        (b"1714975689", true),
        (b"{\"at\": 1}", true),
        (&longest, true),
        (&longer, false),
    ] {
        let bytes = insert(&[(b't', b"7"), (b't', b"t"), (b't', b"{}"), (b't', text)]);
        let event = read(&columns, &bytes).unwrap();
        let expected = is_kept.then(|| std::str::from_utf8(text).unwrap());
        assert_eq!((event.created_at, event.left_out), (expected, None));
    }
}

#[test]
fn a_row_that_does_not_fit_what_was_agreed_stops_the_stream() {
    let shape = relation(&[("id", TEXT), ("topic", TEXT), ("event_payload", TEXT)]);
    let columns = Columns::of_relation(&shape, &with_key(KeyRule::None)).unwrap();
    for row in [
        &[(b't', b"7".as_slice()), (b't', b"orders")][..],
        &[(b't', b"7"), (b't', b"orders"), (b't', b"{}"), (b'n', b"")],
        &[(b't', b"7"), (b't', b"orders"), (b'b', b"{}")],
    ] {
        let bytes = insert(row);
        assert_eq!(
            read(&columns, &bytes).unwrap_err().code(),
            Code::Replication
        );
    }
}

#[test]
fn the_table_is_asked_for_what_is_needed_and_nothing_else() {
    let table = TableName {
        schema: "outbox".to_owned(),
        name: "outbox".to_owned(),
    };
    let shape = [
        ("id", "bigint"),
        ("note", "text"),
        ("event_type", "text"),
        ("topic", "character varying"),
        ("event_payload", "bytea"),
        ("created_at", "timestamp with time zone"),
        ("region \"x\"", "character"),
    ];
    let columns = Columns::of_table(&table, shape, &column("region \"x\""), 1_000).unwrap();
    assert_eq!(
        columns.printed(),
        "LATERAL (SELECT o.\"id\"::text AS c0, o.\"event_type\"::text AS c1, \
         o.\"topic\"::text AS c2, '\\x' || pg_catalog.encode(o.\"event_payload\", 'hex') AS c3, \
         CASE WHEN pg_catalog.pg_column_size(o.\"created_at\") <= 16384 \
         THEN CASE WHEN pg_catalog.isfinite(o.\"created_at\") \
         THEN pg_catalog.regexp_replace((o.\"created_at\" AT TIME ZONE 'UTC')::text, \
         '( BC)?$', '+00\\1') \
         ELSE o.\"created_at\"::text END END AS c4, \
         CASE WHEN o.\"region \"\"x\"\"\" IS NOT NULL \
         THEN pg_catalog.format('%s', o.\"region \"\"x\"\"\") END AS c5 OFFSET 0) AS v"
    );
    let list = columns.select_list();
    let value = "CASE WHEN pg_catalog.octet_length(v.c3) <= 2002 THEN v.c3 END";
    assert!(list.contains(value), "{list}");
    let (_, too_long) = list
        .split_once(", CASE WHEN pg_catalog.octet_length(v.c0) > ")
        .unwrap();
    assert!(
        too_long.contains("octet_length(v.c3) > 2002 THEN 3"),
        "{list}"
    );
    assert!(
        !too_long.contains("c4"),
        "a time of creation is never too long: {list}"
    );
    assert!(Columns::of_table(&table, shape, &column("tenant"), 1_000).is_err());
}
