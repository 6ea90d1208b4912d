//! A Kafka that answers and does not let us write: an outage that costs no event, and ends without
//! a restart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::kafka::{self, Kafka};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};

const LIMIT: Duration = Duration::from_secs(90);

fn as_app(database: &Database, kafka: &Kafka) -> Result<Settings> {
    let properties = "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,\
                      sasl.username=app,sasl.password=right";
    Ok(Settings::new(database, kafka)?
        .set(
            "KAFKA_BROKERS",
            format!("127.0.0.1:{}", kafka.outer_port()?),
        )
        .set("KAFKA_PROPERTIES", properties))
}

/// Gives or takes a right on all topics whose names begin with `events`.
async fn acl(kafka: &Kafka, verb: &[&str], operation: &str) -> Result<()> {
    let rest = [
        "--allow-principal",
        "User:app",
        "--operation",
        operation,
        "--topic",
        "events",
        "--resource-pattern-type",
        "prefixed",
    ];
    kafka.tool(kafka::ACLS, &[verb, &rest].concat()).await
}

async fn expect_no_dead_letters(database: &Database) -> Result<()> {
    let session = database.connect().await?;
    let count = "SELECT count(*) FROM outbox.dead_letter";
    assert_eq!(session.value::<i64>(count).await?, 0);
    Ok(())
}

/// Without any right to write, librdkafka's producer fails for good as soon as it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_gets_the_right_to_write_later_needs_no_restart() -> Result<()> {
    let kafka = kafka::with_acls()?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 3).await?;
    acl(&kafka, &["--add"], "Describe").await?;
    let settings = as_app(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for key in ["a", "b", "c"] {
        database.insert(key, &topic, "{}").await?;
    }
    outboxd
        .wait_for_status("the missing right to be named", LIMIT, |status| {
            let detail = status["waiting"]["detail"].to_string();
            status["waiting"]["on"] == "kafka" && detail.contains("IDEMPOTENT_WRITE")
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let status = outboxd.status().await?;
    ensure!(
        status["waiting"]["seconds"].as_f64() > Some(8.0) && status["reconnects"] == 0,
        "the wait and the session last: {status}"
    );
    let words = ["WARN", "Kafka has not acknowledged", "IDEMPOTENT_WRITE"];
    outboxd.wait_for_log(&words, LIMIT).await?;
    acl(&kafka, &["--add"], "Write").await?;
    database.all_marked(Duration::from_secs(30)).await?;
    expect_no_dead_letters(&database).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(kafka.record_count(&[&topic]).await?, 3);
    Ok(())
}

/// What a topic has cannot be looked for then, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_write_and_not_read_publishes_all_the_same() -> Result<()> {
    let kafka = kafka::with_acls()?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 2).await?;
    for operation in ["Describe", "Write"] {
        acl(&kafka, &["--add"], operation).await?;
    }
    let settings = as_app(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("a", &topic, "{}").await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    database.insert("a", &topic, "{}").await?;
    outboxd.respawn()?;
    let words = ["INFO", &topic, "was not read", "may not read"];
    outboxd.wait_for_log(&words, LIMIT).await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    assert_eq!(kafka.record_count(&[&topic]).await?, 2);
    Ok(())
}

/// All rights of the user vanish for a while, as when a broker has lost its ACLs.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_vanish_on_every_topic_are_an_outage_and_cost_no_event() -> Result<()> {
    let kafka = kafka::with_acls()?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let mut topics = Vec::new();
    for _ in 0..4 {
        topics.push(kafka.topic("events", 2).await?);
    }
    // With this right on the cluster each topic is refused for itself.
    let cluster = [
        "--add",
        "--allow-principal",
        "User:app",
        "--operation",
        "IdempotentWrite",
        "--cluster",
    ];
    kafka.tool(kafka::ACLS, &cluster).await?;
    let rights = ["Write", "Describe"];
    for operation in rights {
        acl(&kafka, &["--add"], operation).await?;
    }
    let settings = as_app(&database, &kafka)?;
    init(&settings).await?;
    let session = database.connect().await?;
    let insert = async |count: i32| {
        let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                   SELECT 'k' || i % 7, ($1::text[])[1 + i % 4], jsonb_build_object('n', i) \
                     FROM generate_series(1, $2::int) i";
        session.execute(sql, &[&topics, &count]).await
    };
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert(40).await?;
    database.all_marked(LIMIT).await?;
    for operation in ["Write", "Describe"] {
        acl(&kafka, &["--remove", "--force"], operation).await?;
        insert(2_000).await?;
        outboxd
            .wait_for_status("the wait to be named", LIMIT, |status| {
                status["waiting"]["on"] == "kafka"
            })
            .await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        expect_no_dead_letters(&database).await?;
    }
    for operation in rights {
        acl(&kafka, &["--add"], operation).await?;
    }
    let marked = database.all_marked(LIMIT).await;
    marked.with_context(|| outboxd.log())?;
    expect_no_dead_letters(&database).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut arrived: Vec<Option<i64>> = Vec::new();
    for record in kafka.consume_all(&topics).await? {
        arrived.push(record.outbox_id());
    }
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived.len(), 4_040);
    Ok(())
}
