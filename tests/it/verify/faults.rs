//! Faults that are planted one by one.

use anyhow::{Result, ensure};

use super::stage::{Stage, with_header};
use crate::support::kafka::ConsumedRecord;

#[tokio::test(flavor = "multi_thread")]
async fn a_published_table_has_nothing_wrong_and_each_planted_fault_is_found() -> Result<()> {
    let stage = Stage::published(200, &[]).await?;
    let whole = stage.verify(&[]).await?;
    whole.expect(&[])?;
    ensure!(whole.number("matched") == 200, "{whole:?}");
    ensure!(whole.number("records") == 200, "{whole:?}");

    // Marked as published, and never sent.
    let missing: i64 = stage
        .session
        .query_one(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload, times_attempted, \
                                        published_at) \
             VALUES ('k1', $1, '{}', 1, localtimestamp) RETURNING id",
            &[&stage.topic()],
        )
        .await?
        .get(0);
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("missing", 1)])?;
    ensure!(answer.ids("missing") == [missing.to_string()], "{answer:?}");

    // The same record twice.
    let copied = stage.record(7).await?;
    stage.produce(&copied).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("missing", 1), ("duplicate", 1)])?;
    ensure!(answer.ids("duplicate") == ["7"], "{answer:?}");

    // One byte of a value, and a key.
    let change = "UPDATE outbox.outbox SET event_payload = '{\"n\": 10}' WHERE id = 11";
    stage.session.batch_execute(change).await?;
    let change = "UPDATE outbox.outbox SET event_type = 'k9' WHERE id = 12";
    stage.session.batch_execute(change).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("missing", 1), ("duplicate", 1), ("altered", 2)])?;
    let mut altered = answer.ids("altered");
    altered.sort_unstable();
    ensure!(altered == ["11", "12"], "{answer:?}");

    // The id of an insert that was rolled back, and one without an insert.
    let rolled_back: i64 = {
        stage.session.batch_execute("BEGIN").await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      VALUES ('k1', 'x', '{}') RETURNING id";
        let id = stage.session.query_one(insert, &[]).await?.get(0);
        stage.session.batch_execute("ROLLBACK").await?;
        id
    };
    for id in [rolled_back, 1_000_000] {
        let phantom = with_header(&copied, "outbox_id", &id.to_string());
        stage.produce(&phantom).await?;
    }
    let answer = stage.verify(&[]).await?;
    let planted = [
        ("missing", 1),
        ("duplicate", 1),
        ("altered", 2),
        ("phantom", 2),
    ];
    answer.expect(&planted)?;
    let text = String::from_utf8_lossy(&answer.printed.stderr).into_owned();
    ensure!(text.contains("6 events are wrong"), "{text}");
    Ok(())
}

/// Two events of one key with the places in the WAL of each other.
#[tokio::test(flavor = "multi_thread")]
async fn two_swapped_events_of_a_key_are_found() -> Result<()> {
    let stage = Stage::create(&[]).await?;
    let mut outboxd = stage.start().await?;
    for _ in 0..4 {
        stage.insert(5).await?;
    }
    stage.fixture.all_marked(super::stage::LIMIT).await?;
    ensure!(outboxd.stop(super::stage::LIMIT).await? == 0);
    stage.verify(&[]).await?.expect(&[])?;

    let records = stage.records().await?;
    let of_key: Vec<&ConsumedRecord> = records
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"k1"))
        .collect();
    ensure!(of_key.len() == 4, "{of_key:?}");
    // All records again in a new topic, with two of a key in each other's place.
    let topic = stage.kafka().topic("swapped", 4).await?;
    let (first, second) = (of_key[1].offset, of_key[2].offset);
    let place = |record: &ConsumedRecord| match (record.key.as_deref(), record.offset) {
        (Some(b"k1"), at) if at == first => second,
        (Some(b"k1"), at) if at == second => first,
        (_, at) => at,
    };
    let mut swapped: Vec<ConsumedRecord> = records.clone();
    swapped.sort_by_key(|record| (record.partition, place(record)));
    for record in &mut swapped {
        record.topic.clone_from(&topic);
        stage.produce(record).await?;
    }
    let moved = "UPDATE outbox.outbox SET topic = $1";
    stage.session.execute(moved, &[&topic]).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("out_of_order", 1)])?;
    let id = of_key[1].outbox_id().map(|id| id.to_string());
    ensure!(
        answer.ids("out_of_order") == [id.unwrap_or_default()],
        "{answer:?}"
    );
    Ok(())
}
