//! Kafka's metadata about topics, from a real broker and from one that does not answer every
//! request.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;

use crate::error::Code;
use crate::kafka::tests::producer::{PATIENCE, config};
use crate::kafka::tests::server::{self, Kafka};
use crate::kafka::topic_facts::TopicFacts;
use crate::kafka::{MetadataClient, TopicAnswer};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn topics_of(kafka: &Kafka) -> Vec<String> {
    let consumer: BaseConsumer = kafka.client().create().unwrap();
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    let names = metadata.topics().iter().map(|topic| topic.name());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn topics_are_known_with_their_limits_or_missing() {
    let kafka = server::shared();
    kafka.create_topic("catalog-plain", 2, &[]).await.unwrap();
    let small = [
        ("cleanup.policy", "compact,delete"),
        ("max.message.bytes", "1234"),
    ];
    kafka
        .create_topic("catalog-small", 1, &small)
        .await
        .unwrap();
    let demanding = [("min.insync.replicas", "2")];
    kafka
        .create_topic("catalog-demanding", 3, &demanding)
        .await
        .unwrap();
    let client = MetadataClient::new(&config(&kafka.brokers()));
    let asked = names(&[
        "catalog-small",
        "catalog-none",
        "catalog-plain",
        "catalog-demanding",
        "not a name",
    ]);
    let answers = client.ask(&asked).await.unwrap();
    let plain = TopicFacts {
        max_message_bytes: Some(1_048_588),
        partition_count: 2,
        replicas: 1,
        min_in_sync: Some(1),
        // Kafka's default for a time that is ahead.
        clock_limit: Some(Duration::from_secs(3_600)),
        after_limit: Some(Duration::from_secs(3_600)),
        ..TopicFacts::default()
    };
    let expected = [
        TopicAnswer::Known(TopicFacts {
            max_message_bytes: Some(1_234),
            compacted: true,
            partition_count: 1,
            ..plain.clone()
        }),
        TopicAnswer::Missing,
        TopicAnswer::Known(plain.clone()),
        TopicAnswer::Known(TopicFacts {
            partition_count: 3,
            min_in_sync: Some(2),
            under_replicated: vec![0, 1, 2],
            ..plain
        }),
        TopicAnswer::Missing,
    ];
    assert_eq!(answers, Vec::from_iter(asked.into_iter().zip(expected)));

    // A topic created later is seen at once.
    kafka.create_topic("catalog-none", 1, &[]).await.unwrap();
    let later = client.ask(&names(&["catalog-none"])).await.unwrap();
    assert!(matches!(later[0].1, TopicAnswer::Known(_)), "{later:?}");
    assert!(client.ask(&[]).await.unwrap().is_empty());
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Names the broker for the process that runs only the test below, to measure its memory alone.
const ALONE: &str = "OUTBOXD_TEST_CATALOG_BROKERS";

#[tokio::test]
async fn ten_thousand_names_that_are_not_there_leave_no_memory_and_make_no_topic() {
    if let Ok(brokers) = std::env::var(ALONE) {
        return ask_for_ten_thousand(&brokers).await;
    }
    let kafka = server::private(&["auto.create.topics.enable=true"]).unwrap();
    let program = std::env::current_exe().unwrap();
    // The harness names a test by its path without the crate's name.
    let (_, tests) = module_path!().split_once("::").unwrap();
    let test = "ten_thousand_names_that_are_not_there_leave_no_memory_and_make_no_topic";
    let output = Command::new(program)
        .args(["--exact", &format!("{tests}::{test}")])
        .env(ALONE, kafka.brokers())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    assert_eq!(topics_of(&kafka), Vec::<String>::new());
}

async fn ask_for_ten_thousand(brokers: &str) {
    let client = MetadataClient::new(&config(brokers));
    let ask = async |round: usize| {
        let asked: Vec<String> = (0..100).map(|it| format!("missing-{round}-{it}")).collect();
        let answers = client.ask(&asked).await.unwrap();
        assert!(answers.iter().all(|(_, it)| *it == TopicAnswer::NoneListed));
    };
    for round in 0..5 {
        ask(round).await;
    }
    let before = resident();
    for round in 5..105 {
        ask(round).await;
    }
    let grown = resident().saturating_sub(before);
    // A handle for each would take about 40 MB.
    assert!(grown < 4 << 20, "grown by {grown} bytes");
}

#[tokio::test]
async fn where_settings_cannot_be_read_they_stay_unknown() {
    // The mock cluster answers no request for settings.
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 2, 1).unwrap();
    let client = MetadataClient::new(&config(&cluster.bootstrap_servers()));
    let answers = client.ask(&names(&["orders", "none"])).await.unwrap();
    let unknown = TopicFacts {
        partition_count: 2,
        replicas: 1,
        ..TopicFacts::default()
    };
    assert_eq!(answers[0].1, TopicAnswer::Known(unknown));
    assert_eq!(answers[1].1, TopicAnswer::Missing);
}

#[tokio::test]
async fn a_partition_without_a_leader_is_named() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 3, 1).unwrap();
    cluster.partition_leader("orders", 1, None).unwrap();
    let client = MetadataClient::new(&config(&cluster.bootstrap_servers()));
    let answers = client.ask(&names(&["orders"])).await.unwrap();
    let TopicAnswer::Known(facts) = &answers[0].1 else {
        panic!("{answers:?}")
    };
    assert_eq!(facts.leaderless, [1]);
    assert_eq!(facts.problem().unwrap(), "no leader for partition 1");
}

#[tokio::test]
async fn an_outage_names_the_brokers_within_the_limit_and_holds_up_no_other_request() {
    let client = MetadataClient::new(&config("127.0.0.1:1"));
    let start = Instant::now();
    let asked = names(&["orders"]);
    let mut turns = 0;
    let mut asking = std::pin::pin!(client.ask(&asked));
    let error = loop {
        tokio::select! {
            biased;
            answer = &mut asking => break answer.unwrap_err(),
            () = tokio::time::sleep(Duration::from_millis(10)) => turns += 1,
        }
    };
    assert!(turns > 10, "{turns} turns");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(error.code(), Code::Connect);
    assert!(error.is_transient());
    assert_eq!(error.message(), "no Kafka broker answers at 127.0.0.1:1");
}
