//! What keeps an event from being known: none of it is called missing.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::{LIMIT, Stage, with_header};
use crate::support::kafka::ConsumedRecord;
use crate::support::outboxd::command;
use crate::support::postgres::Session;
use crate::support::wait::wait_until;

/// Inserts a row that is marked as published, and was never sent.
async fn plant_missing(stage: &Stage, time: &str) -> Result<i64> {
    let insert = format!(
        "INSERT INTO outbox.outbox (event_type, topic, event_payload, times_attempted, \
                                    created_at, published_at) \
         VALUES ('k1', $1, '{{}}', 1, {time}, {time}) RETURNING id"
    );
    let row = stage.session.query_one(&insert, &[&stage.topic()]).await?;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_removed_is_unknown_and_what_it_cannot_have_removed_is_missing()
-> Result<()> {
    let stage = Stage::published(100, &[]).await?;
    let records = stage.records().await?;
    let mut removed = 0;
    for partition in 0..4 {
        let here = records.iter().filter(|it| it.partition == partition);
        let count = here.count() as i64;
        // The last record stays: it shows when the partition begins.
        if count > 1 {
            stage.remove(partition, count - 1).await?;
            removed += count as u64 - 1;
        }
    }
    ensure!(removed > 50, "{removed}");
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("unknown", removed)])?;
    ensure!(answer.number("matched") == 100 - removed, "{answer:?}");
    let id = plant_missing(&stage, "localtimestamp + interval '1 hour'").await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("unknown", removed), ("missing", 1)])?;
    ensure!(answer.ids("missing") == [id.to_string()], "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_a_skipped_row_and_a_row_in_wait_are_no_alarm() -> Result<()> {
    let stage = Stage::published(20, &[]).await?;
    plant_missing(&stage, "localtimestamp").await?;
    stage.verify(&[]).await?.expect(&[("missing", 1)])?;
    let compact = [("cleanup.policy", "compact")];
    stage.kafka().alter_topic(stage.topic(), &compact).await?;
    stage.verify(&[]).await?.expect(&[("unknown", 1)])?;
    stage.kafka().alter_topic(stage.topic(), &[]).await?;
    // As --backlog skip marks it.
    let skipped = "UPDATE outbox.outbox SET times_attempted = 0 WHERE id > 20";
    stage.session.batch_execute(skipped).await?;
    stage.verify(&[]).await?.expect(&[("unknown", 1)])?;
    let pending = "UPDATE outbox.outbox SET published_at = NULL WHERE id > 20";
    stage.session.batch_execute(pending).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("pending") == 1, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_deleted_leave_records_of_which_only_copies_are_judged() -> Result<()> {
    let settings = [("OUTBOX_AFTER_PUBLISH", "delete")];
    let stage = Stage::create(&settings).await?;
    let mut outboxd = stage.start().await?;
    stage.insert(30).await?;
    let left = "SELECT count(*) FROM outbox.outbox";
    stage
        .session
        .wait_for_value("every row to be deleted", left, 0, LIMIT)
        .await?;
    // No row is left that names the topic.
    let also = ["--also-topic", stage.topic()];
    let answer = stage.verify(&also).await?;
    answer.expect(&[("unknown", 30)])?;
    let copied = stage.record(7).await?;
    stage.produce(&copied).await?;
    let answer = stage.verify(&also).await?;
    answer.expect(&[("unknown", 30), ("duplicate", 1)])?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_marks_the_slot_proves_that_rows_were_sent() -> Result<()> {
    let settings = [("OUTBOX_AFTER_PUBLISH", "keep")];
    let stage = Stage::create(&settings).await?;
    let mut outboxd = stage.start().await?;
    stage.insert(30).await?;
    let sent = |status: &serde_json::Value| status["published_total"] == 30;
    outboxd.wait_for_status("30 events", LIMIT, sent).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("matched") == 30, "{answer:?}");
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    // Not sent yet, and no slot says so.
    stage.insert(2).await?;
    stage
        .verify(&["--wait", "0s"])
        .await?
        .expect(&[("unknown", 2)])?;
    let slot = stage.fixture.slot();
    stage.session.drop_slot(&slot, LIMIT).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("unknown", 2)])?;
    ensure!(answer.found.to_string().contains("there is no slot"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_replays_and_other_outboxes_are_counted_apart() -> Result<()> {
    let stage = Stage::published(20, &[]).await?;
    let record = stage.record(7).await?;
    let mut replayed = record.clone();
    replayed
        .headers
        .push(("outbox_replayed".to_owned(), b"2026".to_vec()));
    stage.produce(&replayed).await?;
    let foreign = with_header(&record, "outbox_source_id", "billing.outbox.outbox");
    stage.produce(&foreign).await?;
    let mut outboxd = stage.start().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k1', 'not-there', '{}' FROM generate_series(1, 3)";
    stage.session.batch_execute(insert).await?;
    let filed = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead'";
    stage
        .session
        .wait_for_value("three dead letters", filed, 3, LIMIT)
        .await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[])?;
    for (name, number) in [("dead_lettered", 3), ("replayed", 1), ("foreign", 1)] {
        ensure!(answer.number(name) == number, "{name}: {answer:?}");
    }
    let first: i64 = stage
        .session
        .value("SELECT min(id) FROM outbox.dead_letter")
        .await?;
    let discard = ["dead-letter", "discard", "--yes", &first.to_string()];
    let done = command(&stage.settings, &discard, LIMIT).await?;
    ensure!(done.status.success(), "{done:?}");
    let answer = stage.verify(&[]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("dead_lettered") == 3, "{answer:?}");
    // Later events of the key go out before the retry.
    stage.insert(10).await?;
    stage
        .session
        .wait_for_value(
            "the later events",
            "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL",
            2,
            LIMIT,
        )
        .await?;
    let mend = "UPDATE outbox.outbox SET topic = $1 WHERE topic = 'not-there'";
    stage.session.execute(mend, &[&stage.topic()]).await?;
    let retry = ["dead-letter", "retry", "--all", "--wait"];
    let done = command(&stage.settings, &retry, LIMIT).await?;
    ensure!(done.status.success(), "{done:?}");
    stage.fixture.all_marked(LIMIT).await?;
    let answer = stage.verify(&[]).await?;
    answer.expect(&[])?;
    ensure!(answer.number("dead_lettered") == 1, "{answer:?}");
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    Ok(())
}

/// An old poller sends the key and the value of a row, and no header.
#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_an_old_poller_are_compared_by_their_content() -> Result<()> {
    let stage = Stage::published(20, &[]).await?;
    // Four rows of the same content, of which three were sent, and one that was not sent.
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload, times_attempted, \
                                             published_at) \
                  SELECT 'old', $1, jsonb_build_object('old', i / 4), 1, localtimestamp \
                    FROM generate_series(0, 3) AS i";
    stage.session.execute(insert, &[&stage.topic()]).await?;
    let sent = ConsumedRecord {
        key: Some(b"old".to_vec()),
        value: Some(b"{\"old\": 0}".to_vec()),
        headers: Vec::new(),
        ..stage.record(7).await?
    };
    for _ in 0..3 {
        stage.produce(&sent).await?;
    }
    let answer = stage.verify(&[]).await?;
    answer.expect(&[("missing", 1)])?;
    ensure!(answer.number("matched") == 23, "{answer:?}");
    for _ in 0..2 {
        stage.produce(&sent).await?;
    }
    stage.verify(&[]).await?.expect(&[("duplicate", 1)])?;
    let stray = ConsumedRecord {
        value: Some(b"{}".to_vec()),
        ..sent
    };
    stage.produce(&stray).await?;
    let unknown = [("duplicate", 1), ("unknown", 1)];
    stage.verify(&[]).await?.expect(&unknown)?;
    let phantom = [("duplicate", 1), ("phantom", 1)];
    stage.verify(&["--exclusive"]).await?.expect(&phantom)
}

/// Inserts until the task ends.
async fn write(session: Session, topic: String) -> Result<()> {
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k' || i % 50, $1, jsonb_build_object('n', i) \
                    FROM generate_series(1, 50) AS i";
    loop {
        session.execute(insert, &[&topic]).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writers insert all the time, and outboxd is restarted: nothing is wrong at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_publisher_and_its_writers_are_no_reason_for_an_alarm() -> Result<()> {
    let stage = Stage::create(&[]).await?;
    let mut outboxd = stage.start().await?;
    let writer = stage.fixture.database.connect().await?;
    let topic = stage.topic().to_owned();
    let writes = tokio::spawn(write(writer, topic));
    let mut compared = 0;
    for round in 0..6 {
        if round % 2 == 1 {
            ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
            outboxd.respawn()?;
        }
        let more = compared + 200;
        let what = format!("{more} compared events");
        compared = wait_until(&what, LIMIT, async || {
            let answer = stage.verify(&[]).await?;
            answer.expect(&[])?;
            let matched = answer.number("matched");
            Ok(match matched >= more {
                true => Ok(matched),
                false => Err(format!("{matched}")),
            })
        })
        .await?;
    }
    writes.abort();
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    Ok(())
}
