//! Parts of the table, and what the command says of wrong arguments.

use anyhow::{Result, ensure};

use super::stage::{LIMIT, Stage, verify};
use crate::support::folder::Folder;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{Database, shared, turn};
use crate::support::{kafka, wait::wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_times_choose_the_rows_and_other_records_are_outside() -> Result<()> {
    let stage = Stage::published(100, &[]).await?;
    let old = "UPDATE outbox.outbox SET created_at = created_at - interval '3 hours' \
                WHERE id <= 40";
    stage.session.batch_execute(old).await?;
    let answer = stage.verify(&["--from-id", "51", "--to-id", "60"]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("rows") == 10, "{answer:?}");
    ensure!(answer.number("outside") == 90, "{answer:?}");
    let answer = stage.verify(&["--since", "1h"]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("rows") == 60, "{answer:?}");
    // Their records have another time of creation now.
    let answer = stage.verify(&["--until", "2020-01-01T00:00:00Z"]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("rows") == 0, "{answer:?}");
    for (arguments, words) in [
        (["--since", "yesterday"], "--since is no time"),
        (["--from-id", "x"], "x is none"),
        (["--wait", "long"], "--wait is no duration"),
    ] {
        let arguments = [&["verify"], &arguments[..]].concat();
        let printed = command(&stage.settings, &arguments, LIMIT).await?;
        let text = String::from_utf8_lossy(&printed.stderr).into_owned();
        ensure!(printed.status.code() == Some(2), "{text}");
        ensure!(text.contains(words) && text.contains("hint:"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_state_begins_where_the_one_before_ended() -> Result<()> {
    let stage = Stage::published(50, &[]).await?;
    let old = "UPDATE outbox.outbox SET created_at = created_at - interval '3 hours' \
                WHERE id <= 20";
    stage.session.batch_execute(old).await?;
    let folder = Folder::new("verify")?;
    let state = folder.join("state.json");
    let state = state.to_string_lossy();
    let first = stage.verify(&["--state", &state]).await?;
    ensure!(first.number("rows") == 50, "{first:?}");
    let second = stage.verify(&["--state", &state]).await?;
    ensure!(second.number("rows") == 30, "{second:?}");
    ensure!(folder.names()? == ["state.json"]);
    std::fs::write(folder.join("state.json"), "{}")?;
    let arguments = ["verify", "--state", &state];
    let refused = command(&stage.settings, &arguments, LIMIT).await?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(text.contains("is no state of `outboxd verify`"), "{text}");
    Ok(())
}

/// `outboxd run` compares by itself, and shows what it has found.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_publisher_compares_at_an_interval() -> Result<()> {
    let stage = Stage::create(&[("OUTBOX_VERIFY_EVERY", "1s")]).await?;
    let mut outboxd = stage.start().await?;
    stage.insert(20).await?;
    stage.fixture.all_marked(LIMIT).await?;
    let lines = ["compared the table with the topics", "matched=20"];
    outboxd.wait_for_log(&lines, LIMIT).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload, times_attempted, \
                                             published_at) \
                  VALUES ('k1', $1, '{}', 1, localtimestamp)";
    stage.session.execute(insert, &[&stage.topic()]).await?;
    let lines = ["an event is wrong in Kafka", "missing"];
    outboxd.wait_for_log(&lines, LIMIT).await?;
    let (name, verdict) = ("outboxd_verify_events{", "verdict=\"missing\"} 1");
    wait_until("the metric", LIMIT, async || {
        let page = outboxd.get("/metrics").await?.1;
        let mut lines = page.lines().filter(|line| line.starts_with(name));
        let is_shown = lines.any(|line| line.ends_with(verdict));
        Ok(is_shown.then_some(()).ok_or("none".to_owned()))
    })
    .await?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    Ok(())
}

/// A table with uuids, and with times that sort otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_other_types_are_compared_as_their_type_does() -> Result<()> {
    let database = Database::create_empty(shared(turn(17))).await?;
    let session = database.connect().await?;
    let table = "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox (
                     id uuid PRIMARY KEY, event_type text NOT NULL, topic text NOT NULL,
                     event_payload jsonb NOT NULL, published_at timestamptz)";
    session.batch_execute(table).await?;
    let kafka = kafka::shared();
    let topic = kafka.topic("uuids", 2).await?;
    let settings = Settings::new(&database, kafka)?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_until_ready(LIMIT).await?;
    let insert = "INSERT INTO outbox.outbox (id, event_type, topic, event_payload) \
                  SELECT ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, 'k', $1, \
                         '{}' FROM generate_series(1, 40) AS i";
    session.execute(insert, &[&topic]).await?;
    wait_until("every row to be marked", LIMIT, async || {
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        Ok(match session.value::<i64>(left).await? {
            0 => Ok(()),
            left => Err(format!("{left}")),
        })
    })
    .await?;
    let whole = verify(&settings, &[]).await?;
    whole.expect(&[])?;
    ensure!(whole.number("matched") == 40, "{whole:?}");
    let from = "00000000-0000-4000-8000-000000000031";
    let part = verify(&settings, &["--from-id", from]).await?;
    part.expect(&[])?;
    ensure!(
        (part.number("rows"), part.number("outside")) == (10, 30),
        "{part:?}"
    );
    let refused = command(&settings, &["verify", "--since", "1h"], LIMIT).await?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(text.contains("has no time of creation"), "{text}");
    ensure!(refused.status.code() == Some(2), "{text}");
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    Ok(())
}
