//! The alerts of `docker/alerts.yaml`: their rules, and a Prometheus that scrapes an outboxd in a
//! fault.

mod counters;
mod faults;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::wait::wait_until;
use crate::support::{is_long_run, kafka, postgres};

pub(crate) use faults::ALERTS;

const LIMIT: Duration = Duration::from_secs(60);
/// For waits that have to last for a minute.
const LONG: Duration = Duration::from_secs(150);

fn path(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    path.display().to_string()
}

/// The rules as they are, but an alert fires once it has lasted for two seconds.
fn rules() -> Result<String> {
    let text = std::fs::read_to_string(path("docker/alerts.yaml"))?;
    let lines = text.lines().map(|line| match line.split_once("for: ") {
        Some((before, _)) => format!("{before}for: 2s"),
        None => line.to_owned(),
    });
    let rules = lines.collect::<Vec<_>>().join("\n");
    ensure!(rules.contains("for: 2s"), "no alert has to last");
    Ok(rules)
}

#[test]
fn each_alert_fires_in_its_fault_and_none_while_all_is_well() -> Result<()> {
    for (command, file) in [
        ("check", "docker/alerts.yaml"),
        ("test", "tests/alerts_test.yaml"),
    ] {
        if let Some(output) = promtool(&[command, "rules", &path(file)], "")? {
            let said = String::from_utf8_lossy(&output.stdout);
            let wrong = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{said}{wrong}");
        }
    }
    Ok(())
}

/// What fires, with the database that it is about, or the instance where it names none.
async fn firing(prometheus: &Prometheus) -> Result<BTreeSet<(String, String)>> {
    let firing = prometheus.firing().await?.into_iter();
    let about = firing.map(|(name, labels)| {
        let about = labels["database"].as_str().or(labels["instance"].as_str());
        (name, about.unwrap_or_default().to_owned())
    });
    Ok(about.collect())
}

/// Waits until exactly these alerts fire.
async fn expect(prometheus: &Prometheus, alerts: &[(&str, &str)], limit: Duration) -> Result<()> {
    let alerts = alerts.iter();
    let expected: BTreeSet<_> = alerts
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    wait_until(&format!("the alerts {expected:?}"), limit, async || {
        let firing = firing(prometheus).await?;
        Ok(if firing == expected {
            Ok(())
        } else {
            Err(format!("{firing:?}"))
        })
    })
    .await
}

/// Waits until this expression has been true for some evaluations of the rules.
async fn holds(prometheus: &Prometheus, expression: &str) -> Result<()> {
    let held = format!("min_over_time(({expression})[5s:1s]) == bool 1");
    wait_until(expression, LIMIT, async || {
        let result = prometheus.query(&held).await?;
        let holds = result.first().is_some_and(|(_, value)| value == "1");
        Ok(if holds {
            Ok(())
        } else {
            Err(format!("{result:?}"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_outboxes_and_a_standby_are_silent_until_one_of_the_outboxes_dies() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let orders = Fixture::create(server, kafka::shared()).await?;
    let billing = Fixture::create(server, kafka::shared()).await?;
    let standby = Settings::new(&orders.database, orders.kafka)?;
    let active = Outboxd::spawn(&orders.settings)?;
    active.wait_for_phase("streaming", LIMIT).await?;
    let mut waiting = Outboxd::spawn(&standby)?;
    let mut other = Outboxd::spawn(&billing.settings)?;
    for outboxd in [&active, &waiting, &other] {
        outboxd.wait_until_ready(LIMIT).await?;
    }
    let targets = [
        orders.settings.http(),
        standby.http(),
        billing.settings.http(),
    ];
    let Some(prometheus) = Prometheus::start(&rules()?, &targets).await? else {
        return Ok(());
    };
    for fixture in [&orders, &billing] {
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
    }
    holds(&prometheus, "sum(outboxd_ready) == bool 3").await?;
    // Before its first scrape Prometheus knew no target.
    let since = "count_over_time(ALERTS{alertstate=\"firing\"}[3s])";
    let fired = prometheus.query(since).await?;
    ensure!(fired.is_empty(), "{fired:?}");

    other.kill()?;
    let instance = billing.settings.http().to_string();
    expect(&prometheus, &[("OutboxdDown", &instance)], LIMIT).await?;
    // The instance that publishes the other database is no longer scraped, and goes on.
    let unscraped = [standby.http()];
    waiting.wait_for_phase("standby", LIMIT).await?;
    let Some(prometheus) = Prometheus::start(&rules()?, &unscraped).await? else {
        return Ok(());
    };
    let database = &orders.database.name;
    expect(&prometheus, &[("OutboxdSlotUnread", database)], LIMIT).await?;
    assert_eq!(waiting.stop(LIMIT).await?, 0, "{}", waiting.log());
    Ok(())
}

const REFUSE: &str = "
    CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
    CREATE TRIGGER refuse BEFORE UPDATE ON outbox.outbox FOR EACH ROW
        EXECUTE FUNCTION outbox.refuse()";

#[tokio::test(flavor = "multi_thread")]
async fn each_of_six_faults_that_outboxd_survives_fires_its_own_alert() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    let mut fixtures = Vec::new();
    for _ in 0..6 {
        fixtures.push(Fixture::create(server, kafka::shared()).await?);
    }
    let mut running = Vec::new();
    for fixture in &fixtures {
        let settings = fixture.settings.clone().set("OUTBOX_AUDIT_INTERVAL", "1s");
        running.push(Outboxd::spawn(&settings)?);
    }
    for outboxd in &running {
        outboxd.wait_until_ready(LIMIT).await?;
    }
    let targets: Vec<_> = fixtures.iter().map(|it| it.settings.http()).collect();
    let Some(prometheus) = Prometheus::start(&rules()?, &targets).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 6").await?;
    expect(&prometheus, &[], LIMIT).await?;
    let [refused, unmarked, gap, paused, missed, healed] = &fixtures[..] else {
        unreachable!("six were made");
    };
    refused.database.insert("a", "no such topic", "{}").await?;
    let session = unmarked.database.connect().await?;
    session.batch_execute(REFUSE).await?;
    unmarked.database.insert("a", &unmarked.topic, "{}").await?;
    let session = gap.database.connect().await?;
    let leave = "ALTER PUBLICATION outboxd DROP TABLE outbox.outbox";
    session.batch_execute(leave).await?;
    let pause = command(&paused.settings, &["pause"], LIMIT).await?;
    ensure!(pause.status.success(), "{pause:?}");
    // A mark that a person takes away is an event that the slot does not bring again.
    missed.database.insert("a", &missed.topic, "{}").await?;
    missed.all_marked(LIMIT).await?;
    let session = missed.database.connect().await?;
    let again = "UPDATE outbox.outbox SET published_at = NULL";
    session.batch_execute(again).await?;
    let session = healed.database.connect().await?;
    session.drop_slot(&healed.slot(), LIMIT).await?;
    let expected = [
        ("OutboxdDeadLetters", refused),
        ("OutboxdDeadLetters", unmarked),
        ("OutboxdTrouble", gap),
        ("OutboxdPaused", paused),
        ("OutboxdMissedEvents", missed),
        ("OutboxdSlotHealed", healed),
    ];
    let expected = expected.map(|(alert, fixture)| (alert, fixture.database.name.as_str()));
    expect(&prometheus, &expected, LIMIT).await?;
    for fixture in [refused, unmarked] {
        let discard = ["dead-letter", "discard", "--all", "--yes"];
        let output = command(&fixture.settings, &discard, LIMIT).await?;
        ensure!(output.status.success(), "{output:?}");
    }
    let session = unmarked.database.connect().await?;
    session
        .batch_execute("DROP TRIGGER refuse ON outbox.outbox")
        .await?;
    let session = gap.database.connect().await?;
    let join = "ALTER PUBLICATION outboxd ADD TABLE outbox.outbox";
    session.batch_execute(join).await?;
    let resume = command(&paused.settings, &["resume"], LIMIT).await?;
    ensure!(resume.status.success(), "{resume:?}");
    // Those about the past go on for an hour.
    expect(&prometheus, &expected[4..], LIMIT).await
}

/// Kafka is frozen, a row is locked, and Postgres is away: each for more than a minute.
#[tokio::test(flavor = "multi_thread")]
async fn waits_of_a_minute_fire_their_own_alerts_and_end_with_them() -> Result<()> {
    if !is_long_run("alerts: Kafka away, a locked row, and Postgres away, a minute each") {
        return Ok(());
    }
    let mut broker = kafka::private(&[])?;
    let mut stopped = postgres::private(postgres::turn(15), &[])?;
    let away = Fixture::create(postgres::shared(postgres::turn(17)), &broker).await?;
    let away = (away.database, away.topic.clone(), away.settings.clone());
    // The row is locked for a minute, and every new slot of its server waits for that.
    let holds_lock = postgres::private(postgres::turn(17), &[])?;
    let locked = Fixture::create(&holds_lock, kafka::shared()).await?;
    let without = Fixture::create(&stopped, kafka::shared()).await?;
    let settings = [
        away.2.clone(),
        locked.settings.clone(),
        without.settings.clone(),
    ];
    let mut running = Vec::new();
    for settings in &settings {
        let outboxd = Outboxd::spawn(settings)?;
        outboxd.wait_until_ready(LIMIT).await?;
        running.push(outboxd);
    }
    let targets = settings.each_ref().map(Settings::http);
    let Some(prometheus) = Prometheus::start(&rules()?, &targets).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 3").await?;
    broker.freeze()?;
    away.0.insert("a", &away.1, "{}").await?;
    let mut session = locked.database.connect().await?;
    let id = locked.database.insert("a", &locked.topic, "{}").await?;
    let lock = session.transaction().await?;
    let sql = "SELECT FROM outbox.outbox WHERE id = $1 AND published_at IS NULL FOR UPDATE";
    ensure!(lock.query(sql, &[&id]).await?.len() == 1, "marked already");
    stopped.stop(crate::support::ephemeral::Stop::Fast)?;
    let alerts = [
        ("OutboxdKafkaAway", away.0.name.as_str()),
        ("OutboxdWaits", locked.database.name.as_str()),
        ("OutboxdWaits", without.database.name.as_str()),
    ];
    expect(&prometheus, &alerts, LONG).await?;
    broker.thaw()?;
    lock.rollback().await?;
    stopped.resume()?;
    expect(&prometheus, &[], LIMIT).await
}

/// An outboxd that ends and is started again and again, and a slot that no session reads.
#[tokio::test(flavor = "multi_thread")]
async fn an_outboxd_that_ends_again_and_again_and_a_slot_that_falls_behind_are_seen() -> Result<()>
{
    if !is_long_run("alerts: a slot that is nearly lost, and one that ends outboxd") {
        return Ok(());
    }
    let server = postgres::private(postgres::turn(17), &["max_slot_wal_keep_size = 64MB"])?;
    let mut broker = kafka::private(&[])?;
    let fixture = Fixture::create(&server, &broker).await?;
    let (database, topic) = (fixture.database, fixture.topic.clone());
    let settings = fixture.settings.clone().set("OUTBOX_ON_SLOT_LOSS", "halt");
    let outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_until_ready(LIMIT).await?;
    let Some(prometheus) = Prometheus::start(&rules()?, &[settings.http()]).await? else {
        return Ok(());
    };
    holds(&prometheus, "sum(outboxd_ready) == bool 1").await?;
    broker.freeze()?;
    database.insert("held", &topic, "{}").await?;
    let session = database.connect().await?;
    let write = "SELECT pg_current_xact_id(); SELECT pg_switch_wal()";
    for _ in 0..5 {
        session.batch_execute(write).await?;
    }
    let name = database.name.as_str();
    expect(&prometheus, &[("OutboxdSlotNearlyLost", name)], LIMIT).await?;
    for _ in 0..5 {
        session.batch_execute(write).await?;
    }
    session.batch_execute("CHECKPOINT").await?;
    let instance = settings.http().to_string();
    let code = outboxd.wait(LIMIT).await?;
    ensure!(code == 1, "exit code {code}\n{}", outboxd.log());
    expect(&prometheus, &[("OutboxdDown", &instance)], LIMIT).await?;
    broker.thaw()?;
    Ok(())
}

/// The alerts of the rules.
fn names() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(path("docker/alerts.yaml"))?;
    let lines = text.lines();
    let names = lines.filter_map(|line| line.trim().strip_prefix("- alert: "));
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn each_alert_is_there_for_a_fault_and_has_a_test_of_its_rule() -> Result<()> {
    let tests = std::fs::read_to_string(path("tests/alerts_test.yaml"))?;
    let names = names()?;
    ensure!(names.len() > 10, "the alerts are found");
    for name in &names {
        let tested = format!("alertname=\"{name}\"");
        ensure!(tests.contains(&tested), "{name} has no test of its rule");
    }
    let used: BTreeSet<&str> = ALERTS.iter().filter_map(|(_, alert)| *alert).collect();
    for alert in &used {
        names
            .get(*alert)
            .with_context(|| format!("there is no alert {alert}"))?;
    }
    // For what no fault of the list does: the catch-all.
    let unused: Vec<&String> = names
        .iter()
        .filter(|it| !used.contains(it.as_str()))
        .collect();
    assert_eq!(unused, ["OutboxdNotReady"]);
    // Each one also fires in a Prometheus that scrapes a real outboxd.
    let scraped = [include_str!("mod.rs"), include_str!("counters.rs")].concat();
    for name in &names {
        let fires = scraped.contains(&format!("(\"{name}\", "));
        ensure!(fires, "{name} fires in no test with a Prometheus");
    }
    Ok(())
}
