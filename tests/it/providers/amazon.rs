//! Amazon RDS and Aurora: `rds_replication` in the place of the attribute, and functions of the WAL
//! that refuse while logical decoding is off.

use anyhow::{Result, ensure};

use super::{LIMIT, doctor, init, insert, publishes_across_a_restart, settings, status};
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::MAJORS;
use crate::support::provider::{Provider, Simulated, State};

const ON: State = State {
    decodes: true,
    gives_replication: false,
};
const OFF: State = State {
    decodes: false,
    gives_replication: false,
};

#[tokio::test(flavor = "multi_thread")]
async fn on_rds_the_master_user_prepares_a_role_that_publishes() -> Result<()> {
    let kafka = kafka::shared();
    for major in MAJORS {
        let simulated = Simulated::start(Provider::Rds, major, ON).await?;
        let (code, said) = init(&simulated).await?;
        ensure!(code == Some(0), "{said}");
        ensure!(
            said.contains("membership of role outboxd in rds_replication"),
            "{said}"
        );
        simulated.let_replicate("outboxd").await?;
        let settings = settings(&simulated, kafka)?;
        let session = simulated.database.connect().await?;
        let topic = kafka.topic("rds", 2).await?;
        publishes_across_a_restart(&session, kafka, &topic, &settings).await?;
        let examined = doctor(&settings).await?;
        assert_eq!(examined.with("fails"), [""; 0], "{}", examined.text);
        assert_eq!(examined.with("cannot say"), [""; 0], "{}", examined.text);
        let found = status(&settings).await?;
        ensure!(found["slot_exists"] == true, "{found}");
        let mut outboxd = Outboxd::spawn(&settings)?;
        let live = outboxd.wait_for_phase("streaming", LIMIT).await?;
        ensure!(
            live["system_id"].is_string(),
            "the walsender shows it: {live}"
        );
        ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_setting_rds_is_named_with_what_to_set_there() -> Result<()> {
    let simulated = Simulated::start(Provider::Rds, 17, OFF).await?;
    let (_, said) = init(&simulated).await?;
    ensure!(said.contains("rds.logical_replication"), "{said}");
    simulated
        .admin()
        .await?
        .batch_execute("REVOKE rds_replication FROM outboxd")
        .await?;
    let settings = settings(&simulated, kafka::shared())?;
    let output = command(&settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for words in [
        "rds.logical_replication",
        "GRANT rds_replication TO \"outboxd\"",
    ] {
        ensure!(stderr.contains(words), "{stderr}");
    }
    ensure!(!stderr.contains("ALTER SYSTEM"), "{stderr}");
    Ok(())
}

/// Errors of the WAL's functions in the server's log.
fn refusals(simulated: &Simulated) -> usize {
    simulated
        .server
        .log()
        .matches("ERROR:  wal_level must")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_aurora_polling_asks_for_nothing_of_the_wal_and_streaming_begins_with_its_setting()
-> Result<()> {
    let kafka = kafka::shared();
    for major in MAJORS {
        let mut simulated = Simulated::start(Provider::Aurora, major, OFF).await?;
        let (_, said) = init(&simulated).await?;
        ensure!(said.contains("rds.logical_replication"), "{said}");
        let (settings, topic) = (
            settings(&simulated, kafka)?,
            kafka.topic("aurora", 2).await?,
        );
        let polling = settings.polling();
        let session = simulated.database.connect().await?;
        publishes_across_a_restart(&session, kafka, &topic, &polling).await?;
        let examined = doctor(&polling).await?;
        assert_eq!(examined.with("fails"), [""; 0], "{}", examined.text);
        let found = status(&polling).await?;
        ensure!(found["unpublished_rows"] == 0, "{found}");
        assert_eq!(refusals(&simulated), 0, "{}", simulated.server.log());

        // A slot cannot be had: each command says what is missing, and none invents a fact.
        let output = command(&settings, &["run"], LIMIT).await?;
        let stderr = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        ensure!(stderr.contains("rds.logical_replication"), "{stderr}");
        let examined = doctor(&settings).await?;
        assert_eq!(examined.with("fails"), ["wal-level"], "{}", examined.text);
        let unanswered = examined.with("cannot say");
        let expected = ["replication-connection", "wal-retention"];
        assert_eq!(unanswered, expected, "{}", examined.text);
        let found = status(&settings).await?;
        ensure!(
            found["slot_exists"] == false && found["wal_status"].is_null(),
            "{found}"
        );
        let problems = found["problems"].to_string();
        ensure!(problems.contains("rds.logical_replication"), "{problems}");

        drop(session);
        simulated.restart(true)?;
        simulated.let_replicate("outboxd").await?;
        let session = simulated.database.connect().await?;
        publishes_across_a_restart(&session, kafka, &topic, &settings).await?;
        let examined = doctor(&settings).await?;
        assert_eq!(examined.with("fails"), [""; 0], "{}", examined.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_knows_no_history_still_sees_a_restart_of_the_server() -> Result<()> {
    let kafka = kafka::shared();
    let mut simulated = Simulated::start(Provider::Aurora, 17, OFF).await?;
    init(&simulated).await?;
    let (settings, topic) = (
        settings(&simulated, kafka)?,
        kafka.topic("aurora", 2).await?,
    );
    let mut outboxd = Outboxd::spawn(&settings.polling())?;
    let live = outboxd.wait_for_phase("polling", LIMIT).await?;
    ensure!(
        live["system_id"].is_null() && live["timeline"].is_null(),
        "{live}"
    );
    for _restart in 0..2 {
        let session = simulated.database.connect().await?;
        insert(&session, &topic, 10).await?;
        simulated.database.all_marked(LIMIT).await?;
        drop(session);
        simulated.restart(false)?;
    }
    insert(&simulated.database.connect().await?, &topic, 10).await?;
    simulated.database.all_marked(LIMIT).await?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    assert_eq!(kafka.consume_all(&[&topic]).await?.len(), 30);
    Ok(())
}
