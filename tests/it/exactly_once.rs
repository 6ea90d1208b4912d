//! Exactly once: for a consumer that reads committed records, each committed event is in Kafka once
//! and in order, however the process dies.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, Kafka};
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres;
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const KILLS: u32 = 20;

/// A prepared database, and a progress topic of its own.
async fn fixture(major: u32, kafka: &Kafka) -> Result<Fixture<'_>> {
    let mut fixture = Fixture::create(postgres::shared(postgres::turn(major)), kafka).await?;
    let progress = format!("progress-{}", fixture.database.name);
    fixture.settings = fixture
        .settings
        .set("OUTBOX_DELIVERY", "exactly-once")
        .set("OUTBOX_PROGRESS_TOPIC", progress);
    Ok(fixture)
}

async fn refusal(settings: &Settings) -> Result<String> {
    let output = command(settings, &["run"], LIMIT).await?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_and_repeat_nothing_for_a_reader_of_committed_records()
-> Result<()> {
    let fixture = fixture(15, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let pattern = Pattern {
        rows: 5,
        rest: Duration::from_millis(5),
    };
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
    for kill in 0..KILLS {
        // At any moment of a run: while it begins its transactions, in its first one, in full flow.
        let life = Duration::from_millis(u64::from(kill * 397 % 3_000));
        tokio::time::sleep(life).await;
        outboxd.kill()?;
        outboxd.respawn()?;
    }
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let written = writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    ensure!(written > 1_000, "{written} events are too light a load");
    fixture.verdict(&oracle).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_divided_and_a_kill_in_its_middle_repeats_nothing_of_it()
-> Result<()> {
    const ROWS: i64 = 200_000;
    let fixture = fixture(17, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'key' || i % 23, $1, jsonb_build_object('i', i) \
                  FROM generate_series(1, $2::bigint) i";
    session.execute(insert, &[&fixture.topic, &ROWS]).await?;
    wait_for("the first part of it", LIMIT, async || {
        let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        Ok((!sent.is_empty()).then_some(()))
    })
    .await?;
    outboxd.kill()?;
    let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    ensure!(
        (sent.len() as i64) < ROWS,
        "all of it had been sent already"
    );
    outboxd.respawn()?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_progress_record_is_refused_until_a_person_answers() -> Result<()> {
    let fixture = fixture(17, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let session = fixture.database.connect().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('key', $1, '{}')";
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session.execute(insert, &[&fixture.topic]).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let progress = format!("progress-{}", fixture.database.name);
    fixture.kafka.delete_topic(&progress).await?;
    session.execute(insert, &[&fixture.topic]).await?;
    let refused = refusal(&fixture.settings).await?;
    let answer = refused.split("OUTBOX_ACCEPT=").nth(1).unwrap_or_default();
    let answer = answer.split_whitespace().next().unwrap_or_default();
    ensure!(answer.starts_with("no-progress@"), "{refused}");
    let settings = fixture.settings.clone().set("OUTBOX_ACCEPT", answer);
    let mut outboxd = Outboxd::spawn(&settings)?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // The answer has no meaning any more, and does no harm.
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}
