//! Exactly once, where the slot cannot show what is in Kafka: a lost slot that is healed, and rows
//! that no slot has brought.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::exactly_once::{answer_to, exactly_once, refusal};
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::{Oracle, Report};
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);

async fn fixture(major: u32) -> Result<Fixture<'static>> {
    let server = postgres::shared(postgres::turn(major));
    let mut fixture = Fixture::create(server, kafka::shared()).await?;
    let settings = exactly_once(fixture.settings.clone(), &fixture);
    fixture.settings = settings
        .set("OUTBOX_ON_SLOT_LOSS", "heal")
        .set("OUTBOX_AUDIT_INTERVAL", "1s");
    Ok(fixture)
}

/// Each event once and unaltered. Rows of the table come in the order of their ids, and not in that
/// of their commits.
fn expect_once(report: &Report) -> Result<()> {
    ensure!(
        report.missing.is_empty()
            && report.phantom.is_empty()
            && report.altered.is_empty()
            && report.duplicates.is_empty(),
        "{report}"
    );
    Ok(())
}

/// Sends an event whose row is locked when Kafka has it, then kills outboxd, and drops its slot.
async fn lose_the_slot(fixture: &Fixture<'_>, outboxd: &mut Outboxd) -> Result<()> {
    let mut session = fixture.database.connect().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  VALUES ('locked', $1, '{}') RETURNING id";
    let lock = session.transaction().await?;
    let writer = fixture.database.connect().await?;
    let locks = "SELECT FROM outbox.outbox WHERE id = $1 AND published_at IS NULL FOR UPDATE";
    // The mark of a row can come before its lock.
    let id: i64 = wait_for("a row that is locked before its mark", LIMIT, async || {
        let id = writer.query_one(insert, &[&fixture.topic]).await?.get(0);
        let is_locked = lock.query(locks, &[&id]).await?.len() == 1;
        Ok(is_locked.then_some(id))
    })
    .await?;
    wait_for("Kafka to have the event", LIMIT, async || {
        let records = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let is_there = records.iter().any(|it| it.outbox_id() == Some(id));
        Ok(is_there.then_some(()))
    })
    .await?;
    outboxd.kill()?;
    lock.rollback().await?;
    session.drop_slot(&fixture.slot(), LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_healed_from_the_table_and_each_event_is_there_once() -> Result<()> {
    let fixture = fixture(17).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
    for round in 0..4 {
        lose_the_slot(&fixture, &mut outboxd).await?;
        outboxd.respawn()?;
        // While it heals, too: while it reads topics back, sends rows, and makes the slot.
        tokio::time::sleep(Duration::from_millis(round * 350)).await;
        outboxd.kill()?;
        outboxd.respawn()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
    }
    // In a running process.
    let session = fixture.database.connect().await?;
    session.drop_slot(&fixture.slot(), LIMIT).await?;
    outboxd.wait_for_log(&["no longer exists"], LIMIT).await?;
    outboxd.wait_for_log(&["slot created"], LIMIT).await?;
    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    expect_once(&fixture.verdict(&oracle).await?)
}

/// Compaction may have removed an event, so its row would be sent a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_show_what_it_had_is_left_to_a_person() -> Result<()> {
    let fixture = fixture(15).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let compacted = [("cleanup.policy", "compact")];
    fixture
        .kafka
        .alter_topic(&fixture.topic, &compacted)
        .await?;
    lose_the_slot(&fixture, &mut outboxd).await?;
    let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?.len();
    let refused = refusal(&fixture.settings).await?;
    ensure!(refused.contains("it is compacted"), "{refused}");
    let now = fixture.kafka.consume_all(&[&fixture.topic]).await?.len();
    assert_eq!(now, sent, "nothing is sent before a person decides");
    let answer = answer_to(&refused);
    ensure!(answer.starts_with("slot-missing@"), "{refused}");
    let session = fixture.database.connect().await?;
    let mark = "UPDATE outbox.outbox SET published_at = now() WHERE published_at IS NULL";
    session.execute(mark, &[]).await?;
    fixture.database.insert("new", &fixture.topic, "{}").await?;
    let settings = fixture.settings.clone().set("OUTBOX_ACCEPT", answer);
    let mut answered = Outboxd::spawn(&settings)?;
    answered.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(answered.stop(LIMIT).await?, 0, "{}", answered.log());
    let records = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    assert_eq!(records.len(), sent + 1, "the new event alone is sent");
    Ok(())
}

/// While their rows are locked, as many are sent as a progress record names. The stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_no_slot_has_brought_are_found_and_sent_once_through_kills() -> Result<()> {
    const ROWS: i64 = 300;
    const NAMED: usize = 250;
    let fixture = fixture(15).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let mut session = fixture.database.connect().await?;
    let mut streamed = 0;
    for _ in 0..3 {
        let lock = session.transaction().await?;
        let change = |what: &str| format!("ALTER PUBLICATION outboxd {what} TABLE outbox.outbox");
        let other = fixture.database.connect().await?;
        other.batch_execute(&change("DROP")).await?;
        fixture.database.fill(&fixture.topic, ROWS).await?;
        let locks = "SELECT FROM outbox.outbox WHERE published_at IS NULL FOR UPDATE";
        let locked = lock.query(locks, &[]).await?.len();
        ensure!(locked == ROWS as usize, "{locked} rows are locked");
        other.batch_execute(&change("ADD")).await?;
        fixture.database.fill(&fixture.topic, ROWS).await?;
        streamed += ROWS as usize;
        wait_for("Kafka to have what is named", LIMIT, async || {
            let records = fixture.kafka.consume_all(&[&fixture.topic]).await?;
            let is_of_table = |source: Option<&str>| source == Some("table");
            let sources = records.iter().map(|it| it.header("outbox_source"));
            let of_table = sources.filter(|it| is_of_table(*it)).count();
            let of_table = of_table % ROWS as usize;
            let is_all = of_table == NAMED && records.len() % ROWS as usize == NAMED;
            Ok((is_all && records.len() > streamed).then_some(()))
        })
        .await?;
        outboxd.kill()?;
        lock.rollback().await?;
        outboxd.respawn()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.all_marked(LIMIT).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    expect_once(&fixture.verdict(&oracle).await?)
}
