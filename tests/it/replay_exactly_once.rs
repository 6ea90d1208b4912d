//! `outboxd replay` exactly once: for a consumer that reads committed records, each chosen row is
//! there once per replay and in order, however the process dies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::exactly_once::exactly_once;
use crate::replay::{REPLAYED, Running, replay, replays, times};
use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::oracle::{Event, Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::wait::{wait_for, wait_until};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);

/// A prepared database whose rows are published, exactly once.
async fn fixture(rows: i64) -> Result<Fixture<'static>> {
    let server = postgres::shared(postgres::turn(17));
    let mut fixture = Fixture::create(server, kafka::shared()).await?;
    fixture.settings = exactly_once(fixture.settings.clone(), &fixture);
    fixture.database.fill(&fixture.topic, rows).await?;
    let mut outboxd = publisher(&fixture).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(fixture)
}

/// A publisher that has published all that is there.
async fn publisher(fixture: &Fixture<'_>) -> Result<Outboxd> {
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    Ok(outboxd)
}

/// Waits until this many records of a replay are committed.
async fn replayed(kafka: &Kafka, topic: &str, rows: usize) -> Result<()> {
    wait_until("rows of the replay", LIMIT, async || {
        let found = times(&replays(kafka, &[topic]).await?).len();
        let is_there = found >= rows;
        Ok(is_there.then_some(()).ok_or(found.to_string()))
    })
    .await
}

/// Fails unless each of these ids is there once, in one replay.
fn expect_once(replays: &BTreeMap<String, Vec<i64>>, ids: impl Iterator<Item = i64>) -> Result<()> {
    let starts = replays.keys().collect::<Vec<_>>();
    ensure!(starts.len() == 1, "one replay: {starts:?}");
    let found = times(replays);
    let expected: BTreeMap<i64, usize> = ids.map(|id| (id, 1)).collect();
    let wrong = |(id, times): &(&i64, &usize)| expected.get(*id) != Some(*times);
    let wrong: Vec<_> = found.iter().filter(wrong).take(10).collect();
    let missing = expected.keys().filter(|id| !found.contains_key(*id));
    let missing: Vec<_> = missing.take(10).collect();
    ensure!(found == expected, "wrong {wrong:?}, missing {missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_beside_a_publisher_lose_and_repeat_nothing_for_a_reader_of_committed_records()
-> Result<()> {
    const ROWS: i64 = 20_000;
    const KILLS: u64 = 10;
    let server = postgres::shared(postgres::turn(15));
    let mut fixture = Fixture::create(server, kafka::shared()).await?;
    fixture.settings = exactly_once(fixture.settings.clone(), &fixture);
    let oracle = Oracle::create(&fixture.database).await?;
    fixture.database.fill(&fixture.topic, ROWS).await?;
    let mut outboxd = publisher(&fixture).await?;
    let pattern = Pattern {
        rows: 2,
        rest: Duration::from_millis(20),
    };
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, pattern);
    let to_id = ROWS.to_string();
    let mut running = Running::start(&fixture.settings, &["--to-id", &to_id, "--rate=1500"])?;
    // From here on there is a record to continue by.
    replayed(fixture.kafka, &fixture.topic, 1).await?;
    for kill in 0..KILLS {
        // At any moment: before it has a producer, in its first transaction, in full flow.
        tokio::time::sleep(Duration::from_millis(kill * 397 % 1_500)).await;
        ensure!(running.kill().await?, "too few rows for {KILLS} kills");
        running = Running::start(&fixture.settings, &["--continue", "--rate=1500"])?;
    }
    replayed(fixture.kafka, &fixture.topic, 1).await?;
    running.kill().await?;
    let last = replay(&fixture.settings, &["--continue", "--rate=0"]).await?;
    last.expect(0, &["sent "])?;
    let written = writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    let status = outboxd.status().await?;
    assert_eq!(status["reconnects"], 0, "{status}");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    ensure!(written > 100, "{written} live events are too few");

    let topics = [fixture.topic.as_str()];
    expect_once(&replays(fixture.kafka, &topics).await?, 1..=ROWS)?;
    let records = fixture.kafka.consume_all(&topics).await?;
    let is_replayed = |it: &ConsumedRecord| it.header(REPLAYED).is_some();
    let (again, live): (Vec<_>, Vec<_>) = records.into_iter().partition(is_replayed);
    let committed = oracle.committed().await?;
    check(&committed, &live).expect_exact()?;
    let chosen: Vec<Event> = committed.into_iter().filter(|it| it.id <= ROWS).collect();
    check(&chosen, &again).expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_prints_the_command_that_continues_and_a_complete_replay_has_nothing_to_continue()
-> Result<()> {
    const ROWS: i64 = 6_000;
    let fixture = fixture(ROWS).await?;
    let Fixture { kafka, topic, .. } = &fixture;
    let nothing = replay(&fixture.settings, &["--continue"]).await?;
    nothing.expect(2, &["there is nothing to continue: topic progress-"])?;
    let once = fixture.settings.clone();
    let at_least_once = once.set("OUTBOX_DELIVERY", "at-least-once");
    let refused = replay(&at_least_once, &["--continue"]).await?;
    refused.expect(2, &["--continue goes on by a progress record"])?;
    let both = replay(&fixture.settings, &["--continue", "--all"]).await?;
    both.expect(2, &["cannot be used with"])?;

    let mut running = Running::start(&fixture.settings, &["--all", "--rate=2000"])?;
    for (name, rows) in [("INT", 1_000), ("TERM", 2_500)] {
        replayed(kafka, topic, rows).await?;
        running.interrupt(name)?;
        let ended = running.ended().await?;
        ended.expect(3, &["error: stopped by a signal before the last row"])?;
        let line = ended.continued()?;
        assert_eq!(line, "outboxd replay --rate=2000 --continue");
        ensure!(!ended.out.contains("unsettled"), "{}", ended.out);
        running = Running::again(&fixture.settings, line)?;
    }
    running.ended().await?.expect(0, &["sent "])?;
    expect_once(&replays(kafka, &[topic.as_str()]).await?, 1..=ROWS)?;
    let complete = replay(&fixture.settings, &["--continue"]).await?;
    complete.expect(
        0,
        &["nothing to continue: the last replay, which began at 20"],
    )
}

/// Only the broker knows the topic's new limit, so it refuses whole batches, innocent events among
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_that_the_broker_refuses_is_filed_and_every_other_one_is_there_once()
-> Result<()> {
    const ROWS: i64 = 60;
    let fixture = fixture(1).await?;
    let session = fixture.database.connect().await?;
    let narrow = fixture.kafka.topic("narrow", 2).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'key' || i % 5, $1, \
                         jsonb_build_object('x', repeat('x', 9 + 4991 * (i = 31)::int)) \
                  FROM generate_series(2, $2::bigint) i";
    session.execute(insert, &[&narrow, &ROWS]).await?;
    let mut outboxd = publisher(&fixture).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let limit = [("max.message.bytes", "2000")];
    fixture.kafka.alter_topic(&narrow, &limit).await?;
    let ended = replay(&fixture.settings, &["--only-topic", &narrow]).await?;
    ended.expect(0, &["sent      58 events\nrefused   1 event"])?;
    let filed = "SELECT string_agg(outbox_id || ' ' || state, ', ') FROM outbox.dead_letter";
    assert_eq!(session.value::<String>(filed).await?, "31 dead");
    let sent = (2..=ROWS).filter(|id| *id != 31);
    expect_once(&replays(fixture.kafka, &[&narrow]).await?, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_later_of_two_replays_goes_on_and_the_other_one_says_why_it_ends() -> Result<()> {
    const ROWS: i64 = 5_000;
    let fixture = fixture(ROWS).await?;
    let Fixture { kafka, topic, .. } = &fixture;
    let first = Running::start(&fixture.settings, &["--all", "--rate=500"])?;
    replayed(kafka, topic, 500).await?;
    let second = Running::start(&fixture.settings, &["--all", "--rate=2500"])?;
    let ended = first.ended().await?;
    ended.expect(1, &["another replay was started (slot outboxd_"])?;
    ensure!(ended.continued()?.contains(" --after "), "{}", ended.out);
    let ended = second.ended().await?;
    ended.expect(0, &["an earlier replay is not complete"])?;
    let all = replays(kafka, &[topic.as_str()]).await?;
    let starts: Vec<_> = all.keys().cloned().collect();
    ensure!(starts.len() == 2, "{starts:?}");
    let only = |start: &String| BTreeMap::from([(start.clone(), all[start].clone())]);
    expect_once(&only(&starts[1]), 1..=ROWS)?;
    let cut = all[&starts[0]].len() as i64;
    ensure!(cut < ROWS, "the first one was not shut out");
    expect_once(&only(&starts[0]), 1..=cut)?;

    // The same replay in two processes: the later one goes on with it.
    let third = Running::start(&fixture.settings, &["--all", "--rate=500"])?;
    let has_begun = async || {
        let all = replays(kafka, &[topic.as_str()]).await?;
        Ok(all
            .values()
            .nth(2)
            .filter(|ids| ids.len() > 300)
            .map(|_| ()))
    };
    wait_for("the third replay", LIMIT, has_begun).await?;
    let fourth = Running::start(&fixture.settings, &["--continue", "--rate=2500"])?;
    let ended = third.ended().await?;
    ended.expect(1, &["another process has continued this replay"])?;
    ensure!(ended.continued().is_err(), "{}", ended.out);
    fourth.ended().await?.expect(0, &["sent "])?;
    let all = replays(kafka, &[topic.as_str()]).await?;
    let last = all.into_iter().skip(2).collect();
    expect_once(&last, 1..=ROWS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_is_waited_for_and_a_stop_meanwhile_loses_and_repeats_no_row()
-> Result<()> {
    const ROWS: i64 = 12_000;
    let _alone = heavy().await;
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 4).await?;
    let settings = Settings::new(&database, &kafka)?.set("OUTBOX_DELIVERY", "exactly-once");
    init(&settings).await?;
    database.fill(&topic, ROWS).await?;
    let mut outboxd = Outboxd::spawn(&settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let running = Running::start(&settings, &["--all", "--rate=1000"])?;
    for share in 1..=2 {
        replayed(&kafka, &topic, share * 2_000).await?;
        kafka.kill()?;
        kafka.resume()?;
    }
    replayed(&kafka, &topic, 6_000).await?;
    kafka.kill()?;
    running
        .says("going on behind the last one that was")
        .await?;
    // A stop while no broker answers, in good time.
    running.interrupt("INT")?;
    let ended = running.ended().await?;
    kafka.resume()?;
    ended.expect(3, &["stopped by a signal"])?;
    let line = ended.continued().context("a command")?.to_owned();
    ensure!(line.ends_with(" --continue"), "{line}");
    Running::again(&settings, &line)?
        .ended()
        .await?
        .expect(0, &["sent "])?;
    expect_once(&replays(&kafka, &[&topic]).await?, 1..=ROWS)
}
