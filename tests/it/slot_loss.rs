//! A lost slot, whatever the cause, is reported, and is healed from the table or left to the
//! operator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings};
use crate::support::postgres::{self, MAJORS};
use crate::support::wait::{wait_for, wait_until};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// Time limit from the loss to its name. A new slot waits for all transactions of the server, those
/// of other tests included, for up to [`LIMIT`].
const NOTICED: Duration = Duration::from_secs(15);

const HEALS: &str = "outboxd_slot_heals_total";
const PATTERN: Pattern = Pattern {
    rows: 3,
    rest: Duration::from_millis(5),
};

async fn expect_healed(outboxd: &Outboxd, heals: f64) -> Result<()> {
    wait_until("a new slot", LIMIT, async || {
        let metric = outboxd.metric(HEALS).await?;
        Ok(if metric == Some(heals) {
            Ok(())
        } else {
            Err(format!("{metric:?}\n{}", outboxd.log()))
        })
    })
    .await?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_dropped_under_load_is_created_again_and_nothing_is_missing() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        let session = fixture.database.connect().await?;
        for heals in [1.0, 2.0] {
            session.drop_slot(&fixture.slot(), LIMIT).await?;
            expect_healed(&outboxd, heals).await?;
            outboxd.wait_for_log(&["no longer exists"], LIMIT).await?;
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        ensure!(
            report.missing.is_empty() && report.phantom.is_empty() && report.altered.is_empty(),
            "{report}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_has_invalidated_is_created_again_and_nothing_is_missing()
-> Result<()> {
    for major in MAJORS {
        let server = postgres::private(major, &["max_slot_wal_keep_size = 16MB"])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture
            .database
            .insert("before", &fixture.topic, "{}")
            .await?;
        fixture.all_marked(LIMIT).await?;
        outboxd.freeze()?;
        let session = fixture.database.connect().await?;
        wait_until("the slot to be lost", LIMIT, async || {
            fixture
                .database
                .insert("meanwhile", &fixture.topic, "{}")
                .await?;
            session
                .batch_execute("SELECT pg_switch_wal(); CHECKPOINT")
                .await?;
            let slot = fixture.database.slot(&fixture.slot()).await?;
            let status = slot.and_then(|slot| slot.wal_status);
            Ok(match status.as_deref() {
                Some("lost") => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await?;
        outboxd.thaw()?;
        expect_healed(&outboxd, 1.0).await?;
        let line = outboxd
            .wait_for_log(&["is lost", "confirmed up to"], LIMIT)
            .await?;
        ensure!(line.contains("removed"), "{line}");
        fixture
            .database
            .insert("after", &fixture.topic, "{}")
            .await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let written: i64 = session.value("SELECT count(*) FROM outbox.outbox").await?;
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let ids: std::collections::BTreeSet<_> =
            consumed.iter().map(|record| record.outbox_id()).collect();
        assert_eq!(ids.len() as i64, written);
    }
    Ok(())
}

/// A slot decodes with the catalogs as of its position: it never passes an interval in which its
/// publication did not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_dropped_and_created_again_is_named_and_healed() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        session.batch_execute("DROP PUBLICATION outboxd").await?;
        fixture
            .database
            .insert("meanwhile", &fixture.topic, "{}")
            .await?;
        // outboxd cannot publish now, and waits for the publication.
        wait_until("the missing publication to be named", NOTICED, async || {
            let (code, body) = outboxd.get("/readyz").await?;
            let named = code == 503 && body.contains("there is no publication outboxd");
            Ok(if named { Ok(()) } else { Err(body) })
        })
        .await?;
        outboxd
            .wait_for_log(&["there is no publication outboxd"], LIMIT)
            .await?;
        session
            .batch_execute(
                "CREATE PUBLICATION outboxd FOR TABLE outbox.outbox WITH (publish = 'insert')",
            )
            .await?;
        fixture
            .database
            .insert("after", &fixture.topic, "{}")
            .await?;
        expect_healed(&outboxd, 1.0).await?;
        let words = ["its publication was dropped and recreated"];
        outboxd.wait_for_log(&words, LIMIT).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let kinds: std::collections::BTreeSet<_> = consumed
            .iter()
            .filter_map(|record| record.key.clone())
            .collect();
        assert_eq!(kinds.len(), 2, "{consumed:?}");
    }
    Ok(())
}

/// Nothing that is said or decided about a lost slot waits for Kafka.
/// With `keep` the table does not show what the publication left out: outboxd ends before the slot
/// passes it, at the next start too, and sends nothing that was committed later.
#[tokio::test(flavor = "multi_thread")]
async fn with_keep_the_slot_never_passes_what_a_dropped_publication_has_left_out() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let keeps = fixture.settings.clone().set("OUTBOX_AFTER_PUBLISH", "keep");
        let mut outboxd = Outboxd::spawn(&keeps)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let before = fixture.database.insert("before", &fixture.topic, "{}");
        before.await?;
        let sent = async || {
            let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
            Ok((count == 1).then_some(()))
        };
        wait_for("the event before the loss", LIMIT, sent).await?;
        let session = fixture.database.connect().await?;
        session.batch_execute("DROP PUBLICATION outboxd").await?;
        let left_out = fixture.database.insert("left out", &fixture.topic, "{}");
        left_out.await?;
        assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
        let log = outboxd.log();
        ensure!(log.contains("there is no publication outboxd"), "{log}");
        let create = "CREATE PUBLICATION outboxd FOR TABLE outbox.outbox WITH (publish = 'insert')";
        session.batch_execute(create).await?;
        let after = fixture.database.insert("after", &fixture.topic, "{}");
        after.await?;
        outboxd.respawn()?;
        assert_eq!(outboxd.wait(LIMIT).await?, 1, "{}", outboxd.log());
        let log = outboxd.log();
        let words = [
            "its publication was dropped and recreated",
            "send them again by hand",
        ];
        ensure!(words.iter().all(|words| log.contains(words)), "{log}");
        sent().await?.context("more than one record was sent")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_while_kafka_is_away_is_named_at_once_and_healed_or_left() -> Result<()>
{
    let mut broker = kafka::private(&[])?;
    for policy in ["heal", "halt"] {
        let fixture = Fixture::create(postgres::shared(postgres::turn(17)), &broker).await?;
        let (slot, topic) = (fixture.slot(), fixture.topic.clone());
        let settings = fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", policy);
        let database = fixture.database;
        let mut outboxd = Outboxd::spawn(&settings.set("OUTBOX_OPERATION_TIMEOUT", "5s"))?;
        outboxd.wait_until_ready(LIMIT).await?;
        broker.freeze()?;
        database.insert("held", &topic, "{}").await?;
        outboxd
            .wait_for_status("the event to be held", LIMIT, |status| {
                status["in_flight_records"] == 1
            })
            .await?;
        database.connect().await?.drop_slot(&slot, LIMIT).await?;
        outboxd
            .wait_for_log(&["WARN", "the slot is lost", "no longer exists"], NOTICED)
            .await?;
        if policy == "halt" {
            assert_eq!(outboxd.wait(NOTICED * 2).await?, 1, "{}", outboxd.log());
            broker.thaw()?;
            continue;
        }
        broker.thaw()?;
        expect_healed(&outboxd, 1.0).await?;
        let session = database.connect().await?;
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        session.wait_for_value("the mark", left, 0, LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_halt_a_lost_slot_ends_it_and_the_next_start_asks() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", "halt"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture
        .database
        .insert("before", &fixture.topic, "{}")
        .await?;
    fixture.all_marked(LIMIT).await?;
    let session = fixture.database.connect().await?;
    session.drop_slot(&fixture.slot(), LIMIT).await?;
    assert_eq!(outboxd.wait(NOTICED).await?, 1);
    let log = outboxd.log();
    ensure!(
        log.contains("SLOT_ERROR: slot") && log.contains("no longer exists"),
        "{log}"
    );
    ensure!(log.contains("--on-slot-loss heal"), "{log}");

    fixture
        .database
        .insert("missed", &fixture.topic, "{}")
        .await?;
    outboxd.respawn()?;
    assert_eq!(outboxd.wait(LIMIT).await?, 2);
    ensure!(outboxd.log().contains("has 1 unpublished rows"));
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 1);

    let heals = outboxd.settings().clone().without("OUTBOX_ON_SLOT_LOSS");
    *outboxd.settings() = heals;
    outboxd.respawn()?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 2);
    Ok(())
}

/// Slot names are shared by all databases of a server.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_another_database_is_left_alone() -> Result<()> {
    for major in MAJORS {
        let owner = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let mut first = Outboxd::spawn(&owner.settings)?;
        first.wait_for_phase("streaming", LIMIT).await?;
        let intruder = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let settings = intruder.settings.clone().set("OUTBOX_SLOT", owner.slot());
        let active_pid = async || {
            let slot = owner.database.slot(&owner.slot()).await?;
            anyhow::Ok(slot.and_then(|slot| slot.active_pid))
        };
        let reader = active_pid().await?;
        for _ in 0..2 {
            let second = Outboxd::spawn(&settings)?;
            assert_eq!(second.wait(LIMIT).await?, 2);
            let log = second.log();
            let words = format!("belongs to database {}", owner.database.name);
            ensure!(log.contains(&words), "{log}");
            // The same while nothing reads the slot.
            if reader.is_some() && first.pid().is_some() {
                assert_eq!(active_pid().await?, reader);
                assert_eq!(first.stop(LIMIT).await?, 0);
            }
        }
        owner.database.insert("kept", &owner.topic, "{}").await?;
        first.respawn()?;
        owner.all_marked(LIMIT).await?;
        assert_eq!(first.metric(HEALS).await?, Some(0.0));
        assert_eq!(
            first.metric("outboxd_slot_bootstraps_total").await?,
            Some(0.0)
        );
    }
    Ok(())
}

/// The warning comes while the slot can still be saved.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_nearly_lost_is_a_warning_before_it_is_lost() -> Result<()> {
    for major in MAJORS {
        let server = postgres::private(major, &["max_slot_wal_keep_size = 64MB"])?;
        let mut kafka = kafka::private(&[])?;
        let fixture = Fixture::create(&server, &kafka).await?;
        let topic = fixture.topic.clone();
        let (database, settings) = (fixture.database, fixture.settings);
        let outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        kafka.freeze()?;
        database.insert("held", &topic, "{}").await?;
        let session = database.connect().await?;
        for _ in 0..5 {
            session
                .batch_execute("SELECT pg_current_xact_id(); SELECT pg_switch_wal()")
                .await?;
        }
        let status = outboxd
            .wait_for_status("the warning", NOTICED, |status| {
                status["troubles"][0]["name"] == "slot-nearly-lost"
            })
            .await?;
        ensure!(status["troubles"][0]["loses_events"] == false, "{status}");
        let metric = "outboxd_trouble{trouble=\"slot-nearly-lost\"}";
        assert_eq!(outboxd.metric(metric).await?, Some(1.0));
        outboxd.wait_until_ready(LIMIT).await?;
        outboxd.wait_for_log(&["slot-nearly-lost"], LIMIT).await?;
        let log = outboxd.log();
        assert_eq!(log.matches("slot-nearly-lost").count(), 1, "{log}");
        kafka.thaw()?;
        // The server advances restart_lsn when it logs its running transactions, every 15 s.
        outboxd
            .wait_for_status("the warning to end", LIMIT, |status| {
                status["troubles"] == serde_json::json!([])
            })
            .await?;
        assert_eq!(outboxd.metric(HEALS).await?, Some(0.0));
    }
    Ok(())
}

/// The new table assigns the same ids again: the write-back of the old table's rows must not touch
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_dropped_and_created_again_is_named_and_what_it_holds_is_published()
-> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let settings = fixture
            .settings
            .clone()
            .set("OUTBOX_AUDIT_INTERVAL", "1s")
            // The write-back waits until it is urgent.
            .set("OUTBOX_BATCH_SIZE", "100000")
            .set("OUTBOX_PROCESS_INTERVAL", "1h");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for i in 0..5 {
            fixture
                .database
                .insert(&format!("old{i}"), &fixture.topic, "{}")
                .await?;
        }
        outboxd
            .wait_for_status("the old rows to be published", LIMIT, |status| {
                status["published_total"] == 5 && status["unmarked_records"] == 5
            })
            .await?;
        let session = fixture.database.connect().await?;
        session.batch_execute("DROP TABLE outbox.outbox").await?;
        wait_until("the missing table to be named", NOTICED, async || {
            let (code, body) = outboxd.get("/readyz").await?;
            let named = code == 503 && body.contains("there is no table outbox.outbox");
            Ok(if named { Ok(()) } else { Err(body) })
        })
        .await?;
        outboxd
            .wait_for_log(&["there is no table outbox.outbox"], LIMIT)
            .await?;
        fixture.database.create_table().await?;
        for i in 0..3 {
            let id = fixture
                .database
                .insert(&format!("new{i}"), &fixture.topic, "{}")
                .await?;
            ensure!(id <= 5, "{id}");
        }
        outboxd
            .wait_for_status("the problem to be named", NOTICED, |status| {
                status["troubles"][0]["name"] == "not-published"
            })
            .await?;
        session
            .batch_execute("ALTER PUBLICATION outboxd ADD TABLE outbox.outbox")
            .await?;
        fixture
            .database
            .insert("new3", &fixture.topic, "{}")
            .await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        *outboxd.settings() = fixture.settings.clone();
        outboxd.respawn()?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(fixture.database.unpublished().await?, 0);
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        let kinds: std::collections::BTreeSet<_> = consumed
            .iter()
            .filter_map(|record| record.key.clone())
            .collect();
        assert_eq!(kinds.len(), 9, "{consumed:?}");
    }
    Ok(())
}

/// With `halt`, outboxd ends as soon as the table is missing from the publication.
#[tokio::test(flavor = "multi_thread")]
async fn with_halt_a_table_that_leaves_the_publication_ends_it() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", "halt"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    session
        .batch_execute("ALTER PUBLICATION outboxd DROP TABLE outbox.outbox")
        .await?;
    assert_eq!(outboxd.wait(NOTICED).await?, 1);
    let log = outboxd.log();
    ensure!(
        log.contains("SLOT_ERROR: publication outboxd does not contain outbox.outbox"),
        "{log}"
    );
    ensure!(log.contains("ADD TABLE"), "{log}");
    Ok(())
}

/// The slot advances under another instance, and the first instance takes over again.
#[tokio::test(flavor = "multi_thread")]
async fn with_halt_what_another_instance_has_confirmed_is_no_loss() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let halts = fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", "halt");
    let mut first = Outboxd::spawn(&halts)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    fixture
        .database
        .insert("first", &fixture.topic, "{}")
        .await?;
    fixture.all_marked(LIMIT).await?;
    let http = Settings::new(&fixture.database, fixture.kafka)?;
    let mut second = Outboxd::spawn(&http.set("OUTBOX_ON_SLOT_LOSS", "halt"))?;
    second.wait_for_phase("standby", LIMIT).await?;
    first.freeze()?;
    let session = fixture.database.connect().await?;
    let end =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
    session.execute(end, &[&fixture.slot()]).await?;
    second.wait_for_phase("streaming", LIMIT).await?;
    first.thaw()?;
    first.wait_for_phase("standby", LIMIT).await?;
    fixture
        .database
        .insert("second", &fixture.topic, "{}")
        .await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    first
        .wait_for_log(&["another instance published meanwhile"], LIMIT)
        .await?;
    fixture
        .database
        .insert("third", &fixture.topic, "{}")
        .await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 3);
    Ok(())
}
