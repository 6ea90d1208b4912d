//! The meanings of columns: each member, its errors, and which source wins.

use super::*;
use crate::config::mapping::{
    ColumnName, ColumnNames, MarkedColumn, NamedColumn, PartitionRule, Piece, Template,
    TimestampRule, TopicMap, TopicRule,
};

fn columns(list: &str) -> ColumnNames {
    mapping_of(given_columns(list)).columns
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
    let columns = mapping_of(with("after_publish", "keep").or(settings)).columns;
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
    let ids = |text: &str| mapping_of(file(text).or(valid())).columns.id;
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
    let file = |text: &str| mapping_of(file(text).or(valid())).columns.header_columns;
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
    let mapping = mapping_of(
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
fn a_column_may_be_named_where_a_rule_takes_it() {
    let whole = mapping_of(given_columns("topic=t,key=k,partition=p,timestamp=at"));
    assert_eq!(whole.topic, TopicRule::Column("t".to_owned()));
    assert_eq!(whole.key, KeyRule::Column("k".to_owned()));
    assert_eq!(whole.partition, PartitionRule::Column("p".to_owned()));
    assert_eq!(whole.timestamp, TimestampRule::Column("at".to_owned()));
    let none = given_columns("topic=none,key=none,partition=none,timestamp=none");
    let none = mapping_of(with("topic", "orders").or(none));
    assert_eq!(none.topic, TopicRule::Template(template(&[text("orders")])));
    assert_eq!(none.key, KeyRule::None);
    assert_eq!(none.partition, PartitionRule::Key);
    assert_eq!(none.timestamp, TimestampRule::Now);
    let same = mapping_of(with("key", "column:k").or(given_columns("key=k")));
    assert_eq!(same.key, KeyRule::Column("k".to_owned()));
    let spread = mapping_of(with("partition", "spread").or(given_columns("partition=none")));
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
