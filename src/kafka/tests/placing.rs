//! Partition, time and null headers of a record on the way to Kafka and back, and what identifies
//! its event, against librdkafka's in-process mock cluster.
#![allow(clippy::unwrap_used)]

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::config::mapping::{HeaderStyle, PartitionRule, TimestampRule};
use crate::kafka::Producer;
use crate::kafka::tests::producer::{PATIENCE, cluster, reports};
use crate::outbox::{Event, EventSource, OwnedRecord, Router, TextValue};

const TIME: i64 = 1_714_979_289_123;

fn record(partition: Option<i32>, timestamp: Option<i64>) -> OwnedRecord {
    let headers = [("null", None), ("empty", Some([].as_slice()))];
    let record = OwnedRecord::with_nulls("orders", Some(b"k"), Some(b"v"), headers.into_iter());
    record.placed(partition, timestamp)
}

/// A header's name and value.
type Header = (String, Option<Vec<u8>>);

/// The first record of a partition: its time, and its headers with their values.
fn first(brokers: &str, partition: i32) -> (Option<i64>, Vec<Header>) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("orders", partition, Offset::Beginning)
        .unwrap();
    consumer.assign(&list).unwrap();
    let message = consumer.poll(PATIENCE).unwrap().unwrap();
    let headers = message.headers().unwrap().iter();
    let headers = headers.map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec)));
    (message.timestamp().to_millis(), headers.collect())
}

#[tokio::test]
async fn a_record_arrives_at_its_partition_with_its_time_and_its_null_headers() {
    let (cluster, config) = cluster("orders", 5);
    let mut producer = Producer::new(&config).unwrap();
    for partition in [4, 1] {
        let placed = record(Some(partition), Some(TIME + i64::from(partition)));
        producer.send_owned(&placed, partition as u64).unwrap();
    }
    for report in reports(&mut producer, 2).await {
        assert!(report.outcome.is_ok() && report.record.is_none());
        assert_eq!(report.partition as u64, report.ticket);
    }
    let (time, headers) = first(&cluster.bootstrap_servers(), 4);
    assert_eq!(time, Some(TIME + 4));
    let expected = [
        ("null".to_owned(), None),
        ("empty".to_owned(), Some(Vec::new())),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn a_partition_that_the_topic_lacks_is_a_refusal() {
    let (_cluster, config) = cluster("orders", 2);
    let mut producer = Producer::new(&config).unwrap();
    producer.send_owned(&record(Some(2), None), 1).unwrap();
    let failed = reports(&mut producer, 1).await.remove(0);
    assert_eq!(failed.outcome.unwrap_err().name(), "_UNKNOWN_PARTITION");
}

/// The record of a failed delivery, and the same after it was sent again, if it comes back.
async fn failed(
    rules: (PartitionRule, TimestampRule),
    sent: &OwnedRecord,
) -> (OwnedRecord, Option<Box<OwnedRecord>>) {
    let (cluster, mut config) = cluster("orders", 2);
    (config.mapping.partition, config.mapping.timestamp) = rules;
    let mut producer = Producer::new(&config).unwrap();
    let invalid = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    cluster.request_errors(RDKafkaApiKey::Produce, &[invalid]);
    producer.send_owned(sent, 1).unwrap();
    let first = *reports(&mut producer, 1).await.remove(0).record.unwrap();
    producer.send_owned(&first, 2).unwrap();
    let again = reports(&mut producer, 1).await.remove(0);
    assert!(again.outcome.is_ok());
    (first, again.record)
}

#[tokio::test]
async fn a_record_comes_back_with_the_place_and_the_time_that_its_row_has_given() {
    let column = || "column".to_owned();
    let sent = record(Some(1), Some(TIME));
    let rules = (
        PartitionRule::Column(column()),
        TimestampRule::Column(column()),
    );
    let (first, again) = failed(rules, &sent).await;
    let again = *again.unwrap();
    let parts = |record: &OwnedRecord| (record.partition(), record.timestamp());
    assert_eq!((parts(&first), parts(&again)), (parts(&sent), parts(&sent)));
    assert!(
        first.headers().eq(sent.headers()),
        "{:?}",
        first.headers().collect::<Vec<_>>()
    );
    assert!(first == sent && again == sent);
    // The key and the time of sending decide anew.
    let rules = (PartitionRule::Key, TimestampRule::Now);
    let (first, again) = failed(rules, &record(None, None)).await;
    assert!(first == record(None, None) && *again.unwrap() == first);
    let rules = (PartitionRule::Spread, TimestampRule::Commit);
    // It may have gone to another partition since.
    let (first, _) = failed(rules, &sent).await;
    assert!(first == record(None, Some(TIME)));
}

#[tokio::test]
async fn what_identifies_an_event_comes_back_whatever_headers_its_record_has() {
    let (cluster, mut config) = cluster("orders", 1);
    config.mapping.headers = HeaderStyle::Debezium;
    let event = Event {
        id: "5f0c".into(),
        topic: "orders",
        event_type: Some("created"),
        payload: Some(TextValue::Verbatim(b"{}")),
        created_at: Some("2024-05-06 07:08:09"),
        ..Event::of_nulls()
    };
    let mut router = Router::new(&config.mapping);
    let record = router.record(&event, EventSource::Table).unwrap();
    let mut producer = Producer::new(&config).unwrap();
    producer.send(&record, 7).unwrap();
    assert!(reports(&mut producer, 1).await[0].record.is_none());
    let invalid = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    cluster.request_errors(RDKafkaApiKey::Produce, &[invalid]);
    producer.send(&record, 8).unwrap();
    let failed = *reports(&mut producer, 1).await.remove(0).record.unwrap();
    assert!(failed == OwnedRecord::from(&record));
    assert_eq!(
        (failed.id(), failed.event_type()),
        (Some("5f0c"), Some("created"))
    );
    producer.send_owned(&failed, 9).unwrap();
    let again = *reports(&mut producer, 1).await.remove(0).record.unwrap();
    assert!(again == failed);
}
