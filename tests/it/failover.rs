//! The server continues with less than it had: a lagging standby is promoted, or an older copy of
//! its files is restored. Row ids and LSNs are assigned again to other rows and records.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, Kafka};
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS, Server, Session};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// A standby of a server that is stopped for the copy and started again.
fn standby_of(primary: &mut Server) -> Result<Server> {
    let (host, port) = (primary.socket_dir().display().to_string(), primary.port());
    let from = format!("primary_conninfo = 'host={host} port={port} user=postgres'");
    primary.stop(Stop::Fast)?;
    let mut standby = primary.copy(&[&from])?;
    standby.write("data/standby.signal", "")?;
    primary.resume()?;
    standby.resume()?;
    Ok(Server::Process(standby))
}

async fn insert(session: &Session, topic: &str, kind: &str, rows: i64) -> Result<()> {
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
               SELECT $1, $2, jsonb_build_object('n', i) FROM generate_series(1, $3::bigint) i";
    session.execute(sql, &[&kind, &topic, &rows]).await?;
    Ok(())
}

/// The number of different events of this kind that have arrived.
async fn arrived(kafka: &Kafka, topic: &str, kind: &str) -> Result<usize> {
    let consumed = kafka.consume_all(&[topic]).await?;
    let of_kind = consumed
        .iter()
        .filter(|record| record.key.as_deref() == Some(kind.as_bytes()));
    let values: BTreeSet<_> = of_kind.map(|record| record.value.clone()).collect();
    Ok(values.len())
}

async fn wait_until_arrived(kafka: &Kafka, topic: &str, kind: &str, events: usize) -> Result<()> {
    wait_until("the events to arrive", LIMIT, async || {
        let count = arrived(kafka, topic, kind).await?;
        Ok(if count == events {
            Ok(())
        } else {
            Err(format!("{count} of them"))
        })
    })
    .await
}

async fn wait_until_marked(session: &Session) -> Result<()> {
    wait_until("every row to be marked", LIMIT, async || {
        let sql = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        let left: i64 = session.value(sql).await?;
        Ok(if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} rows"))
        })
    })
    .await
}

/// The ids of rows that only the old primary had are assigned again while their write-back is still
/// pending.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_come_back_on_a_promoted_standby_are_published_and_none_is_marked_unpublished()
-> Result<()> {
    for major in MAJORS {
        let mut primary = postgres::private(major, &[])?;
        let fixture = Fixture::create(&primary, kafka::shared()).await?;
        let mut standby = standby_of(&mut primary)?;
        let (here, there) = (primary.port(), standby.port());
        let name = &fixture.database.name;
        let url = format!("postgres://postgres@127.0.0.1:{here},127.0.0.1:{there}/{name}");
        let settings = fixture
            .settings
            .clone()
            .set("DATABASE_URL", url)
            // The write-back waits until it is urgent.
            .set("OUTBOX_BATCH_SIZE", "100000")
            .set("OUTBOX_PROCESS_INTERVAL", "1h");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let old = fixture.database.connect().await?;
        insert(&old, &fixture.topic, "both", 4).await?;
        let end: String = old.value("SELECT pg_current_wal_flush_lsn()::text").await?;
        let new = Session::open(&standby.unix_url(name, "postgres")).await?;
        wait_until("the standby to follow", LIMIT, async || {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
            let caught_up: bool = new.value(&sql).await?;
            Ok(if caught_up {
                Ok(())
            } else {
                Err(String::new())
            })
        })
        .await?;
        new.close().await;
        standby.stop(Stop::Fast)?;

        insert(&old, &fixture.topic, "old", 100).await?;
        outboxd
            .wait_for_status("everything to be published", LIMIT, |status| {
                status["published_total"] == 104 && status["unmarked_records"] == 104
            })
            .await?;
        outboxd.freeze()?;
        primary.kill()?;
        standby.resume()?;
        let new = Session::open(&standby.unix_url(name, "postgres")).await?;
        let promoted: bool = new.value("SELECT pg_promote()").await?;
        ensure!(promoted);
        insert(&new, &fixture.topic, "new", 60).await?;
        let again: i64 = new
            .value("SELECT count(*) FROM outbox.outbox WHERE event_type = 'new' AND id <= 104")
            .await?;
        ensure!(again > 50, "only {again} ids were assigned again");
        outboxd.thaw()?;

        outboxd
            .wait_for_log(&["the server has a different history"], LIMIT)
            .await?;
        wait_until_marked(&new).await?;
        assert_eq!(arrived(fixture.kafka, &fixture.topic, "new").await?, 60);
        assert_eq!(arrived(fixture.kafka, &fixture.topic, "both").await?, 4);
        insert(&new, &fixture.topic, "later", 5).await?;
        wait_until_arrived(fixture.kafka, &fixture.topic, "later", 5).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        wait_until_marked(&new).await?;
    }
    Ok(())
}

/// The same server and timeline at an earlier LSN than outboxd has received: nothing up to that LSN
/// may be skipped.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_servers_files_loses_nothing_that_is_written_to_it() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let settings = fixture
            .settings
            .clone()
            .set("OUTBOX_BATCH_SIZE", "100000")
            .set("OUTBOX_PROCESS_INTERVAL", "1h");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        server.stop(Stop::Fast)?;
        server.keep_copy()?;
        server.resume()?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let old = fixture.database.connect().await?;
        insert(&old, &fixture.topic, "old", 100).await?;
        outboxd
            .wait_for_status("everything to be published", LIMIT, |status| {
                status["published_total"] == 100 && status["unmarked_records"] == 100
            })
            .await?;
        outboxd.freeze()?;
        server.stop(Stop::Immediate)?;
        server.put_back()?;
        server.resume()?;
        let new = fixture.database.connect().await?;
        insert(&new, &fixture.topic, "new", 60).await?;
        let again: i64 = new.value("SELECT max(id) FROM outbox.outbox").await?;
        ensure!(again <= 100, "the ids were not assigned again: {again}");
        outboxd.thaw()?;
        outboxd
            .wait_for_log(&["its files are an older copy"], LIMIT)
            .await?;
        wait_until_arrived(fixture.kafka, &fixture.topic, "new", 60).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        wait_until_marked(&new).await?;
    }
    Ok(())
}
