//! Producers that fail, stall, or are replaced.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

#[test]
fn a_new_producer_is_not_replaced_for_a_failure_of_the_one_before() {
    let mut engine = engine();
    engine.replace_producer(MS, "it failed");
    engine.producer_replaced();
    let is_due = |output: &Output| matches!(output, Output::Sink(SinkOutput::ReplaceProducer(_)));
    assert!(!outputs(&mut engine).iter().any(is_due));
}

#[test]
fn a_producer_that_is_replaced_gets_its_records_again_in_order_and_nothing_in_between() {
    let mut engine = engine();
    let tickets: Vec<Ticket> = (0..3)
        .map(|at| transaction(&mut engine, 110 + at * 10))
        .collect();
    assert_eq!(delivered(&mut engine, MS * 2, tickets[0]), 1);
    engine.replace_producer(MS * 3, "it failed");
    engine.replace_producer(MS * 3, "it failed twice");
    let replaced = outputs(&mut engine).into_iter().filter(|output| {
        matches!(output, Output::Sink(SinkOutput::ReplaceProducer(reason)) if reason == "it failed")
    });
    assert_eq!(replaced.count(), 1);
    let (late, sent) = begin_and(&mut engine, 140);
    engine.commit(Lsn::new(140), Lsn::new(150));
    assert!(!sent, "sent with a producer that is being replaced");
    for (ticket, row) in [(tickets[1], 120), (tickets[2], 130)] {
        let withdrawn = Some(FailureKind::Producer);
        assert_eq!(report(&mut engine, MS * 4, ticket, withdrawn, Some(row)), 0);
    }
    assert!(sends(&mut engine, MS * 5_000).is_empty());
    engine.producer_replaced();
    let mut again = Vec::new();
    for second in 6..20 {
        for ticket in sends(&mut engine, MS * second * 1_000) {
            again.push(ticket);
            delivered(&mut engine, MS * second * 1_000, ticket);
        }
    }
    assert_eq!(again, [tickets[1], tickets[2], late]);
    assert!(engine.is_drained());
}

#[test]
fn a_topic_that_stalls_though_kafka_shows_it_healthy_gets_a_new_producer_and_not_in_an_outage() {
    let healthy = MetadataAnswer::Known(TopicLimits::default());
    let sick = MetadataAnswer::Known(TopicLimits {
        problem: Some("no leader for partition 1".to_owned()),
        ..TopicLimits::default()
    });
    for (answered, expected) in [(healthy, Some(40)), (sick, None)] {
        let mut engine = engine();
        transaction(&mut engine, 110);
        let replaced = (1..120u32).find(|second| {
            let now = MS * *second * 1_000;
            engine.received(now);
            answer(&mut engine, now, answered.clone());
            engine.replacement_reason().is_some()
        });
        assert_eq!(replaced.is_some(), expected.is_some(), "{answered:?}");
        assert!(replaced <= expected, "{replaced:?}");
        assert!(replaced.is_none_or(|second| second >= 30), "{replaced:?}");
    }
}
