//! What the log tells without being asked: each wait that lasts, its end, and little else.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, init, spawn_at_terminal};
use crate::support::postgres::{self, Database};
use crate::support::process::signal;
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
/// A part of a progress bar.
const BAR: char = '█';

/// The lines of this run that are no news of a normal day.
fn warnings(outboxd: &Outboxd) -> Vec<String> {
    let log = outboxd.log();
    let lines = log.lines().filter(|line| !line.contains(" INFO "));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_is_a_line_when_it_lasts_and_a_line_when_it_is_over() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 1).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("a", &topic, "{}").await?;
    database.all_marked(LIMIT).await?;
    kafka.kill()?;
    for key in ["b", "c", "d"] {
        database.insert(key, &topic, "{}").await?;
    }
    let first = ["WARN", "Kafka has not acknowledged for 5 s, 3 events held"];
    let line = outboxd.wait_for_log(&first, LIMIT).await?;
    ensure!(line.contains(&topic) && line.contains("refused"), "{line}");
    let second = ["WARN", "Kafka has not acknowledged for 30 s"];
    outboxd.wait_for_log(&second, LIMIT).await?;
    let lines = warnings(&outboxd);
    ensure!(lines.len() == 2, "{lines:#?}");
    kafka.resume()?;
    let over = [
        "INFO",
        "Kafka answers after",
        "3 events published meanwhile",
    ];
    outboxd.wait_for_log(&over, LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_says_nothing_is_named_within_seconds() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    let url = format!("postgresql://outboxd:s3cret@127.0.0.1:{port}/orders");
    let settings = Settings::nowhere()?
        .set("DATABASE_URL", url)
        .set("KAFKA_BROKERS", kafka::shared().brokers());
    let mut outboxd = Outboxd::spawn(&settings)?;
    let words = [
        "WARN",
        "no session with Postgres for 5 s",
        &port.to_string(),
    ];
    outboxd
        .wait_for_log(&words, Duration::from_secs(10))
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    ensure!(!outboxd.log().contains("s3cret"), "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_says_once_who_publishes_and_that_it_has_taken_over() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let mut first = Outboxd::spawn(&fixture.settings)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let mut second = Outboxd::spawn(&Settings::new(&fixture.database, fixture.kafka)?)?;
    let words = [
        "INFO",
        "another instance publishes",
        "held by server process",
    ];
    second.wait_for_log(&words, LIMIT).await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    second
        .wait_for_log(
            &["INFO", "no other instance publishes any more after"],
            LIMIT,
        )
        .await?;
    second.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    let count = second.log().matches("another instance publishes").count();
    assert_eq!(count, 1, "{}", second.log());
    let lines = warnings(&second);
    ensure!(lines.is_empty(), "{lines:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_rows_and_one_of_wal_are_told_with_their_end() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let (database, topic) = (&fixture.database, &fixture.topic);
    database.fill(topic, 3_000).await?;
    let first = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
    let mut outboxd = Outboxd::spawn(&first)?;
    outboxd
        .wait_for_log(&["INFO", "backlog: 3000 rows to send"], LIMIT)
        .await?;
    outboxd
        .wait_for_log(&["INFO", "backlog: caught up in", "3000 rows"], LIMIT)
        .await?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // No text that Postgres could compress.
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k' || i % 7, $1, jsonb_build_object('text', \
                         (SELECT string_agg(md5(random()::text || i || j), '') \
                            FROM generate_series(1, 640) j)) \
                    FROM generate_series(1, 3000) i";
    database.connect().await?.execute(insert, &[topic]).await?;
    outboxd.respawn()?;
    outboxd
        .wait_for_log(&["INFO", "backlog:", "MiB of WAL behind"], LIMIT)
        .await?;
    outboxd
        .wait_for_log(&["INFO", "backlog: caught up in", "MiB"], LIMIT)
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    database.fill(topic, 500).await?;
    let mut poller = Outboxd::spawn(&first.polling())?;
    poller
        .wait_for_log(&["INFO", "backlog: 500 rows to send"], LIMIT)
        .await?;
    poller
        .wait_for_log(&["INFO", "backlog: caught up in", "500 rows"], LIMIT)
        .await?;
    assert_eq!(poller.stop(LIMIT).await?, 0, "{}", poller.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_a_line_at_intervals_unless_nothing_was() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let settings = fixture.settings.clone().set("OUTBOX_LOG_SUMMARY", "1s");
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    let line = outboxd
        .wait_for_log(&["INFO", "published 1 event in ", "p99"], LIMIT)
        .await?;
    ensure!(line.contains(" ms, lag "), "{line}");
    fixture.database.insert("b", &fixture.topic, "{}").await?;
    wait_until("a second line", LIMIT, async || {
        let count = outboxd.log().matches("published 1 event").count();
        Ok((count == 2).then_some(()).ok_or_else(|| outboxd.log()))
    })
    .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// What the program writes to a terminal until it has caught up.
fn at_terminal(settings: &Settings) -> Result<String> {
    let mut script = spawn_at_terminal(settings, "run")?;
    let mut output = script.stdout.take().context("a pipe")?;
    let (mut text, mut piece) = (Vec::new(), [0; 4_096]);
    let end = Instant::now() + LIMIT;
    while !String::from_utf8_lossy(&text).contains("caught up") && Instant::now() < end {
        match output.read(&mut piece)? {
            0 => break,
            count => text.extend_from_slice(&piece[..count]),
        }
    }
    let children = format!("/proc/{0}/task/{0}/children", script.id());
    let child = std::fs::read_to_string(children)?;
    signal(child.trim(), "TERM")?;
    output.read_to_end(&mut text)?;
    script.wait()?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_bar_that_tears_no_line_and_a_file_has_none() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let settings = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
    fixture.database.fill(&fixture.topic, 40_000).await?;
    let drawn = tokio::task::spawn_blocking({
        let settings = settings.clone();
        move || at_terminal(&settings)
    });
    let text = drawn.await??;
    ensure!(
        text.contains("caught up in") && text.contains(BAR),
        "{text}"
    );
    ensure!(text.contains(" of 40000 rows, "), "{text}");
    let lines = text.split(['\n', '\r']);
    for line in lines.filter(|line| line.contains("INFO")) {
        ensure!(!line.contains(BAR), "{line}");
    }
    fixture.database.fill(&fixture.topic, 2_000).await?;
    let mut outboxd = Outboxd::spawn(&settings.polling())?;
    outboxd.wait_for_log(&["caught up in"], LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    ensure!(!outboxd.log().contains(BAR), "{}", outboxd.log());
    Ok(())
}
