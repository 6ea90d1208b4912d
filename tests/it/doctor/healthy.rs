//! Healthy set-ups are clean, before the first start and beside a running outboxd, and the doctor
//! changes nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::examine;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, spawn_at_terminal};
use crate::support::postgres::{self, turn};

/// The test broker is alone, so a topic has one replica.
const STATED: [&str; 1] = ["topic-replicas"];

async fn expect_clean(settings: &Settings, also: &[&str]) -> Result<()> {
    let examined = examine(settings).await?;
    ensure!(examined.with("fails").is_empty(), "{examined:#?}");
    ensure!(examined.with("cannot say").is_empty(), "{examined:#?}");
    let stated = [also, &STATED[..]].concat();
    ensure!(examined.with("warning") == stated, "{examined:#?}");
    ensure!(examined.code == Some(0), "{examined:#?}");
    ensure!(examined.report["verdict"] == "warning", "{examined:#?}");
    let ok = examined.report["ok"].as_u64();
    ensure!(
        ok == Some(examined.with("ok").len() as u64),
        "{examined:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_set_ups_are_clean_in_every_mode_and_nothing_is_changed() -> Result<()> {
    let server = postgres::private(
        turn(17),
        &["max_slot_wal_keep_size = 8TB", "autovacuum = off"],
    )?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let database = &fixture.database;
    let role = format!("{}_relay", database.name);
    let delete = fixture
        .settings
        .clone()
        .set("OUTBOX_AFTER_PUBLISH", "delete");
    let init = command(&delete, &["init", "--role", &role], super::LIMIT).await?;
    ensure!(init.status.success(), "{init:?}");
    database
        .insert("kind", &fixture.topic, "{\"a\": 1}")
        .await?;
    let session = database.connect().await?;
    let transactions = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let before: i64 = session.value(transactions).await?;
    let as_role = fixture
        .settings
        .clone()
        .set("DATABASE_URL", database.url_as(&role));
    for (source, after_publish) in [
        ("slot", "mark"),
        ("slot", "delete"),
        ("slot", "keep"),
        ("poll", "mark"),
        ("poll", "delete"),
    ] {
        let settings = as_role.clone().set("OUTBOX_SOURCE", source);
        let settings = settings.set("OUTBOX_AFTER_PUBLISH", after_publish);
        let mode = format!("{source} {after_publish}");
        expect_clean(&settings, &[]).await.context(mode)?;
    }
    assert_eq!(session.value::<i64>(transactions).await?, before);
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(session.value::<i64>(slots).await?, 0);
    assert_eq!(database.unpublished().await?, 1);
    assert_eq!(kafka::shared().record_count(&[&fixture.topic]).await?, 0);

    let mut outboxd = Outboxd::spawn(&as_role)?;
    outboxd.wait_for_phase("streaming", super::LIMIT).await?;
    database.all_marked(super::LIMIT).await?;
    expect_clean(&as_role, &[]).await?;
    let output = command(&as_role, &["doctor"], super::LIMIT).await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in [
        "Postgres\n",
        "\nKafka\n",
        "reads outboxd_",
        "publishes",
        "0 fail",
    ] {
        ensure!(text.contains(words), "no {words} in {text}");
    }
    ensure!(!text.contains('\u{1b}'), "{text}");
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(
        outboxd.stop(Duration::from_secs(20)).await?,
        0,
        "{}",
        outboxd.log()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_have_colours_at_a_terminal_unless_they_are_switched_off() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let shown = async |settings: Settings| {
        let script = spawn_at_terminal(&settings, "doctor")?;
        let output = tokio::task::spawn_blocking(|| script.wait_with_output()).await??;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let coloured = shown(fixture.settings.clone()).await?;
    for verdict in ["\u{1b}[32mok", "\u{1b}[33mwarning"] {
        ensure!(coloured.contains(verdict), "no {verdict:?} in {coloured:?}");
    }
    let plain = shown(fixture.settings.clone().set("NO_COLOR", "1")).await?;
    ensure!(
        plain.contains("Postgres") && !plain.contains('\u{1b}'),
        "{plain:?}"
    );
    Ok(())
}
