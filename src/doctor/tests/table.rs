//! What acts on the table's rows.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Settings;
use crate::doctor::report::Verdict;
use crate::postgres::facts::{Rule, Trigger, UnpublishedIndex};

fn config(after_publish: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some("localhost:9092".to_owned()),
        after_publish: Some(after_publish.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

fn facts() -> TableFacts {
    TableFacts {
        triggers: Vec::new(),
        rules: Vec::new(),
        indexes: Vec::new(),
        live_rows: 10,
        bytes: 1 << 20,
        dead_rows: 0,
        has_no_autovacuum: false,
    }
}

fn shape() -> TableShape {
    let columns = [
        ("id", "bigint"),
        ("published_at", "timestamp without time zone"),
    ];
    TableShape::of_columns(4711, &columns)
}

#[test]
fn only_what_fires_for_the_configured_change_counts() {
    let trigger = Trigger {
        name: "audit".to_owned(),
        table: "outbox.outbox".to_owned(),
        is_before: true,
        on_update: true,
        on_delete: false,
    };
    let rule = Rule {
        name: "protect".to_owned(),
        table: "outbox.outbox".to_owned(),
        is_instead: true,
        on_update: false,
    };
    let facts = TableFacts {
        triggers: vec![trigger],
        rules: vec![rule],
        ..facts()
    };
    let of_marks = triggers(&facts, &config("mark"));
    assert_eq!(of_marks.len(), 1);
    assert_eq!(of_marks[0].verdict, Verdict::Warning);
    assert!(of_marks[0].reason.contains("trigger audit"));
    let of_deletions = triggers(&facts, &config("delete"));
    assert_eq!(of_deletions.len(), 1);
    assert_eq!(of_deletions[0].verdict, Verdict::Fails);
    assert_eq!(
        of_deletions[0].fix.as_deref(),
        Some("DROP RULE \"protect\" ON outbox.outbox")
    );
}

#[test]
fn an_index_counts_when_it_is_valid_and_is_bloated_when_few_rows_are_unpublished() {
    let none = index(&facts(), &shape());
    assert_eq!(none.verdict, Verdict::Warning);
    assert!(
        none.fix
            .unwrap()
            .contains("CREATE INDEX CONCURRENTLY ON \"outbox\".\"outbox\"")
    );
    let of = |is_valid: bool| TableFacts {
        indexes: vec![UnpublishedIndex {
            name: "outbox.i".to_owned(),
            is_valid,
            bytes: INDEX_BYTES + 1,
        }],
        ..facts()
    };
    let invalid = index(&of(false), &shape());
    assert_eq!(
        invalid.fix.as_deref(),
        Some("REINDEX INDEX CONCURRENTLY outbox.i")
    );
    assert_eq!(index(&of(true), &shape()).verdict, Verdict::Ok);
    assert_eq!(bloat(&of(true), &shape()).verdict, Verdict::Warning);
    let mut large = of(true);
    large.live_rows = 10_000_000;
    assert_eq!(bloat(&large, &shape()).verdict, Verdict::Ok);
    let without = TableShape::of_columns(1, &[("id", "bigint")]);
    assert_eq!(index(&facts(), &without).verdict, Verdict::Ok);
}

#[test]
fn dead_rows_count_when_they_are_many_and_more_than_the_live_ones() {
    let of = |dead_rows: i64, live_rows: i64| {
        let facts = TableFacts {
            dead_rows,
            live_rows,
            ..facts()
        };
        bloat(&facts, &shape()).verdict
    };
    assert_eq!(of(DEAD_ROWS + 1, 5), Verdict::Warning);
    assert_eq!(of(DEAD_ROWS + 1, DEAD_ROWS + 2), Verdict::Ok);
    assert_eq!(of(DEAD_ROWS, 5), Verdict::Ok);
}
