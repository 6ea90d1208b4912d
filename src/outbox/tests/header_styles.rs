//! The headers of each style, and what identifies an event whatever its headers are.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use crate::config::Mapping;
use crate::config::mapping::{HeaderStyle, NamedColumn, NullPayload, PartitionRule};
use crate::outbox::{Event, EventSource, OwnedRecord, Router, TextValue};
use crate::pgoutput::Timestamp;

fn order<'a>() -> Event<'a> {
    Event {
        id: Cow::Borrowed("7"),
        topic: "orders",
        event_type: Some("OrderCreated"),
        key: Some(TextValue::Verbatim(b"k")),
        payload: Some(TextValue::Json(br#"{"a": 1}"#)),
        created_at: Some("2024-05-06 07:08:09.1"),
        ..Event::of_nulls()
    }
}

fn styled(headers: HeaderStyle) -> Mapping {
    Mapping {
        headers,
        source_id: "shop.outbox".to_owned(),
        ..Mapping::default()
    }
}

fn stream() -> EventSource {
    EventSource::Stream {
        commit_lsn: "0/10".parse().unwrap(),
        index: 3,
        committed_at: Timestamp::from_postgres_micros(768_294_489_123_456),
    }
}

fn made(mapping: &Mapping, event: &Event<'_>, origin: EventSource) -> OwnedRecord {
    let mut router = Router::new(mapping);
    OwnedRecord::from(&router.record(event, origin).unwrap())
}

fn text(value: Option<&[u8]>) -> &str {
    value.map_or("NULL", |value| std::str::from_utf8(value).unwrap())
}

fn headers(record: &OwnedRecord) -> Vec<(&str, &str)> {
    let headers = record.headers();
    headers.map(|(name, value)| (name, text(value))).collect()
}

fn value(record: &OwnedRecord) -> &str {
    std::str::from_utf8(record.value().unwrap()).unwrap()
}

#[test]
fn the_own_style_names_the_outbox_that_a_record_is_from() {
    let record = made(&styled(HeaderStyle::Outboxd), &order(), EventSource::Table);
    let last = headers(&record).last().copied();
    assert_eq!(last, Some(("outbox_source_id", "shop.outbox")));
    let of_stream = made(&styled(HeaderStyle::Outboxd), &order(), stream());
    assert_eq!(headers(&of_stream).len(), 7);
    let unnamed = made(&Mapping::default(), &order(), EventSource::Table);
    assert_eq!(unnamed.header("outbox_source_id"), None);
}

#[test]
fn other_styles_add_less() {
    assert!(headers(&made(&styled(HeaderStyle::None), &order(), stream())).is_empty());
    let debezium = made(&styled(HeaderStyle::Debezium), &order(), stream());
    assert_eq!(headers(&debezium), [("id", "7")]);
}

#[test]
fn columns_are_headers_and_only_debezium_has_one_without_a_value() {
    let event = Event {
        extras: [
            Some(TextValue::Verbatim("größe".as_bytes())),
            Some(TextValue::Hex(b"\\x6869")),
            Some(TextValue::Boolean(b"t")),
            None,
        ]
        .into(),
        headers: Some(r#"{"own": 1}"#),
        ..order()
    };
    let mut mapping = styled(HeaderStyle::None);
    let named = |name: &str| NamedColumn {
        column: format!("the {name}"),
        name: name.to_owned(),
    };
    mapping.columns.header_columns = ["text", "bytes", "flag", "null"].map(named).into();
    let record = made(&mapping, &event, EventSource::Table);
    assert_eq!(
        headers(&record),
        [
            ("text", "größe"),
            ("bytes", "hi"),
            ("flag", "t"),
            ("own", "1")
        ]
    );
    mapping.headers = HeaderStyle::Debezium;
    let record = made(&mapping, &event, EventSource::Table);
    assert_eq!(
        headers(&record),
        [
            ("id", "7"),
            ("text", "größe"),
            ("bytes", "hi"),
            ("flag", "true"),
            ("null", "NULL"),
            ("own", "1")
        ]
    );
    assert_eq!(record.header("null"), None);
}

#[test]
fn no_row_can_replace_the_headers_of_a_style() {
    let event = Event {
        headers: Some(
            r#"{"id": "8", "outbox_id": "8", "ce_id": "8", "Content-Type": "x", "a": "b"}"#,
        ),
        ..order()
    };
    for (style, dropped) in [
        (HeaderStyle::Outboxd, &["outbox_id"][..]),
        (HeaderStyle::None, &["outbox_id"]),
        (HeaderStyle::Debezium, &["outbox_id", "id"]),
        (
            HeaderStyle::CloudEvents,
            &["outbox_id", "ce_id", "Content-Type"],
        ),
        (
            HeaderStyle::CloudEventsStructured,
            &["outbox_id", "Content-Type"],
        ),
    ] {
        let record = made(&styled(style), &event, EventSource::Table);
        let forged = ["id", "outbox_id", "ce_id", "Content-Type"];
        for name in forged {
            let is_forged = headers(&record).contains(&(name, "8"));
            let is_forged = is_forged || headers(&record).contains(&(name, "x"));
            assert_eq!(is_forged, !dropped.contains(&name), "{style:?} {name}");
        }
        assert_eq!(record.header("a"), Some("b"));
    }
}

#[test]
fn cloud_events_in_binary_mode_have_their_attributes_as_headers() {
    let record = made(&styled(HeaderStyle::CloudEvents), &order(), stream());
    assert_eq!(
        headers(&record),
        [
            ("ce_specversion", "1.0"),
            ("ce_id", "7"),
            ("ce_source", "shop.outbox"),
            ("ce_type", "OrderCreated"),
            ("ce_time", "2024-05-06T07:08:09.100000Z"),
            ("content-type", "application/json"),
            ("ce_partitionkey", "k"),
        ]
    );
    assert_eq!(value(&record), r#"{"a": 1}"#);
}

#[test]
fn attributes_that_a_row_lacks_come_from_elsewhere_or_are_left_out() {
    let mut mapping = styled(HeaderStyle::CloudEvents);
    mapping.source_id = "my db/outbox.größe".to_owned();
    let event = Event {
        event_type: None,
        key: Some(TextValue::Hex(b"\\xff")),
        payload: Some(TextValue::Verbatim(b"plain")),
        created_at: Some("1714979289"),
        ..order()
    };
    let record = made(&mapping, &event, stream());
    assert_eq!(
        headers(&record)[2..],
        [
            ("ce_source", "my%20db/outbox.gr%C3%B6%C3%9Fe"),
            ("ce_type", "orders"),
            ("ce_time", "2024-05-06T07:08:09.123456Z"),
            ("content-type", "text/plain; charset=utf-8"),
        ]
    );
    for (created_at, time) in [
        (None, None),
        (Some("infinity"), None),
        (Some("12345-03-01 00:00:00"), None),
        (
            Some("9999-12-31 23:59:59+00"),
            Some("9999-12-31T23:59:59.000000Z"),
        ),
    ] {
        let event = Event {
            created_at,
            payload: Some(TextValue::Hex(b"\\x00")),
            ..order()
        };
        let record = made(&mapping, &event, EventSource::Table);
        assert_eq!(record.header("ce_time"), time);
        assert_eq!(
            record.header("content-type"),
            Some("application/octet-stream")
        );
    }
}

#[test]
fn cloud_events_in_structured_mode_are_one_json_object() {
    let mapping = styled(HeaderStyle::CloudEventsStructured);
    let record = made(&mapping, &order(), stream());
    let content_type = "application/cloudevents+json; charset=utf-8";
    assert_eq!(headers(&record), [("content-type", content_type)]);
    assert_eq!(
        value(&record),
        r#"{"specversion":"1.0","id":"7","source":"shop.outbox","type":"OrderCreated","#.to_owned()
            + r#""time":"2024-05-06T07:08:09.100000Z","partitionkey":"k","#
            + r#""datacontenttype":"application/json","data":{"a": 1}}"#
    );
    assert_eq!(record.key(), Some(b"k".as_slice()));
    for (payload, data) in [
        (
            TextValue::Verbatim("größe".as_bytes()),
            r#""datacontenttype":"text/plain; charset=utf-8","data":"größe"}"#,
        ),
        (
            TextValue::Hex(b"\\x00ff"),
            r#""datacontenttype":"application/octet-stream","data_base64":"AP8="}"#,
        ),
    ] {
        let event = Event {
            payload: Some(payload),
            ..order()
        };
        let record = made(&mapping, &event, stream());
        assert!(value(&record).ends_with(data), "{}", value(&record));
    }
}

#[test]
fn a_cloud_event_without_a_payload_is_a_tombstone_or_an_event_without_data() {
    let event = Event {
        payload: None,
        ..order()
    };
    for style in [HeaderStyle::CloudEvents, HeaderStyle::CloudEventsStructured] {
        let mut mapping = styled(style);
        let record = made(&mapping, &event, stream());
        assert_eq!(
            (record.value(), record.header("content-type")),
            (None, None)
        );
        mapping.null_payload = NullPayload::Empty;
        let record = made(&mapping, &event, stream());
        let expected = match style {
            HeaderStyle::CloudEvents => String::new(),
            _ => {
                r#"{"specversion":"1.0","id":"7","source":"shop.outbox","#.to_owned()
                    + r#""type":"OrderCreated","time":"2024-05-06T07:08:09.100000Z","#
                    + r#""partitionkey":"k"}"#
            }
        };
        assert_eq!(value(&record), expected);
    }
}

#[test]
fn an_envelope_is_the_data_of_a_cloud_event() {
    let mut mapping = styled(HeaderStyle::CloudEventsStructured);
    mapping.columns.envelope = vec![NamedColumn {
        column: "version".to_owned(),
        name: "v".to_owned(),
    }];
    mapping.partition = PartitionRule::Column("version".to_owned());
    let event = Event {
        extras: [Some(TextValue::Number(b"2"))].into(),
        payload: Some(TextValue::Hex(b"\\x00")),
        ..order()
    };
    let record = made(&mapping, &event, stream());
    let data = r#""datacontenttype":"application/json","data":{"payload":"AA==","v":2}}"#;
    assert!(value(&record).ends_with(data), "{}", value(&record));
    assert_eq!(record.partition(), Some(2));
}

#[test]
fn every_style_keeps_what_identifies_the_event() {
    for style in [
        HeaderStyle::Outboxd,
        HeaderStyle::None,
        HeaderStyle::Debezium,
        HeaderStyle::CloudEvents,
        HeaderStyle::CloudEventsStructured,
    ] {
        let record = made(&styled(style), &order(), stream());
        assert_eq!(record.id(), Some("7"), "{style:?}");
        assert_eq!(record.created_at(), Some("2024-05-06 07:08:09.1"));
        assert_eq!(record.event_type(), Some("OrderCreated"));
        assert_eq!(record.place(), Some(("0/10".parse().unwrap(), 3)));
        let of_nothing = Event {
            topic: "t",
            ..Event::of_nulls()
        };
        let mut router = Router::new(&styled(style));
        let parts = router.bare(&of_nothing);
        let record = router.assemble(&parts, &of_nothing, EventSource::Table);
        let record = OwnedRecord::from(&record);
        assert_eq!((record.id(), record.created_at()), (None, None));
        assert_eq!((record.event_type(), record.place()), (None, None));
        assert!(!format!("{record:?}").contains("OrderCreated"));
    }
}

#[test]
fn the_size_of_a_record_is_the_same_whether_it_is_borrowed_or_kept() {
    for style in [
        HeaderStyle::Outboxd,
        HeaderStyle::Debezium,
        HeaderStyle::CloudEvents,
    ] {
        let mapping = styled(style);
        let mut router = Router::new(&mapping);
        let event = Event {
            headers: Some(r#"{"a": "b", "z": null}"#),
            ..order()
        };
        let record = router.record(&event, stream()).unwrap();
        let kept = OwnedRecord::from(&record);
        assert_eq!(record.size(), kept.size());
        assert_eq!(record.wire_size(), kept.wire_size());
        assert_eq!(*record.header_sums(), kept.header_sums());
    }
}
