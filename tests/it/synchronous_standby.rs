//! Synchronous replication: while the standby is absent, events are published although their rows
//! are not visible yet, and nothing is confirmed. outboxd itself never is a synchronous standby.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{MAJORS, Server, private, standby};
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Lets every commit wait for a standby of this name; with an empty name commits do not wait.
async fn synchronous(server: &mut Server, fixture: &Fixture<'_>, name: &str) -> Result<()> {
    server.configure(&[format!("synchronous_standby_names = '{name}'")])?;
    server.reload()?;
    let session = fixture.database.connect().await?;
    wait_for("the server to apply the setting", LIMIT, async || {
        let now: String = session.value("SHOW synchronous_standby_names").await?;
        Ok((now == name).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_synchronous_standby_is_absent_events_go_out_and_nothing_is_confirmed() -> Result<()>
{
    for major in MAJORS {
        let mut server = private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let settings = fixture.settings.clone();
        let mut outboxd = Outboxd::spawn(
            &settings
                .set("OUTBOX_OPERATION_TIMEOUT", "3s")
                .set("OUTBOX_BATCH_SIZE", "1"),
        )?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let seen = fixture.database.insert("k", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        let session = fixture.database.connect().await?;
        let confirmed = format!(
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
            fixture.slot()
        );
        synchronous(&mut server, &fixture, "other").await?;

        let mut writers = JoinSet::new();
        for _ in 0..3 {
            let (url, topic) = (
                fixture.database.unix_url().to_owned(),
                fixture.topic.clone(),
            );
            writers.spawn(async move {
                let session = crate::support::postgres::Session::open(&url).await?;
                let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                           VALUES ('k', $1, '{}')";
                anyhow::Ok(session.execute(sql, &[&topic]).await?)
            });
        }
        wait_until(
            "the events of rows that are not visible",
            LIMIT,
            async || {
                Ok(match fixture.kafka.record_count(&[&fixture.topic]).await? {
                    4 => Ok(()),
                    records => Err(format!("{records} records: {}", outboxd.log())),
                })
            },
        )
        .await?;
        let hidden: String = session
            .value("SELECT pg_current_wal_insert_lsn()::text")
            .await?;
        let past = format!("SELECT ({confirmed}) >= '{hidden}'::pg_lsn");
        let rows = "SELECT array_agg(id) FROM outbox.outbox";
        assert_eq!(session.value::<Vec<i64>>(rows).await?, [seen]);
        // The wait goes on while the rows are tried again and again.
        let named = |status: &serde_json::Value| {
            let waiting = &status["waiting"];
            waiting["on"] == "standby" && waiting["seconds"].as_f64() > Some(10.0)
        };
        outboxd
            .wait_for_status("the wait for the standby", LIMIT, named)
            .await?;

        // A visible row: its write-back waits for the standby too, but only for the operation
        // time-out.
        session
            .batch_execute("SET synchronous_commit = local")
            .await?;
        let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                   VALUES ('k', $1, '{}') RETURNING id";
        let local: i64 = session
            .query_one(sql, &[&fixture.topic])
            .await?
            .try_get(0)?;
        let marked =
            format!("SELECT published_at IS NOT NULL FROM outbox.outbox WHERE id = {local}");
        wait_until("a visible row to be marked", LIMIT, async || {
            Ok(match session.value::<bool>(&marked).await? {
                true => Ok(()),
                false => Err(format!("{}: {}", outboxd.status().await?, outboxd.log())),
            })
        })
        .await?;
        ensure!(
            !session.value::<bool>(&past).await?,
            "confirmed and not marked as published"
        );
        ensure!(outboxd.get("/livez").await?.0 == 200);
        ensure!(
            writers.try_join_next().is_none(),
            "a commit returned without its standby"
        );

        synchronous(&mut server, &fixture, "").await?;
        while let Some(writer) = writers.join_next().await {
            assert_eq!(writer??, 1);
        }
        fixture.all_marked(LIMIT).await?;
        wait_for("the slot to pass them", LIMIT, async || {
            Ok(session.value::<bool>(&past).await?.then_some(()))
        })
        .await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
        let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
        assert_eq!(session.value::<i64>(dead_letters).await?, 0);
    }
    Ok(())
}

/// Walsenders of outboxd that the server counts as synchronous standbys, or could.
const CANDIDATES: &str = "SELECT count(*) FROM pg_stat_replication \
                          WHERE application_name = 'outboxd' AND sync_priority > 0";

/// While outboxd fits `synchronous_standby_names`, it reads nothing and says what to change.
async fn stays_away(fixture: &Fixture<'_>, outboxd: &Outboxd, names: &str) -> Result<()> {
    let what = format!("outboxd to leave with {names}");
    outboxd
        .wait_for_status(&what, LIMIT, |status| status["phase"] != "streaming")
        .await?;
    outboxd
        .wait_for_log(&["synchronous_standby_names", "ALTER SYSTEM SET"], LIMIT)
        .await?;
    let session = fixture.database.connect().await?;
    let mut seen = 0;
    wait_for("three seconds without a candidate", LIMIT, async || {
        let count: i64 = session.value(CANDIDATES).await?;
        seen = if count == 0 { seen + 1 } else { 0 };
        Ok((seen > 150).then_some(()))
    })
    .await?;
    let (code, why) = outboxd.get("/readyz").await?;
    ensure!(
        code == 503 && why.contains("synchronous_standby_names"),
        "{code}: {why}"
    );
    ensure!(outboxd.get("/livez").await?.0 == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_never_a_synchronous_standby_whatever_names_it() -> Result<()> {
    let mut server = private(crate::support::postgres::turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    for names in [
        "*",
        "ANY 1 (away, \"OutboxD\")",
        "FIRST 2 (away, outboxd, other)",
    ] {
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        synchronous(&mut server, &fixture, names).await?;
        stays_away(&fixture, &outboxd, names).await?;
        synchronous(&mut server, &fixture, "").await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.database.insert("k", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // A start that finds it so ends with the statement to run.
    synchronous(&mut server, &fixture, "*").await?;
    outboxd.respawn()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(log.contains("synchronous_standby_names"), "{log}");
    synchronous(&mut server, &fixture, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_healthy_standby_it_leaves_the_commits_to_the_standby() -> Result<()> {
    let mut primary = private(crate::support::postgres::turn(15), &[])?;
    let fixture = Fixture::create(&primary, kafka::shared()).await?;
    primary.stop(Stop::Fast)?;
    let _standby = standby(&primary, &["cluster_name = 'healthy'"])?;
    primary.resume()?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    let healthy = "SELECT count(*) FROM pg_stat_replication \
                   WHERE application_name = 'healthy' AND state = 'streaming'";
    wait_for("the standby", LIMIT, async || {
        Ok((session.value::<i64>(healthy).await? == 1).then_some(()))
    })
    .await?;
    synchronous(&mut primary, &fixture, "*").await?;
    stays_away(&fixture, &outboxd, "*").await?;
    // Commits need the standby alone.
    let waiting = fixture.database.insert("k", &fixture.topic, "{}").await?;
    ensure!(
        fixture.database.unpublished().await? == 1,
        "row {waiting} is sent"
    );
    synchronous(&mut primary, &fixture, "healthy").await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    synchronous(&mut primary, &fixture, "").await
}
