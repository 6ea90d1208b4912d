//! Alerts about what rises or falls behind, and about an outboxd that is not ready, in a Prometheus
//! that scrapes an outboxd.

use std::process::Child;

use anyhow::{Context, Result, ensure};

use super::{LIMIT, expect, holds, rules};
use crate::support::ephemeral::free_port;
use crate::support::fixture::Fixture;
use crate::support::outboxd::{Outboxd, spawn_unread};
use crate::support::prometheus::Prometheus;
use crate::support::wait::wait_until;
use crate::support::{kafka, postgres};

/// Ends with this value.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the session that reads the slot until outboxd has lost more sessions than the alert allows.
async fn end_sessions(fixture: &Fixture<'_>, outboxd: &Outboxd) -> Result<()> {
    let session = fixture.database.connect().await?;
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
        fixture.slot()
    );
    wait_until("lost sessions", LIMIT, async || {
        session.batch_execute(&end).await?;
        let lost = outboxd.metric("outboxd_reconnects_total").await?;
        Ok((lost > Some(8.0)).then_some(()).ok_or(format!("{lost:?}")))
    })
    .await
}

/// Starts it again and again, each time once Prometheus has seen the start before.
async fn restart(outboxd: &mut Outboxd, address: &str, prometheus: &Prometheus) -> Result<()> {
    for restarts in 1..=3 {
        outboxd.kill()?;
        outboxd.respawn()?;
        outboxd.wait_until_ready(LIMIT).await?;
        let starts = format!(
            "changes(process_start_time_seconds{{instance=\"{address}\"}}[15m]) >= bool {restarts}"
        );
        holds(prometheus, &starts).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rises_fires_its_alert_and_so_does_an_outboxd_that_is_not_ready() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let mut fixtures = Vec::new();
    for _ in 0..5 {
        fixtures.push(Fixture::create(server, kafka::shared()).await?);
    }
    let [letters, sessions, starts, unread, waits] = &mut fixtures[..] else {
        unreachable!("five were made");
    };
    let nowhere = format!("127.0.0.1:{}", free_port()?);
    waits.settings = waits.settings.clone().set("KAFKA_BROKERS", nowhere);
    let filing = Outboxd::spawn(&letters.settings)?;
    let losing = Outboxd::spawn(&sessions.settings)?;
    let mut starting = Outboxd::spawn(&starts.settings)?;
    for outboxd in [&filing, &losing, &starting] {
        outboxd.wait_until_ready(LIMIT).await?;
    }
    let trace = unread.settings.clone().set("OUTBOX_LOG", "trace");
    let _unread = Unread(spawn_unread(&trace)?);
    let targets = [&*letters, sessions, starts, unread, waits].map(|it| it.settings.http());
    let sooner = rules()?.replace("offset 10m", "offset 8s");
    ensure!(sooner.contains("offset 8s"), "no alert looks back");
    let Some(prometheus) = Prometheus::start(&sooner, &targets).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 4").await?;

    let address = starts.settings.http().to_string();
    restart(&mut starting, &address, &prometheus).await?;
    end_sessions(sessions, &losing).await?;
    let dropped = "max(outboxd_log_lines_dropped_total) > bool 0";
    wait_until("dropped lines", LIMIT, async || {
        unread.database.fill(&unread.topic, 500).await?;
        let dropped = prometheus.query(dropped).await?;
        let seen = dropped.first().is_some_and(|(_, value)| value == "1");
        Ok(seen.then_some(()).ok_or(format!("{dropped:?}")))
    })
    .await?;
    // From here on nothing else happens that a wait of this minute would outlast.
    let _waiting = Outboxd::spawn(&waits.settings)?;
    for _ in 0..11 {
        letters.database.insert("a", "no such topic", "{}").await?;
    }
    let about = |fixture: &Fixture<'_>| fixture.database.name.clone();
    let alerts = [
        ("OutboxdDeadLetters", &*about(letters)),
        ("OutboxdDeadLettersRising", &*about(letters)),
        ("OutboxdReconnects", &*about(sessions)),
        ("OutboxdRestarts", &*address),
        ("OutboxdLogLinesDropped", &*about(unread)),
        ("OutboxdNotReady", &*about(waits)),
    ];
    expect(&prometheus, &alerts, LIMIT).await
}

/// A locked row holds the slot back while the server writes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_falls_behind_fires_its_alert_until_it_catches_up() -> Result<()> {
    let server = postgres::private(postgres::turn(15), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_until_ready(LIMIT).await?;
    let sooner = rules()?.replace("1 * 1024 * 1024 * 1024", "32 * 1024 * 1024");
    ensure!(
        sooner.contains("32 * 1024"),
        "no alert has a limit in bytes"
    );
    let targets = [fixture.settings.http()];
    let Some(prometheus) = Prometheus::start(&sooner, &targets).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 1").await?;
    let mut session = fixture.database.connect().await?;
    let lock = session.transaction().await?;
    let id = fixture.database.insert("a", &fixture.topic, "{}").await?;
    let held = "SELECT FROM outbox.outbox WHERE id = $1 AND published_at IS NULL FOR UPDATE";
    ensure!(lock.query(held, &[&id]).await?.len() == 1, "marked already");
    let write = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) \
                   FROM generate_series(1, 64)";
    let other = fixture.database.connect().await?;
    other.batch_execute(write).await?;
    let name = fixture.database.name.as_str();
    expect(&prometheus, &[("OutboxdSlotLag", name)], LIMIT).await?;
    lock.rollback().await.context("the lock ends")?;
    expect(&prometheus, &[], LIMIT).await
}

/// A row that is marked and was never sent, and a program that marks rows beside outboxd.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_kafka_and_a_second_publisher_fire_their_alerts() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let verified = Fixture::create(server, kafka::shared()).await?;
    let beside = Fixture::create(server, kafka::shared()).await?;
    let every = verified.settings.clone().set("OUTBOX_VERIFY_EVERY", "1s");
    let comparing = Outboxd::spawn(&every)?;
    let marking = Outboxd::spawn(&beside.settings)?;
    for outboxd in [&comparing, &marking] {
        outboxd.wait_until_ready(LIMIT).await?;
    }
    let targets = [every.http(), beside.settings.http()];
    let Some(prometheus) = Prometheus::start(&rules()?, &targets).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 2").await?;
    verified.database.fill(&verified.topic, 20).await?;
    verified.all_marked(LIMIT).await?;
    expect(&prometheus, &[], LIMIT).await?;
    let session = verified.database.connect().await?;
    let never_sent = "INSERT INTO outbox.outbox (event_type, topic, event_payload, \
                                                 times_attempted, published_at) \
                      VALUES ('a', $1, '{}', 1, localtimestamp)";
    session.execute(never_sent, &[&verified.topic]).await?;
    let session = beside.database.connect().await?;
    let mark = "UPDATE outbox.outbox SET published_at = localtimestamp WHERE published_at IS NULL";
    wait_until("a row that both have marked", LIMIT, async || {
        beside.database.fill(&beside.topic, 5).await?;
        session.batch_execute(mark).await?;
        let both = marking.metric("outboxd_foreign_marks_total").await?;
        Ok((both > Some(0.0)).then_some(()).ok_or(format!("{both:?}")))
    })
    .await?;
    let alerts = [
        ("OutboxdVerifyWrong", &*verified.database.name),
        ("OutboxdSomebodyElsePublishes", &*beside.database.name),
    ];
    expect(&prometheus, &alerts, LIMIT).await
}
