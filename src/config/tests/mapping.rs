//! The rules for records: each setting, its errors, and rules that contradict each other.

use super::*;
use crate::config::mapping::{
    HeaderStyle, NullPayload, PartitionRule, Piece, Template, TimestampRule, TopicRule, ValueRule,
};

fn given_topics(list: &str) -> Settings {
    Settings {
        topics: Some(list.to_owned()),
        ..valid()
    }
}

fn template(pieces: &[Piece]) -> Template {
    Template {
        pieces: pieces.to_vec(),
    }
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn column(name: &str) -> Piece {
    Piece::Column(name.to_owned())
}

#[test]
fn without_settings_the_mapping_is_the_default_one_with_the_name_of_the_outbox() {
    let expected = Mapping {
        source_id: "orders.outbox.outbox".to_owned(),
        ..Mapping::default()
    };
    assert_eq!(mapping_of(valid()), expected);
    let other = mapping_of(with("table", "shop.\"Events\""));
    assert_eq!(other.source_id, "orders.shop.Events");
}

#[test]
fn a_topic_is_a_column_a_name_or_a_text() {
    let topic = |rule: &str| mapping_of(with("topic", rule)).topic;
    assert_eq!(
        topic("column:The Topic"),
        TopicRule::Column("The Topic".to_owned())
    );
    assert_eq!(
        topic("orders"),
        TopicRule::Template(template(&[text("orders")]))
    );
    let pieces = [text("a."), column("b c"), column("d"), text("-e")];
    assert_eq!(
        topic("a.${b c}${d}-e"),
        TopicRule::Template(template(&pieces))
    );
    let not_one = |rule: &str| format!("OUTBOX_TOPIC `{rule}` is not a topic: the topic");
    for rule in [
        "two words",
        "a/${b}",
        "payload:/a",
        "__consumer_offsets",
        "__outboxd${a}",
        "..",
    ] {
        let problem = match rule {
            ".." => "OUTBOX_TOPIC `..` is not a topic: `.` and `..` are".to_owned(),
            _ => not_one(rule),
        };
        fails(with("topic", rule), &problem);
    }
    fails(
        with("topic", "a${b"),
        "OUTBOX_TOPIC `a${b` has a ${ without a }; write ${column}",
    );
    fails(
        with("topic", "a${}"),
        "OUTBOX_TOPIC `` is not the name of a column",
    );
    fails(
        with("topic", "column:"),
        "OUTBOX_TOPIC `` is not the name of a column",
    );
}

#[test]
fn a_value_that_is_looked_up_need_not_be_a_topic() {
    let settings = with("topic", "${kind}/${version}").or(given_topics("a/1=one"));
    let pieces = [column("kind"), text("/"), column("version")];
    assert_eq!(
        mapping_of(settings).topic,
        TopicRule::Template(template(&pieces))
    );
}

#[test]
fn topics_are_names_and_the_rest_may_have_columns() {
    let topics = mapping_of(given_topics("a=one,*=rest.${kind}")).topics;
    assert_eq!(
        topics.other,
        Some(template(&[text("rest."), column("kind")]))
    );
    for (list, problem) in [
        (
            "a=b c",
            "`b c` is not a topic: the topic's name has a character",
        ),
        (
            "a=${b}",
            "`${b}` has a column in it; write the name of a topic; only `*` may",
        ),
        ("a=b,*=c d", "`c d` is not a topic"),
        ("a", "has `a`, which is no pair; write name=value"),
        (
            "*=orders",
            "has * alone, so that it is the topic of each event; set OUTBOX_TOPIC to",
        ),
    ] {
        fails(given_topics(list), &format!("OUTBOX_TOPICS {problem}"));
    }
    fails(
        given_topics("a=b").or(with("topic", "orders")),
        "OUTBOX_TOPICS looks up OUTBOX_TOPIC, which is always `orders`; set OUTBOX_TOPIC to column",
    );
}

#[test]
fn a_key_may_come_from_anywhere_in_the_row() {
    let key = |rule: &str| mapping_of(with("key", rule)).key;
    assert_eq!(
        key("header:PARTITION_ID"),
        KeyRule::Header("PARTITION_ID".to_owned())
    );
    let pieces = [column("tenant"), text(":"), column("id")];
    assert_eq!(key("${tenant}:${id}"), KeyRule::Template(template(&pieces)));
    assert_eq!(key("payload:/a~1b"), KeyRule::Pointer("/a~1b".to_owned()));
    assert_eq!(key("none"), KeyRule::None);
    for rule in ["header:", "order", "a:b"] {
        let problem = format!("OUTBOX_KEY `{rule}` is not a rule for keys; write column:NAME,");
        fails(with("key", rule), &problem);
    }
    fails(
        with("key", "header:a").or(given_columns("headers=none")),
        "OUTBOX_KEY is a header, and no column has the headers; name the column as headers",
    );
}

#[test]
fn the_default_key_is_the_column_of_the_type() {
    let key = |list: &str| mapping_of(given_columns(list)).key;
    assert_eq!(key("type=kind"), KeyRule::Column("kind".to_owned()));
    assert_eq!(key("type=none"), KeyRule::None);
}

#[test]
fn the_other_rules_have_few_forms() {
    let value = |rule: &str| mapping_of(with("value", rule)).value;
    assert_eq!(value("payload"), ValueRule::Payload);
    assert_eq!(
        value("payload:/Value"),
        ValueRule::Pointer("/Value".to_owned())
    );
    assert_eq!(value("expanded"), ValueRule::Expanded);
    let partition = |rule: &str| mapping_of(with("partition", rule)).partition;
    assert_eq!(partition("key"), PartitionRule::Key);
    assert_eq!(partition("column:p"), PartitionRule::Column("p".to_owned()));
    assert_eq!(partition("spread"), PartitionRule::Spread);
    let timestamp = |rule: &str| mapping_of(with("timestamp", rule)).timestamp;
    assert_eq!(timestamp("now"), TimestampRule::Now);
    assert_eq!(
        timestamp("column:at"),
        TimestampRule::Column("at".to_owned())
    );
    assert_eq!(timestamp("commit"), TimestampRule::Commit);
    for (rule, expected) in [
        ("dead-letter", NullPayload::DeadLetter),
        ("tombstone", NullPayload::Tombstone),
        ("empty", NullPayload::Empty),
    ] {
        assert_eq!(
            mapping_of(with("null_payload", rule)).null_payload,
            expected
        );
    }
    for (rule, expected) in [
        ("outboxd", HeaderStyle::Outboxd),
        ("none", HeaderStyle::None),
        ("debezium", HeaderStyle::Debezium),
        ("cloudevents", HeaderStyle::CloudEvents),
        ("cloudevents-structured", HeaderStyle::CloudEventsStructured),
    ] {
        assert_eq!(mapping_of(with("headers", rule)).headers, expected);
    }
    assert_eq!(
        mapping_of(with("source_id", "shop \u{e9}")).source_id,
        "shop \u{e9}"
    );
    for (name, rule, problem) in [
        (
            "value",
            "column:a",
            "OUTBOX_VALUE `column:a` is not a rule for values; write payload,",
        ),
        (
            "value",
            "payload:a",
            "OUTBOX_VALUE `payload:a` contains no JSON pointer",
        ),
        (
            "partition",
            "3",
            "OUTBOX_PARTITION `3` is not a rule for partitions; write key,",
        ),
        (
            "partition",
            "column:",
            "OUTBOX_PARTITION `` is not the name of a column",
        ),
        (
            "timestamp",
            "created",
            "OUTBOX_TIMESTAMP `created` is not a rule for timestamps; write",
        ),
        (
            "timestamp",
            "column:",
            "OUTBOX_TIMESTAMP `` is not the name of a column",
        ),
        (
            "null_payload",
            "skip",
            "OUTBOX_NULL_PAYLOAD `skip` is not one of its choices; write",
        ),
        (
            "headers",
            "ce",
            "OUTBOX_HEADERS `ce` is not one of its choices; write outboxd, none,",
        ),
        (
            "source_id",
            "a\tb",
            "OUTBOX_SOURCE_ID `a\\tb` is not the name of a source; write 1 to",
        ),
        (
            "source_id",
            "postgres://u:p@h/d",
            "OUTBOX_SOURCE_ID the value is not the name of a source; write 1 to 200",
        ),
        (
            "source_id",
            &"x".repeat(201),
            "OUTBOX_SOURCE_ID the value is not the name of a source",
        ),
    ] {
        fails(with(name, rule), problem);
    }
}

#[test]
fn rules_that_contradict_each_other_are_refused() {
    fails(
        given_columns("published=none"),
        "OUTBOX_AFTER_PUBLISH cannot be mark, since OUTBOX_COLUMNS has published=none; write \
         delete or keep",
    );
    for after_publish in ["delete", "keep"] {
        build(with("after_publish", after_publish).or(given_columns("published=none"))).unwrap();
    }
    fails(
        with("value", "payload:/a").or(given_columns("envelope=kind")),
        "OUTBOX_VALUE takes a part of the payload, and OUTBOX_COLUMNS has an envelope around it",
    );
    build(with("value", "expanded").or(given_columns("envelope=kind"))).unwrap();
    fails(
        with("headers", "cloudevents-structured").or(given_columns("envelope=kind")),
        "OUTBOX_HEADERS cannot be cloudevents-structured with an envelope in OUTBOX_COLUMNS",
    );
    build(with("partition", "column:p").or(with("key", "none"))).unwrap();
}

#[test]
fn all_rules_are_checked_at_once_in_the_order_of_the_settings() {
    let errors = build(flags(&[
        "--batch-size=0",
        "--source-id=\u{7}",
        "--timestamp=x",
        "--partition=x",
        "--headers=x",
        "--null-payload=x",
        "--value=x",
        "--key=x",
        "--topics=x",
        "--topic=x y",
        "--where=x",
        "--columns=x=y",
        "--preset=x",
        "--kafka-brokers=x",
    ]));
    let errors = errors.unwrap_err();
    let settings: Vec<&str> = errors.iter().map(SettingError::setting).collect();
    let expected = [
        "DATABASE_URL",
        "OUTBOX_PRESET",
        "OUTBOX_COLUMNS",
        "OUTBOX_WHERE",
        "OUTBOX_TOPICS",
        "OUTBOX_KEY",
        "OUTBOX_VALUE",
        "OUTBOX_NULL_PAYLOAD",
        "OUTBOX_HEADERS",
        "OUTBOX_PARTITION",
        "OUTBOX_TIMESTAMP",
        "OUTBOX_SOURCE_ID",
        "OUTBOX_BATCH_SIZE",
    ];
    assert_eq!(settings, expected);
}
