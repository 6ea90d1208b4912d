//! However the process dies, no event is lost, and only unconfirmed events are published twice.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const KILLS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_nothing_and_repeat_only_what_was_not_confirmed() -> Result<()>
{
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
    let mut windows = Vec::new();
    for kill in 0..KILLS {
        // At any moment of a run: while it connects, in its first moments, in full flow.
        let life = Duration::from_millis(u64::from(kill * 97 % 600));
        tokio::time::sleep(life).await;
        outboxd.kill()?;
        windows.push(fixture.window().await?);
        outboxd.respawn()?;
    }
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let written = writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let report = check(&oracle.committed().await?, &consumed);
    report.expect_complete()?;
    assert!(written > 1_000, "{written} events are too light a load");
    for (id, copies) in &report.duplicates {
        let record = consumed
            .iter()
            .find(|record| record.outbox_id() == Some(*id));
        let record = record.context("a duplicate is among what was consumed")?;
        let at = record.committed_at()?;
        let open = windows.iter().filter(|window| window.contains(at));
        assert!(
            *copies <= 1 + open.count(),
            "event {id} was published {copies} times though it was confirmed"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_large_transaction_loses_and_confirms_nothing_of_it() -> Result<()>
{
    const ROWS: i64 = 200_000;
    let _alone = heavy().await;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.fill(&fixture.topic, ROWS).await?;
    let arrived = async || fixture.kafka.record_count(&[&fixture.topic]).await;
    wait_for("the first part of it", LIMIT, async || {
        Ok((arrived().await? > 0).then_some(()))
    })
    .await?;
    outboxd.kill()?;
    let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let part = sent.len() as i64;
    assert!(part < ROWS, "all of it had been sent already");
    // The commit comes after the rows in the WAL, and so does any LSN that would confirm part of
    // them.
    let commit = sent.first().context("a part of it")?.committed_at()?;
    assert!(fixture.window().await?.confirmed <= commit);
    outboxd.respawn()?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let report = fixture.verdict(&oracle).await?;
    report.expect_complete()?;
    let twice = report.repeated();
    assert!(
        twice as i64 <= part,
        "{twice} were sent again, {part} had been sent before"
    );
    Ok(())
}
