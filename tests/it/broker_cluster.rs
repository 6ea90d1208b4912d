//! A cluster of three brokers, some of which fail: partitions that have enough replicas go on, the
//! others wait, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::ephemeral::free_port;
use crate::support::kafka::{self, Kafka};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::proxy::{Flow, Proxy};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(120);
/// Time limit for a stall to show in the status.
const ALERT: Duration = Duration::from_secs(30);
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(10),
};

async fn expect_no_dead_letters(database: &Database) -> Result<()> {
    let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
    assert_eq!(
        database.connect().await?.value::<i64>(dead_letters).await?,
        0
    );
    Ok(())
}

/// Each broker in turn is stopped and started again, the controller among them; in a long run each
/// is killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_restart_in_turn_lose_nothing_and_keep_the_order() -> Result<()> {
    let _turn = heavy().await;
    let mut brokers = kafka::cluster(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let two = [("min.insync.replicas", "2")];
    brokers[0].create_replicated("events", 6, 3, &two).await?;
    let settings = Settings::new(&database, &brokers[0])?;
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&database, "events", 4, PATTERN);
    outboxd.wait_for_events(200, LIMIT).await?;
    let kinds: &[bool] =
        if is_long_run("cluster: brokers that are killed in turn, and stopped twice") {
            &[false, true, false, true]
        } else {
            &[false]
        };
    for kill in kinds {
        for number in 0..brokers.len() {
            if *kill {
                brokers[number].kill()?;
            } else {
                brokers[number].stop()?;
            }
            brokers[number].resume()?;
            in_sync(&brokers[0], "events", 3).await?;
            outboxd.wait_for_events(200, LIMIT).await?;
        }
    }
    writers.stop().await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    expect_no_dead_letters(&database).await?;
    let consumed = brokers[0].consume_all(&["events"]).await?;
    let report = check(&oracle.committed().await?, &consumed);
    report.expect_complete()
}

/// Waits until each partition has this many replicas in sync.
async fn in_sync(kafka: &Kafka, topic: &str, replicas: usize) -> Result<()> {
    wait_until("the replicas to be in sync", LIMIT, async || {
        let counts = kafka.in_sync_counts(topic).await?;
        // A broker that does not know the topic counts no partition.
        let all = !counts.is_empty() && counts.iter().all(|count| *count == replicas);
        Ok(if all {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        })
    })
    .await
}

/// One of three replicas is left, and the topic requires two.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_stop_the_stream_without_a_loss_and_show_in_time() -> Result<()> {
    let mut brokers = kafka::cluster(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let two = [("min.insync.replicas", "2")];
    brokers[0].create_replicated("events", 3, 3, &two).await?;
    let settings = Settings::new(&database, &brokers[0])?;
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("before", "events", "{}").await?;
    database.all_marked(LIMIT).await?;
    brokers[1].stop()?;
    brokers[2].stop()?;
    let began = Instant::now();
    database.insert("held", "events", "{}").await?;
    let stalled = outboxd
        .wait_for_status("the stall to show", ALERT, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    assert!(
        stalled["waiting"]["detail"].to_string().contains("events"),
        "{stalled}"
    );
    let oldest = outboxd
        .metric("outboxd_oldest_unacknowledged_seconds")
        .await?;
    assert!(oldest.is_some_and(|seconds| seconds > 4.0), "{oldest:?}");
    assert!(began.elapsed() < ALERT);
    let slot = format!("outboxd_{}", database.name);
    let confirmed = async || {
        anyhow::Ok(
            database
                .slot(&slot)
                .await?
                .and_then(|slot| slot.confirmed_flush),
        )
    };
    let before = confirmed().await?;
    database.insert("held", "events", "{}").await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        confirmed().await?,
        before,
        "confirmed records that only one replica has"
    );
    assert_eq!(database.unpublished().await?, 2);
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    brokers[1].resume()?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    expect_no_dead_letters(&database).await?;
    let consumed = brokers[0].consume_all(&["events"]).await?;
    check(&oracle.committed().await?, &consumed).expect_complete()
}

/// The only replica of one topic is down: the status names the topic, and the other topics go on
/// while the memory limit leaves room.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_is_named_while_other_topics_go_on() -> Result<()> {
    let mut brokers = kafka::cluster(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    brokers[0].create_placed("lonely", &[3]).await?;
    brokers[0].create_placed("fine", &[1, 2]).await?;
    let settings = Settings::new(&database, &brokers[0])?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for topic in ["lonely", "fine"] {
        database.insert("before", topic, "{}").await?;
    }
    database.all_marked(LIMIT).await?;
    brokers[2].kill()?;
    database.insert("held", "lonely", "{}").await?;
    let stalled = outboxd
        .wait_for_status("the stall to show", ALERT, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    assert!(
        stalled["waiting"]["detail"].to_string().contains("lonely"),
        "{stalled}"
    );
    for _ in 0..20 {
        database.insert("prompt", "fine", "{}").await?;
    }
    wait_until("the other topic's events", LIMIT, async || {
        let count = brokers[0].record_count(&["fine"]).await?;
        Ok(if count == 21 {
            Ok(())
        } else {
            Err(format!("{count} records"))
        })
    })
    .await?;
    brokers[2].resume()?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let lonely = brokers[0].record_count(&["lonely"]).await?;
    assert_eq!(lonely, 2);
    expect_no_dead_letters(&database)
        .await
        .context("dead letters")
}

/// librdkafka ignores the metadata of a topic that was deleted and created again, when its leaders
/// have changed before: the new leader epochs are lower.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_after_a_rolling_restart_is_published_to_without_a_restart()
-> Result<()> {
    if !is_long_run("cluster: a topic that is made again after a rolling restart") {
        return Ok(());
    }
    let _turn = heavy().await;
    let mut brokers = kafka::cluster(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    brokers[0].create_replicated("events", 6, 3, &[]).await?;
    let settings = Settings::new(&database, &brokers[0])?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = database.connect().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k' || i, 'events', '{}' FROM generate_series(1, 60) i";
    session.batch_execute(insert).await?;
    database.all_marked(LIMIT).await?;
    for number in 0..brokers.len() {
        brokers[number].stop()?;
        brokers[number].resume()?;
        in_sync(&brokers[0], "events", 3).await?;
        session.batch_execute(insert).await?;
        database.all_marked(LIMIT).await?;
    }
    brokers[0].delete_topic("events").await?;
    brokers[0].create_replicated("events", 6, 3, &[]).await?;
    in_sync(&brokers[0], "events", 3).await?;
    session.batch_execute(insert).await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    expect_no_dead_letters(&database).await?;
    let newest = "SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM outbox.outbox \
                   ORDER BY id DESC LIMIT 60) AS newest";
    let expected: Vec<i64> = session.value(newest).await?;
    let consumed = brokers[0].consume_all(&["events"]).await?;
    let mut arrived: Vec<i64> = consumed.iter().filter_map(|it| it.outbox_id()).collect();
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, expected);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// A broker that is cut off from its controller goes on to list the topics of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_cut_off_from_its_controller_makes_no_dead_letter() -> Result<()> {
    if !is_long_run("cluster: a broker that is cut off from its controller") {
        return Ok(());
    }
    let _turn = heavy().await;
    let controller = free_port()?;
    let proxy = Proxy::before(controller).await?;
    let mut brokers = kafka::cluster_behind(controller, proxy.port())?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let last = format!("127.0.0.1:{}", brokers[2].port());
    let settings = Settings::new(&database, &brokers[0])?.set("KAFKA_BROKERS", &last);
    brokers[0].create_replicated("before", 3, 3, &[]).await?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("k", "before", "{}").await?;
    database.all_marked(LIMIT).await?;
    proxy.set(Flow::Swallow);
    // The cluster goes on without it.
    brokers[0].begin_here();
    in_sync(&brokers[0], "before", 2).await?;
    brokers[0].create_replicated("late", 3, 2, &[]).await?;
    for key in ["a", "b", "c"] {
        database.insert(key, "late", "{}").await?;
    }
    tokio::time::sleep(Duration::from_secs(25)).await;
    expect_no_dead_letters(&database).await?;
    proxy.set(Flow::Pass);
    database.all_marked(LIMIT).await?;
    expect_no_dead_letters(&database).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // The consumer may ask the broker that was cut off, which learns of the topic a little later.
    wait_until("three records", LIMIT, async || {
        Ok(match brokers[0].record_count(&["late"]).await {
            Ok(3) => Ok(()),
            Ok(count) => Err(format!("{count} records")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    Ok(())
}
