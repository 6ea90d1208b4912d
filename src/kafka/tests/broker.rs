//! A real broker's refusals as the producer reports them: the facts that the publisher's handling
//! of refusals relies on.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use crate::kafka::tests::producer::{config, reports, tickets};
use crate::kafka::tests::server;
use crate::kafka::{DeliveryError, DeliveryReport, ErrorAction, Producer};
use crate::outbox::OwnedRecord;

/// The record of a number: one of ten keys, and a value made from the number.
fn numbered(topic: &str, number: u64, keyless: u64) -> OwnedRecord {
    let key = format!("k{}", number % 10);
    let id = number.to_string();
    OwnedRecord::new(
        topic,
        (number != keyless).then_some(key.as_bytes()),
        Some(format!("{{\"number\": {number}}}").as_bytes()),
        [("outbox_id", id.as_bytes()), ("outbox_source", b"table")].into_iter(),
    )
}

/// One record without a key among 60,000 on a compacted topic: the broker refuses its whole batch,
/// and librdkafka goes on with the rest of the partition.
#[tokio::test]
async fn from_a_refused_batch_on_a_partition_reports_in_order_of_sending_each_with_its_record() {
    const COUNT: u64 = 60_000;
    const KEYLESS: u64 = 20_000;
    let kafka = server::shared();
    let topic = "refused-batch";
    let compacted = [("cleanup.policy", "compact")];
    kafka.create_topic(topic, 3, &compacted).await.unwrap();
    let mut producer = Producer::new(&config(&kafka.brokers())).unwrap();
    for number in 0..COUNT {
        let record = numbered(topic, number, KEYLESS);
        producer.send_owned(&record, number).unwrap();
    }
    let all = reports(&mut producer, COUNT as usize).await;
    assert_eq!(tickets(&all), Vec::from_iter(0..COUNT));

    let mut partitions: BTreeMap<i32, Vec<&DeliveryReport>> = BTreeMap::new();
    for report in &all {
        partitions.entry(report.partition).or_default().push(report);
    }
    let failures = all
        .iter()
        .filter_map(|report| report.outcome.as_ref().err());
    let failures = failures.map(DeliveryError::number).max().unwrap();
    let mut refused = Vec::new();
    for (partition, reports) in &partitions {
        assert!(
            reports.is_sorted_by_key(|report| report.ticket),
            "partition {partition} does not report in the order of sending"
        );
        let failed = |report: &&DeliveryReport| report.outcome.is_err();
        let first = reports.iter().position(failed).unwrap_or(reports.len());
        let (before, from_there) = reports.split_at(first);
        assert!(before.iter().all(|report| report.record.is_none()));
        let batch = from_there.iter().filter(|report| failed(report)).count();
        let (failures, behind) = from_there.split_at(batch);
        assert!(failures.iter().all(failed), "the failures stand together");
        for report in from_there {
            let sent = numbered(topic, report.ticket, KEYLESS);
            assert_eq!(report.record.as_deref(), Some(&sent), "{}", report.ticket);
        }
        for report in failures {
            let refusal = report.outcome.as_ref().unwrap_err();
            assert_eq!(refusal.action(), ErrorAction::Refuse);
            // The record itself and the others of its batch.
            let name = refusal.name();
            let expected = ["INVALID_RECORD", "_INVALID_DIFFERENT_RECORD"];
            assert!(expected.contains(&name.as_str()), "{name}");
            assert_eq!(refusal.partition(), Some(*partition));
        }
        if !failures.is_empty() {
            refused.push((failures.len(), behind.len()));
        }
        assert!(failures.is_empty() || failures.iter().any(|report| report.ticket == KEYLESS));
    }
    // One batch of one partition with several records, and more of the partition after it.
    assert!(
        matches!(refused[..], [(batch, behind)] if batch > 1 && behind > 0),
        "{refused:?}"
    );

    producer.trust(topic, failures);
    producer.send_owned(&numbered(topic, 1, 0), COUNT).unwrap();
    let after = reports(&mut producer, 1).await.remove(0);
    assert!(after.outcome.is_ok() && after.record.is_none());
}

/// Makes a record of this size on the wire, by the length of its value.
fn of_size(size: usize, topic: &str, key: Option<&[u8]>, headers: &[(&str, &[u8])]) -> OwnedRecord {
    let value = vec![b'v'; size];
    let of_length =
        |length| OwnedRecord::new(topic, key, value.get(..length), headers.iter().copied());
    let mut records = (0..=size).rev().map(of_length);
    records.find(|record| record.wire_size() == size).unwrap()
}

#[tokio::test]
async fn a_topic_takes_a_record_of_its_limit_to_the_byte_and_not_one_byte_more() {
    let kafka = server::shared();
    let mut producer = Producer::new(&config(&kafka.brokers())).unwrap();
    let long = "n".repeat(200);
    let headers: [(&str, &[u8]); 3] = [("outbox_id", b"17"), (&long, b"x"), ("empty", b"")];
    type Case<'a> = (usize, Option<&'a [u8]>, &'a [(&'a str, &'a [u8])]);
    let cases: [Case<'_>; 5] = [
        (100, None, &[]),
        (160, Some(b""), &[]),
        (500, Some(b"OrderCreated"), &headers),
        (9_000, Some(b"OrderCreated"), &headers[..1]),
        (1_100_000, None, &headers),
    ];
    for (limit, key, headers) in cases {
        let topic = format!("limit-{limit}");
        let setting = limit.to_string();
        let settings = [("max.message.bytes", setting.as_str())];
        kafka.create_topic(&topic, 1, &settings).await.unwrap();
        for (size, taken) in [(limit, true), (limit + 1, false)] {
            let record = of_size(size, &topic, key, headers);
            producer.send_owned(&record, 1).unwrap();
            let report = reports(&mut producer, 1).await.remove(0);
            match report.outcome {
                Ok(()) => assert!(taken, "{size} bytes went into {limit}"),
                Err(refusal) => {
                    assert!(!taken, "{size} bytes did not go into {limit}: {refusal:?}");
                    assert_eq!(refusal.name(), "MSG_SIZE_TOO_LARGE");
                }
            }
        }
    }
}
