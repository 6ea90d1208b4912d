//! After a death of the process, what Kafka already has is not sent a second time.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::{Oracle, Report};
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(60);

/// One row keeps its mark from being written, so nothing from its transaction on is confirmed,
/// though Kafka has all of it. Kills the process then. Returns the oracle's report.
async fn killed_before_the_slot_moves(reads_back: bool) -> Result<Report> {
    const ROWS: i64 = 3_000;
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let settings = fixture.settings.clone();
    let settings = settings.set("OUTBOX_READ_BACK", reads_back.to_string());
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut session = fixture.database.connect().await?;
    let insert = format!(
        "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
         VALUES ('first', '{}', '{{}}') RETURNING id",
        fixture.topic
    );
    let first: i64 = session.value(&insert).await?;
    let lock = session.transaction().await?;
    lock.execute(
        "SELECT FROM outbox.outbox WHERE id = $1 FOR UPDATE",
        &[&first],
    )
    .await?;
    let is_marked = "SELECT published_at IS NOT NULL FROM outbox.outbox WHERE id = $1";
    let is_marked: bool = lock.query_one(is_marked, &[&first]).await?.try_get(0)?;
    ensure!(!is_marked, "the mark came before the lock");
    for _ in 0..ROWS / 500 {
        fixture.database.fill(&fixture.topic, 500).await?;
    }
    wait_for("Kafka to have all of it", LIMIT, async || {
        let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
        Ok((count > ROWS).then_some(()))
    })
    .await?;
    outboxd.kill()?;
    lock.rollback().await?;
    outboxd.respawn()?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.fill(&fixture.topic, 100).await?;
    fixture.all_marked(LIMIT).await?;
    fixture.all_confirmed(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_and_the_slot_has_not_confirmed_is_not_sent_again() -> Result<()> {
    killed_before_the_slot_moves(true).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reading_back_it_is_sent_again() -> Result<()> {
    let report = killed_before_the_slot_moves(false).await?;
    report.expect_complete()?;
    ensure!(report.repeated() > 100, "{report}");
    Ok(())
}

/// What a killed process still has on its way comes behind the look, so a few copies may remain.
#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_repeat_hardly_anything() -> Result<()> {
    let _alone = heavy().await;
    const KILLS: u64 = 20;
    let rounds = match is_long_run("at least once: a thousand kills, and what is repeated") {
        true => 50,
        false => 1,
    };
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut written = 0;
    for _ in 0..rounds {
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
        for kill in 0..KILLS {
            let life = Duration::from_millis(300 + kill * 97 % 900);
            tokio::time::sleep(life).await;
            outboxd.kill()?;
            outboxd.respawn()?;
        }
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        written += writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let report = fixture.verdict(&oracle).await?;
    report.expect_complete()?;
    let (kills, copies) = (rounds * KILLS, report.repeated());
    println!("{kills} kills, {written} events, {copies} copies");
    ensure!(copies <= written as usize / 100, "{copies} of {written}");
    Ok(())
}
