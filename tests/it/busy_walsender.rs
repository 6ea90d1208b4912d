//! A walsender that decodes other tables' changes for a long time: outboxd keeps the session, and
//! the status names the wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS};
use crate::support::process::{freeze, signal};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(60);

/// Suspends a server process for 98 % of the time, until this is dropped.
struct Slowed {
    task: tokio::task::JoinHandle<Result<()>>,
    pid: i32,
}

impl Slowed {
    fn start(pid: i32) -> Slowed {
        let task = tokio::spawn(async move {
            loop {
                freeze(pid)?;
                tokio::time::sleep(Duration::from_millis(490)).await;
                signal(pid, "CONT")?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Slowed { task, pid }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.task.abort();
        let _it_may_have_ended = signal(self.pid, "CONT");
    }
}

/// A slowed walsender decodes a table rewrite. Before Postgres 16 it neither sends nor reads
/// messages until it is done; since then it sends keepalives meanwhile, so that there is no wait to
/// name.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_that_a_walsender_chews_on_is_named_and_ends_no_session() -> Result<()> {
    let _turn = heavy().await;
    let major = postgres::turn(15);
    let server = postgres::private(major, &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    let walsender = fixture
        .database
        .slot(&fixture.slot())
        .await?
        .and_then(|slot| slot.active_pid);
    let walsender = walsender.context("a session")?;
    session
        .batch_execute("CREATE TABLE big AS SELECT i FROM generate_series(1, 1500000) i")
        .await?;
    let slowed = Slowed::start(walsender);
    session
        .batch_execute("ALTER TABLE big ALTER COLUMN i TYPE bigint")
        .await?;
    fixture
        .database
        .insert("behind", &fixture.topic, "{}")
        .await?;
    if major < 16 {
        outboxd
            .wait_for_status("decoding to be named", LIMIT * 4, |status| {
                status["waiting"]["on"] == "decoding"
            })
            .await?;
        let waiting = outboxd
            .metric("outboxd_waiting_seconds{wait=\"decoding\"}")
            .await?;
        assert!(waiting > Some(0.0));
    }
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    drop(slowed);
    fixture.all_marked(LIMIT).await?;
    outboxd
        .wait_for_status("the wait to end", LIMIT, |status| {
            status["waiting"].is_null()
        })
        .await?;
    let status = outboxd.status().await?;
    assert_eq!(
        (&status["reconnects"], &status["published_total"]),
        (&0.into(), &1.into())
    );
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// The same without slowing the walsender, with enough rows that it is silent for longer than any
/// time-out.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_of_twenty_million_rows_ends_no_session() -> Result<()> {
    if !is_long_run("decoding: a refresh of twenty million rows") {
        return Ok(());
    }
    let _turn = heavy().await;
    for major in MAJORS {
        let server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        let view = "CREATE MATERIALIZED VIEW big AS SELECT i FROM generate_series(1, 20000000) i";
        session.batch_execute(view).await?;
        let began = Instant::now();
        session
            .batch_execute("REFRESH MATERIALIZED VIEW big")
            .await?;
        fixture
            .database
            .insert("behind", &fixture.topic, "{}")
            .await?;
        let mut named = false;
        while fixture.database.unpublished().await? > 0 {
            assert!(
                began.elapsed() < LIMIT * 10,
                "nothing came in {:?}",
                began.elapsed()
            );
            let status = outboxd.status().await?;
            named |= status["waiting"]["on"] == "decoding";
            assert_eq!(
                (&status["reconnects"], &status["phase"]),
                (&0.into(), &"streaming".into())
            );
            assert_eq!(outboxd.get("/livez").await?.0, 200);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Since Postgres 16 a walsender sends keepalives while it skips changes.
        assert!(
            named || major > 15,
            "the walsender was never silent for long enough in {:?}",
            began.elapsed()
        );
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}
