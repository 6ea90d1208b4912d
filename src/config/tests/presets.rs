//! Presets: defaults for the tables of other tools, over which everything that is given wins.

use super::*;
use crate::config::mapping::{
    ColumnName, HeaderStyle, MarkedColumn, NullPayload, PartitionRule, Piece, Template, TopicRule,
    ValueRule,
};

const NAMES: [&str; 7] = [
    "debezium",
    "tomorrow-one",
    "eventuate",
    "spring-modulith",
    "cap",
    "pgx-outbox",
    "pg-transactional-outbox",
];

/// A preset, and what a person has to give beside it.
fn preset(name: &str) -> Settings {
    let topics = (name == "spring-modulith").then(|| "com.acme.Placed=orders".to_owned());
    Settings {
        topics,
        ..with("preset", name)
    }
}

fn config(name: &str) -> Config {
    build(preset(name)).unwrap()
}

fn given(name: &str) -> ColumnName {
    ColumnName::given(name)
}

fn by(column: &str) -> KeyRule {
    KeyRule::Column(column.to_owned())
}

#[test]
fn every_preset_is_valid_and_names_its_table_and_all_columns() {
    for name in NAMES {
        let config = config(name);
        assert_ne!(config.table, TableName::default(), "{name}");
        let columns = &config.mapping.columns;
        for column in [
            &columns.event_type,
            &columns.headers.column,
            &columns.created,
            &columns.published.column,
            &columns.attempts,
        ] {
            assert!(column.given, "{name}: {column:?}");
        }
        let marks = config.after_publish == AfterPublish::Mark;
        assert_eq!(marks, columns.published.column.name.is_some(), "{name}");
    }
    let error = only_error(build(with("preset", "debezum")));
    let expected =
        "OUTBOX_PRESET `debezum` is not one of its choices; write debezium, tomorrow-one";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn debezium_is_the_conventional_table_and_the_records_of_its_router() {
    let config = config("debezium");
    assert_eq!(config.table.to_string(), "public.outboxevent");
    assert_eq!(config.slot, "outboxd_orders_public_outboxevent");
    assert_eq!(
        (config.after_publish, config.backlog, config.on_slot_loss),
        (AfterPublish::Keep, Backlog::Skip, OnSlotLoss::Halt)
    );
    let mapping = config.mapping;
    assert_eq!(mapping.columns.id, ["id"]);
    assert_eq!(mapping.columns.event_type, given("type"));
    assert_eq!(mapping.columns.payload, "payload");
    assert_eq!(mapping.columns.published.column, ColumnName::none());
    assert_eq!(mapping.columns.order, None);
    let pieces = vec![
        Piece::Text("outbox.event.".to_owned()),
        Piece::Column("aggregatetype".to_owned()),
    ];
    assert_eq!(mapping.topic, TopicRule::Template(Template { pieces }));
    assert_eq!(mapping.key, by("aggregateid"));
    assert_eq!(mapping.null_payload, NullPayload::Tombstone);
    assert_eq!(mapping.headers, HeaderStyle::Debezium);
    assert_eq!(mapping.source_id, "orders.public.outboxevent");
    // Marks need a column.
    let marks = with("after_publish", "mark").or(preset("debezium"));
    let error = only_error(build(marks));
    assert!(
        error.starts_with("OUTBOX_AFTER_PUBLISH cannot be mark"),
        "{error}"
    );
}

#[test]
fn tomorrow_one_has_a_key_of_its_own_and_no_type() {
    let config = config("tomorrow-one");
    assert_eq!(config.table.to_string(), "public.outbox_kafka");
    assert_eq!(config.after_publish, AfterPublish::Mark);
    let mapping = config.mapping;
    assert_eq!(mapping.columns.event_type, ColumnName::none());
    assert_eq!(mapping.columns.payload, "value");
    assert_eq!(mapping.columns.published.column, given("processed"));
    assert_eq!(mapping.topic, TopicRule::Column("topic".to_owned()));
    assert_eq!(mapping.key, by("key"));
    assert_eq!(mapping.null_payload, NullPayload::Tombstone);
}

#[test]
fn eventuate_has_its_key_in_the_headers_and_its_order_in_a_number() {
    let mapping = config("eventuate").mapping;
    assert_eq!(mapping.topic, TopicRule::Column("destination".to_owned()));
    assert_eq!(mapping.key, KeyRule::Header("PARTITION_ID".to_owned()));
    assert_eq!(mapping.columns.published.column, given("published"));
    assert_eq!(mapping.columns.created, ColumnName::none());
    assert_eq!(mapping.columns.order.as_deref(), Some("creation_time"));
}

#[test]
fn spring_modulith_needs_the_topics() {
    let config = config("spring-modulith");
    assert_eq!(config.table.to_string(), "public.event_publication");
    let mapping = config.mapping;
    assert_eq!(mapping.topic, TopicRule::Column("event_type".to_owned()));
    assert_eq!(mapping.topics.entries["com.acme.Placed"], "orders");
    assert_eq!(mapping.key, KeyRule::None);
    assert_eq!(mapping.columns.published.column, given("completion_date"));
    assert_eq!(mapping.columns.order.as_deref(), Some("publication_date"));
    let error = only_error(build(with("preset", "spring-modulith")));
    let expected = "OUTBOX_TOPICS is not set; write the topic of each kind of event";
    assert!(error.starts_with(expected), "{error}");
    build(with("topic", "events").or(with("preset", "spring-modulith"))).unwrap();
}

#[test]
fn cap_has_value_headers_and_key_inside_its_content() {
    let mapping = config("cap").mapping;
    let pointer = |pointer: &str| Some(pointer.to_owned());
    assert_eq!(mapping.columns.id, ["Id"]);
    assert_eq!(mapping.columns.headers.column, given("Content"));
    assert_eq!(mapping.columns.headers.pointer, pointer("/Headers"));
    assert_eq!(mapping.value, ValueRule::Pointer("/Value".to_owned()));
    let key = "/Headers/cap-kafka-key".to_owned();
    assert_eq!(mapping.key, KeyRule::Pointer(key));
    let column = given("StatusName");
    let constant = Some("Succeeded".to_owned());
    assert_eq!(mapping.columns.published, MarkedColumn { column, constant });
}

#[test]
fn the_two_of_postgres_have_their_own_names() {
    let pgx = config("pgx-outbox").mapping;
    assert_eq!(pgx.columns.headers.column, given("metadata"));
    assert_eq!(pgx.columns.attempts, ColumnName::none());
    assert_eq!(pgx.key, KeyRule::None);
    let config = config("pg-transactional-outbox");
    assert_eq!(config.table.to_string(), "public.outbox");
    assert_eq!(config.mapping.key, by("aggregate_id"));
    assert_eq!(config.mapping.columns.event_type, given("message_type"));
    assert_eq!(config.mapping.columns.order.as_deref(), Some("created_at"));
}

#[test]
fn what_is_given_wins_over_a_preset_member_by_member() {
    let settings = flags(&["--key=payload:/id", "--columns=payload=body,type=none"]).or(file(
        "table = 'shop.events'
         after_publish = 'delete'
         headers = 'none'
         [columns]
         payload = 'other'
         partition = 'p'",
    ));
    let config = build(settings.or(preset("debezium"))).unwrap();
    assert_eq!(config.table.to_string(), "shop.events");
    assert_eq!(config.after_publish, AfterPublish::Delete);
    assert_eq!(config.backlog, Backlog::Auto);
    let mapping = config.mapping;
    assert_eq!(mapping.key, KeyRule::Pointer("/id".to_owned()));
    assert_eq!(mapping.columns.payload, "body");
    assert_eq!(mapping.columns.event_type, ColumnName::none());
    assert_eq!(mapping.columns.headers.column, ColumnName::none());
    assert_eq!(mapping.headers, HeaderStyle::None);
    assert_eq!(mapping.partition, PartitionRule::Column("p".to_owned()));
    assert_eq!(mapping.null_payload, NullPayload::Tombstone);
}

#[test]
fn a_column_that_is_given_wins_over_the_rule_of_a_preset() {
    let columns = |list: &str, name: &str| {
        let columns = Some(list.to_owned());
        let settings = Settings {
            columns,
            ..preset(name)
        };
        build(settings).map(|config| config.mapping)
    };
    let mapping = columns("key=order_id,topic=t", "debezium").unwrap();
    assert_eq!(mapping.key, by("order_id"));
    assert_eq!(mapping.topic, TopicRule::Column("t".to_owned()));
    assert_eq!(columns("key=none", "debezium").unwrap().key, KeyRule::None);
    let topic = columns("topic=none", "debezium").unwrap().topic;
    assert!(matches!(topic, TopicRule::Template(_)), "{topic:?}");
    let error = only_error(build(Settings {
        columns: Some("topic=none".to_owned()),
        ..preset("cap")
    }));
    assert!(
        error.starts_with("OUTBOX_COLUMNS topic: cannot be none without"),
        "{error}"
    );
}
