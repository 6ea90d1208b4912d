//! `outboxd pause` and `resume`: publishing stops in good order, whatever happens meanwhile, and
//! goes on where it stopped.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, MAJORS, Session, turn};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(90);

/// The output of a command that has to succeed.
async fn run(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let output = command(settings, arguments, LIMIT).await?;
    let [out, err] = [output.stdout, output.stderr].map(String::from_utf8);
    let (out, err) = (out?, err?);
    ensure!(output.status.success(), "{arguments:?}: {out}{err}");
    Ok(out)
}

async fn pause(settings: &Settings) -> Result<()> {
    let paused = run(settings, &["pause", "--reason", "new consumers"]).await?;
    ensure!(
        paused.contains("paused     nothing is in flight"),
        "{paused}"
    );
    Ok(())
}

async fn resume(settings: &Settings) -> Result<()> {
    let resumed = run(settings, &["resume"]).await?;
    ensure!(
        resumed.contains("resumed    publishing goes on"),
        "{resumed}"
    );
    Ok(())
}

/// Waits until the publisher has read the request twice more: it had time to send something.
async fn time_to_send(outboxd: &Outboxd, session: &Session, state: &str) -> Result<()> {
    for _ in 0..2 {
        // The publisher writes that row again when the request has changed.
        let touch = format!(
            "UPDATE {state} SET changed_at = clock_timestamp() WHERE name = 'pause' \
             RETURNING changed_at::text"
        );
        let version: String = session.value(&touch).await?;
        let seen = format!(
            "SELECT coalesce((SELECT value ->> 'request' FROM {state} \
                               WHERE name = 'pause-seen'), '')"
        );
        wait_until("the publisher to read the request", LIMIT, async || {
            let seen: String = session.value(&seen).await?;
            Ok(match seen == version {
                true => Ok(()),
                false => Err(format!("{seen}: {}", outboxd.log())),
            })
        })
        .await?;
    }
    Ok(())
}

async fn count(fixture: &Fixture<'_>) -> Result<i64> {
    fixture.kafka.record_count(&[&fixture.topic]).await
}

async fn insert(fixture: &Fixture<'_>, rows: i32) -> Result<()> {
    for _ in 0..rows {
        fixture.database.insert("k", &fixture.topic, "{}").await?;
    }
    Ok(())
}

const STATE: &str = "outbox.outboxd_state";

/// Every row is in Kafka once, in the order of the ids.
async fn once_and_in_order(fixture: &Fixture<'_>, rows: i64) -> Result<()> {
    fixture.all_marked(LIMIT).await?;
    let sent = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let ids: Vec<i64> = sent.iter().filter_map(ConsumedRecord::outbox_id).collect();
    assert_eq!(ids, Vec::from_iter(1..=rows));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_stops_and_goes_on_and_both_are_shown() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let settings = &fixture.settings;
        let session = fixture.database.connect().await?;
        let mut outboxd = Outboxd::spawn(settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        insert(&fixture, 3).await?;
        fixture.all_marked(LIMIT).await?;
        pause(settings).await?;
        insert(&fixture, 3).await?;
        time_to_send(&outboxd, &session, STATE).await?;
        assert_eq!(count(&fixture).await?, 3, "{}", outboxd.log());

        let status = outboxd.status().await?;
        assert_eq!(status["paused"]["reason"], "new consumers");
        assert_eq!(status["phase"], "streaming");
        ensure!(status["paused"]["since"].is_string(), "{status}");
        let by = status["paused"]["by"].as_str().unwrap_or_default();
        ensure!(by.contains("role postgres"), "{by}");
        assert_eq!(outboxd.metric("outboxd_paused").await?, Some(1.0));
        assert_eq!(outboxd.get("/livez").await?.0, 200);
        assert_eq!(outboxd.get("/readyz").await?.0, 200);
        let (_, page) = outboxd.get("/").await?;
        ensure!(page.contains("Paused by "), "{page}");
        let shown = run(settings, &["status"]).await?;
        ensure!(
            shown.contains("paused by ") && shown.contains("new consumers"),
            "{shown}"
        );
        ensure!(shown.contains("outboxd resume"), "{shown}");

        resume(settings).await?;
        once_and_in_order(&fixture, 6).await?;
        assert_eq!(outboxd.status().await?["paused"], Value::Null);
        assert_eq!(outboxd.metric("outboxd_paused").await?, Some(0.0));
        let unchanged = run(settings, &["resume"]).await?;
        ensure!(unchanged.contains("is not paused"), "{unchanged}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let log = outboxd.log();
        ensure!(log.contains("paused, publishing nothing new"), "{log}");
        assert_eq!(
            log.matches("resumed, publishing goes on").count(),
            1,
            "{log}"
        );
    }
    Ok(())
}

/// Stopped, started and killed while it is paused; before a first start as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_process_and_holds_for_a_first_start() -> Result<()> {
    for polls in [false, true] {
        let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
        let settings = match polls {
            true => fixture.settings.polling(),
            false => fixture.settings.clone(),
        };
        let session = fixture.database.connect().await?;
        let stored = run(&settings, &["pause"]).await?;
        ensure!(
            stored.contains("no outboxd runs: the next one pauses"),
            "{stored}"
        );
        insert(&fixture, 5).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        let is_paused = |status: &Value| status["paused"].is_object();
        outboxd
            .wait_for_status("the pause", LIMIT, is_paused)
            .await?;
        time_to_send(&outboxd, &session, STATE).await?;
        assert_eq!(count(&fixture).await?, 0, "{}", outboxd.log());
        // No slot holds back WAL for a backlog that waits.
        assert!(fixture.database.slot(&fixture.slot()).await?.is_none());
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        outboxd.respawn()?;
        outboxd
            .wait_for_status("the pause", LIMIT, is_paused)
            .await?;
        resume(&settings).await?;
        fixture.all_marked(LIMIT).await?;
        if !polls {
            outboxd.wait_for_phase("streaming", LIMIT).await?;
        }
        pause(&settings).await?;
        insert(&fixture, 5).await?;
        outboxd.kill()?;
        outboxd.respawn()?;
        outboxd
            .wait_for_status("the pause", LIMIT, is_paused)
            .await?;
        time_to_send(&outboxd, &session, STATE).await?;
        assert_eq!(count(&fixture).await?, 5, "{}", outboxd.log());
        resume(&settings).await?;
        once_and_in_order(&fixture, 10).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_restarts_and_an_instance_takes_over_while_it_lasts() -> Result<()> {
    let mut server = postgres::private(turn(15), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let settings = &fixture.settings;
    let outboxd = Outboxd::spawn(settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert(&fixture, 2).await?;
    fixture.all_marked(LIMIT).await?;
    pause(settings).await?;
    insert(&fixture, 2).await?;
    // A walsender whose client reads nothing must not hold up the shutdown.
    server.stop(Stop::Fast)?;
    server.resume()?;
    let streams = |status: &Value| status["phase"] == "streaming" && status["reconnects"] != 0;
    outboxd
        .wait_for_status("a new session", LIMIT, streams)
        .await?;
    let session = fixture.database.connect().await?;
    time_to_send(&outboxd, &session, STATE).await?;
    assert_eq!(count(&fixture).await?, 2, "{}", outboxd.log());

    let other = Settings::new(&fixture.database, fixture.kafka)?;
    let mut other = Outboxd::spawn(&other)?;
    other.wait_for_phase("standby", LIMIT).await?;
    assert_eq!(other.status().await?["paused"], Value::Null);
    drop(outboxd);
    other.wait_for_phase("streaming", LIMIT).await?;
    time_to_send(&other, &session, STATE).await?;
    assert_eq!(count(&fixture).await?, 2, "{}", other.log());
    resume(settings).await?;
    once_and_in_order(&fixture, 4).await?;
    assert_eq!(other.stop(LIMIT).await?, 0, "{}", other.log());
    Ok(())
}

/// What was sent before is awaited and marked, and nothing is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_a_backlog_ends_between_two_transactions() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    outboxd.freeze()?;
    for _ in 0..200 {
        fixture.database.fill(&fixture.topic, 20).await?;
    }
    outboxd.thaw()?;
    pause(&fixture.settings).await?;
    let sent = count(&fixture).await?;
    let marked: i64 = session
        .value("SELECT count(*) FROM outbox.outbox WHERE published_at IS NOT NULL")
        .await?;
    assert_eq!((sent, sent % 20), (marked, 0));
    time_to_send(&outboxd, &session, STATE).await?;
    assert_eq!(count(&fixture).await?, sent, "{}", outboxd.log());
    resume(&fixture.settings).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(count(&fixture).await?, 4_000);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_limit_a_warning_says_what_the_wal_costs() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    run(&fixture.settings, &["pause", "--limit", "1s"]).await?;
    let words = [
        "WARN",
        "longer than the limit, the slot retains",
        "outboxd resume",
    ];
    outboxd.wait_for_log(&words, LIMIT).await?;
    resume(&fixture.settings).await?;
    Ok(())
}

/// Installations of before have no such table, and their roles no right on it.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_all_is_as_before_and_a_missing_right_is_named() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
    let (settings, session) = (&fixture.settings, fixture.database.connect().await?);
    session
        .batch_execute("DROP TABLE outbox.outboxd_state")
        .await?;
    let mut outboxd = Outboxd::spawn(settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert(&fixture, 1).await?;
    fixture.all_marked(LIMIT).await?;
    let refused = command(settings, &["pause"], LIMIT).await?;
    let stderr = String::from_utf8(refused.stderr)?;
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    ensure!(
        stderr.contains("there is no table outbox.outboxd_state"),
        "{stderr}"
    );
    ensure!(stderr.contains("run `outboxd init`"), "{stderr}");
    // An unrelated table of that name is neither used nor altered.
    session
        .batch_execute("CREATE TABLE outbox.outboxd_state (name text)")
        .await?;
    let init = run(settings, &["init"]).await?;
    ensure!(
        init.contains("kept      table outbox.outboxd_state"),
        "{init}"
    );
    insert(&fixture, 1).await?;
    fixture.all_marked(LIMIT).await?;
    session
        .batch_execute("DROP TABLE outbox.outboxd_state")
        .await?;
    let init = run(settings, &["init"]).await?;
    ensure!(
        init.contains("created   table outbox.outboxd_state"),
        "{init}"
    );
    pause(settings).await?;
    resume(settings).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    let role = fixture.database.create_role("relay", "REPLICATION").await?;
    run(settings, &["init", "--role", &role]).await?;
    let relay = settings
        .clone()
        .set("DATABASE_URL", fixture.database.url_as(&role));
    let revoke = format!("REVOKE INSERT ON outbox.outboxd_state FROM {role}");
    session.batch_execute(&revoke).await?;
    let refused = command(&relay, &["pause"], LIMIT).await?;
    let stderr = String::from_utf8(refused.stderr)?;
    let grant = "GRANT SELECT, INSERT, UPDATE ON \"outbox\".\"outboxd_state\" TO";
    ensure!(
        stderr.contains("lacks SELECT, INSERT or UPDATE"),
        "{stderr}"
    );
    ensure!(stderr.contains(grant), "{stderr}");
    let outboxd = Outboxd::spawn(&relay)?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    ensure!(outboxd.log().contains(grant), "{}", outboxd.log());
    run(settings, &["init", "--role", &role]).await?;
    let stored = run(&relay, &["pause"]).await?;
    ensure!(stored.contains("no outboxd runs"), "{stored}");
    Ok(())
}
