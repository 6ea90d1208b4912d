//! Topic, key, value, partition and time by the rules of settings.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use crate::config::mapping::{
    ColumnName, HeaderStyle, HeadersColumn, NamedColumn, NullPayload, PartitionRule, Piece,
    Template, TimestampRule, TopicRule, ValueRule,
};
use crate::config::{KeyRule, Mapping};
use crate::error::{Code, Error, Result};
use crate::outbox::{Event, EventSource, OwnedRecord, Router, TextValue};
use crate::pgoutput::Timestamp;

/// 2024-05-06 07:08:09.123456 UTC.
const COMMITTED_AT: i64 = 768_294_489_123_456;

fn template(pieces: &[&str]) -> Template {
    let piece = |text: &&str| match text.strip_prefix('$') {
        Some(column) => Piece::Column(column.to_owned()),
        None => Piece::Text((*text).to_owned()),
    };
    Template {
        pieces: pieces.iter().map(piece).collect(),
    }
}

fn order<'a>() -> Event<'a> {
    Event {
        id: Cow::Borrowed("7"),
        row_id: Some(7.into()),
        topic: "order",
        event_type: Some("OrderCreated"),
        key: Some(TextValue::Verbatim(b"OrderCreated")),
        payload: Some(TextValue::Json(br#"{"a": 1}"#)),
        created_at: Some("2024-05-06 07:08:09.1"),
        ..Event::of_nulls()
    }
}

fn with<'a>(extras: &[Option<TextValue<'a>>]) -> Event<'a> {
    Event {
        extras: extras.into(),
        ..order()
    }
}

fn text(text: &str) -> Option<TextValue<'_>> {
    Some(TextValue::Verbatim(text.as_bytes()))
}

fn stream() -> EventSource {
    EventSource::Stream {
        commit_lsn: "0/10".parse().unwrap(),
        index: 0,
        committed_at: Timestamp::from_postgres_micros(COMMITTED_AT),
    }
}

fn made_from(mapping: &Mapping, event: &Event<'_>, origin: EventSource) -> Result<OwnedRecord> {
    let mut router = Router::new(mapping);
    let record = router.record(event, origin)?;
    Ok(OwnedRecord::from(&record))
}

fn made(mapping: &Mapping, event: &Event<'_>) -> Result<OwnedRecord> {
    made_from(mapping, event, EventSource::Table)
}

/// The code of the rejection that this error makes.
fn code(event: &Event<'_>, error: &Error) -> &'static str {
    assert_eq!(error.code(), Code::Publish);
    assert!(error.message().contains("id 7"), "{error}");
    event.rejection_code(error)
}

fn by_template(pieces: &[&str]) -> Mapping {
    Mapping {
        topic: TopicRule::Template(template(pieces)),
        ..Mapping::default()
    }
}

#[test]
fn a_template_gives_the_topic_and_null_gives_none() {
    let mapping = by_template(&["outbox.event.", "$aggregatetype"]);
    let event = with(&[text("order")]);
    assert_eq!(
        made(&mapping, &event).unwrap().topic(),
        "outbox.event.order"
    );
    let event = with(&[None]);
    let error = made(&mapping, &event).unwrap_err();
    assert_eq!(code(&event, &error), "TOPIC_UNMAPPED");
    assert_eq!(
        error.message(),
        "the event with id 7 has no topic: aggregatetype is null"
    );
    let constant = by_template(&["events"]);
    assert_eq!(made(&constant, &order()).unwrap().topic(), "events");
    let empty = with(&[text("")]);
    let record = made(&by_template(&["$aggregatetype"]), &empty).unwrap();
    assert!(
        record.topic_name().is_err(),
        "the name is checked like any other"
    );
}

#[test]
fn the_text_before_a_column_stands_in_the_topic_of_every_event() {
    let mapping = by_template(&["outbox.event.", "$aggregatetype"]);
    let mut router = Router::new(&mapping);
    let whole = with(&[text("order")]);
    let malformed = Event {
        headers: Some("[]"),
        ..with(&[text("payment")])
    };
    for _ in 0..2 {
        let record = router.record(&whole, stream()).unwrap();
        assert_eq!(record.topic, "outbox.event.order");
        assert!(router.prepare(&malformed, stream()).is_err());
        let parts = router.bare(&malformed);
        let record = router.assemble(&parts, &malformed, stream());
        assert_eq!(record.topic, "outbox.event.payment");
    }
    for pieces in [
        ["out box.", "$aggregatetype"],
        ["__outboxd", "$aggregatetype"],
    ] {
        let record = made(&by_template(&pieces), &whole).unwrap();
        assert!(record.topic_name().is_err(), "{pieces:?}");
    }
    let spaced = with(&[text("o rder")]);
    assert!(made(&mapping, &spaced).unwrap().topic_name().is_err());
}

#[test]
fn a_map_gives_the_topic_of_a_value_and_a_template_that_of_every_other() {
    let mut mapping = Mapping::default();
    let entries = [("order", "orders.v1"), ("größe", "sizes")];
    let entries = entries.map(|(value, topic)| (value.to_owned(), topic.to_owned()));
    mapping.topics.entries = entries.into();
    let topic = |mapping: &Mapping, topic: &str| {
        let event = Event {
            topic,
            extras: [text("eu")].into(),
            ..order()
        };
        made(mapping, &event).map(|record| record.topic().to_owned())
    };
    assert_eq!(topic(&mapping, "order").unwrap(), "orders.v1");
    assert_eq!(topic(&mapping, "größe").unwrap(), "sizes");
    for absent in ["Order", "orders.v1", ""] {
        let error = topic(&mapping, absent).unwrap_err();
        assert_eq!(code(&order(), &error), "TOPIC_UNMAPPED", "{absent}");
        assert!(!error.report().contains("orders.v1"), "{error}");
    }
    mapping.topics.other = Some(template(&["other.", "$region"]));
    assert_eq!(topic(&mapping, "order").unwrap(), "orders.v1");
    assert_eq!(topic(&mapping, "payment").unwrap(), "other.eu");
    assert!(topic(&mapping, "").is_err(), "null is no other value");
    mapping.topic = TopicRule::Template(template(&["gr", "$region"]));
    assert_eq!(topic(&mapping, "order").unwrap(), "other.eu");
}

#[test]
fn an_event_without_a_topic_has_a_bare_record_that_is_sent_nowhere() {
    let mut mapping = Mapping::default();
    mapping.topics.entries = [("a".to_owned(), "b".to_owned())].into();
    let mut router = Router::new(&mapping);
    let event = order();
    router.prepare(&event, EventSource::Table).err().unwrap();
    let parts = router.bare(&event);
    let record = router.assemble(&parts, &event, EventSource::Table);
    assert_eq!(
        (record.topic, record.value),
        ("", Some(br#"{"a": 1}"#.as_slice()))
    );
}

fn keyed(key: KeyRule) -> Mapping {
    Mapping {
        key,
        ..Mapping::default()
    }
}

#[test]
fn a_key_of_several_columns_is_null_if_one_of_them_is() {
    let mapping = keyed(KeyRule::Template(template(&["$tenant", ":", "$number"])));
    let key = |extras: &[Option<TextValue<'_>>]| {
        let record = made(&mapping, &with(extras)).unwrap();
        record.key().map(<[u8]>::to_vec)
    };
    let number = Some(TextValue::Number(b"1.50"));
    assert_eq!(
        key(&[text("größe"), number]).unwrap(),
        "größe:1.50".as_bytes()
    );
    assert_eq!(key(&[text(""), text("")]).unwrap(), b":");
    assert_eq!(
        key(&[text("a"), Some(TextValue::Hex(b"\\x00"))]).unwrap(),
        b"a:\\x00"
    );
    assert_eq!(key(&[text("a"), None]), None);
    assert_eq!(key(&[None, number]), None);
}

#[test]
fn a_header_gives_the_key_whether_it_is_a_column_or_a_member() {
    let mut mapping = keyed(KeyRule::Header("k".to_owned()));
    let key = |mapping: &Mapping, headers, extra: &[Option<TextValue<'_>>]| {
        let event = Event {
            headers,
            ..with(extra)
        };
        let record = made(mapping, &event)?;
        Ok::<_, Error>(
            record
                .key()
                .map(|key| String::from_utf8(key.to_vec()).unwrap()),
        )
    };
    let own = |headers| key(&mapping, Some(headers), &[]);
    assert_eq!(
        own(r#"{"a": "b", "k": "größe"}"#).unwrap().as_deref(),
        Some("größe")
    );
    assert_eq!(own(r#"{"k": 1.50}"#).unwrap().as_deref(), Some("1.50"));
    assert_eq!(own(r#"{"k": null}"#).unwrap(), None);
    assert_eq!(own(r#"{"K": "a"}"#).unwrap(), None);
    assert_eq!(key(&mapping, None, &[]).unwrap(), None);
    for nested in [r#"{"k": {}}"#, r#"{"k": [1]}"#] {
        let error = key(&mapping, Some(nested), &[]).unwrap_err();
        assert_eq!(code(&order(), &error), "ROW_MALFORMED");
    }

    mapping.columns.header_columns = vec![NamedColumn {
        column: "tenant".to_owned(),
        name: "k".to_owned(),
    }];
    let both = |extra| key(&mapping, Some(r#"{"k": "member"}"#), &[extra]).unwrap();
    assert_eq!(both(text("column")).as_deref(), Some("column"));
    assert_eq!(
        both(Some(TextValue::Hex(b"\\x6162"))).as_deref(),
        Some("ab")
    );
    assert_eq!(both(None).as_deref(), Some("member"));
}

#[test]
fn a_member_that_is_dropped_as_a_header_may_be_the_key() {
    let event = Event {
        headers: Some(r#"{"outbox_k": "a", "b": "c"}"#),
        ..order()
    };
    let record = made(&keyed(KeyRule::Header("outbox_k".to_owned())), &event).unwrap();
    assert_eq!(record.key(), Some(b"a".as_slice()));
    assert_eq!(
        (record.header("outbox_k"), record.header("b")),
        (None, Some("c"))
    );
}

fn valued(value: ValueRule) -> Mapping {
    Mapping {
        value,
        ..Mapping::default()
    }
}

fn value_of(mapping: &Mapping, payload: Option<TextValue<'_>>) -> Result<Option<String>> {
    let event = Event { payload, ..order() };
    let record = made(mapping, &event)?;
    Ok(record
        .value()
        .map(|value| String::from_utf8(value.to_vec()).unwrap()))
}

#[test]
fn a_pointer_takes_the_value_out_of_the_payload_as_it_is_written_there() {
    let mapping = valued(ValueRule::Pointer("/Value".to_owned()));
    for (payload, value) in [
        (
            r#"{"Value": {"a":  1.50}, "b": 2}"#,
            Some(r#"{"a":  1.50}"#),
        ),
        (r#"{"Value": "größe"}"#, Some("\"größe\"")),
        (r#"{"Value": 0.10}"#, Some("0.10")),
        (r#"{"Value": null}"#, None),
        (r#"{"value": 1}"#, None),
        ("[1]", None),
    ] {
        let found = value_of(&mapping, text(payload)).unwrap();
        assert_eq!(found.as_deref(), value, "{payload}");
    }
    let hex = Some(TextValue::Hex(b"\\x7b2256616c7565223a20317d"));
    assert_eq!(value_of(&mapping, hex).unwrap().as_deref(), Some("1"));
    assert_eq!(value_of(&mapping, None).unwrap(), None);
    let error = value_of(&mapping, text("no json")).unwrap_err();
    assert_eq!(code(&order(), &error), "ROW_MALFORMED");
}

#[test]
fn the_key_is_found_in_the_payload_of_which_a_part_is_the_value() {
    let mapping = Mapping {
        key: KeyRule::Pointer("/Headers/key".to_owned()),
        value: ValueRule::Pointer("/Value".to_owned()),
        ..Mapping::default()
    };
    let event = Event {
        payload: text(r#"{"Headers": {"key": "k"}, "Value": [1]}"#),
        ..order()
    };
    let record = made(&mapping, &event).unwrap();
    assert_eq!(
        (record.key(), record.value()),
        (Some(b"k".as_slice()), Some(b"[1]".as_slice()))
    );
}

#[test]
fn a_string_that_holds_json_is_expanded_and_anything_else_passes() {
    let mapping = valued(ValueRule::Expanded);
    let json = |json: &'static str| Some(TextValue::Json(json.as_bytes()));
    for (payload, value) in [
        (json(r#"{"a": 1}"#), r#"{"a": 1}"#),
        (json(r#""{\"a\": \"\\u00e4\"}""#), r#"{"a": "\u00e4"}"#),
        (json(r#""[1]""#), "[1]"),
        (json(r#""7""#), r#""7""#),
        (json(r#""{no json""#), r#""{no json""#),
        (json("7"), "7"),
        (text(r#"{"a": 1}"#), r#"{"a": 1}"#),
        (text("{no json"), "{no json"),
        (text(" \"[1]\""), "[1]"),
        (text("größe"), "größe"),
        (text(""), ""),
        (Some(TextValue::Hex(b"\\x225b5d22")), "\"[]\""),
    ] {
        assert_eq!(
            value_of(&mapping, payload).unwrap().as_deref(),
            Some(value),
            "{value}"
        );
    }
}

#[test]
fn a_null_payload_is_no_value_or_an_empty_one() {
    for (null_payload, value) in [
        (NullPayload::DeadLetter, None),
        (NullPayload::Tombstone, None),
        (NullPayload::Empty, Some(String::new())),
    ] {
        let mapping = Mapping {
            null_payload,
            ..Mapping::default()
        };
        assert_eq!(value_of(&mapping, None).unwrap(), value);
        assert_eq!(value_of(&mapping, text("x")).unwrap().as_deref(), Some("x"));
    }
}

fn with_envelope(names: &[&str]) -> Mapping {
    let mut mapping = Mapping::default();
    let named = |name: &&str| NamedColumn {
        column: format!("column {name}"),
        name: (*name).to_owned(),
    };
    mapping.columns.envelope = names.iter().map(named).collect();
    mapping
}

#[test]
fn an_envelope_has_each_value_as_its_type_says() {
    let names = ["s", "n", "nan", "t", "f", "j", "b", "z", "\"ö"];
    let mapping = with_envelope(&names);
    let event = with(&[
        text("größe\n\"x\""),
        Some(TextValue::Number(b"-12345678901234567890.50")),
        Some(TextValue::Number(b"-Infinity")),
        Some(TextValue::Boolean(b"t")),
        Some(TextValue::Boolean(b"f")),
        Some(TextValue::Json(br#"{"a":  [1]}"#)),
        Some(TextValue::Hex(b"\\x00ff10")),
        None,
        text("t"),
    ]);
    let record = made(&mapping, &event).unwrap();
    let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
    assert_eq!(
        value,
        r#"{"payload":{"a": 1},"s":"größe\n\"x\"","n":-12345678901234567890.50,"#.to_owned()
            + r#""nan":"-Infinity","t":true,"f":false,"j":{"a":  [1]},"b":"AP8Q","z":null,"#
            + r#""\"ö":"t"}"#
    );
}

#[test]
fn debeziums_envelope_has_json_as_a_string_unless_it_is_expanded() {
    let mut mapping = with_envelope(&["j"]);
    mapping.headers = HeaderStyle::Debezium;
    let value = |mapping: &Mapping| {
        let event = with(&[Some(TextValue::Json(b"[1]"))]);
        let record = made(mapping, &event).unwrap();
        String::from_utf8(record.value().unwrap().to_vec()).unwrap()
    };
    let quoted = r#"{"payload":"{\"a\": 1}","j":"[1]"}"#;
    assert_eq!(value(&mapping), quoted);
    mapping.value = ValueRule::Expanded;
    assert_eq!(value(&mapping), r#"{"payload":{"a": 1},"j":"[1]"}"#);
}

#[test]
fn the_payload_in_an_envelope_is_json_a_string_or_base64() {
    let mut mapping = with_envelope(&["n"]);
    let value = |mapping: &Mapping, payload| {
        let event = Event {
            payload,
            ..with(&[Some(TextValue::Number(b"1"))])
        };
        let record = made(mapping, &event)?;
        let value = record
            .value()
            .map(|value| String::from_utf8(value.to_vec()).unwrap());
        Ok::<_, Error>(value.unwrap_or("none".to_owned()))
    };
    for (payload, expected) in [
        (text(r#"{"a": 1}"#), r#"{"payload":"{\"a\": 1}","n":1}"#),
        (
            Some(TextValue::Hex(b"\\x6869")),
            r#"{"payload":"aGk=","n":1}"#,
        ),
        (Some(TextValue::Json(b"null")), r#"{"payload":null,"n":1}"#),
        (None, "none"),
    ] {
        assert_eq!(value(&mapping, payload).unwrap(), expected);
    }
    let error = value(&mapping, Some(TextValue::Verbatim(b"\xff"))).unwrap_err();
    assert_eq!(code(&order(), &error), "ROW_MALFORMED");
    mapping.null_payload = NullPayload::Empty;
    assert_eq!(value(&mapping, None).unwrap(), r#"{"payload":null,"n":1}"#);
    mapping.value = ValueRule::Expanded;
    for (payload, expected) in [
        (r#"{"a": 1}"#, r#"{"payload":{"a": 1},"n":1}"#),
        ("7", r#"{"payload":"7","n":1}"#),
        ("\"[1]\"", r#"{"payload":[1],"n":1}"#),
        ("{no json", r#"{"payload":"{no json","n":1}"#),
    ] {
        assert_eq!(value(&mapping, text(payload)).unwrap(), expected);
    }
    mapping.value = ValueRule::Pointer("/a".to_owned());
    assert_eq!(
        value(&mapping, text(r#"{"a": "b"}"#)).unwrap(),
        r#"{"payload":"b","n":1}"#
    );
}

#[test]
fn a_column_gives_the_partition_if_it_is_a_number_of_one() {
    let mapping = Mapping {
        partition: PartitionRule::Column("shard".to_owned()),
        ..Mapping::default()
    };
    for (value, partition) in [("0", 0), ("7", 7), ("2147483647", i32::MAX)] {
        let record = made(&mapping, &with(&[text(value)])).unwrap();
        assert_eq!(record.partition(), Some(partition));
    }
    assert_eq!(made(&mapping, &with(&[None])).unwrap().partition(), None);
    for value in ["-1", "2147483648", "1.0", "+1", " 1", "one", "", "\u{663}"] {
        let event = with(&[text(value)]);
        let error = made(&mapping, &event).unwrap_err();
        assert_eq!(code(&event, &error), "PARTITION_INVALID", "{value}");
        assert!(error.message().contains("in shard"), "{error}");
    }
    let spread = Mapping {
        partition: PartitionRule::Spread,
        ..Mapping::default()
    };
    assert_eq!(made(&spread, &order()).unwrap().partition(), None);
}

#[test]
fn a_column_gives_the_time_of_a_record() {
    let mapping = Mapping {
        timestamp: TimestampRule::Column("at".to_owned()),
        ..Mapping::default()
    };
    for (value, millis) in [
        ("2024-05-06 07:08:09.1239", 1_714_979_289_123),
        ("2024-05-06 07:08:09.123456+00", 1_714_979_289_123),
        ("2024-05-06", 1_714_953_600_000),
        ("1970-01-01 00:00:00.001", 1),
        ("12345-03-01 00:00:00", 327_408_480_000_000),
        ("1714979289123", 1_714_979_289_123),
    ] {
        let record = made(&mapping, &with(&[text(value)])).unwrap();
        assert_eq!(record.timestamp(), Some(millis), "{value}");
    }
    assert_eq!(made(&mapping, &with(&[None])).unwrap().timestamp(), None);
    for value in [
        "infinity",
        "-infinity",
        "0044-03-15 00:00:00 BC",
        "1969-12-31 23:59:59",
        "1970-01-01 00:00:00",
        "0",
        "-5",
        "1.5",
        "tomorrow",
        "2024-05-06T07:08:09Z",
        "",
    ] {
        let event = with(&[text(value)]);
        let error = made(&mapping, &event).unwrap_err();
        assert_eq!(code(&event, &error), "TIMESTAMP_INVALID", "{value}");
        assert!(error.message().contains("in at"), "{error}");
    }
}

#[test]
fn the_commit_gives_the_time_and_the_rows_creation_where_there_is_none() {
    let mapping = Mapping {
        timestamp: TimestampRule::Commit,
        ..Mapping::default()
    };
    let of_stream = made_from(&mapping, &order(), stream()).unwrap();
    assert_eq!(of_stream.timestamp(), Some(1_714_979_289_123));
    for (created_at, millis) in [
        (Some("2024-05-06 07:08:09.1"), Some(1_714_979_289_100)),
        (Some("long ago"), None),
        (None, None),
    ] {
        let event = Event {
            created_at,
            ..order()
        };
        assert_eq!(made(&mapping, &event).unwrap().timestamp(), millis);
    }
    assert_eq!(
        made_from(&Mapping::default(), &order(), stream())
            .unwrap()
            .timestamp(),
        None
    );
}

#[test]
fn a_record_of_any_rule_leaves_nothing_behind_for_the_next() {
    let mut mapping = with_envelope(&["n"]);
    mapping.partition = PartitionRule::Column("column n".to_owned());
    mapping.timestamp = TimestampRule::Commit;
    let mut router = Router::new(&mapping);
    let first = with(&[text("3")]);
    let record = OwnedRecord::from(&router.record(&first, stream()).unwrap());
    assert_eq!(record.partition(), Some(3));
    let second = Event {
        payload: None,
        created_at: None,
        ..with(&[None])
    };
    let record = router.record(&second, EventSource::Table).unwrap();
    assert_eq!(
        (record.value, record.partition, record.timestamp),
        (None, None, None)
    );
    let record = OwnedRecord::from(&router.record(&first, stream()).unwrap());
    assert_eq!(
        record.value(),
        Some(br#"{"payload":{"a": 1},"n":"3"}"#.as_slice())
    );
    let bare = router.bare(&second);
    let record = router.assemble(&bare, &second, EventSource::Table);
    assert_eq!((record.partition, record.timestamp), (None, None));
}

#[test]
fn cap_takes_value_headers_and_key_out_of_one_column() {
    let mut mapping = Mapping {
        key: KeyRule::Header("cap-kafka-key".to_owned()),
        value: ValueRule::Pointer("/Value".to_owned()),
        ..Mapping::default()
    };
    mapping.columns.headers = HeadersColumn {
        column: ColumnName::given("Content"),
        pointer: Some("/Headers".to_owned()),
    };
    let content = r#"{"Headers": {"cap-msg-id": "7", "cap-kafka-key": "k"}, "Value": {"a": 1}}"#;
    let event = Event {
        payload: text(content),
        headers: Some(content),
        ..order()
    };
    let record = made(&mapping, &event).unwrap();
    assert_eq!(record.key(), Some(b"k".as_slice()));
    assert_eq!(record.value(), Some(br#"{"a": 1}"#.as_slice()));
    assert_eq!(record.header("cap-msg-id"), Some("7"));
    for content in [r#"{"Value": 1}"#, r#"{"Headers": null, "Value": 1}"#] {
        let event = Event {
            payload: text(content),
            headers: Some(content),
            ..order()
        };
        assert_eq!(
            made(&mapping, &event).unwrap().headers().count(),
            4,
            "{content}"
        );
    }
    let event = Event {
        payload: text(r#"{"Headers": [1]}"#),
        headers: Some(r#"{"Headers": [1]}"#),
        ..order()
    };
    assert_eq!(
        code(&event, &made(&mapping, &event).unwrap_err()),
        "ROW_MALFORMED"
    );
}
