//! Records with a partition or a time of their own, and records that are spread over all
//! partitions.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::dispatch::{Admission, Reason};
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{DeliveryFailure, DeliveryResult, FailureKind};
use crate::engine::record_checks::RecordFacts;
use crate::engine::tests::support::{MS, answer, begin_and, engine, filed};
use crate::engine::topics::placing::PlacingLimits;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection, RowName, TopicName};

/// 2024-05-06.
const NOW: i64 = 1_714_979_289_123;

fn limits() -> MetadataAnswer {
    MetadataAnswer::Known(TopicLimits {
        batch_bytes_max: Some(1_000_000),
        placing: PlacingLimits {
            partition_count: Some(3),
            before_max: Some(Duration::from_secs(60)),
            after_max: Some(Duration::from_secs(60)),
        },
        ..TopicLimits::default()
    })
}

fn placed(partition: Option<i32>, timestamp: Option<i64>) -> OwnedRecord {
    let record = OwnedRecord::new("t", Some(b"k"), Some(b"v"), std::iter::empty());
    record.placed(partition, timestamp)
}

/// What the engine does with an event of this record.
fn offered(engine: &mut Engine, commit: u64, record: &OwnedRecord) -> Offered {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    let offered = engine.offer(Offer {
        row: Some(RowName::of_id(1)),
        xid: 1,
        bytes: 10,
        since_micros: 0,
        sent_micros: 0,
        from_table: false,
        facts: RecordFacts::of_held(record),
        signature: &|| None,
        rejection: None,
    });
    offered.unwrap()
}

/// The code by which the topic rejects a record.
fn rejected(record: &OwnedRecord) -> Option<String> {
    let mut engine = engine();
    let topic = engine.topic(TopicName::new("t").ok());
    engine.dispatch.topics.refresh(MS * 2, topic);
    answer(&mut engine, MS * 2, limits());
    engine.set_wall_clock(MS, NOW);
    match offered(&mut engine, 110, record).admission {
        Admission::Send => None,
        Admission::Keep(Reason::Reject(rejection)) => {
            assert!(rejection.message.contains("topic t"), "{rejection}");
            Some(rejection.code)
        }
        Admission::Keep(reason) => panic!("{reason:?}"),
    }
}

#[test]
fn a_place_or_a_time_that_the_topic_does_not_take_is_rejected_beforehand() {
    let unknown = Some("PARTITION_UNKNOWN".to_owned());
    let out_of_range = Some("TIMESTAMP_OUT_OF_RANGE".to_owned());
    assert_eq!(rejected(&placed(None, None)), None);
    assert_eq!(rejected(&placed(Some(2), Some(NOW))), None);
    assert_eq!(rejected(&placed(Some(3), None)), unknown);
    assert_eq!(rejected(&placed(None, Some(NOW - 59_000))), None);
    assert_eq!(rejected(&placed(None, Some(NOW - 61_000))), out_of_range);
    assert_eq!(rejected(&placed(None, Some(NOW + 62_000))), out_of_range);
}

#[test]
fn a_rejection_waits_for_a_fresh_answer() {
    let mut engine = engine();
    let topic = engine.topic(TopicName::new("t").ok());
    engine.dispatch.topics.refresh(MS * 2, topic);
    answer(&mut engine, MS * 2, limits());
    engine.received(MS * 5_000);
    engine.poll(MS * 5_000);
    let offered = offered(&mut engine, 110, &placed(Some(3), None));
    assert_eq!(offered.admission, Admission::Keep(Reason::Hold));
}

#[test]
fn records_are_spread_over_the_partitions_that_are_known() {
    let mut engine = engine();
    let topic = engine.topic(TopicName::new("t").ok());
    begin_and(&mut engine, 110);
    assert_eq!(engine.next_partition(topic), None, "the key decides");
    engine.limits.spreads = true;
    assert_eq!(
        engine.next_partition(topic),
        None,
        "their number is not known"
    );
    engine.dispatch.topics.refresh(MS * 2, topic);
    answer(&mut engine, MS * 2, limits());
    let chosen: Vec<_> = (0..4)
        .map(|_| engine.next_partition(topic).unwrap())
        .collect();
    assert_eq!(chosen, [0, 1, 2, 0]);
    let other = engine.topic(TopicName::new("u").ok());
    assert_eq!(engine.next_partition(other), None);
}

/// The codes of the dead letters after the producer has not found a record's partition, and Kafka
/// then shows the topic with so many.
fn filed_after_no_partition(partition_count: i32) -> Vec<String> {
    let mut engine = engine();
    let topic = engine.topic(TopicName::new("t").ok());
    engine.dispatch.topics.refresh(MS * 2, topic);
    answer(&mut engine, MS * 2, limits());
    let record = placed(Some(2), None);
    let Offered {
        ticket, admission, ..
    } = offered(&mut engine, 110, &record);
    assert_eq!(admission, Admission::Send);
    engine.commit(Lsn::new(110), Lsn::new(120));
    let failure = DeliveryFailure {
        kind: FailureKind::NoTopic,
        rejection: Rejection {
            code: "_UNKNOWN_PARTITION".to_owned(),
            message: "unknown".to_owned(),
        },
        number: 1,
    };
    let result = DeliveryResult {
        ticket,
        failure: Some(failure),
        suspicion: 1,
        record: Some(Box::new(record)),
    };
    engine.delivery_finished(MS * 3, result, &mut Vec::new());
    let known = MetadataAnswer::Known(TopicLimits {
        placing: PlacingLimits {
            partition_count: Some(partition_count),
            ..PlacingLimits::default()
        },
        ..TopicLimits::default()
    });
    answer(&mut engine, MS * 4, known.clone());
    // The back-off is over, and the answer is old by then.
    let later = MS * 20_000;
    engine.received(later);
    answer(&mut engine, later, known);
    let letters = filed(&mut engine, later);
    let codes = letters.into_iter().map(|letter| letter.rejection.code);
    codes.collect()
}

#[test]
fn a_partition_that_the_producer_does_not_find_is_waited_for_if_kafka_has_it() {
    assert!(filed_after_no_partition(3).is_empty());
    assert_eq!(filed_after_no_partition(2), ["PARTITION_UNKNOWN"]);
}
