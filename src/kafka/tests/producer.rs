//! The producer against librdkafka's in-process mock cluster, which speaks the real protocol but
//! enforces no sizes, ACLs or min.insync.replicas: the integration tests cover those.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaErrorCode, RDKafkaRespErr};

use crate::config::{Config, Secret, Settings};
use crate::error::Code;
use crate::kafka::{DeliveryReport, ErrorAction, Producer, SendError, reachable};
use crate::outbox::OwnedRecord;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often what lingers is pushed.
const PUSH: Duration = Duration::from_millis(10);

pub(crate) type Cluster = MockCluster<'static, DefaultProducerContext>;

pub(crate) fn cluster(topic: &str, partitions: i32) -> (Cluster, Config) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    let config = config(&cluster.bootstrap_servers());
    (cluster, config)
}

pub(crate) fn config(brokers: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some(brokers.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

fn send(producer: &mut Producer, key: &[u8], value: &[u8], ticket: u64) -> Result<(), SendError> {
    let record = OwnedRecord::new("orders", Some(key), Some(value), [].into_iter());
    producer.send_owned(&record, ticket)
}

/// Waits for `count` reports as the publisher does: push, wait for a wake-up, take the reports.
pub(crate) async fn reports(producer: &mut Producer, count: usize) -> Vec<DeliveryReport> {
    let (mut reports, began) = (Vec::new(), Instant::now());
    let all = async {
        producer.take_reports(&mut reports);
        while reports.len() < count {
            producer.push(began.elapsed());
            let _woken = tokio::time::timeout(PUSH, producer.reported()).await;
            producer.take_reports(&mut reports);
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, all).await.is_ok();
    assert!(in_time, "{} of {count} reports came", reports.len());
    reports
}

/// The values in the topic, in order, by partition.
fn consumed(brokers: &str, topic: &str, partitions: i32, count: usize) -> Vec<Vec<Vec<u8>>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut values = vec![Vec::new(); partitions as usize];
    let mut seen = 0;
    let deadline = Instant::now() + PATIENCE;
    while seen < count {
        assert!(
            Instant::now() < deadline,
            "{seen} of {count} records arrived"
        );
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.unwrap();
            values[message.partition() as usize].push(message.payload().unwrap_or(b"-").to_vec());
            seen += 1;
        }
    }
    let ends = |partition| {
        consumer
            .fetch_watermarks(topic, partition, PATIENCE)
            .unwrap()
            .1
    };
    assert_eq!(
        (0..partitions).map(ends).sum::<i64>(),
        count as i64,
        "more records than expected"
    );
    values
}

pub(crate) fn tickets(reports: &[DeliveryReport]) -> Vec<u64> {
    let mut tickets: Vec<u64> = reports.iter().map(|report| report.ticket).collect();
    tickets.sort_unstable();
    tickets
}

/// Each key's values must be those that were sent, in the order of sending.
fn assert_in_order(partitions: &[Vec<Vec<u8>>], count: u64) {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for value in partitions.iter().flatten() {
        let number: u64 = std::str::from_utf8(value).unwrap().parse().unwrap();
        let last = seen.insert(number % KEYS, number);
        assert!(
            last.is_none_or(|last| last + KEYS == number),
            "{number} came after {last:?}"
        );
    }
    assert_eq!(
        partitions.iter().map(Vec::len).sum::<usize>(),
        count as usize
    );
}

const KEYS: u64 = 7;

fn send_numbered(producer: &mut Producer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = format!("k{}", number % KEYS);
        let value = number.to_string();
        send(producer, key.as_bytes(), value.as_bytes(), number).unwrap();
    }
}

#[tokio::test]
async fn each_record_gets_exactly_one_report_and_keys_keep_their_order() {
    let (cluster, config) = cluster("orders", 3);
    let mut producer = Producer::new(&config).unwrap();
    send_numbered(&mut producer, 0..20_000);
    assert_eq!(producer.in_flight(), 20_000);
    let reports = reports(&mut producer, 20_000).await;
    assert!(reports.iter().all(|report| report.outcome.is_ok()));
    assert_eq!(tickets(&reports), (0..20_000).collect::<Vec<_>>());
    assert_eq!(producer.in_flight(), 0);
    let values = consumed(&cluster.bootstrap_servers(), "orders", 3, 20_000);
    assert!(
        values
            .iter()
            .filter(|partition| !partition.is_empty())
            .count()
            > 1
    );
    assert_in_order(&values, 20_000);
}

#[tokio::test]
async fn keys_lie_where_the_java_producer_puts_them() {
    let (cluster, config) = cluster("orders", 3);
    let mut producer = Producer::new(&config).unwrap();
    // Kafka's own test vectors for murmur2 (UtilsTest.testMurmur2), masked to 31 bits, modulo three
    // partitions.
    let hashes = [
        ("21", -973_932_308i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
    ];
    for (ticket, (key, _)) in hashes.iter().enumerate() {
        send(&mut producer, key.as_bytes(), key.as_bytes(), ticket as u64).unwrap();
    }
    reports(&mut producer, hashes.len()).await;
    let values = consumed(&cluster.bootstrap_servers(), "orders", 3, hashes.len());
    for (key, hash) in hashes {
        let partition = (hash & 0x7fff_ffff) % 3;
        assert!(
            values[partition as usize].contains(&key.as_bytes().to_vec()),
            "{key}"
        );
    }
}

#[tokio::test]
async fn headers_null_keys_and_null_values_arrive_as_they_were_sent() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    let headers: [(&str, &[u8]); 2] = [("outbox_id", b"17"), ("empty", b"")];
    let with_headers = OwnedRecord::new("orders", None, Some(b"{}"), headers.into_iter());
    producer.send_owned(&with_headers, 1).unwrap();
    let tombstone = OwnedRecord::new("orders", Some(b""), None, [].into_iter());
    producer.send_owned(&tombstone, 2).unwrap();
    reports(&mut producer, 2).await;

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("orders", 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&list).unwrap();
    let message = consumer.poll(PATIENCE).unwrap().unwrap();
    assert_eq!((message.key(), message.payload()), (None, Some(&b"{}"[..])));
    use rdkafka::message::Headers as _;
    let read: Vec<_> = message
        .headers()
        .unwrap()
        .iter()
        .map(|h| (h.key, h.value.unwrap_or(b"-")))
        .collect();
    assert_eq!(read, headers);
    let message = consumer.poll(PATIENCE).unwrap().unwrap();
    assert_eq!((message.key(), message.payload()), (Some(&b""[..]), None));
    assert!(message.headers().is_none());
}

#[tokio::test]
async fn an_outage_costs_no_record_and_no_order_and_is_seen_while_it_lasts() {
    let (cluster, config) = cluster("orders", 3);
    let mut producer = Producer::new(&config).unwrap();
    send_numbered(&mut producer, 0..500);
    let mut all = reports(&mut producer, 500).await;

    cluster.broker_down(-1).unwrap();
    send_numbered(&mut producer, 500..1_500);
    let deadline = Instant::now() + PATIENCE;
    while producer.health().down_at.is_none() {
        assert!(Instant::now() < deadline, "the outage was not noticed");
        producer.reported().await;
        producer.take_reports(&mut all);
    }
    assert_eq!(all.len(), 500, "a record was reported during the outage");
    let health = producer.health();
    assert_eq!(producer.in_flight(), 1_000);
    assert!(!health.last_error.unwrap().reason.is_empty());

    cluster.broker_up(-1).unwrap();
    all.extend(reports(&mut producer, 1_000).await);
    assert!(all.iter().all(|report| report.outcome.is_ok()));
    assert_eq!(tickets(&all), (0..1_500).collect::<Vec<_>>());
    assert!(producer.health().down_at.is_none());
    assert_in_order(
        &consumed(&cluster.bootstrap_servers(), "orders", 3, 1_500),
        1_500,
    );
}

#[tokio::test]
async fn errors_that_pass_are_ridden_out_without_a_report_a_gap_or_a_duplicate() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    let into_transient = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &into_transient);
    send_numbered(&mut producer, 0..2_000);
    let reports = reports(&mut producer, 2_000).await;
    assert!(reports.iter().all(|report| report.outcome.is_ok()));
    assert_in_order(
        &consumed(&cluster.bootstrap_servers(), "orders", 1, 2_000),
        2_000,
    );
}

#[tokio::test]
async fn a_refused_record_is_reported_with_its_place_and_the_producer_lives_on() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    send(&mut producer, b"k", b"0", 0).unwrap();
    let refused = reports(&mut producer, 1).await;
    let refusal = refused[0].outcome.clone().unwrap_err();
    assert_eq!((refusal.topic(), refusal.partition()), ("orders", Some(0)));
    assert_eq!(refusal.code(), RDKafkaErrorCode::MessageSizeTooLarge);
    assert_eq!(refusal.action(), ErrorAction::Refuse);
    assert!(producer.fatal().is_none());
    send(&mut producer, b"k", b"1", 1).unwrap();
    assert!(reports(&mut producer, 1).await[0].outcome.is_ok());
}

#[tokio::test]
async fn a_purge_ends_every_record_with_one_report() {
    let (cluster, config) = cluster("orders", 3);
    let mut producer = Producer::new(&config).unwrap();
    cluster.broker_down(-1).unwrap();
    send_numbered(&mut producer, 0..5_000);
    producer.purge();
    let reports = reports(&mut producer, 5_000).await;
    assert_eq!(tickets(&reports), (0..5_000).collect::<Vec<_>>());
    for report in reports {
        assert_eq!(report.outcome.unwrap_err().action(), ErrorAction::Rewind);
    }
    assert_eq!(producer.in_flight(), 0);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_at_once_and_gets_no_report() {
    let (_cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    let largest = vec![b'x'; 10 << 20];
    send(&mut producer, b"k", &largest, 1).unwrap();
    let larger = vec![b'x'; 12 << 20];
    match send(&mut producer, b"k", &larger, 2).unwrap_err() {
        SendError::Refused(refusal) => {
            assert_eq!(refusal.code(), RDKafkaErrorCode::MessageSizeTooLarge);
            assert_eq!((refusal.topic(), refusal.partition()), ("orders", None));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(producer.in_flight(), 1);
    assert_eq!(tickets(&reports(&mut producer, 1).await), [1]);
}

#[tokio::test]
async fn a_name_that_no_topic_can_have_is_refused_without_asking_the_broker() {
    let mut producer = Producer::new(&config("127.0.0.1:1")).unwrap();
    match producer
        .send_owned(
            &OwnedRecord::new("or ders", Some(b"k"), Some(b"v"), [].into_iter()),
            1,
        )
        .unwrap_err()
    {
        SendError::Refused(refusal) => assert_eq!(refusal.action(), ErrorAction::Refuse),
        other => panic!("{other:?}"),
    }
    assert_eq!(producer.in_flight(), 0);
}

/// Three brokers answer at nearly the same time, again and again, and only the wake-up ends a wait:
/// one lost wake-up hangs the test.
#[tokio::test]
async fn no_wake_up_is_lost_when_reports_come_one_upon_another() {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic("orders", 3, 1).unwrap();
    for partition in 0..3 {
        cluster
            .partition_leader("orders", partition, Some(partition + 1))
            .unwrap();
    }
    let mut producer = Producer::new(&config(&cluster.bootstrap_servers())).unwrap();
    let (mut reports, began) = (Vec::new(), Instant::now());
    for round in 0..3_000u64 {
        // One key for each partition.
        for (ticket, key) in ["21", "a", "b"].iter().enumerate() {
            send(
                &mut producer,
                key.as_bytes(),
                b"v",
                round * 3 + ticket as u64,
            )
            .unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while producer.in_flight() > 0 {
            assert!(Instant::now() < deadline, "a wake-up was lost");
            producer.push(began.elapsed());
            // Only a wake-up takes the reports.
            if tokio::time::timeout(PUSH, producer.reported())
                .await
                .is_ok()
            {
                producer.take_reports(&mut reports);
            }
        }
    }
    assert_eq!(tickets(&reports), (0..9_000).collect::<Vec<_>>());
}

/// The wait is cancelled again and again, as in a `select!` whose other arms win: the reports must
/// not be lost.
#[tokio::test]
async fn waiting_for_reports_may_be_cancelled_at_any_time() {
    let (_cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    let (mut reports, began) = (Vec::new(), Instant::now());
    let stress = async {
        for round in 0..300u64 {
            for ticket in round * 10..(round + 1) * 10 {
                send(&mut producer, b"k", b"v", ticket).unwrap();
            }
            while producer.in_flight() > 0 {
                producer.push(began.elapsed());
                tokio::select! {
                    biased;
                    () = tokio::task::yield_now() => {}
                    () = producer.reported() => producer.take_reports(&mut reports),
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, stress)
        .await
        .expect("a wake-up was lost");
    assert_eq!(tickets(&reports), (0..3_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failure_brings_back_its_record_and_those_behind_it_until_the_topic_is_trusted() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    send(&mut producer, b"k", b"before", 0).unwrap();
    let before = reports(&mut producer, 1).await;
    assert!(before[0].record.is_none() && before[0].partition == 0);

    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD],
    );
    let headers: [(&str, &[u8]); 2] = [("outbox_id", b"17"), ("empty", b"")];
    let sent = OwnedRecord::new("orders", None, Some(b"bad"), headers.into_iter());
    producer.send_owned(&sent, 1).unwrap();
    let failed = reports(&mut producer, 1).await.remove(0);
    let refusal = failed.outcome.unwrap_err();
    assert_eq!(refusal.name(), "INVALID_RECORD");
    let record = *failed.record.unwrap();
    assert_eq!(record, sent);

    producer.send_owned(&record, 2).unwrap();
    let again = reports(&mut producer, 1).await.remove(0);
    assert!(again.outcome.is_ok());
    assert_eq!(*again.record.unwrap(), sent);
    send(&mut producer, b"k", b"", 3).unwrap();
    let behind = reports(&mut producer, 1).await.remove(0).record.unwrap();
    assert_eq!(
        *behind,
        OwnedRecord::new("orders", Some(b"k"), Some(b""), [].into_iter())
    );

    producer.trust("another", refusal.number());
    send(&mut producer, b"k", b"v", 4).unwrap();
    assert!(reports(&mut producer, 1).await[0].record.is_some());
    producer.trust("orders", refusal.number() - 1);
    send(&mut producer, b"k", b"v", 4).unwrap();
    let unseen = "trust from before a failure does not cover it";
    assert!(
        reports(&mut producer, 1).await[0].record.is_some(),
        "{unseen}"
    );
    producer.trust("orders", refusal.number());
    send(&mut producer, b"k", b"v", 5).unwrap();
    assert!(reports(&mut producer, 1).await[0].record.is_none());
}

#[tokio::test]
async fn what_is_withdrawn_brings_its_record_back_and_puts_nothing_under_suspicion() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    send(&mut producer, b"k", b"0", 0).unwrap();
    reports(&mut producer, 1).await;
    cluster.broker_down(-1).unwrap();
    send(&mut producer, b"k", b"1", 1).unwrap();
    producer.purge();
    let purged = reports(&mut producer, 1).await.remove(0);
    assert_eq!(purged.outcome.unwrap_err().action(), ErrorAction::Rewind);
    assert_eq!(purged.record.unwrap().value(), Some(&b"1"[..]));
    cluster.broker_up(-1).unwrap();
    // The end of the purge is not reported, and until then it may withdraw a later record.
    let began = Instant::now();
    let after = loop {
        send(&mut producer, b"k", b"2", 2).unwrap();
        let after = reports(&mut producer, 1).await.remove(0);
        match after.outcome {
            Err(refusal) if began.elapsed() < Duration::from_secs(10) => {
                assert_eq!(refusal.action(), ErrorAction::Rewind);
            }
            _ => break after,
        }
    };
    assert!(after.outcome.is_ok() && after.record.is_none());
}

#[test]
fn a_report_is_small_and_the_common_one_holds_nothing() {
    assert_eq!(size_of::<DeliveryReport>(), 4 * size_of::<usize>());
}

#[tokio::test]
async fn a_producer_that_failed_for_good_is_renewed_and_its_records_are_never_reported() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    send(&mut producer, b"k", b"0", 0).unwrap();
    reports(&mut producer, 1).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    send(&mut producer, b"k", b"1", 1).unwrap();
    let failed = reports(&mut producer, 1).await.remove(0);
    assert_eq!(failed.outcome.unwrap_err().action(), ErrorAction::Fatal);
    producer.replace(&config).await.unwrap();
    assert!(producer.fatal().is_none());
    send(&mut producer, b"k", b"1", 3).unwrap();
    let report = reports(&mut producer, 1).await.remove(0);
    assert_eq!(report.ticket, 3);
    assert!(report.outcome.is_ok() && report.record.is_none());
    let arrived = consumed(&cluster.bootstrap_servers(), "orders", 1, 2);
    assert_eq!(arrived, [[b"0".to_vec(), b"1".to_vec()]]);
}

/// librdkafka reports the error with the code of its cause, not as a fatal one.
#[tokio::test]
async fn a_user_without_the_right_to_write_makes_the_producer_fail_for_good_and_that_is_noticed() {
    let (cluster, config) = cluster("orders", 1);
    cluster.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let mut producer = Producer::new(&config).unwrap();
    let began = Instant::now();
    let error = loop {
        assert!(began.elapsed() < PATIENCE, "no fatal error was noticed");
        producer.take_reports(&mut Vec::new());
        match producer.fatal() {
            Some(error) => break error,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let report = error.report();
    assert!(report.contains("CLUSTER_AUTHORIZATION_FAILED"), "{report}");
    assert!(report.contains("IDEMPOTENT_WRITE"), "{report}");
    let SendError::Refused(refusal) = send(&mut producer, b"k", b"0", 0).unwrap_err() else {
        panic!("the queue is not full");
    };
    assert_eq!(refusal.action(), ErrorAction::Fatal);
    producer.replace(&config).await.unwrap();
    send(&mut producer, b"k", b"0", 1).unwrap();
    assert!(reports(&mut producer, 1).await[0].outcome.is_ok());
}

#[tokio::test]
async fn a_renewed_producer_forgets_what_was_in_flight_and_the_thread_is_not_held_up() {
    let (cluster, config) = cluster("orders", 1);
    let mut producer = Producer::new(&config).unwrap();
    cluster.broker_down(-1).unwrap();
    send_numbered(&mut producer, 0..1_000);
    // The runtime has only this thread: anything that blocks it stops the counter.
    let mut turns = 0;
    {
        let mut renewing = std::pin::pin!(producer.replace(&config));
        let counted = async {
            loop {
                tokio::select! {
                    biased;
                    renewed = &mut renewing => return renewed,
                    () = tokio::task::yield_now() => turns += 1,
                }
            }
        };
        tokio::time::timeout(PATIENCE, counted)
            .await
            .unwrap()
            .unwrap();
    }
    assert!(turns > 1, "{turns} turns");
    assert_eq!(producer.in_flight(), 0);
    cluster.broker_up(-1).unwrap();
    send(&mut producer, b"k", b"v", 5_000).unwrap();
    assert_eq!(tickets(&reports(&mut producer, 1).await), [5_000]);
    assert_eq!(producer.in_flight(), 0);
}

#[tokio::test]
async fn a_producer_with_records_in_hand_can_be_dropped() {
    let mut producer = Producer::new(&config("127.0.0.1:1")).unwrap();
    send_numbered(&mut producer, 0..100);
    tokio::task::spawn_blocking(move || drop(producer))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_cluster_that_answers_is_reachable_and_one_that_does_not_is_named() {
    let (_cluster, config_up) = cluster("orders", 1);
    assert!(!reachable(&config_up, PATIENCE).await.unwrap().id.is_empty());

    let error = reachable(&config("127.0.0.1:1"), Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Connect);
    assert!(error.is_transient());
    assert_eq!(error.message(), "no Kafka broker answers at 127.0.0.1:1");
    assert!(error.report().contains("refused"), "{}", error.report());
}

#[tokio::test]
async fn a_wrong_property_is_named_and_its_value_is_not_shown() {
    for (name, value) in [("no.such.property", "s3cret"), ("linger.ms", "s3cret")] {
        let mut config = config("127.0.0.1:1");
        config
            .kafka_properties
            .push((name.to_owned(), Secret::new(value.to_owned())));
        let error = Producer::new(&config).unwrap_err();
        assert_eq!(error.code(), Code::Config);
        assert!(error.message().contains(name), "{error}");
        assert!(!format!("{error:?} {}", error.report()).contains("s3cret"));
    }
}
