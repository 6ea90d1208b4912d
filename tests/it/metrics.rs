//! The page of metrics of a real run, as strict parsers and a Prometheus read it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::outboxd::{Outboxd, Settings, get_as};
use crate::support::prometheus::{promtool, python_parser};
use crate::support::wait::wait_until;
use crate::support::{kafka, postgres};

const LIMIT: Duration = Duration::from_secs(60);

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// What Python's parsers call the families of this page.
fn families(module: &str, page: &str) -> Result<Option<BTreeSet<String>>> {
    let Some(output) = python_parser(module, page)? else {
        return Ok(None);
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{module}: {said}\n{page}");
    let names = String::from_utf8(output.stdout)?;
    let names = names.lines().filter_map(|line| line.split(' ').next());
    Ok(Some(names.map(str::to_owned).collect()))
}

/// The names that the source gives to metrics, without those that a run of seconds does not show.
fn expected() -> Result<BTreeSet<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/names.rs");
    let text = std::fs::read_to_string(file)?;
    let names = text.split("&str = \"").skip(1);
    let names = names.filter_map(|it| it.split('"').next());
    let is_metric = |name: &&str| name.starts_with("outbox") || name.starts_with("process_");
    // How fast WAL is written is known after 20 s.
    let takes_long = [
        "outboxd_wal_bytes_per_second",
        "outboxd_slot_until_lost_seconds",
    ];
    let names = names
        .filter(is_metric)
        .filter(|it| !takes_long.contains(it));
    Ok(names
        .map(|it| it.trim_end_matches("_total").to_owned())
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_pass_the_strict_parsers_with_every_series() -> Result<()> {
    let server = postgres::private(postgres::turn(17), &["max_slot_wal_keep_size = 1GB"])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    // A published row that the first pass of retention leaves.
    let session = fixture.database.connect().await?;
    let published = "INSERT INTO outbox.outbox (event_type, topic, event_payload, published_at)
                     VALUES ('a', 't', '{}', localtimestamp)";
    session.batch_execute(published).await?;
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_RETAIN", "1h"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    fixture.database.insert("a", "no such topic", "{}").await?;
    outboxd
        .wait_for_status("the slot, the dead letter and the rows", LIMIT, |status| {
            status["dead_letters"]["open"] == 1
                && !status["slot_health"].is_null()
                && status["retention"]["oldest_row_seconds"].is_number()
        })
        .await?;
    let address = fixture.settings.http();
    let (head, open_metrics) = get_as(address, "/metrics", OPEN_METRICS).await?;
    ensure!(head.contains("application/openmetrics-text"), "{head}");
    let (head, text) = get_as(address, "/metrics", "*/*").await?;
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");

    if let Some(found) = families("prometheus_client.openmetrics.parser", &open_metrics)? {
        assert_eq!(found, expected()?);
    }
    if let Some(found) = families("prometheus_client.parser", &text)? {
        assert_eq!(found, expected()?);
    }
    if let Some(output) = promtool(&["check", "metrics"], &text)? {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
    Ok(())
}

/// The parsers are as strict as the test above needs.
#[test]
fn two_families_of_one_name_are_refused_by_each_parser() -> Result<()> {
    let clash = "# HELP a_total Counted.\n# TYPE a_total counter\na_total 1\n\
                 # HELP a_total Not counted.\n# TYPE a_total gauge\na_total 1\n";
    if let Some(output) = promtool(&["check", "metrics"], clash)? {
        ensure!(!output.status.success(), "{output:?}");
    }
    let clash = "# TYPE a counter\na_total 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na 1\n# EOF\n";
    let parser = "prometheus_client.openmetrics.parser";
    if let Some(output) = python_parser(parser, clash)? {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("Clashing name"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refused_event_and_each_refused_mark_is_counted_once() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    session
        .batch_execute(
            "CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON outbox.outbox FOR EACH ROW
                 WHEN (old.event_type = 'unmarkable') EXECUTE FUNCTION outbox.refuse()",
        )
        .await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for code in ["PUBLISH_ERROR", "WRITE_ERROR", "SLOT_ERROR"] {
        let series = format!("outbox_errors_total{{code=\"{code}\"}}");
        assert_eq!(outboxd.metric(&series).await?, Some(0.0), "{code}");
    }
    for _ in 0..3 {
        fixture.database.insert("a", "no such topic", "{}").await?;
    }
    for _ in 0..2 {
        let topic = &fixture.topic;
        fixture.database.insert("unmarkable", topic, "{}").await?;
    }
    let payload = "{\"text\": \"123456789\"}";
    let id = fixture
        .database
        .insert("a", &fixture.topic, payload)
        .await?;
    outboxd
        .wait_for_status("five open dead letters", LIMIT, |status| {
            status["dead_letters"]["open"] == 5 && status["unmarked_records"] == 0
        })
        .await?;
    for (series, expected) in [
        ("outbox_errors_total{code=\"PUBLISH_ERROR\"}", 3.0),
        ("outbox_errors_total{code=\"WRITE_ERROR\"}", 2.0),
        ("outboxd_dead_letters{state=\"dead\"}", 3.0),
        ("outboxd_dead_letters{state=\"published-not-marked\"}", 2.0),
    ] {
        assert_eq!(outboxd.metric(series).await?, Some(expected), "{series}");
    }
    let topic = &fixture.topic;
    let bytes = format!("outboxd_published_bytes_total{{topic=\"{topic}\"}}");
    let bytes = outboxd.metric(&bytes).await?.context("bytes")?;
    ensure!(bytes > payload.len() as f64, "{bytes} bytes, row {id}");
    let batches = outboxd.metric("outboxd_write_back_duration_seconds_count");
    ensure!(batches.await? >= Some(1.0), "no batch was measured");
    let last = outboxd.metric("outboxd_last_published_timestamp_seconds");
    let (last, now) = (last.await?.context("a time")?, unix_seconds()?);
    ensure!((now - 60.0..=now).contains(&last), "{last}, now {now}");
    let memory = outboxd.metric("process_resident_memory_bytes").await?;
    let resident = outboxd.resident_bytes()? as f64;
    let memory = memory.context("memory")?;
    ensure!(
        (0.5..2.0).contains(&(memory / resident)),
        "{memory}, {resident}"
    );
    let started = outboxd.metric("process_start_time_seconds");
    let started = started.await?.context("a start")?;
    ensure!((now - 120.0..=now).contains(&started), "{started}, {now}");
    Ok(())
}

/// The table is locked for a while, and a mark then takes longer than a count may.
#[tokio::test(flavor = "multi_thread")]
async fn unpublished_rows_are_counted_and_absent_while_they_cannot_be() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    session
        .batch_execute(
            "CREATE FUNCTION outbox.wait() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END$$;
             CREATE TRIGGER wait BEFORE UPDATE ON outbox.outbox FOR EACH ROW
                 WHEN (old.event_type = 'slow') EXECUTE FUNCTION outbox.wait()",
        )
        .await?;
    for _ in 0..3 {
        fixture.database.insert("a", "no such topic", "{}").await?;
    }
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let shown = async |expected: Option<f64>| {
        wait_until("the number of rows", LIMIT, async || {
            let rows = outboxd.metric("outboxd_unpublished_rows").await?;
            Ok(if rows == expected {
                Ok(())
            } else {
                Err(format!("{rows:?}"))
            })
        })
        .await
    };
    shown(Some(3.0)).await?;
    assert_eq!(outboxd.status().await?["unpublished_rows"], 3);
    let locker = fixture.database.connect().await?;
    locker
        .batch_execute("BEGIN; LOCK TABLE outbox.outbox IN ACCESS EXCLUSIVE MODE")
        .await?;
    shown(None).await?;
    assert_eq!(outboxd.status().await?["unpublished_rows"], Value::Null);
    locker.batch_execute("COMMIT").await?;
    shown(Some(3.0)).await?;
    let topic = &fixture.topic;
    fixture.database.insert("slow", topic, "{}").await?;
    let marked = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NOT NULL";
    session.wait_for_value("the mark", marked, 1, LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(!log.contains("57014"), "a mark was cancelled: {log}");
    Ok(())
}

fn unix_seconds() -> Result<f64> {
    let now = std::time::SystemTime::now();
    Ok(now.duration_since(std::time::UNIX_EPOCH)?.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_is_active_and_both_say_whose_they_are() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let mut first = Outboxd::spawn(&fixture.settings)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let second = Outboxd::spawn(&Settings::new(&fixture.database, fixture.kafka)?)?;
    second.wait_for_phase("standby", LIMIT).await?;
    first.wait_until_ready(LIMIT).await?;
    let (database, slot) = (&fixture.database.name, fixture.slot());
    let whose = format!("database=\"{database}\",slot=\"{slot}\"");
    let has = async |outboxd: &Outboxd, name: &str, label: &str, expected: f64| {
        let series = format!("{name}{{{whose}{label}}}");
        assert_eq!(outboxd.metric(&series).await?, Some(expected), "{series}");
        anyhow::Ok(())
    };
    has(&first, "outboxd_role", ",role=\"active\"", 1.0).await?;
    has(&first, "outboxd_ready", "", 1.0).await?;
    has(&second, "outboxd_role", ",role=\"active\"", 0.0).await?;
    has(&second, "outboxd_role", ",role=\"standby\"", 1.0).await?;
    has(&second, "outboxd_phase", ",phase=\"standby\"", 1.0).await?;
    has(&second, "outboxd_ready", "", 1.0).await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    second.wait_for_phase("streaming", LIMIT).await?;
    has(&second, "outboxd_role", ",role=\"active\"", 1.0).await?;
    has(&second, "outboxd_role", ",role=\"standby\"", 0.0).await
}

/// Half a minute, since the forecast needs 20 s of samples.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_stands_still_shows_when_it_is_lost() -> Result<()> {
    if !crate::support::is_long_run("metrics: the time until a slot is lost") {
        return Ok(());
    }
    let server = postgres::private(postgres::turn(15), &["max_slot_wal_keep_size = 1GB"])?;
    let mut kafka = kafka::private(&[])?;
    let fixture = Fixture::create(&server, &kafka).await?;
    let (database, topic) = (fixture.database, fixture.topic.clone());
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    kafka.freeze()?;
    database.insert("held", &topic, "{}").await?;
    let session = database.connect().await?;
    session
        .batch_execute("CREATE TABLE filler (it text)")
        .await?;
    let fill = "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
    let shown = crate::support::wait::wait_for("the time", LIMIT, async || {
        session.batch_execute(fill).await?;
        outboxd.metric("outboxd_slot_until_lost_seconds").await
    });
    let seconds = shown.await?;
    let rate = outboxd.metric("outboxd_wal_bytes_per_second").await?;
    let safe = outboxd.metric("outboxd_safe_wal_size_bytes").await?;
    let (rate, safe) = (rate.context("a rate")?, safe.context("a limit")?);
    ensure!(rate > 100_000.0, "{rate} bytes a second");
    // The slot retains as much as is written, from the first look at it to the last.
    ensure!(
        (0.1..10.0).contains(&(seconds * rate / safe)),
        "{seconds} s, {rate}, {safe}"
    );
    kafka.thaw()?;
    Ok(())
}
