//! The meanings of columns and the rules for records: each setting, its errors, and which source
//! wins.

use super::*;
use crate::config::mapping::{
    ColumnName, ColumnNames, Condition, HeaderStyle, MarkedColumn, NamedColumn, NullPayload,
    PartitionRule, Piece, RowFilter, Template, Test, TimestampRule, TopicMap, TopicRule, ValueRule,
};

fn mapping(settings: Settings) -> Mapping {
    build(settings).unwrap().mapping
}

fn columns(list: &str) -> ColumnNames {
    mapping(given_columns(list)).columns
}

/// `valid()` with the columns as a flag or a variable gives them.
fn given_columns(list: &str) -> Settings {
    Settings {
        columns: Some(list.to_owned()),
        ..valid()
    }
}

fn given_topics(list: &str) -> Settings {
    Settings {
        topics: Some(list.to_owned()),
        ..valid()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn named(columns: &[(&str, &str)]) -> Vec<NamedColumn> {
    let columns = columns.iter().map(|(column, name)| NamedColumn {
        column: (*column).to_owned(),
        name: (*name).to_owned(),
    });
    columns.collect()
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

#[track_caller]
fn fails(settings: Settings, beginning: &str) {
    let error = only_error(build(settings));
    assert!(error.starts_with(beginning), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn without_settings_the_mapping_is_the_default_one_with_the_name_of_the_outbox() {
    let expected = Mapping {
        source_id: "orders.outbox.outbox".to_owned(),
        ..Mapping::default()
    };
    assert_eq!(mapping(valid()), expected);
    let other = mapping(with("table", "shop.\"Events\""));
    assert_eq!(other.source_id, "orders.shop.Events");
}

#[test]
fn each_meaning_can_be_given_to_a_column() {
    let columns = columns(
        "id = event id,type=kind,payload=body,headers=meta,created=at,published=sent, \
         attempts=tries,order=seq,header=a,header=b:X-B,envelope=c,envelope=d:D,",
    );
    assert_eq!(columns.id, ["event id"]);
    assert_eq!(columns.event_type, ColumnName::given("kind"));
    assert_eq!(columns.payload, "body");
    assert_eq!(columns.headers.column, ColumnName::given("meta"));
    assert_eq!(columns.headers.pointer, None);
    assert_eq!(columns.created, ColumnName::given("at"));
    assert_eq!(columns.published.column, ColumnName::given("sent"));
    assert_eq!(columns.published.constant, None);
    assert_eq!(columns.attempts, ColumnName::given("tries"));
    assert_eq!(columns.order.as_deref(), Some("seq"));
    assert_eq!(columns.header_columns, named(&[("a", "a"), ("b", "X-B")]));
    assert_eq!(columns.envelope, named(&[("c", "c"), ("d", "D")]));
}

#[test]
fn every_meaning_but_two_may_be_absent() {
    let settings = given_columns(
        "type=none,headers=none,created=none,published=none,attempts=none,order=none,header=none,\
         envelope=none",
    );
    let columns = mapping(with("after_publish", "keep").or(settings)).columns;
    for column in [
        columns.event_type,
        columns.headers.column,
        columns.created,
        columns.published.column,
        columns.attempts,
    ] {
        assert_eq!(column, ColumnName::none());
    }
    assert_eq!(columns.order, None);
    assert_eq!((columns.header_columns, columns.envelope), (vec![], vec![]));
    for member in ["id", "payload"] {
        let settings = given_columns(&format!("{member}=none"));
        fails(
            settings,
            &format!("OUTBOX_COLUMNS {member}: cannot be none; give the name"),
        );
    }
}

#[test]
fn an_id_may_have_several_columns_and_each_once() {
    assert_eq!(columns("id=tenant + seq").id, ["tenant", "seq"]);
    let ids = |text: &str| mapping(file(text).or(valid())).columns.id;
    assert_eq!(ids("[columns]\nid = ['tenant', 'a+b']"), ["tenant", "a+b"]);
    assert_eq!(ids("[columns]\nid = 'tenant+seq'"), ["tenant", "seq"]);
    fails(
        given_columns("id=a+a"),
        "OUTBOX_COLUMNS id: has `a` twice; name each column once",
    );
    fails(
        given_columns("id=a+"),
        "OUTBOX_COLUMNS id: `` is not the name of a column",
    );
    fails(
        given_columns("id=a+none"),
        "OUTBOX_COLUMNS id: cannot be none",
    );
    fails(
        file("[columns]\nid = []").or(valid()),
        "OUTBOX_COLUMNS id: cannot be none",
    );
    fails(
        given_columns("id=a,id=b"),
        "OUTBOX_COLUMNS has `id` twice; join the columns of a composite key: id=tenant+seq",
    );
}

#[test]
fn the_mark_may_be_a_constant_and_the_headers_a_part_of_a_column() {
    let published = |list: &str| columns(list).published;
    let marked = |constant: &str| MarkedColumn {
        column: ColumnName::given("StatusName"),
        constant: Some(constant.to_owned()),
    };
    assert_eq!(
        published("published=StatusName='Succeeded'"),
        marked("Succeeded")
    );
    assert_eq!(
        published("published = StatusName = Succeeded"),
        marked("Succeeded")
    );
    assert_eq!(
        published("published=StatusName='it''s = 1'"),
        marked("it's = 1")
    );
    assert_eq!(published("published=StatusName=''"), marked(""));
    for wrong in ["sent=", "sent='a", "sent='"] {
        let shown = wrong.escape_debug();
        let problem = format!("OUTBOX_COLUMNS published: `{shown}` has no constant; write column=");
        fails(given_columns(&format!("published={wrong}")), &problem);
    }
    let headers = columns("headers=Content:/Headers/a~1b").headers;
    assert_eq!(headers.column, ColumnName::given("Content"));
    assert_eq!(headers.pointer.as_deref(), Some("/Headers/a~1b"));
    fails(
        given_columns("headers=Content:Headers"),
        "OUTBOX_COLUMNS headers: `Content:Headers` contains no JSON pointer; begin the",
    );
}

#[test]
fn the_names_of_headers_and_members_are_possible_and_differ() {
    let file = |text: &str| mapping(file(text).or(valid())).columns.header_columns;
    assert_eq!(
        file("[columns]\nheader = ['a', 'b:a,b']"),
        named(&[("a", "a"), ("b", "a,b")])
    );
    assert_eq!(file("[columns]\nheader = 'a:X'"), named(&[("a", "X")]));
    assert_eq!(file("[columns]\nheader = []"), []);
    for (list, problem) in [
        (
            "header=a:",
            "header: the name in `a:` is empty; write column:name",
        ),
        (
            "header=a,header=b:a",
            "header: the name in `b:a` is there twice",
        ),
        ("header=a,header=none", "header: cannot be none"),
        ("header=:a", "header: `` is not the name of a column"),
        (
            "header=a:outbox_id",
            "header: the name in `a:outbox_id` is a name of outboxd's own",
        ),
        (
            "envelope=a:payload",
            "envelope: the name in `a:payload` is the member that holds",
        ),
        (
            "envelope=a,envelope=a",
            "envelope: the name in `a` is there twice",
        ),
    ] {
        fails(given_columns(list), &format!("OUTBOX_COLUMNS {problem}"));
    }
}

#[test]
fn wrong_columns_are_named_all_at_once() {
    let long = "x".repeat(64);
    let list = format!("id=,type={long},payloadd=a,colour=b,created=a,created=b");
    let errors = messages(&build(given_columns(&list)).unwrap_err());
    let expected = [
        "OUTBOX_COLUMNS has `created` twice; write each meaning once; only header and envelope",
        "OUTBOX_COLUMNS has `colour`, which is no meaning; write id, type, topic, payload, key,",
        "OUTBOX_COLUMNS has `payloadd`, which is no meaning; did you mean payload?",
        "OUTBOX_COLUMNS id: `` is not the name of a column; write a name of 1 to 63 bytes",
        "OUTBOX_COLUMNS type: ",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
    }
    fails(
        given_columns("id"),
        "OUTBOX_COLUMNS has `id`, which is no pair; write name=value,",
    );
    for (text, problem) in [
        (
            "columns = 'id=a'",
            "columns is not a table; write [columns] and below it one meaning",
        ),
        (
            "topics = 'a=b'",
            "topics is not a table; write [topics] and below it one value a line",
        ),
        ("[columns]\nid = 1.5", "[columns] id is not a single value"),
        (
            "[columns]\nid = [[1]]",
            "[columns] id is not a single value",
        ),
        ("[topics]\na = ['b']", "[topics] a is not a single value"),
    ] {
        fails(file(text).or(valid()), &format!("outboxd.toml: {problem}"));
    }
    let several = file("[columns]\npayload = ['a', 'b']").or(valid());
    fails(
        several,
        "OUTBOX_COLUMNS payload: is not a single value; give the name of one column",
    );
}

#[test]
fn a_column_that_outboxd_writes_has_no_second_meaning() {
    for (list, problem) in [
        (
            "id=a+b,published=b",
            "published: `b` is also the column of id; name another",
        ),
        (
            "payload=times_attempted",
            "attempts: `times_attempted` is also the column of payload",
        ),
        (
            "published=a,attempts=a",
            "attempts: `a` is also the column of published",
        ),
    ] {
        fails(given_columns(list), &format!("OUTBOX_COLUMNS {problem}"));
    }
}

#[test]
fn order_may_be_the_time_of_creation() {
    let order = |list: &str| columns(list).order;
    assert_eq!(order("order=created").as_deref(), Some("created_at"));
    assert_eq!(order("created=at,order=created").as_deref(), Some("at"));
    assert_eq!(order("order=none"), None);
    fails(
        given_columns("created=none,order=created"),
        "OUTBOX_COLUMNS order: is created, and no column has that meaning; give the name",
    );
}

#[test]
fn the_list_overrides_the_file_member_by_member() {
    let settings = flags(&[
        "--columns",
        "payload=a,header=c",
        "--topics",
        "x=one,*=rest",
    ]);
    let mapping = mapping(
        settings
            .or(file(
                "[columns]
         id = 'key'
         payload = 'b'
         header = ['d', 'e']
         [topics]
         x = 'two'
         com.acme.Order = 'orders'
         'a,b=c' = 'three'",
            ))
            .or(valid()),
    );
    assert_eq!(mapping.columns.id, ["key"]);
    assert_eq!(mapping.columns.payload, "a");
    assert_eq!(mapping.columns.header_columns, named(&[("c", "c")]));
    let entries = [
        ("a,b=c", "three"),
        ("com.acme.Order", "orders"),
        ("x", "one"),
    ];
    let expected = TopicMap {
        entries: entries.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        other: Some(template(&[text("rest")])),
    };
    assert_eq!(mapping.topics, expected);
}

#[test]
fn a_topic_is_a_column_a_name_or_a_text() {
    let topic = |rule: &str| mapping(with("topic", rule)).topic;
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
        mapping(settings).topic,
        TopicRule::Template(template(&pieces))
    );
}

#[test]
fn topics_are_names_and_the_rest_may_have_columns() {
    let topics = mapping(given_topics("a=one,*=rest.${kind}")).topics;
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
    let key = |rule: &str| mapping(with("key", rule)).key;
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
    let key = |list: &str| mapping(given_columns(list)).key;
    assert_eq!(key("type=kind"), KeyRule::Column("kind".to_owned()));
    assert_eq!(key("type=none"), KeyRule::None);
}

#[test]
fn the_other_rules_have_few_forms() {
    let value = |rule: &str| mapping(with("value", rule)).value;
    assert_eq!(value("payload"), ValueRule::Payload);
    assert_eq!(
        value("payload:/Value"),
        ValueRule::Pointer("/Value".to_owned())
    );
    assert_eq!(value("expanded"), ValueRule::Expanded);
    let partition = |rule: &str| mapping(with("partition", rule)).partition;
    assert_eq!(partition("key"), PartitionRule::Key);
    assert_eq!(partition("column:p"), PartitionRule::Column("p".to_owned()));
    assert_eq!(partition("spread"), PartitionRule::Spread);
    let timestamp = |rule: &str| mapping(with("timestamp", rule)).timestamp;
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
        assert_eq!(mapping(with("null_payload", rule)).null_payload, expected);
    }
    for (rule, expected) in [
        ("outboxd", HeaderStyle::Outboxd),
        ("none", HeaderStyle::None),
        ("debezium", HeaderStyle::Debezium),
        ("cloudevents", HeaderStyle::CloudEvents),
        ("cloudevents-structured", HeaderStyle::CloudEventsStructured),
    ] {
        assert_eq!(mapping(with("headers", rule)).headers, expected);
    }
    assert_eq!(
        mapping(with("source_id", "shop \u{e9}")).source_id,
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
fn a_column_may_be_named_where_a_rule_takes_it() {
    let whole = mapping(given_columns("topic=t,key=k,partition=p,timestamp=at"));
    assert_eq!(whole.topic, TopicRule::Column("t".to_owned()));
    assert_eq!(whole.key, KeyRule::Column("k".to_owned()));
    assert_eq!(whole.partition, PartitionRule::Column("p".to_owned()));
    assert_eq!(whole.timestamp, TimestampRule::Column("at".to_owned()));
    let none = given_columns("topic=none,key=none,partition=none,timestamp=none");
    let none = mapping(with("topic", "orders").or(none));
    assert_eq!(none.topic, TopicRule::Template(template(&[text("orders")])));
    assert_eq!(none.key, KeyRule::None);
    assert_eq!(none.partition, PartitionRule::Key);
    assert_eq!(none.timestamp, TimestampRule::Now);
    let same = mapping(with("key", "column:k").or(given_columns("key=k")));
    assert_eq!(same.key, KeyRule::Column("k".to_owned()));
    let spread = mapping(with("partition", "spread").or(given_columns("partition=none")));
    assert_eq!(spread.partition, PartitionRule::Spread);
}

#[test]
fn two_settings_that_say_different_things_are_both_named() {
    for (member, setting, rule) in [
        ("key=k", "key", "column:j"),
        ("key=k", "key", "payload:/k"),
        ("topic=t", "topic", "orders"),
        ("topic=none", "topic", "column:t"),
        ("partition=p", "partition", "spread"),
        ("timestamp=at", "timestamp", "now"),
    ] {
        let (name, column) = member.split_once('=').unwrap();
        let problem = format!(
            "OUTBOX_COLUMNS {name}: `{column}` contradicts OUTBOX_{}, which is `{rule}`; give one",
            setting.to_uppercase()
        );
        fails(with(setting, rule).or(given_columns(member)), &problem);
    }
    fails(
        given_columns("topic=none"),
        "OUTBOX_COLUMNS topic: cannot be none without OUTBOX_TOPIC; set OUTBOX_TOPIC to a name",
    );
    fails(
        given_columns("key="),
        "OUTBOX_COLUMNS key: `` is not the name of a column",
    );
}

#[test]
fn a_filter_is_conditions_that_all_hold() {
    let filter = |text: &str| mapping(with("where", text)).filter;
    let one_of = |texts: &[&str]| Test::OneOf(names(texts));
    let none_of = |texts: &[&str]| Test::NoneOf(names(texts));
    for (text, column, test) in [
        ("kind = 'event'", "kind", one_of(&["event"])),
        ("Kind='it''s'", "kind", one_of(&["it's"])),
        ("\"Kind\"  =''", "Kind", one_of(&[""])),
        ("\"a \"\"b\" <> 'x'", "a \"b", none_of(&["x"])),
        ("kind != -1.50", "kind", none_of(&["-1.50"])),
        ("n=0", "n", one_of(&["0"])),
        ("done = TRUE", "done", one_of(&["t"])),
        ("done <> false", "done", none_of(&["f"])),
        ("kind In ('a' , 'b',3)", "kind", one_of(&["a", "b", "3"])),
        ("kind not IN ('a')", "kind", none_of(&["a"])),
        ("deleted IS NULL", "deleted", Test::Null),
        ("deleted is not null", "deleted", Test::NotNull),
        ("\"in\" IS NULL", "in", Test::Null),
    ] {
        let column = column.to_owned();
        let conditions = vec![Condition { column, test }];
        assert_eq!(filter(text), RowFilter { conditions }, "{text}");
    }
    let several = filter("a = 'x AND y' and b IS NOT NULL AND c IN (1)");
    let columns: Vec<&str> = several
        .conditions
        .iter()
        .map(|it| it.column.as_str())
        .collect();
    assert_eq!(columns, ["a", "b", "c"]);
    assert_eq!(filter(""), RowFilter::default());
}

#[test]
fn anything_else_in_a_filter_is_named_with_what_may_be_written() {
    let grammar = "; write conditions joined by AND, each column = 'text', <>, IN ('a', 'b')";
    for (text, problem) in [
        ("kind", "ends where =, <>, IN, NOT IN or IS has to follow"),
        (
            "kind < 3",
            "has `<` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "kind LIKE 'a%'",
            "has `LIKE` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "a = 1 OR b = 2",
            "has `OR` where AND or the end has to stand",
        ),
        ("a = 1 AND", "ends where the name of a column has to follow"),
        (
            "NOT a = 1",
            "has `NOT` where the name of a column has to stand",
        ),
        (
            "(a = 1)",
            "has `(a` where the name of a column has to stand",
        ),
        (
            "lower(a) = 'x'",
            "has `(a)` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "a = b",
            "has `b` where 'text', a number, true or false has to stand",
        ),
        ("a = 1e5", "has `1e5` where 'text'"),
        ("a = 007", "has `007` where 'text'"),
        ("a = 1.", "has `1.` where 'text'"),
        ("a = -", "has `-` where 'text'"),
        (
            "a = 'x'::text",
            "has `::text` where AND or the end has to stand",
        ),
        (
            "a IN 'x'",
            "has `\\'x\\'` where a list in parentheses has to stand",
        ),
        ("a IN ()", "has `)` where 'text'"),
        ("a IN ('x'", "ends where a comma or ) has to follow"),
        ("a NOT NULL", "has `NULL` where IN has to stand"),
        ("a IS TRUE", "has `TRUE` where NULL has to stand"),
    ] {
        fails(with("where", text), &format!("OUTBOX_WHERE {problem}"));
        let error = only_error(build(with("where", text)));
        assert!(error.contains(grammar), "{error}");
    }
    fails(
        with("where", "a = NULL"),
        "OUTBOX_WHERE compares with NULL, which is never true; write",
    );
    fails(
        with("where", "a = 'x"),
        "OUTBOX_WHERE has a text without an end: `\\'x`; write 'text'",
    );
    fails(
        with("where", "\"\" = 1"),
        "OUTBOX_WHERE `` is not the name of a column",
    );
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
