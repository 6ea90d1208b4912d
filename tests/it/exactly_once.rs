//! Exactly once: for a consumer that reads committed records, each committed event is in Kafka once
//! and in order, however the process dies.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::is_long_run;
use crate::support::kafka::{self, Kafka};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres;
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const KILLS: u32 = 20;

/// A prepared database, and a progress topic of its own.
pub(crate) async fn fixture(major: u32, kafka: &Kafka) -> Result<Fixture<'_>> {
    let mut fixture = Fixture::create(postgres::shared(postgres::turn(major)), kafka).await?;
    fixture.settings = exactly_once(fixture.settings.clone(), &fixture);
    Ok(fixture)
}

pub(crate) fn exactly_once(settings: Settings, fixture: &Fixture<'_>) -> Settings {
    settings
        .set("OUTBOX_DELIVERY", "exactly-once")
        .set("OUTBOX_PROGRESS_TOPIC", progress_topic(fixture))
}

pub(crate) fn progress_topic(fixture: &Fixture<'_>) -> String {
    format!("progress-{}", fixture.database.name)
}

pub(crate) async fn refusal(settings: &Settings) -> Result<String> {
    let output = command(settings, &["run"], LIMIT).await?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a refusal says to set.
pub(crate) fn answer_to(refusal: &str) -> &str {
    let answer = refusal.split("OUTBOX_ACCEPT=").nth(1).unwrap_or_default();
    answer.split([' ', ':', '\n']).next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_and_repeat_nothing_for_a_reader_of_committed_records()
-> Result<()> {
    let fixture = fixture(15, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, Pattern::STEADY);
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

/// A transaction is divided, and a kill in its middle repeats nothing of it.
pub(crate) async fn kill_in_a_large_transaction(fixture: &Fixture<'_>) -> Result<()> {
    let (rows, limit) = match is_long_run("exactly once: a transaction of a million rows") {
        true => (1_000_000, LIMIT * 10),
        false => (100_000, LIMIT),
    };
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.fill(&fixture.topic, rows).await?;
    wait_for("the first part of it", LIMIT, async || {
        let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        Ok((!sent.is_empty()).then_some(()))
    })
    .await?;
    outboxd.kill()?;
    let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    ensure!(
        (sent.len() as i64) < rows,
        "all of it had been sent already"
    );
    outboxd.respawn()?;
    fixture.all_marked(limit).await?;
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
    let progress = progress_topic(&fixture);
    fixture.kafka.delete_topic(&progress).await?;
    session.execute(insert, &[&fixture.topic]).await?;
    let refused = refusal(&fixture.settings).await?;
    let answer = answer_to(&refused);
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

/// An event that the broker refuses is filed, and every other one is there once. Only the broker
/// knows the topic's new limit, so it refuses whole batches, innocent events among them.
pub(crate) async fn refused_among_others(fixture: &Fixture<'_>) -> Result<()> {
    const ROWS: i64 = 60;
    let oracle = Oracle::create(&fixture.database).await?;
    let session = fixture.database.connect().await?;
    let narrow = fixture.kafka.topic("narrow", 2).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'key' || i % 5, $1, \
                         jsonb_build_object('x', repeat('x', 9 + 4991 * (i = $2::bigint)::int)) \
                  FROM generate_series(1, $3::bigint) i";
    session.execute(insert, &[&narrow, &0_i64, &1_i64]).await?;
    fixture.all_marked(LIMIT).await?;
    let limit = [("max.message.bytes", "2000")];
    fixture.kafka.alter_topic(&narrow, &limit).await?;
    session.execute(insert, &[&narrow, &31_i64, &ROWS]).await?;
    let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
    let filed = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead'";
    wait_for(
        "the guilty one to be filed, and all others marked",
        LIMIT,
        async || {
            let (left, filed): (i64, i64) =
                (session.value(left).await?, session.value(filed).await?);
            Ok((left == 1 && filed == 1).then_some(()))
        },
    )
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let committed = oracle.committed().await?;
    let innocent: Vec<_> = committed
        .into_iter()
        .filter(|event| event.payload.len() < 5_000)
        .collect();
    ensure!(
        innocent.len() as i64 == ROWS,
        "{} are innocent",
        innocent.len()
    );
    let consumed = fixture.kafka.consume_all(&[&narrow]).await?;
    check(&innocent, &consumed).expect_exact()
}

/// A kill may come between the commit of a retried event and the moment when the database knows.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_are_retried_are_there_once_however_often_it_is_killed() -> Result<()> {
    const ROWS: i64 = 900;
    let fixture = fixture(17, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let session = fixture.database.connect().await?;
    let later = format!("later-{}", fixture.database.name);
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.fill(&later, ROWS).await?;
    let filed = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead'";
    let all = "a dead letter of every event";
    session.wait_for_value(all, filed, ROWS, LIMIT).await?;
    fixture.kafka.create_topic(&later, 2, &[]).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, Pattern::STEADY);
    let retry = ["dead-letter", "retry", "--all"];
    let retry = command(&fixture.settings, &retry, LIMIT).await?;
    ensure!(retry.status.success(), "{retry:?}");
    let mut kills = 0;
    for share in 1..=3 {
        let sent = async || fixture.kafka.record_count(&[&later]).await;
        wait_for("some of them to be sent", LIMIT, async || {
            Ok((sent().await? >= share * ROWS / 4).then_some(()))
        })
        .await?;
        kills += u32::from(session.value::<i64>(OPEN).await? > 0);
        outboxd.kill()?;
        outboxd.respawn()?;
    }
    ensure!(kills > 0, "all were retried before the first kill");
    writers.stop().await?;
    session
        .wait_for_value("no open dead letter", OPEN, 0, LIMIT)
        .await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = fixture.kafka.consume_all(&[&fixture.topic, &later]).await?;
    check(&oracle.committed().await?, &consumed).expect_exact()
}

const OPEN: &str = "SELECT count(*) FROM outbox.dead_letter WHERE state <> 'retried'";

/// A process that is suspended for longer than every time-out has another one in its place when it
/// goes on, and what it then sends is in no committed transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_is_shut_out_by_the_one_that_takes_over() -> Result<()> {
    let fixture = fixture(17, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut first = Outboxd::spawn(&fixture.settings)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let settings = Settings::new(&fixture.database, fixture.kafka)?;
    let mut second = Outboxd::spawn(&exactly_once(settings, &fixture))?;
    let pattern = Pattern {
        rows: 5,
        rest: Duration::from_millis(10),
    };
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.freeze()?;
    second.wait_for_events(500, LIMIT).await?;
    first.thaw()?;
    let stands_by = first.wait_for_phase("standby", LIMIT).await;
    stands_by.with_context(|| format!("the second instance:\n{}", second.log()))?;
    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    fixture.verdict(&oracle).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_first_start_is_there_once_however_often_it_is_killed() -> Result<()> {
    const ROWS: i64 = 12_000;
    let fixture = fixture(15, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    fixture.database.fill(&fixture.topic, ROWS).await?;
    let settings = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
    let mut outboxd = Outboxd::spawn(&settings)?;
    for kill in 1..=6 {
        let sent = async || fixture.kafka.record_count(&[&fixture.topic]).await;
        wait_for("some of it to be sent", LIMIT, async || {
            Ok((sent().await? >= kill * ROWS / 8).then_some(()))
        })
        .await?;
        outboxd.kill()?;
        outboxd.respawn()?;
    }
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.fill(&fixture.topic, 100).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}
