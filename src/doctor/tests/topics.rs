//! Topics against rows.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Settings;
use crate::config::mapping::{ColumnName, Mapping, TopicMap};
use crate::doctor::report::Verdict;

fn config(key: &str, properties: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some("k:1".to_owned()),
        kafka_properties: Some(properties.to_owned()),
        key: Some(key.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

fn plain() -> Config {
    config("column:order_id", "")
}

fn orders(largest: Option<i64>, unkeyed: Option<i64>) -> TopicSample {
    TopicSample {
        topic: "orders".to_owned(),
        rows: 7,
        unkeyed,
        largest,
    }
}

fn facts() -> TopicFacts {
    TopicFacts {
        max_message_bytes: Some(1_000_000),
        partition_count: 3,
        replicas: 3,
        min_in_sync: Some(2),
        ..TopicFacts::default()
    }
}

fn verdicts(checks: &[Check]) -> Vec<Verdict> {
    checks.iter().map(|it| it.verdict).collect()
}

#[test]
fn a_missing_topic_fails_unless_brokers_may_create_it() {
    let sample = orders(None, None);
    let of = |found: Found, config: &Config| existence(&[(&sample, found)], 0, config);
    let missing = of(Found::Missing, &plain());
    assert_eq!(missing[0].verdict, Verdict::Fails);
    assert!(missing[0].reason.contains("orders (7 rows)"));
    assert!(
        missing[0]
            .fix
            .as_deref()
            .unwrap()
            .contains("--create --topic orders")
    );
    let creates = config("none", "allow.auto.create.topics=true");
    assert_eq!(of(Found::Missing, &creates)[0].verdict, Verdict::Warning);
    let invalid = Found::Invalid("too long".to_owned());
    assert_eq!(of(invalid, &plain())[0].verdict, Verdict::Fails);
    let unclear = Found::Unclear("slow".to_owned());
    assert_eq!(of(unclear, &plain())[0].verdict, Verdict::CannotSay);
    assert_eq!(of(Found::Known(facts()), &plain())[0].verdict, Verdict::Ok);
    assert_eq!(existence(&[], 0, &plain())[0].verdict, Verdict::Ok);
}

#[test]
fn a_row_without_a_topic_fails_beside_the_topics_that_exist() {
    let sample = orders(None, None);
    let checks = existence(&[(&sample, Found::Known(facts()))], 2, &plain());
    assert_eq!(verdicts(&checks), [Verdict::Fails]);
    let null = "no topic for 2 rows: a column that it is made of is null";
    assert_eq!(checks[0].reason, null);
    let mapped = Config {
        mapping: Mapping {
            topics: TopicMap {
                entries: [("a".to_owned(), "orders".to_owned())].into(),
                other: None,
            },
            ..plain().mapping
        },
        ..plain()
    };
    let checks = existence(&[], 1, &mapped);
    let unmapped = "no topic for 1 row: OUTBOX_TOPICS has no entry for their value";
    assert_eq!(checks[0].reason, unmapped);
}

#[test]
fn the_right_to_write_is_what_a_broker_lists_and_otherwise_not_known() {
    let sample = orders(None, None);
    let known = [(&sample, Found::Known(facts()))];
    let of = |listed: Option<bool>| {
        let listed = listed.map(|may| ("orders".to_owned(), may));
        let checks = rights(&known, &HashMap::from_iter(listed), &plain());
        checks[0].verdict
    };
    assert_eq!(of(Some(true)), Verdict::Ok);
    assert_eq!(of(Some(false)), Verdict::Fails);
    assert_eq!(of(None), Verdict::CannotSay);
    let none = HashMap::new();
    let forbidden = [(&sample, Found::Forbidden)];
    let forbidden = rights(&forbidden, &none, &plain());
    assert_eq!(forbidden[0].verdict, Verdict::Fails);
    assert_eq!(rights(&[], &none, &plain())[0].verdict, Verdict::Ok);
}

#[test]
fn a_topic_that_refuses_records_for_a_short_difference_of_clocks_is_named() {
    let sample = orders(None, None);
    let of = |limit: Option<u64>| {
        let facts = TopicFacts {
            clock_limit: limit.map(Duration::from_secs),
            ..facts()
        };
        clock(&[(&sample, Found::Known(facts))], &plain()).remove(0)
    };
    assert_eq!(of(None).verdict, Verdict::Ok);
    assert_eq!(of(Some(3_600)).verdict, Verdict::Ok);
    let short = of(Some(20));
    assert_eq!(short.verdict, Verdict::CannotSay);
    assert!(short.reason.contains("20 s"), "{}", short.reason);
}

#[test]
fn replicas_are_judged_together_with_those_that_a_write_needs() {
    let sample = orders(None, None);
    let of = |count: usize, min_in_sync: Option<usize>| {
        let facts = TopicFacts {
            replicas: count,
            min_in_sync,
            ..facts()
        };
        replicas(&[(&sample, Found::Known(facts))], &plain())[0].verdict
    };
    assert_eq!(of(3, Some(2)), Verdict::Ok);
    assert_eq!(of(3, Some(1)), Verdict::Warning);
    assert_eq!(of(3, Some(3)), Verdict::Warning);
    assert_eq!(of(1, Some(1)), Verdict::Warning);
    assert_eq!(of(1, Some(2)), Verdict::Fails);
    assert_eq!(of(3, None), Verdict::CannotSay);
}

#[test]
fn a_payload_is_compared_with_the_limits_of_topic_and_producer() {
    let of = |largest: i64, limit: Option<usize>, config: &Config| {
        let topic = orders(Some(largest), None);
        let facts = TopicFacts {
            max_message_bytes: limit,
            ..facts()
        };
        let topics = [(&topic, Found::Known(facts))];
        sizes(&topics, &Sample::default(), config)[0].verdict
    };
    assert_eq!(of(1_000, Some(10_000), &plain()), Verdict::Ok);
    assert_eq!(of(10_000, Some(10_000), &plain()), Verdict::Fails);
    let compressed = config("none", "compression.type=zstd");
    assert_eq!(of(10_000, Some(10_000), &compressed), Verdict::Warning);
    assert_eq!(of(1_000, None, &plain()), Verdict::CannotSay);
    let small = config("none", "message.max.bytes=2000");
    assert_eq!(of(3_000, Some(10_000), &small), Verdict::Fails);
    let unprinted = Sample {
        no_sizes: Some("too large".to_owned()),
        ..Sample::default()
    };
    assert_eq!(
        verdicts(&sizes(&[], &unprinted, &plain())),
        [Verdict::CannotSay]
    );
}

#[test]
fn a_compacted_topic_needs_keys_that_name_what_is_kept() {
    let of = |unkeyed: Option<i64>, key: &str, compacted: bool| {
        let topic = orders(None, unkeyed);
        let facts = TopicFacts {
            compacted,
            ..facts()
        };
        cleanup(&[(&topic, Found::Known(facts))], &config(key, ""))[0].verdict
    };
    assert_eq!(of(Some(0), "column:order_id", true), Verdict::Ok);
    assert_eq!(of(Some(2), "column:order_id", true), Verdict::Fails);
    assert_eq!(of(None, "none", true), Verdict::Fails);
    assert_eq!(of(Some(0), "column:event_type", true), Verdict::Warning);
    assert_eq!(of(Some(2), "none", false), Verdict::Ok);
    // The event type is whichever column the settings call so.
    let topic = orders(None, Some(0));
    let compacted = TopicFacts {
        compacted: true,
        ..facts()
    };
    let mut config = config("column:kind", "");
    config.mapping.columns.event_type = ColumnName::given("kind");
    let checks = cleanup(&[(&topic, Found::Known(compacted))], &config);
    assert_eq!(verdicts(&checks), [Verdict::Warning]);
}

#[test]
fn a_partition_that_cannot_be_written_to_fails() {
    let sample = orders(None, None);
    let facts = TopicFacts {
        leaderless: vec![1],
        ..facts()
    };
    let checks = leaders(&[(&sample, Found::Known(facts))]);
    assert_eq!(checks[0].reason, "topic orders: no leader for partition 1");
    assert_eq!(verdicts(&checks), [Verdict::Fails]);
}
