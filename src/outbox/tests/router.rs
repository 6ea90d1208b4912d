#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use proptest::prelude::*;

use crate::config::{KeyRule, Mapping};
use crate::error::Code;
use crate::outbox::{Event, EventSource, Router, TextValue};
use crate::pgoutput::Timestamp;

fn order() -> Event<'static> {
    Event {
        id: Cow::Borrowed("7"),
        row_id: Some(7.into()),
        topic: "orders",
        event_type: Some("OrderCreated"),
        key: Some(TextValue::Verbatim(b"OrderCreated")),
        payload: Some(TextValue::Verbatim(br#"{"a": [1, "x"], "b": 1.50}"#)),
        created_at: Some("2024-05-06 07:08:09.1"),
        ..Event::of_nulls()
    }
}

fn stream(lsn: &str, index: u32, committed_at: i64) -> EventSource {
    EventSource::Stream {
        commit_lsn: lsn.parse().unwrap(),
        index,
        committed_at: Timestamp::from_postgres_micros(committed_at),
    }
}

fn by_event_type() -> Router {
    Router::new(&Mapping::default())
}

fn keyed(key: KeyRule) -> Router {
    Router::new(&Mapping {
        key,
        ..Mapping::default()
    })
}

fn headers(router: &mut Router, event: &Event<'_>, origin: EventSource) -> Vec<(String, String)> {
    let record = router.record(event, origin).unwrap();
    record
        .headers()
        .map(|(name, value)| (name.to_owned(), text(value.unwrap())))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn names_and_values(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[test]
fn topic_key_and_value_are_those_of_the_poller() {
    let mut router = by_event_type();
    let order = order();
    let record = router.record(&order, EventSource::Table).unwrap();
    assert_eq!(record.topic, "orders");
    assert_eq!(record.key, Some(b"OrderCreated".as_slice()));
    assert_eq!(
        record.value,
        Some(br#"{"a": [1, "x"], "b": 1.50}"#.as_slice())
    );
}

#[test]
fn a_record_from_the_stream_says_where_it_was_committed() {
    let headers = headers(
        &mut by_event_type(),
        &order(),
        stream("16/B374D848", 3, 768_294_489_123_456),
    );
    assert_eq!(
        names_and_values(&headers),
        [
            ("outbox_id", "7"),
            ("outbox_created_at", "2024-05-06 07:08:09.1"),
            ("outbox_event_type", "OrderCreated"),
            ("outbox_lsn", "16/B374D848"),
            ("outbox_index", "3"),
            ("outbox_committed_at", "2024-05-06T07:08:09.123456Z"),
        ]
    );
}

#[test]
fn a_record_from_the_table_says_so_instead() {
    let headers = headers(&mut by_event_type(), &order(), EventSource::Table);
    assert_eq!(
        names_and_values(&headers),
        [
            ("outbox_id", "7"),
            ("outbox_created_at", "2024-05-06 07:08:09.1"),
            ("outbox_event_type", "OrderCreated"),
            ("outbox_source", "table"),
        ]
    );
}

#[test]
fn each_transaction_prints_its_own_position_and_time() {
    let mut router = by_event_type();
    for (lsn, index, micros, time) in [
        ("0/10", 0, 0, "2000-01-01T00:00:00.000000Z"),
        ("0/10", 1, 0, "2000-01-01T00:00:00.000000Z"),
        ("0/20", 0, 0, "2000-01-01T00:00:00.000000Z"),
        ("0/20", 0, 1, "2000-01-01T00:00:00.000001Z"),
    ] {
        let headers = headers(&mut router, &order(), stream(lsn, index, micros));
        let headers = names_and_values(&headers);
        assert!(headers.contains(&("outbox_lsn", lsn)));
        assert!(headers.contains(&("outbox_index", &index.to_string())));
        assert!(headers.contains(&("outbox_committed_at", time)));
    }
}

#[test]
fn what_a_row_lacks_is_left_out() {
    let event = Event {
        event_type: None,
        created_at: None,
        key: None,
        payload: None,
        ..order()
    };
    let mut router = by_event_type();
    let record = router.record(&event, EventSource::Table).unwrap();
    assert_eq!((record.key, record.value), (None, None));
    let headers: Vec<_> = record.headers().map(|(name, _)| name).collect();
    assert_eq!(headers, ["outbox_id", "outbox_source"]);
}

#[test]
fn the_rows_own_headers_follow_in_order() {
    let event = Event {
        headers: Some(
            r#"{"traceparent": "00-a\"b\u00e4-01", "n": 1.50, "o": {"x": [1]}, "z": null, "e": ""}"#,
        ),
        ..order()
    };
    let headers = headers(&mut by_event_type(), &event, EventSource::Table);
    assert_eq!(
        names_and_values(&headers).split_off(4),
        [
            ("traceparent", "00-a\"bä-01"),
            ("n", "1.50"),
            ("o", r#"{"x": [1]}"#),
            ("z", "null"),
            ("e", "")
        ]
    );
}

#[test]
fn a_row_cannot_forge_the_events_identity() {
    let event = Event {
        headers: Some(r#"{"outbox_id": "8", "a": "b"}"#),
        ..order()
    };
    let headers = headers(&mut by_event_type(), &event, EventSource::Table);
    let ids: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name == "outbox_id")
        .collect();
    assert_eq!(ids, [&("outbox_id".to_owned(), "7".to_owned())]);
    assert!(headers.contains(&("a".to_owned(), "b".to_owned())));
}

#[test]
fn headers_that_are_no_object_are_the_rows_own_fault() {
    let mut router = by_event_type();
    for bad in ["[1]", "\"x\"", "1", "{", "{\"a\": \"\\ud800\"}"] {
        let event = Event {
            headers: Some(bad),
            ..order()
        };
        let error = router.record(&event, EventSource::Table).unwrap_err();
        assert_eq!(error.code(), Code::Publish, "{bad}");
        assert!(error.message().contains("id 7"), "{error}");
    }
    let event = Event {
        headers: Some("null"),
        ..order()
    };
    assert_eq!(headers(&mut router, &event, EventSource::Table).len(), 4);
}

#[test]
fn a_row_without_an_id_or_with_a_value_too_long_to_be_read_is_its_own_fault() {
    let mut router = by_event_type();
    for (event, expected) in [
        (
            Event {
                id: Cow::Borrowed(""),
                ..order()
            },
            "the event has no id",
        ),
        (
            Event {
                payload: None,
                left_out: Some("event_payload"),
                ..order()
            },
            "the event with id 7 has a longer value in event_payload than a record can have",
        ),
        (
            Event {
                topic: "",
                not_utf8: Some("topic"),
                ..order()
            },
            "the event with id 7 has a value in topic that is not UTF-8",
        ),
    ] {
        let error = router.record(&event, EventSource::Table).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Publish, expected));
        let parts = router.bare(&event);
        let record = router.assemble(&parts, &event, EventSource::Table);
        assert_eq!(
            record.key,
            Some(b"OrderCreated".as_slice()),
            "the key is known"
        );
        let id = record.headers().find(|(name, _)| *name == "outbox_id");
        assert_eq!(id.is_some(), !event.id.is_empty());
    }
}

#[test]
fn a_bad_row_leaves_nothing_behind_for_the_next() {
    let mut router = by_event_type();
    let bad = Event {
        headers: Some(r#"{"a": "b", "c": "\ud800"}"#),
        ..order()
    };
    router.record(&bad, EventSource::Table).unwrap_err();
    assert_eq!(headers(&mut router, &order(), EventSource::Table).len(), 4);
}

#[test]
fn a_bytea_arrives_as_its_bytes() {
    let event = Event {
        payload: Some(TextValue::Hex(b"\\x00ffAb")),
        key: Some(TextValue::Hex(b"\\x01")),
        ..order()
    };
    let mut router = by_event_type();
    let record = router.record(&event, EventSource::Table).unwrap();
    assert_eq!(record.value, Some([0, 0xff, 0xab].as_slice()));
    assert_eq!(record.key, Some([1].as_slice()));
    for bad in [b"00ff".as_slice(), b"\\x0", b"\\x0g", b""] {
        let event = Event {
            payload: Some(TextValue::Hex(bad)),
            ..order()
        };
        assert_eq!(
            router
                .record(&event, EventSource::Table)
                .unwrap_err()
                .code(),
            Code::Publish
        );
    }
}

fn key_at(pointer: &str, payload: TextValue<'_>) -> crate::error::Result<Option<String>> {
    let mut router = keyed(KeyRule::Pointer(pointer.to_owned()));
    let event = Event {
        payload: Some(payload),
        key: None,
        ..order()
    };
    let record = router.record(&event, EventSource::Table)?;
    Ok(record
        .key
        .map(|key| String::from_utf8(key.to_vec()).unwrap()))
}

#[test]
fn a_pointer_takes_the_key_out_of_the_payload() {
    let payload = TextValue::Verbatim(
        br#"{"s": "a\"\u00e4", "n": 12345678901234567890.10, "t": true, "z": null,
             "o": {"l": [7]}, "e": ""}"#,
    );
    for (pointer, key) in [
        ("/s", Some("a\"ä")),
        ("/n", Some("12345678901234567890.10")),
        ("/t", Some("true")),
        ("/z", None),
        ("/e", Some("")),
        ("/o/l/0", Some("7")),
        ("/nothing", None),
        ("/s/deeper", None),
    ] {
        assert_eq!(
            key_at(pointer, payload).unwrap().as_deref(),
            key,
            "{pointer}"
        );
    }
    let hex = TextValue::Hex(b"\\x7b2261223a20317d");
    assert_eq!(key_at("/a", hex).unwrap().as_deref(), Some("1"));
}

#[test]
fn a_pointer_that_finds_no_scalar_is_the_rows_own_fault() {
    for (pointer, payload) in [
        ("/o", r#"{"o": {}}"#),
        ("/o", r#"{"o": [1]}"#),
        ("/o", "no json"),
    ] {
        let error = key_at(pointer, TextValue::Verbatim(payload.as_bytes())).unwrap_err();
        assert_eq!(error.code(), Code::Publish, "{payload}");
    }
}

#[test]
fn a_key_from_the_payload_and_headers_share_the_scratch_without_mixing() {
    let mut router = keyed(KeyRule::Pointer("/k".to_owned()));
    let event = Event {
        payload: Some(TextValue::Verbatim(br#"{"k": "key"}"#)),
        headers: Some(r#"{"h": "value"}"#),
        ..order()
    };
    let record = router.record(&event, EventSource::Table).unwrap();
    assert_eq!(record.key, Some(b"key".as_slice()));
    assert_eq!(
        record.headers().last(),
        Some(("h", Some(b"value".as_slice())))
    );
}

#[test]
fn without_a_rule_there_is_no_key() {
    let mut router = keyed(KeyRule::None);
    assert_eq!(
        router.record(&order(), EventSource::Table).unwrap().key,
        None
    );
}

#[test]
fn a_debug_print_shows_no_payload_key_or_header() {
    let event = Event {
        headers: Some(r#"{"h": "secret"}"#),
        key: Some(TextValue::Verbatim(b"secret")),
        ..order()
    };
    let mut router = by_event_type();
    let record = format!("{:?}", router.record(&event, EventSource::Table).unwrap());
    let printed = format!("{event:?} {record} {router:?}");
    assert!(
        !printed.contains("secret") && !printed.contains("1.50"),
        "{printed}"
    );
}

proptest! {
    #[test]
    fn the_size_covers_every_byte_that_is_sent(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        key in prop::option::of("[a-z]{0,50}"),
        value in "[a-z]{0,50}",
    ) {
        let json = format!("{{\"h\": \"{value}\"}}");
        let event = Event {
            payload: Some(TextValue::Verbatim(&payload)),
            key: key.as_deref().map(|key| TextValue::Verbatim(key.as_bytes())),
            headers: Some(&json),
            ..order()
        };
        let mut router = by_event_type();
        let record = router.record(&event, stream("0/10", 0, 0)).unwrap();
        let length = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len);
        let sent: usize = record.headers().map(|(name, value)| name.len() + length(value)).sum();
        let sent = sent + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        prop_assert!(record.size() > sent && record.size() < sent + 2000);
    }

    #[test]
    fn any_bytea_comes_back_whole(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let hex = format!("\\x{}", hex::encode(&bytes));
        let event = Event { payload: Some(TextValue::Hex(hex.as_bytes())), ..order() };
        let mut router = by_event_type();
        let record = router.record(&event, EventSource::Table).unwrap();
        prop_assert_eq!(record.value, Some(bytes.as_slice()));
    }
}
