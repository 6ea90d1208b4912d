//! Faults of a whole server, each server with several that do not hide each other.

use std::time::Duration;

use anyhow::Result;

use super::examine;
use crate::support::clocks::Clocks;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::postgres::{self, turn};

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_leave_no_room_are_named_with_what_fixes_them() -> Result<()> {
    let server = postgres::private(
        turn(15),
        &[
            "wal_level = replica",
            "max_replication_slots = 1",
            "max_wal_senders = 0",
            "synchronous_standby_names = '*'",
            "max_connections = 8",
        ],
    )?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let examined = examine(&fixture.settings).await?;
    for (check, verdict, words) in [
        (
            "wal-level",
            "fails",
            ["wal_level is replica", "ALTER SYSTEM SET wal_level"],
        ),
        (
            "free-slots",
            "fails",
            ["0 of 1 replication slots", "max_replication_slots = 2"],
        ),
        (
            "free-walsenders",
            "fails",
            ["0 of 0 walsenders", "max_wal_senders = 2"],
        ),
        (
            "synchronous-standby",
            "fails",
            ["'*'", "ALTER SYSTEM SET synchronous_standby"],
        ),
        (
            "connections",
            "warning",
            ["of 5 connections", "max_connections"],
        ),
        (
            "wal-retention",
            "warning",
            ["max_slot_wal_keep_size is -1", "pg_reload_conf"],
        ),
        (
            "replication-connection",
            "cannot say",
            ["not reached", "wal-level"],
        ),
    ] {
        examined.expect(check, verdict, &words)?;
    }
    let poll = examine(&fixture.settings.polling()).await?;
    poll.expect("connections", "warning", &["of 5 connections"])?;
    assert!(poll.with("fails").is_empty(), "{poll:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_endangers_the_slot_or_holds_it_up_is_named_with_what_fixes_it() -> Result<()> {
    let server = postgres::private(
        17,
        &[
            "max_slot_wal_keep_size = 64MB",
            "synchronized_standby_slots = 'absent'",
            "autovacuum = off",
        ],
    )?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let database = &fixture.database;
    let session = database.connect().await?;
    let make = "SELECT pg_create_logical_replication_slot('outboxd_orders', 'pgoutput')";
    session.batch_execute(make).await?;
    database.fill(&fixture.topic, 30_000).await?;
    // 0x3254cad55bbb4f4f is the key of the lock of outboxd_orders.
    session
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(3626746617655938895); \
             INSERT INTO outbox.outbox (event_type, topic, event_payload) VALUES ('k', 't', '{}'); \
             PREPARE TRANSACTION 'forgotten'",
        )
        .await?;
    // The prepared transaction keeps dead rows from being pruned.
    for _ in 0..2 {
        let mark = "UPDATE outbox.outbox SET published_at = now()";
        session.batch_execute(mark).await?;
    }
    session
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .await?;
    for _ in 0..6 {
        let write = "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()";
        session.batch_execute(write).await?;
    }
    let settings = fixture
        .settings
        .clone()
        .set("OUTBOX_SLOT", "outboxd_orders");
    let examined = examine(&settings).await?;
    for (check, verdict, words) in [
        (
            "prepared-transactions",
            "warning",
            ["'forgotten'", "ROLLBACK PREPARED"],
        ),
        (
            "lock",
            "fails",
            ["prepared transaction", "pg_prepared_xacts"],
        ),
        (
            "failover",
            "fails",
            ["slot absent", "synchronized_standby_slots"],
        ),
        (
            "failover",
            "warning",
            ["no failover flag", "restart outboxd"],
        ),
        ("slot", "warning", ["no process reads", "outboxd drop"]),
        (
            "wal-retention",
            "fails",
            ["next checkpoint", "max_slot_wal_keep_size"],
        ),
        ("bloat", "warning", ["dead rows", "VACUUM"]),
    ] {
        examined.expect(check, verdict, &words)?;
    }
    session.batch_execute("CHECKPOINT").await?;
    let heals = examine(&settings).await?;
    heals.expect("slot", "warning", &["is lost", "outboxd run"])?;
    let halts = examine(&settings.set("OUTBOX_ON_SLOT_LOSS", "halt")).await?;
    halts.expect("slot", "fails", &["is lost", "OUTBOX_ON_SLOT_LOSS=heal"])?;
    session
        .batch_execute("ROLLBACK PREPARED 'forgotten'")
        .await?;
    Ok(())
}

/// The transaction began before the server's clock went on by ten minutes, and holds back what the
/// slot may forget.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_and_a_wrong_clock_are_named_with_what_fixes_them() -> Result<()> {
    let clocks = Clocks::new()?;
    let binaries = clocks.of_server(postgres::binaries(turn(17))?)?;
    let server = postgres::private_by(&binaries)?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let open = fixture.database.connect().await?;
    let pid: i32 = open.value("SELECT pg_backend_pid()").await?;
    let write = "BEGIN; INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 VALUES ('k', 't', '{}')";
    open.batch_execute(write).await?;
    let now = examine(&fixture.settings).await?;
    now.expect("long-transactions", "ok", &[])?;
    now.expect("clock", "ok", &[])?;
    clocks.shift(0, 600)?;
    let later = examine(&fixture.settings).await?;
    later.expect(
        "long-transactions",
        "warning",
        &[
            "10 min, has written",
            &format!("pg_terminate_backend({pid})"),
        ],
    )?;
    later.expect("clock", "warning", &["ahead of", "NTP"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_soon_at_the_present_rate_is_named_with_the_time() -> Result<()> {
    let server = postgres::private(turn(17), &["max_slot_wal_keep_size = 8GB"])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let writer = fixture.database.connect().await?;
    let writing = async {
        loop {
            let write = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))";
            writer.batch_execute(write).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let examined = tokio::select! {
        error = writing => return error,
        examined = examine(&fixture.settings) => examined?,
    };
    examined.expect(
        "wal-retention",
        "warning",
        &[
            "a slot that is not read is lost in",
            "max_slot_wal_keep_size",
        ],
    )
}
