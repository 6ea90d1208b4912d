//! Synchronous replication: while the standby is absent, events are published although their rows
//! are not visible yet, and nothing is confirmed.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::support::ephemeral::Server;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{MAJORS, private};
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
        synchronous(&mut server, &fixture, "nobody").await?;

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
        let named = |status: &serde_json::Value| status["waiting"]["on"] == "standby";
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
