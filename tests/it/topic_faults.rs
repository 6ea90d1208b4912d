//! What a broker can do to a topic, and how its events fare: ACLs, deletion, timestamp limits,
//! quotas. Other topics go on.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::{self, Session};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(90);

/// The dead letters by code and state, such as `TOPIC_UNKNOWN dead 3`.
async fn dead_letters(session: &Session) -> Result<String> {
    let sql = "SELECT coalesce(string_agg(line, ', ' ORDER BY line), '') FROM ( \
                 SELECT error_code || ' ' || state || ' ' || count(*) AS line \
                   FROM outbox.dead_letter \
                  GROUP BY error_code, state) AS l";
    session.value(sql).await
}

async fn expect_dead_letters(session: &Session, outboxd: &Outboxd, wanted: &str) -> Result<()> {
    wait_until(wanted, LIMIT, async || {
        let found = dead_letters(session).await?;
        Ok(if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}, {}", outboxd.log()))
        })
    })
    .await
}

async fn expect_arrived(kafka: &Kafka, topic: &str, count: usize) -> Result<()> {
    wait_until("the records", LIMIT, async || {
        let records = kafka.consume_all(&[topic]).await?.len();
        Ok(if records == count {
            Ok(())
        } else {
            Err(format!("{records} of {count}"))
        })
    })
    .await
}

async fn all_marked(session: &Session, outboxd: &Outboxd) -> Result<()> {
    let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
    wait_until("every row to be marked", LIMIT, async || {
        Ok(match session.value::<i64>(left).await? {
            0 => Ok(()),
            left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
        })
    })
    .await
}

async fn ids_in(kafka: &Kafka, topic: &str) -> Result<Vec<i64>> {
    let read = kafka.consume_all(&[topic]).await?;
    Ok(read.iter().filter_map(ConsumedRecord::outbox_id).collect())
}

async fn retry_all(fixture: &Fixture<'_>) -> Result<()> {
    let retry = command(&fixture.settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_the_right_to_write_costs_its_own_events_alone() -> Result<()> {
    let kafka = kafka::private(&[
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found=true",
    ])?;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), &kafka).await?;
    let session = fixture.database.connect().await?;
    let mut denied = Vec::new();
    for operation in ["Write", "All"] {
        let topic = kafka.topic("denied", 1).await?;
        // Once a topic has an ACL, operations that no ACL allows are denied.
        let allow = ["--add", "--allow-principal", "User:*", "--operation", "All"];
        let deny = [
            "--add",
            "--deny-principal",
            "User:ANONYMOUS",
            "--operation",
            operation,
        ];
        for rule in [allow, deny] {
            let on = [&rule[..], &["--topic", &topic]].concat();
            kafka.tool(kafka::ACLS, &on).await?;
        }
        denied.push((topic, operation));
    }
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut ids = Vec::new();
    for (topic, _) in &denied {
        for n in 0..3 {
            let key = format!("k{n}");
            ids.push(fixture.database.insert(&key, topic, "{}").await?);
            fixture.database.insert(&key, &fixture.topic, "{}").await?;
        }
    }
    expect_arrived(&kafka, &fixture.topic, 6).await?;
    expect_dead_letters(
        &session,
        &outboxd,
        "TOPIC_AUTHORIZATION_FAILED dead 3, TOPIC_UNKNOWN dead 3",
    )
    .await?;
    // The publisher knows the first topic: its records are tried up to the limit, and their rows
    // count each attempt, shortly after the dead letters are filed.
    let attempts = format!(
        "SELECT sum(times_attempted) FROM outbox.outbox WHERE topic = '{}'",
        denied[0].0
    );
    let what = "three attempts of each row";
    session.wait_for_value(what, &attempts, 9, LIMIT).await?;
    for (topic, operation) in &denied {
        let remove = [
            "--remove",
            "--force",
            "--deny-principal",
            "User:ANONYMOUS",
            "--operation",
            operation,
            "--topic",
            topic,
        ];
        kafka.tool(kafka::ACLS, &remove).await?;
    }
    retry_all(&fixture).await?;
    all_marked(&session, &outboxd).await?;
    let mut delivered = ids_in(&kafka, &denied[0].0).await?;
    delivered.extend(ids_in(&kafka, &denied[1].0).await?);
    assert_eq!(delivered, ids);
    assert_eq!(
        dead_letters(&session).await?,
        "TOPIC_AUTHORIZATION_FAILED retried 3, TOPIC_UNKNOWN retried 3"
    );
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_costs_its_own_events_alone_until_it_is_back() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    deleted_and_back(&fixture).await
}

pub(crate) async fn deleted_and_back(fixture: &Fixture<'_>) -> Result<()> {
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let gone = fixture.kafka.topic("gone", 1).await?;
    fixture.database.insert("k", &gone, "{}").await?;
    all_marked(&session, &outboxd).await?;
    fixture.kafka.delete_topic(&gone).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fixture.database.insert("k", &gone, "{}").await?);
        fixture.database.insert("k", &fixture.topic, "{}").await?;
    }
    expect_arrived(fixture.kafka, &fixture.topic, 3).await?;
    expect_dead_letters(&session, &outboxd, "TOPIC_UNKNOWN dead 3").await?;
    fixture.kafka.create_topic(&gone, 1, &[]).await?;
    retry_all(fixture).await?;
    all_marked(&session, &outboxd).await?;
    assert_eq!(ids_in(fixture.kafka, &gone).await?, ids);
    // New events are published at once.
    ids.push(fixture.database.insert("k", &gone, "{}").await?);
    all_marked(&session, &outboxd).await?;
    assert_eq!(ids_in(fixture.kafka, &gone).await?, ids);
    assert_eq!(dead_letters(&session).await?, "TOPIC_UNKNOWN retried 3");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// outboxd may create topics, and the broker does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_broker_does_not_create_costs_its_own_events_alone() -> Result<()> {
    let mut fixture =
        Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    fixture.settings = fixture.settings.set("OUTBOX_AUTO_CREATE_TOPICS", "true");
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let missing = format!("missing-{}", fixture.database.name);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fixture.database.insert("k", &missing, "{}").await?);
    }
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    expect_arrived(fixture.kafka, &fixture.topic, 1).await?;
    expect_dead_letters(&session, &outboxd, "TOPIC_UNKNOWN dead 3").await?;
    let error: String = session
        .value("SELECT min(error) FROM outbox.dead_letter")
        .await?;
    ensure!(error.contains(&missing), "{error}");
    for text in [error, outboxd.log()] {
        ensure!(
            !text.contains("AUTO_CREATE"),
            "the setting that is set: {text}"
        );
    }
    fixture.kafka.create_topic(&missing, 1, &[]).await?;
    retry_all(&fixture).await?;
    all_marked(&session, &outboxd).await?;
    assert_eq!(ids_in(fixture.kafka, &missing).await?, ids);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_finds_too_old_is_sent_again_with_the_time_of_then() -> Result<()>
{
    let mut kafka = kafka::private(&[])?;
    let old = "old";
    let bounds = [("message.timestamp.before.max.ms", "2000")];
    kafka.create_topic(old, 1, &bounds).await?;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), &kafka).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut ids = vec![fixture.database.insert("k", old, "{}").await?];
    all_marked(&session, &outboxd).await?;
    let Fixture {
        database: _database,
        ..
    } = fixture;
    kafka.freeze()?;
    for _ in 0..20 {
        let sql = format!(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
             VALUES ('k', '{old}', '{{}}') RETURNING id"
        );
        ids.push(session.value(&sql).await?);
    }
    // The requests are in flight, and the broker reads them when it is resumed. A record's age
    // counts from the moment at which outboxd has passed it on.
    outboxd
        .wait_for_status("the requests", LIMIT, |status| {
            status["in_flight_records"] == 20
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    kafka.thaw()?;
    all_marked(&session, &outboxd).await?;
    // The metric is updated a few times a second.
    wait_until("a rejection by the broker", LIMIT, async || {
        let rewinds = outboxd.metric("outboxd_partition_rewinds_total").await?;
        Ok(if rewinds > Some(0.0) {
            Ok(())
        } else {
            Err(format!("{rewinds:?} rewinds, {}", outboxd.log()))
        })
    })
    .await?;
    let mut first: Vec<i64> = Vec::new();
    for id in ids_in(&kafka, old).await? {
        if !first.contains(&id) {
            first.push(id);
        }
    }
    assert_eq!(first, ids);
    assert_eq!(
        dead_letters(&session).await?,
        "",
        "an old timestamp counted against an event"
    );
    let attempts = "SELECT array_agg(DISTINCT times_attempted) FROM outbox.outbox";
    assert_eq!(session.value::<Vec<i32>>(attempts).await?, [1]);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_makes_events_late_and_costs_none() -> Result<()> {
    let kafka = kafka::private(&[])?;
    let quota = [
        "--alter",
        "--add-config",
        "producer_byte_rate=50000",
        "--entity-type",
        "clients",
        "--entity-default",
    ];
    kafka.tool(kafka::CONFIGS, &quota).await?;
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), &kafka).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session
        .execute(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
             SELECT 'k' || i % 7, $1, jsonb_build_object('x', repeat('x', 900)) \
             FROM generate_series(1, 600) i",
            &[&fixture.topic],
        )
        .await?;
    all_marked(&session, &outboxd).await?;
    let delivered = ids_in(&kafka, &fixture.topic).await?;
    assert_eq!(delivered.len(), 600, "each once");
    assert_eq!(dead_letters(&session).await?, "");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
