//! Several instances on one outbox: one publishes; the others wait without holding back vacuum, and
//! take over when it stops, is suspended or is cut off.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use outboxd::config;
use outboxd::postgres::advisory_lock::holders;
use outboxd::postgres::connect;

use crate::support::ephemeral::{Stop, free_port};
use crate::support::fixture::{Fixture, Window};
use crate::support::kafka::{self, ConsumedRecord, Outer};
use crate::support::oracle::{Event, Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, MAJORS, Server, Session};
use crate::support::proxy::{Flow, Proxy};
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// Standbys query the lock every 250 ms and take over after two queries find it free.
const TAKEOVER: Duration = Duration::from_secs(1);
/// The server drops the session of a suspended process after 30 s, and with it the lock.
const FROZEN: Duration = Duration::from_secs(32);
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(10),
};

/// Another instance with the same settings but its own HTTP address.
fn another(fixture: &Fixture<'_>) -> Result<Outboxd> {
    Outboxd::spawn(&Settings::new(&fixture.database, fixture.kafka)?)
}

/// The index of the streaming instance, once there is one.
async fn streaming(instances: &[Outboxd], limit: Duration) -> Result<usize> {
    wait_for("one that streams", limit, async || {
        for (number, instance) in instances.iter().enumerate() {
            // A stopped instance does not answer.
            let status = instance.status().await;
            if status.is_ok_and(|status| status["phase"] == "streaming") {
                return Ok(Some(number));
            }
        }
        Ok(None)
    })
    .await
}

/// Sessions of this database that hold back vacuum now, each by process and horizon.
async fn horizons(database: &Database) -> Result<HashSet<(i32, String)>> {
    let sql = "SELECT pid, backend_xmin::text FROM pg_stat_activity \
               WHERE datname = current_database() AND backend_xmin IS NOT NULL \
                 AND pid <> pg_backend_pid()";
    let rows = database.connect().await?.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_one_publishes_and_those_who_wait_hold_back_no_vacuum() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let instances = [another(&fixture)?, another(&fixture)?, another(&fixture)?];
        let active = streaming(&instances, LIMIT).await?;
        for (number, instance) in instances.iter().enumerate() {
            if number != active {
                instance
                    .wait_for_status("to wait for the lock", LIMIT, |status| {
                        status["phase"] == "standby" && status["waiting"]["on"] == "lock"
                    })
                    .await?;
                assert_eq!(instance.get("/readyz").await?.0, 200);
            }
        }
        let database = &fixture.database;
        let session = database.connect().await?;
        let churn =
            "CREATE TABLE churn AS SELECT i FROM generate_series(1, 10000) i; DELETE FROM churn";
        session.batch_execute(churn).await?;
        let before = horizons(database).await?;
        // Several queries of the lock.
        tokio::time::sleep(TAKEOVER).await;
        let held: Vec<_> = before
            .intersection(&horizons(database).await?)
            .cloned()
            .collect();
        assert!(held.is_empty(), "hold back vacuum: {held:?}");
        session.batch_execute("VACUUM churn").await?;
        let size = "SELECT pg_relation_size('churn')";
        assert_eq!(session.value::<i64>(size).await?, 0, "vacuum left rows");

        database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        for (number, instance) in instances.iter().enumerate() {
            let published = instance.status().await?["published_total"].as_u64();
            assert_eq!(published, Some(u64::from(number == active)));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_within_a_second_of_a_stop_and_repeats_nothing() -> Result<()> {
    let mut took = Vec::new();
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut instances = [another(&fixture)?, another(&fixture)?, another(&fixture)?];
        let mut active = streaming(&instances, LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        for _ in 0..4 {
            instances[active].wait_for_events(200, LIMIT).await?;
            for (number, instance) in instances.iter().enumerate() {
                if number != active {
                    instance.wait_for_phase("standby", LIMIT).await?;
                }
            }
            assert_eq!(instances[active].stop(LIMIT).await?, 0);
            let stopped = Instant::now();
            let next = streaming(&instances, TAKEOVER * 5).await?;
            took.push(stopped.elapsed());
            instances[active].respawn()?;
            active = next;
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(instances[active].stop(LIMIT).await?, 0);
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    // Two queries of the lock and the start of a session take it. Other load on the machine adds to
    // that and takes nothing away, so the quickest takeover shows what outboxd waits for.
    assert!(took.iter().min() < Some(&TAKEOVER), "{took:?}");
    Ok(())
}

/// The server's view shows each lock with the transaction that its session is in at that moment,
/// and a session that decodes is in one after another.
#[tokio::test(flavor = "multi_thread")]
async fn the_locks_of_an_instance_that_decodes_are_those_of_one_holder() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let mut instance = another(&fixture)?;
        instance.wait_for_phase("streaming", LIMIT).await?;
        let rest = Duration::ZERO;
        let writers = Writers::start(
            &fixture.database,
            &fixture.topic,
            4,
            Pattern { rows: 1, rest },
        );
        let settings = config::Settings {
            database_url: Some(fixture.database.url().to_owned()),
            ..config::Settings::default()
        };
        let config = config::Config::without_kafka(settings)?;
        let session = connect(&config.database, "test", LIMIT).await?;
        for _ in 0..5_000 {
            let found = holders(&session, &fixture.slot(), &config.table).await?;
            let [holder] = found.as_slice() else {
                panic!("not one holder: {found:?}");
            };
            let is_ours = holder.table.as_ref().is_some_and(|table| table.is_ours);
            assert!(holder.has_slot && is_ours, "{holder:?}");
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(instance.stop(LIMIT).await?, 0);
    }
    Ok(())
}

/// Events published twice are from the window, and later ones were published once: the replaced
/// instance has published nothing new beside the other.
fn expect_window(committed: &[Event], consumed: &[ConsumedRecord], window: Window) -> Result<()> {
    let report = check(committed, consumed);
    report.expect_complete()?;
    let repeated: HashSet<i64> = report.duplicates.iter().map(|(id, _)| *id).collect();
    for record in consumed {
        if record.outbox_id().is_some_and(|id| repeated.contains(&id)) {
            let at = record.committed_at()?;
            assert!(window.contains(at), "{at} was published twice, {window:?}");
        }
    }
    Ok(())
}

/// The last record of each key is its newest event.
fn expect_newest_last(committed: &[Event], consumed: &[ConsumedRecord]) {
    let newest: HashMap<&str, i64> = committed
        .iter()
        .map(|event| (event.event_type.as_str(), event.id))
        .collect();
    let mut last: HashMap<String, Option<i64>> = HashMap::new();
    for record in consumed {
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        last.insert(key.into_owned(), record.outbox_id());
    }
    for (key, id) in newest {
        assert_eq!(
            last.get(key).copied().flatten(),
            Some(id),
            "the last record of key {key}"
        );
    }
}

/// Whatever time-outs the server has, those that each session sets apply.
async fn frozen(server: &Server) -> Result<()> {
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut first = another(&fixture)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let mut second = another(&fixture)?;
    second.wait_for_phase("standby", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
    first.wait_for_events(500, LIMIT).await?;

    first.freeze()?;
    let frozen = Instant::now();
    let window = fixture.window().await?;
    second.wait_for_phase("streaming", FROZEN).await?;
    assert!(
        frozen.elapsed() > Duration::from_secs(15),
        "{:?}",
        frozen.elapsed()
    );
    second.wait_for_events(500, LIMIT).await?;
    first.thaw()?;
    first.wait_for_phase("standby", LIMIT).await?;
    second.wait_for_events(500, LIMIT).await?;

    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(second.status().await?["phase"], "streaming");
    assert_eq!(second.status().await?["reconnects"], 0);
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    expect_window(&oracle.committed().await?, &consumed, window)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_one_is_replaced_in_time_and_publishes_nothing_new_when_it_thaws() -> Result<()> {
    let never = postgres::private(15, &["wal_sender_timeout = 0"])?;
    let hasty = postgres::private(17, &["wal_sender_timeout = 1s"])?;
    tokio::try_join!(frozen(&never), frozen(&hasty))?;
    Ok(())
}

/// Cut off from both servers with events in flight, an instance must not send them once Kafka is
/// back: another has gone on by then.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cut_off_withdraws_what_it_had_in_flight() -> Result<()> {
    let port = free_port()?;
    let outer = Outer {
        protocol: "PLAINTEXT",
        advertised: Some(port),
    };
    let kafka = kafka::with_outer(outer, &[])?;
    let to_kafka = Proxy::at(port, kafka.outer_port()?).await?;
    let server = postgres::shared(postgres::turn(17));
    let fixture = Fixture::create(server, &kafka).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let to_postgres = Proxy::before(server.port()).await?;
    let behind_proxies = Settings::new(&fixture.database, &kafka)?
        .set("DATABASE_URL", to_postgres.url(fixture.database.url())?)
        .set("KAFKA_BROKERS", format!("127.0.0.1:{port}"));
    let mut first = Outboxd::spawn(&behind_proxies)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let mut second = another(&fixture)?;
    second.wait_for_phase("standby", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
    first.wait_for_events(500, LIMIT).await?;

    to_kafka.set(Flow::Swallow);
    first
        .wait_for_status("records in flight", LIMIT, |status| {
            status["in_flight_records"].as_u64() > Some(500)
        })
        .await?;
    let confirmed = fixture.window().await?.confirmed;
    to_postgres.set(Flow::Swallow);
    to_postgres.reset();
    second.wait_for_phase("streaming", LIMIT).await?;
    let window = Window {
        confirmed,
        ..fixture.window().await?
    };
    second.wait_for_events(1_000, LIMIT).await?;
    let withdrawn = Duration::from_secs(20);
    first
        .wait_for_log(&["another instance may publish", "withdrawing"], withdrawn)
        .await?;
    let published = first.status().await?["published_total"].clone();
    to_kafka.set(Flow::Pass);
    to_postgres.set(Flow::Pass);
    first.wait_for_phase("standby", LIMIT).await?;
    second.wait_for_events(500, LIMIT).await?;

    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(first.status().await?["published_total"], published);
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    let (committed, consumed) = (
        oracle.committed().await?,
        kafka.consume_all(&[&fixture.topic]).await?,
    );
    expect_newest_last(&committed, &consumed);
    expect_window(&committed, &consumed, window)
}

/// A host that is down and a host that is a standby are skipped.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_takes_writes_is_used() -> Result<()> {
    for major in MAJORS {
        let mut primary = postgres::private(major, &[])?;
        let fixture = Fixture::create(&primary, kafka::shared()).await?;
        primary.stop(Stop::Fast)?;
        let standby = postgres::standby(&primary, &[])?;
        primary.resume()?;
        let hosts = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/{}",
            free_port()?,
            standby.port(),
            primary.port(),
            fixture.database.name
        );
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("DATABASE_URL", hosts))?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

/// Makes another outbox in the database, with a publication of its own; gives its settings.
async fn another_outbox(fixture: &Fixture<'_>) -> Result<Settings> {
    let settings = Settings::new(&fixture.database, fixture.kafka)?
        .set("OUTBOX_TABLE", "billing.outbox")
        .set("OUTBOX_PUBLICATION", "outboxd_billing");
    init(&settings).await?;
    Ok(settings)
}

async fn insert_into(fixture: &Fixture<'_>, table: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO {table} (event_type, topic, event_payload) VALUES ('{table}', $1, '{{}}')"
    );
    let session = fixture.database.connect().await?;
    session.execute(&sql, &[&fixture.topic]).await?;
    wait_for("the row to be marked", LIMIT, async || {
        let unpublished = format!("SELECT count(*) FROM {table} WHERE published_at IS NULL");
        Ok((session.value::<i64>(&unpublished).await? == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_outboxes_in_one_database_have_two_slots_by_default() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let mut first = another(&fixture)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let mut second = Outboxd::spawn(&another_outbox(&fixture).await?)?;
    second.wait_for_phase("streaming", LIMIT).await?;
    insert_into(&fixture, "outbox.outbox").await?;
    insert_into(&fixture, "billing.outbox").await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    insert_into(&fixture, "billing.outbox").await?;
    assert_eq!(second.status().await?["published_total"], 2);
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_for_another_table_never_stands_by_for_a_slot() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    for source in ["slot", "poll"] {
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let own = fixture.settings.clone().set("OUTBOX_SOURCE", source);
        let mut first = Outboxd::spawn(&own)?;
        let phase = if source == "slot" {
            "streaming"
        } else {
            "polling"
        };
        first.wait_for_phase(phase, LIMIT).await?;
        let settings = another_outbox(&fixture).await?;
        for theirs in ["slot", "poll"] {
            let settings = settings
                .clone()
                .set("OUTBOX_SLOT", fixture.slot())
                .set("OUTBOX_SOURCE", theirs);
            let second = Outboxd::spawn(&settings)?;
            let code = second.wait(LIMIT).await?;
            assert_eq!(code, 2, "{source}, {theirs}: {}", second.log());
            let log = second.log();
            assert!(log.contains("outbox.outbox"), "{log}");
            assert!(log.contains("OUTBOX_SLOT"), "{log}");
        }
        insert_into(&fixture, "outbox.outbox").await?;
        assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_slot_or_a_poller_on_the_same_table_is_refused() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    for (ours, theirs) in [("slot", "slot"), ("slot", "poll"), ("poll", "slot")] {
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let mut first = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_SOURCE", ours))?;
        let phase = if ours == "slot" {
            "streaming"
        } else {
            "polling"
        };
        first.wait_for_phase(phase, LIMIT).await?;
        let settings = Settings::new(&fixture.database, fixture.kafka)?
            .set("OUTBOX_SOURCE", theirs)
            .set("OUTBOX_SLOT", format!("other_{}", fixture.database.name));
        let second = Outboxd::spawn(&settings)?;
        let code = second.wait(LIMIT).await?;
        assert_eq!(code, 2, "{ours}, {theirs}: {}", second.log());
        assert!(second.log().contains("outbox.outbox"), "{}", second.log());
        insert_into(&fixture, "outbox.outbox").await?;
        assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 1);
        assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    }
    Ok(())
}

/// The key of the lock that names the slot, as `pg_advisory_lock` takes it.
async fn key_of_the_slots_lock(fixture: &Fixture<'_>) -> Result<i64> {
    let session = fixture.database.connect().await?;
    let key = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks \
               WHERE locktype = 'advisory' AND objsubid = 1 AND granted \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    session.value(key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_taken_by_hand_is_named_and_makes_it_unready() -> Result<()> {
    // A prepared transaction delays the creation of every slot of its server.
    let server = postgres::private(postgres::turn(17), &[])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let mut outboxd = another(&fixture)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let key = key_of_the_slots_lock(&fixture).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let role = fixture.database.create_role("curious", "").await?;
    let session = Session::open(&fixture.database.url_as(&role)).await?;
    // A prepared transaction keeps such a lock without a process.
    let take = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({key}); PREPARE TRANSACTION '{}'",
        fixture.database.name
    );
    session.batch_execute(&take).await?;
    outboxd.respawn()?;
    outboxd
        .wait_for_status("the prepared transaction", LIMIT, |status| {
            status["waiting"]["on"] == "foreign-lock"
        })
        .await?;
    let shared = format!("SELECT pg_advisory_lock_shared({key})");
    let end = format!("ROLLBACK PREPARED '{}'", fixture.database.name);
    session.batch_execute(&end).await?;
    session.batch_execute(&shared).await?;
    let line = outboxd
        .wait_for_log(&["WARN", "is not outboxd", &role], LIMIT)
        .await?;
    assert!(line.contains("pg_terminate_backend"), "{line}");
    wait_for("readiness to end", LIMIT * 2, async || {
        let (code, why) = outboxd.get("/readyz").await?;
        Ok((code == 503 && why.contains("foreign-lock")).then_some(()))
    })
    .await?;
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    session.close().await;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    insert_into(&fixture, "outbox.outbox").await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// With `keep` the table does not show what the slot passed: a slot that a sibling has moved must
/// not be taken for one that was moved by hand.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_after_its_sibling_has_published_and_stopped_goes_on() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let to_postgres = Proxy::before(server.port()).await?;
    let keep = Settings::new(&fixture.database, fixture.kafka)?.set("OUTBOX_AFTER_PUBLISH", "keep");
    let behind = keep
        .clone()
        .set("DATABASE_URL", to_postgres.url(fixture.database.url())?);
    let mut first = Outboxd::spawn(&behind)?;
    first.wait_for_phase("streaming", LIMIT).await?;
    let published = async |outboxd: &Outboxd, count: u64| {
        outboxd
            .wait_for_status("its events", LIMIT, |status| {
                status["published_total"].as_u64() == Some(count)
            })
            .await
    };
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    published(&first, 1).await?;
    to_postgres.set(Flow::Swallow);
    to_postgres.reset();
    first.wait_for_phase("reconnecting", LIMIT).await?;
    let mut second = Outboxd::spawn(&keep.set("OUTBOX_HTTP_LISTEN", "off"))?;
    second.wait_for_log(&["streaming"], LIMIT).await?;
    fixture.database.insert("b", &fixture.topic, "{}").await?;
    wait_for("the second's event", LIMIT, async || {
        let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
        Ok((count == 2).then_some(()))
    })
    .await?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    to_postgres.set(Flow::Pass);
    first.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.insert("c", &fixture.topic, "{}").await?;
    published(&first, 2).await?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    fixture.verdict(&oracle).await?.expect_exact()
}
