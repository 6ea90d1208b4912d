//! Faults of brokers, rights and topics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::examine;
use crate::support::ephemeral::free_port;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, Kafka, Outer};
use crate::support::outboxd::Settings;
use crate::support::postgres::{self, turn};

/// A row of a topic, and what its check says.
struct Planted {
    /// The topic's settings; `None` leaves it out.
    topic: Option<&'static [(&'static str, &'static str)]>,
    /// Stands before a number in the topic's name.
    name: &'static str,
    payload: &'static str,
    set: &'static [(&'static str, &'static str)],
    check: &'static str,
    verdict: &'static str,
    words: &'static [&'static str],
}

const PLAIN: Planted = Planted {
    topic: Some(&[]),
    name: "orders",
    payload: "{}",
    set: &[],
    check: "",
    verdict: "fails",
    words: &[],
};

const COMPACT: Option<&[(&str, &str)]> = Some(&[("cleanup.policy", "compact")]);

const EXACTLY_ONCE: (&str, &str) = ("OUTBOX_DELIVERY", "exactly-once");

const PLANTED: [Planted; 15] = [
    Planted {
        topic: Some(&[("message.timestamp.after.max.ms", "20000")]),
        check: "kafka-clock",
        verdict: "cannot say",
        words: &["is 20 s from the broker's", "date -u"],
        ..PLAIN
    },
    Planted {
        topic: None,
        check: "topics",
        words: &[
            "orders",
            "(1 row) does not exist",
            "kafka-topics.sh",
            "--create",
        ],
        ..PLAIN
    },
    Planted {
        topic: None,
        set: &[("OUTBOX_AUTO_CREATE_TOPICS", "true")],
        check: "topics",
        verdict: "warning",
        words: &["brokers may create it"],
        ..PLAIN
    },
    Planted {
        topic: None,
        name: "not a topic",
        check: "topics",
        words: &["no broker accepts"],
        ..PLAIN
    },
    Planted {
        topic: Some(&[("min.insync.replicas", "2")]),
        check: "topic-replicas",
        words: &["takes no record", "min.insync.replicas=1"],
        ..PLAIN
    },
    Planted {
        topic: Some(&[("min.insync.replicas", "2")]),
        check: "topic-leaders",
        words: &["too few in-sync replicas"],
        ..PLAIN
    },
    Planted {
        check: "topic-replicas",
        verdict: "warning",
        words: &["one replica"],
        ..PLAIN
    },
    Planted {
        topic: Some(&[("max.message.bytes", "1000")]),
        payload: "large",
        check: "topic-size",
        words: &["takes records up to 1000 bytes", "max.message.bytes="],
        ..PLAIN
    },
    Planted {
        payload: "large",
        set: &[("KAFKA_PROPERTIES", "message.max.bytes=2000")],
        check: "topic-size",
        words: &["outboxd sends up to 2.0 KiB", "message.max.bytes"],
        ..PLAIN
    },
    Planted {
        topic: COMPACT,
        set: &[("OUTBOX_KEY", "none")],
        check: "topic-cleanup",
        words: &["without a key", "cleanup.policy=delete"],
        ..PLAIN
    },
    Planted {
        topic: COMPACT,
        set: &[("OUTBOX_KEY", "payload:/order/id")],
        check: "topic-cleanup",
        words: &["without a key (1)", "OUTBOX_KEY"],
        ..PLAIN
    },
    Planted {
        topic: COMPACT,
        check: "topic-cleanup",
        verdict: "warning",
        words: &["last event of each type", "OUTBOX_KEY"],
        ..PLAIN
    },
    Planted {
        set: &[EXACTLY_ONCE, ("OUTBOX_PROGRESS_TOPIC", "no-progress")],
        check: "progress-topic",
        verdict: "warning",
        words: &["no-progress does not exist", "--replication-factor 3"],
        ..PLAIN
    },
    // The topic of the row is that of the progress.
    Planted {
        topic: COMPACT,
        name: "progress",
        set: &[
            EXACTLY_ONCE,
            ("OUTBOX_PROGRESS_TOPIC", "progress-doctor-13"),
        ],
        check: "progress-topic",
        verdict: "warning",
        words: &["has one replica"],
        ..PLAIN
    },
    Planted {
        name: "progress",
        set: &[
            EXACTLY_ONCE,
            ("OUTBOX_PROGRESS_TOPIC", "progress-doctor-14"),
        ],
        check: "progress-topic",
        words: &["is not compacted", "cleanup.policy=compact"],
        ..PLAIN
    },
];

async fn plant(planted: &Planted, number: usize) -> Result<()> {
    let kafka = kafka::shared();
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka).await?;
    let topic = format!("{}-doctor-{number}", planted.name);
    if let Some(settings) = planted.topic {
        kafka.create_topic(&topic, 1, settings).await?;
    }
    let payload = match planted.payload {
        "large" => format!("{{\"text\": \"{}\"}}", "x".repeat(5_000)),
        other => other.to_owned(),
    };
    fixture.database.insert("kind", &topic, &payload).await?;
    let mut settings = fixture.settings.clone();
    for (name, value) in planted.set {
        settings = settings.set(name, *value);
    }
    let examined = examine(&settings).await?;
    examined.expect(planted.check, planted.verdict, planted.words)
}

#[tokio::test]
async fn faults_of_topics_are_named_with_what_fixes_them() -> Result<()> {
    let mut running = JoinSet::new();
    let mut problems = Vec::new();
    for (number, planted) in PLANTED.iter().enumerate() {
        while running.len() >= 4 {
            problems.extend(running.join_next().await.transpose()?.and_then(Result::err));
        }
        running.spawn(async move {
            let words = format!("{number}: {:?}", planted.words);
            plant(planted, number).await.context(words)
        });
    }
    for result in running.join_all().await {
        problems.extend(result.err());
    }
    assert!(problems.is_empty(), "{problems:#?}");
    Ok(())
}

#[tokio::test]
async fn brokers_that_are_not_reached_are_named_each_with_its_address() -> Result<()> {
    let server = postgres::shared(turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let at = |brokers: &str| fixture.settings.clone().set("KAFKA_BROKERS", brokers);
    let closed = format!("127.0.0.1:{}", free_port()?);
    let one = examine(&at(&format!("{closed},{}", kafka::shared().brokers()))).await?;
    one.expect("bootstrap-servers", "warning", &[&closed, "others answer"])?;
    one.expect("kafka-answer", "ok", &[])?;
    let none = examine(&at(&closed)).await?;
    none.expect(
        "bootstrap-servers",
        "fails",
        &[&closed, "refused", "KAFKA_BROKERS"],
    )?;
    none.expect(
        "kafka-answer",
        "cannot say",
        &["not reached", "bootstrap-servers"],
    )?;
    let absent = examine(&at("no-such-broker.invalid:9092")).await?;
    absent.expect("bootstrap-servers", "fails", &["no-such-broker.invalid"])?;
    absent.expect("kafka-encryption", "warning", &["in clear", "SASL_SSL"])?;
    let other = examine(&at(&format!("127.0.0.1:{}", server.port()))).await?;
    other.expect("bootstrap-servers", "ok", &[])?;
    other.expect("kafka-answer", "fails", &["no Kafka broker answers"])?;
    other.expect("topics", "cannot say", &["not reached", "kafka-answer"])
}

async fn allow(kafka: &Kafka, operations: &[&str]) -> Result<()> {
    let mut arguments = vec!["--add", "--allow-principal", "User:app"];
    for operation in operations {
        arguments.extend(["--operation", operation]);
    }
    arguments.extend(["--topic", "events", "--resource-pattern-type", "prefixed"]);
    kafka.tool(kafka::ACLS, &arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_the_user_is_named_with_what_fixes_it() -> Result<()> {
    let kafka = kafka::with_acls()?;
    let fixture = Fixture::create(postgres::shared(turn(15)), &kafka).await?;
    fixture
        .database
        .insert("kind", &fixture.topic, "{}")
        .await?;
    let (plain, outer) = (kafka.port(), kafka.outer_port()?);
    let settings = |port: u16, properties: &str| -> Settings {
        let settings = fixture.settings.clone();
        settings
            .set("KAFKA_BROKERS", format!("127.0.0.1:{port}"))
            .set("KAFKA_PROPERTIES", properties)
    };
    let sasl = |password: &str| {
        format!(
            "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=app,\
             sasl.password={password}"
        )
    };
    for (port, properties, words) in [
        (outer, sasl("wr0ng"), "sasl.password"),
        (plain, sasl("right"), "does not seem to offer SASL"),
        (
            plain,
            "security.protocol=SSL".to_owned(),
            "does not seem to speak TLS",
        ),
        (outer, "client.id=c".to_owned(), "may expect TLS or SASL"),
    ] {
        let examined = examine(&settings(port, &properties)).await?;
        examined
            .expect("kafka-answer", "fails", &[words])
            .context(properties)?;
        examined.expect("bootstrap-servers", "ok", &[])?;
        ensure!(!examined.report.to_string().contains("wr0ng"));
    }
    let as_app = settings(outer, &sasl("right"));
    let nothing = examine(&as_app).await?;
    nothing.expect(
        "producer",
        "fails",
        &["may write to no topic", "--operation Write"],
    )?;
    nothing.expect(
        "topic-rights",
        "fails",
        &["may not describe topic events", "kafka-acls.sh"],
    )?;
    allow(&kafka, &["Describe"]).await?;
    let reads = examine(&as_app).await?;
    reads.expect("topics", "ok", &[])?;
    reads.expect(
        "topic-rights",
        "fails",
        &["may not write to topic events", "--operation Write"],
    )?;
    allow(&kafka, &["Write"]).await?;
    let writes = examine(&as_app).await?;
    writes.expect("producer", "ok", &[])?;
    writes.expect("topics", "ok", &[])?;
    writes.expect("topic-rights", "ok", &["may write to each topic"])?;
    writes.expect(
        "topic-size",
        "cannot say",
        &["max.message.bytes", "DescribeConfigs"],
    )?;
    writes.expect(
        "topic-replicas",
        "cannot say",
        &["min.insync.replicas", "DescribeConfigs"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertised_address_that_is_not_reached_is_named() -> Result<()> {
    let advertised = free_port()?;
    let outer = Outer {
        protocol: "PLAINTEXT",
        advertised: Some(advertised),
    };
    let kafka = kafka::with_outer(outer, &[])?;
    let fixture = Fixture::create(postgres::shared(turn(17)), &kafka).await?;
    let bootstrap = format!("127.0.0.1:{}", kafka.outer_port()?);
    let settings = fixture.settings.clone().set("KAFKA_BROKERS", bootstrap);
    let examined = examine(&settings).await?;
    let address = format!("127.0.0.1:{advertised}");
    examined.expect(
        "advertised-listeners",
        "fails",
        &[&address, "advertised.listeners"],
    )
}

/// A broker that accepts connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_ends_the_examination_in_bounded_time() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let brokers = silent.local_addr()?.to_string();
    let began = std::time::Instant::now();
    let examined = examine(&fixture.settings.clone().set("KAFKA_BROKERS", brokers)).await?;
    examined.expect("kafka-answer", "fails", &["no Kafka broker answers"])?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}
