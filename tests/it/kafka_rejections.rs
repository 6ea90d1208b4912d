//! Events that Kafka rejects: parked keys, `halt`, the limit on dead letters, and invalid topic
//! names.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::exactly_once::exactly_once;
use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres;
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_keeps_its_order_and_holds_up_no_other() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    parks(&fixture, fixture.settings.clone()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_keeps_its_order_exactly_once_too() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    parks(&fixture, exactly_once(fixture.settings.clone(), &fixture)).await
}

async fn parks(fixture: &Fixture<'_>, settings: Settings) -> Result<()> {
    let settings = settings.set("OUTBOX_ON_POISON", "park-key");
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let insert = async |key: &str, payload: &str| {
        let sql = format!(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
             VALUES ($1, $2, {payload}) RETURNING id"
        );
        let row = session.query_one(&sql, &[&key, &fixture.topic]).await?;
        anyhow::Ok(row.get::<_, i64>(0))
    };
    let before = insert("parked", "'{\"n\": 0}'").await?;
    let huge = "jsonb_build_object('x', repeat('x', 2000000))";
    let dead = insert("parked", huge).await?;
    let mut ids = vec![before, dead];
    for n in 1..=5 {
        ids.push(insert("parked", &format!("'{{\"n\": {n}}}'")).await?);
        insert("free", "'{}'").await?;
    }
    // Every event but the parked ones is published.
    wait_until("the free key's rows to be marked", LIMIT, async || {
        let left: i64 = session
            .value("SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL")
            .await?;
        Ok(if left == 6 {
            Ok(())
        } else {
            Err(format!("{left} are unpublished"))
        })
    })
    .await?;
    let states = "SELECT string_agg(state, ' ' ORDER BY outbox_id::bigint) FROM outbox.dead_letter";
    let filed: String = session.value(states).await?;
    ensure!(
        filed == "dead parked parked parked parked parked",
        "{filed}"
    );
    // The order survives a restart: parked keys are read from the table.
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    ids.push(insert("parked", "'{\"n\": 6}'").await?);
    outboxd.respawn()?;
    wait_for("the newest to be parked", LIMIT, async || {
        let filed: String = session.value(states).await?;
        Ok(filed
            .ends_with("parked parked parked parked parked parked")
            .then_some(()))
    })
    .await?;
    session
        .execute(
            "UPDATE outbox.outbox SET event_payload = '{}' WHERE id = $1",
            &[&dead],
        )
        .await?;
    let retry = command(
        &settings,
        &["dead-letter", "retry", "--topic", &fixture.topic],
        LIMIT,
    )
    .await?;
    ensure!(retry.status.success(), "{retry:?}");
    ids.push(insert("parked", "'{\"n\": 7}'").await?);
    fixture.all_marked(LIMIT).await?;
    let read = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let parked = read
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"parked"));
    let arrived: Vec<i64> = parked.filter_map(ConsumedRecord::outbox_id).collect();
    assert_eq!(arrived, ids);
    let open: i64 = session
        .value("SELECT count(*) FROM outbox.dead_letter WHERE state <> 'retried'")
        .await?;
    assert_eq!(open, 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn halt_ends_before_the_event_and_a_flood_ends_at_its_limit_also_after_a_restart()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
    let halting = fixture.settings.clone().set("OUTBOX_ON_POISON", "halt");
    let outboxd = Outboxd::spawn(&halting)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let good = fixture.database.insert("k", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    fixture.database.insert("k", "not a topic", "{}").await?;
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(
        log.contains("TOPIC_INVALID") && log.contains("not a topic"),
        "{log}"
    );
    assert_eq!(session.value::<i64>(dead_letters).await?, 0);
    // No row behind the event is marked as published.
    let marked = "SELECT array_agg(id) FROM outbox.outbox WHERE published_at IS NOT NULL";
    assert_eq!(session.value::<Vec<i64>>(marked).await?, [good]);

    let flooded = fixture
        .settings
        .clone()
        .set("OUTBOX_DEAD_LETTERS_PER_MINUTE", "5");
    let outboxd = Outboxd::spawn(&flooded)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session
        .batch_execute(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
             SELECT 'k', 'not a topic', '{}' FROM generate_series(1, 20)",
        )
        .await?;
    assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(log.contains("DEAD_LETTER_FLOOD"), "{log}");
    ensure!(
        !log.contains("OUTBOX_ON_POISON"),
        "the policy that is set: {log}"
    );
    assert_eq!(session.value::<i64>(dead_letters).await?, 5);
    // The limit is for a minute, and not for a start.
    let outboxd = Outboxd::spawn(&flooded)?;
    assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
    assert_eq!(session.value::<i64>(dead_letters).await?, 5);
    // With a higher limit it goes on where it was.
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    wait_until("all to be filed", LIMIT, async || {
        Ok(match session.value::<i64>(dead_letters).await? {
            21 => Ok(()),
            filed => Err(format!("{filed} dead letters, {}", outboxd.log())),
        })
    })
    .await?;
    let slot = fixture.slot();
    wait_for("the slot to be past all of it", LIMIT, async || {
        let lag = format!(
            "SELECT pg_current_wal_insert_lsn() - confirmed_flush_lsn < 10000 \
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        Ok(session.value::<bool>(&lag).await?.then_some(()))
    })
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_misspelt_topics_leave_memory_flat() -> Result<()> {
    let _alone = heavy().await;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let settings = fixture
        .settings
        .clone()
        .set("OUTBOX_DEAD_LETTERS_PER_MINUTE", "100000");
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let misspell = async |from: i32, to: i32| {
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'k', 'misspelt-' || i, '{}' FROM generate_series($1::int, $2::int) i";
        session.execute(insert, &[&from, &to]).await?;
        wait_until("all of them to be filed", LIMIT, async || {
            let filed: i64 = session
                .value("SELECT count(*) FROM outbox.dead_letter")
                .await?;
            Ok(if filed == i64::from(to) {
                Ok(())
            } else {
                Err(format!("{filed} are filed"))
            })
        })
        .await
    };
    misspell(1, 1_000).await?;
    let before = outboxd.resident_bytes()?;
    for thousand in 1..10 {
        misspell(thousand * 1_000 + 1, (thousand + 1) * 1_000).await?;
    }
    let grown = outboxd.resident_bytes()?.saturating_sub(before);
    ensure!(grown < 4 << 20, "grown by {} KiB", grown >> 10);
    let (_, metrics) = outboxd.get("/metrics").await?;
    ensure!(
        !metrics.contains("misspelt"),
        "invalid topic names became labels"
    );
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    wait_for("a valid event to be published", LIMIT, async || {
        Ok((fixture.kafka.record_count(&[&fixture.topic]).await? == 1).then_some(()))
    })
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_comes_late_costs_its_events_nothing() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let late = format!("late-{}", fixture.database.name);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fixture.database.insert("k", &late, "{}").await?);
    }
    // Other topics go on meanwhile.
    fixture.database.insert("k", &fixture.topic, "{}").await?;
    wait_for("another topic's event", LIMIT, async || {
        Ok((fixture.kafka.record_count(&[&fixture.topic]).await? == 1).then_some(()))
    })
    .await?;
    fixture.kafka.create_topic(&late, 1, &[]).await?;
    fixture.all_marked(LIMIT).await?;
    let read = fixture.kafka.consume_all(&[&late]).await?;
    let arrived: Vec<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
    assert_eq!(arrived, ids);
    let filed: i64 = session
        .value("SELECT count(*) FROM outbox.dead_letter")
        .await?;
    assert_eq!(filed, 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_retried_before_it_is_mended_is_a_dead_letter_again_and_nothing_is_sent()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    session
        .batch_execute(
            "ALTER TABLE outbox.outbox ALTER event_type DROP NOT NULL, \
                 ALTER event_payload DROP NOT NULL",
        )
        .await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('k', $1, NULL), (NULL, $1, '{}'), (repeat('k', 1100000), $1, '{}')";
    session.execute(insert, &[&fixture.topic]).await?;
    // How often each was filed, and with which code.
    let filed = "SELECT string_agg(error_code || ' ' || state || ' ' || \
                                    jsonb_array_length(history), ', ' ORDER BY id) \
                   FROM outbox.dead_letter";
    let expect_filed = async |times: u32| {
        let expected = format!(
            "COLUMN_NULL dead {times}, COLUMN_NULL dead {times}, KEY_TOO_LARGE dead {times}"
        );
        wait_until("the dead letters", LIMIT, async || {
            let filed: Option<String> = session.value(filed).await?;
            Ok(if filed.as_ref() == Some(&expected) {
                Ok(())
            } else {
                Err(format!("{filed:?}"))
            })
        })
        .await
    };
    expect_filed(1).await?;
    let retry = ["dead-letter", "retry", "--all"];
    ensure!(
        command(&fixture.settings, &retry, LIMIT)
            .await?
            .status
            .success()
    );
    expect_filed(2).await?;
    // One row is deleted, and the stored copy has no payload either.
    session
        .batch_execute("DELETE FROM outbox.outbox WHERE event_payload IS NULL")
        .await?;
    ensure!(
        command(&fixture.settings, &retry, LIMIT)
            .await?
            .status
            .success()
    );
    expect_filed(3).await?;
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
