//! The events that writers commit are the records that consumers read: the same set, the same
//! bytes, in commit order for each key.

use std::time::Duration;

use anyhow::Result;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS};
use crate::support::writers::write_every_kind;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn committed_events_arrive_with_the_pollers_topic_key_and_value_and_are_marked() -> Result<()>
{
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let payload = r#"{"b": 1, "a": [true, null, "é"]}"#;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      SELECT 'Created' || i % 7, $1, $2::text::jsonb \
                      FROM generate_series(1, 100) i";
        fixture
            .database
            .connect()
            .await?
            .execute(insert, &[&fixture.topic, &payload])
            .await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for _ in 0..100 {
            fixture
                .database
                .insert("Changed", &fixture.topic, payload)
                .await?;
        }
        fixture.all_marked(LIMIT).await?;
        fixture.verdict(&oracle).await?.expect_exact()?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

/// Rollbacks, savepoints, COPY, two-phase commit and rows deleted in their own transaction, from
/// four writers at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_of_every_kind_of_transaction_are_the_committed_set_in_order()
-> Result<()> {
    const ROUNDS: usize = 275;
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let topics = vec![fixture.topic.clone(), fixture.kafka.topic("more", 3).await?];
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BATCH_SIZE", "1000"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (url, topics) = (fixture.database.unix_url().to_owned(), topics.clone());
            tokio::spawn(async move { write_every_kind(&url, &topics, writer, ROUNDS).await })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    fixture.all_marked(LIMIT * 2).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let committed = oracle.committed().await?;
    assert!(
        committed.len() >= 100_000,
        "{} events are too few",
        committed.len()
    );
    let consumed = fixture.kafka.consume_all(&[&topics[0], &topics[1]]).await?;
    check(&committed, &consumed).expect_exact()
}
