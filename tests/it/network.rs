//! Slow, cut and silent networks: a session is closed once it is lost and not before, and problems
//! on the way to Kafka delay events and nothing else.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::ephemeral::free_port;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, Kafka, Outer};
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS, Server};
use crate::support::proxy::{Direction, Flow, Proxy};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
/// A silent server is inspected after 15 s; an inspection times out after 25 s at most; the server
/// itself ends a session from which it receives nothing for 30 s.
const NOTICED: Duration = Duration::from_secs(32);
/// The server drops a session from which it receives nothing for 30 s; the next instance queries
/// the lock every 250 ms; the rest is for connecting on a busy machine.
const DROPPED: Duration = Duration::from_secs(35);
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(10),
};

/// An outboxd that streams through a proxy; the writers bypass it.
async fn behind_proxy(fixture: &Fixture<'_>, server: &Server) -> Result<(Proxy, Outboxd)> {
    let proxy = Proxy::before(server.port()).await?;
    let url = proxy.url(fixture.database.url())?;
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("DATABASE_URL", url))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    Ok((proxy, outboxd))
}

async fn finish(
    fixture: &Fixture<'_>,
    mut outboxd: Outboxd,
    writers: Writers,
    oracle: &Oracle<'_>,
) -> Result<()> {
    assert!(writers.stop().await? > 1_000, "too light a load");
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
    let session = fixture.database.connect().await?;
    assert_eq!(session.value::<i64>(dead_letters).await?, 0);
    fixture.verdict(oracle).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_or_a_cut_in_the_middle_of_a_message_costs_seconds_and_repeats_nothing()
-> Result<()> {
    for major in MAJORS {
        let server = postgres::shared(major);
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let (proxy, outboxd) = behind_proxy(&fixture, server).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        for round in 0..6 {
            outboxd.wait_for_events(100, LIMIT).await?;
            let before = outboxd.status().await?["reconnects"].as_u64();
            match round % 3 {
                0 => proxy.reset(),
                // Messages are some hundred bytes long: on either connection this position is
                // inside one.
                1 => proxy.cut_after(Direction::ToClient, 50_000 + 37 * round),
                _ => proxy.cut_after(Direction::ToServer, 1_000 + 37 * round),
            }
            proxy.wait_for_cut(LIMIT).await?;
            // A cut may hit the SQL connection, which is replaced without restarting the stream.
            outboxd
                .wait_for_status("the stream to go on", Duration::from_secs(10), |status| {
                    let again = round % 3 > 0 || status["reconnects"].as_u64() > before;
                    status["phase"] == "streaming" && again
                })
                .await?;
        }
        outboxd.wait_for_events(100, LIMIT).await?;
        finish(&fixture, outboxd, writers, &oracle).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_no_lost_one() -> Result<()> {
    for major in MAJORS {
        let server = postgres::shared(major);
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let (proxy, outboxd) = behind_proxy(&fixture, server).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        for flow in [
            Flow::Delay(Duration::from_millis(300)),
            Flow::Throttle(60_000),
        ] {
            proxy.set(flow);
            outboxd.wait_for_events(100, LIMIT).await?;
            tokio::time::sleep(Duration::from_secs(10)).await;
            outboxd.wait_for_events(100, LIMIT).await?;
        }
        proxy.set(Flow::Pass);
        assert_eq!(outboxd.status().await?["reconnects"], 0);
        finish(&fixture, outboxd, writers, &oracle).await?;
    }
    Ok(())
}

/// Measures from the cut to the end of the session and to the next one, which has to wait until the
/// server drops the first.
async fn lost(major: u32, ways: &[Direction], flow: Flow) -> Result<()> {
    let server = postgres::shared(major);
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let (proxy, outboxd) = behind_proxy(&fixture, server).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
    outboxd.wait_for_events(100, LIMIT).await?;
    let cut = Instant::now();
    for way in ways {
        proxy.set_direction(*way, flow);
    }
    outboxd
        .wait_for_status("the lost session to be noticed", NOTICED, |status| {
            status["phase"] != "streaming"
        })
        .await?;
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    proxy.set(Flow::Pass);
    let left = DROPPED.saturating_sub(cut.elapsed());
    outboxd.wait_for_phase("streaming", left).await?;
    outboxd.wait_for_events(100, LIMIT).await?;
    finish(&fixture, outboxd, writers, &oracle).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_and_replaced() -> Result<()> {
    let both = [Direction::ToServer, Direction::ToClient];
    tokio::try_join!(
        lost(15, &both, Flow::Swallow),
        lost(17, &both, Flow::Swallow)
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_is_noticed_and_what_it_held_back_harms_nothing() -> Result<()> {
    let both = [Direction::ToServer, Direction::ToClient];
    tokio::try_join!(
        lost(15, &both, Flow::StopReading),
        lost(17, &both, Flow::StopReading)
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_one_way_is_noticed_and_the_connection_replaced() -> Result<()> {
    let (up, down) = ([Direction::ToServer], [Direction::ToClient]);
    tokio::try_join!(
        lost(15, &up, Flow::Swallow),
        lost(17, &up, Flow::Swallow),
        lost(15, &down, Flow::Swallow),
        lost(17, &down, Flow::Swallow)
    )?;
    Ok(())
}

/// A private broker that advertises a proxy's port. The tests' own clients bypass it.
async fn kafka_behind_proxy() -> Result<(Kafka, Proxy)> {
    let port = free_port()?;
    let outer = Outer {
        protocol: "PLAINTEXT",
        advertised: Some(port),
    };
    let kafka = kafka::with_outer(outer, &[])?;
    let proxy = Proxy::at(port, kafka.outer_port()?).await?;
    Ok((kafka, proxy))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_network_to_kafka_does_each_event_arrives_once_and_in_order() -> Result<()> {
    let (kafka, proxy) = kafka_behind_proxy().await?;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), &kafka).await?;
    let brokers = format!("127.0.0.1:{}", proxy.port());
    let outboxd = Outboxd::spawn(&fixture.settings.clone().set("KAFKA_BROKERS", brokers))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
    let walsender = async || {
        let slot = fixture.database.slot(&fixture.slot()).await?;
        anyhow::Ok(slot.and_then(|slot| slot.active_pid))
    };
    outboxd.wait_for_events(100, LIMIT).await?;
    let before = walsender().await?;
    assert!(before.is_some());

    // The proxy passes fewer bytes than the writers write; none is lost.
    for flow in [
        Flow::Throttle(100_000),
        Flow::Delay(Duration::from_millis(300)),
    ] {
        proxy.set(flow);
        outboxd.wait_for_events(100, LIMIT).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    // Cut off, then half open, each until the status names the wait.
    for flow in [Flow::StopReading, Flow::Swallow] {
        proxy.set(flow);
        outboxd
            .wait_for_status("Kafka to be named", LIMIT, |status| {
                status["waiting"]["on"] == "kafka"
            })
            .await?;
        assert_eq!(outboxd.get("/livez").await?.0, 200);
        proxy.set(Flow::Pass);
        outboxd.wait_for_events(100, LIMIT).await?;
    }
    for round in 0..6 {
        match round % 3 {
            0 => proxy.reset(),
            1 => proxy.cut_after(Direction::ToServer, 20_000 + 41 * round),
            // The broker has the records, and its acknowledgement is lost.
            _ => proxy.cut_after(Direction::ToClient, 500 + 41 * round),
        }
        // How many bytes pass before the cut depends on the size of the batches.
        proxy.wait_for_cut(LIMIT).await?;
        outboxd.wait_for_events(100, LIMIT).await?;
    }
    assert_eq!(walsender().await?, before, "the session was replaced");
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    finish(&fixture, outboxd, writers, &oracle).await
}

/// A proxy that answers keepalives in the server's place hides from TCP that an answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answer_is_lost_is_given_up_and_named() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let proxy = Proxy::before(server.port()).await?;
    let settings = fixture
        .settings
        .clone()
        .set("DATABASE_URL", proxy.url(fixture.database.url())?)
        .set("OUTBOX_OPERATION_TIMEOUT", "3s");
    let mut outboxd = None;
    for command in [
        "CREATE_REPLICATION_SLOT",
        "IDENTIFY_SYSTEM",
        "pg_try_advisory_lock",
        "START_REPLICATION",
        "pg_postmaster_start_time",
        "pg_control_system",
        "default_transaction_isolation",
    ] {
        proxy.mute(Some(command));
        let outboxd = match &mut outboxd {
            None => outboxd.insert(Outboxd::spawn(&settings)?),
            Some(outboxd) => {
                outboxd.respawn()?;
                outboxd
            }
        };
        outboxd
            .wait_for_log(&["no session, retrying", "answer"], LIMIT)
            .await
            .map_err(|error| error.context(command))?;
        assert_eq!(outboxd.get("/livez").await?.0, 200, "{command}");
        assert_eq!(outboxd.get("/readyz").await?.0, 503, "{command}");
        proxy.mute(None);
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

/// The server may wait for days until it can create a slot; an answer that it has given and that
/// is lost is noticed at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_waits_for_a_transaction_is_not_given_up() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let open = fixture.database.connect().await?;
    open.batch_execute("BEGIN; CREATE TABLE held (n int)")
        .await?;
    let settings = fixture
        .settings
        .clone()
        .set("OUTBOX_OPERATION_TIMEOUT", "1s");
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd
        .wait_for_status("the wait to last", LIMIT, |status| {
            let waiting = &status["waiting"];
            waiting["on"] == "snapshot" && waiting["seconds"].as_f64() > Some(8.0)
        })
        .await?;
    open.batch_execute("ROLLBACK").await?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert!(!outboxd.log().contains("no session"), "{}", outboxd.log());
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
