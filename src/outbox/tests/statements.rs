//! Every statement about an outbox and its dead letters, whatever its shape.

#![allow(clippy::unwrap_used)]

use crate::config::{AfterPublish, Config, Settings};
use crate::outbox::marking::Marking;
use crate::outbox::write_back::MarkStatements;
use crate::outbox::{DeadLetters, MissedRows, RetentionStatements, UnpublishedRows};
use crate::postgres::TableShape;
use crate::postgres::table_shape::TIMESTAMP;

/// Words before a parenthesis that are syntax and no names of functions. `unnest` of several
/// arrays is syntax too.
const SYNTAX: [&str; 28] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "by",
    "case",
    "coalesce",
    "nullif",
    "conflict",
    "exists",
    "extract",
    "filter",
    "from",
    "grouping",
    "in",
    "lateral",
    "least",
    "materialized",
    "not",
    "or",
    "rows",
    "select",
    "set",
    "sets",
    "then",
    "values",
    "when",
];

fn statements(after_publish: AfterPublish, columns: &[(&str, &str)]) -> Vec<String> {
    let mut settings = Settings {
        database_url: Some("postgresql://outboxd@localhost/orders".to_owned()),
        kafka_brokers: Some("127.0.0.1:1".to_owned()),
        ..Settings::default()
    };
    settings.after_publish = Some(
        match after_publish {
            AfterPublish::Mark => "mark",
            AfterPublish::Delete => "delete",
            AfterPublish::Keep => "keep",
        }
        .to_owned(),
    );
    let config = Config::from_settings(settings).unwrap();
    let shape = TableShape::of_columns(4711, columns);
    let rows = UnpublishedRows::new(&config, &shape).unwrap();
    let marks = MarkStatements::new(&Marking::new(after_publish, &shape));
    let dead_letters = DeadLetters::new(&config, &shape);
    let mut all: Vec<String> = rows.statements().map(str::to_owned).collect();
    all.extend(MissedRows::new(&rows).statements().map(str::to_owned));
    all.extend(marks.all().map(str::to_owned));
    all.extend(dead_letters.statements());
    all.extend(dead_letters.count_statement().map(str::to_owned));
    let retention = RetentionStatements::new(&config, &shape);
    all.extend(retention.iter().flat_map(|it| it.all().map(str::to_owned)));
    all
}

/// The functions that a statement calls without naming their schema.
fn unqualified(sql: &str) -> Vec<&str> {
    // What stands between single quotes is no name.
    let code: Vec<&str> = sql.split('\'').step_by(2).collect();
    let mut found = Vec::new();
    for part in code {
        for (at, _) in part.match_indices('(') {
            let before = part[..at].trim_end();
            let is_name = |c: char| c.is_alphanumeric() || "_.\"".contains(c);
            let name = before.rsplit(|c| !is_name(c)).next().unwrap_or_default();
            let is_alias = |word: &str| {
                let words: Vec<&str> = before.split_whitespace().rev().collect();
                words
                    .get(1)
                    .is_some_and(|last| last.eq_ignore_ascii_case(word))
            };
            let is_syntax = SYNTAX.contains(&name.to_lowercase().as_str());
            let is_column_list = is_alias("AS") || is_alias("INTO") || is_alias("UPDATE");
            let is_several = name == "unnest" && part[at..].starts_with("($2::bigint[], $3");
            let qualified = name.is_empty() || name.contains('.');
            if !(qualified || is_syntax || is_column_list || is_several) {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn a_statement_calls_no_function_that_another_schema_could_hide() {
    let required = [("id", "bigint"), ("topic", "text"), ("event_type", "text")];
    let optional = [
        ("times_attempted", "integer"),
        ("created_at", TIMESTAMP),
        ("headers", "jsonb"),
        ("published_at", "timestamp with time zone"),
    ];
    let mut count = 0;
    for after_publish in [AfterPublish::Mark, AfterPublish::Delete, AfterPublish::Keep] {
        for payload in ["jsonb", "bytea", "text", "inet"] {
            for with in 0..=optional.len() {
                let mut columns = required.to_vec();
                columns.push(("event_payload", payload));
                columns.extend(&optional[with..]);
                for sql in statements(after_publish, &columns) {
                    count += 1;
                    assert_eq!(unqualified(&sql), [""; 0], "{sql}");
                }
            }
        }
    }
    assert!(count > 500, "{count}");
}

#[test]
fn a_function_without_its_schema_is_found() {
    let sql = "SELECT left(t.a, 3), pg_catalog.count(*) FROM t AS x (a, b) WHERE b IN ('f(')";
    assert_eq!(unqualified(sql), ["left"]);
}

#[test]
fn the_check_knows_every_statement_about_dead_letters() {
    let columns = [
        ("id", "bigint"),
        ("topic", "text"),
        ("event_type", "text"),
        ("event_payload", "jsonb"),
        ("published_at", TIMESTAMP),
    ];
    let all = statements(AfterPublish::Mark, &columns);
    for (what, text) in [
        ("filing", "of_rows AS (INSERT INTO"),
        ("closing", "'retried' ELSE 'discarded'"),
        ("requests", "d.state IN ('retry', 'discard')"),
        ("a copy", "SELECT topic, key, payload"),
        ("parked keys", "AS p (topic, key, blocks)"),
        ("open", "GROUPING SETS"),
        ("rows that wait", "WITH named AS"),
        ("what is filed", "SELECT outbox_id, commit_lsn::text"),
        ("what was filed lately", "filed_at > CURRENT_TIMESTAMP"),
        ("a letter that stays open", "SET state = $2"),
        (
            "rows that are still unpublished",
            "AS c (letter, outbox_row)",
        ),
    ] {
        assert!(all.iter().any(|sql| sql.contains(text)), "{what}");
    }
}
