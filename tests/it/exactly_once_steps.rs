//! Exactly once, where the process dies at each step of a start and of a transaction: with a
//! request on its way, and with an answer on its way back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::exactly_once::{exactly_once, progress_topic};
use crate::exactly_once_late::behind;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::kafka_proxy::{
    ADD_PARTITIONS_TO_TXN, Cluster, END_TXN, FETCH, FIND_COORDINATOR, Fate, HeldRequest,
    INIT_PRODUCER_ID, LIST_OFFSETS, PRODUCE, Wanted,
};
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::proxy::{Direction, Flow, Proxy};
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(60);
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(20),
};

/// An update of a row of the table waits while another session has the advisory lock 7.
const WAITING_MARKS: &str = "
    CREATE FUNCTION outbox.wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(7);
        RETURN new;
    END $$;
    CREATE TRIGGER wait BEFORE UPDATE ON outbox.outbox
        FOR EACH ROW EXECUTE FUNCTION outbox.wait();";

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_request_to_kafka_loses_and_repeats_nothing() -> Result<()> {
    let rounds = match is_long_run("exactly once: a kill at each request, five times") {
        true => 5,
        false => 1,
    };
    let _alone = heavy().await;
    let held = HeldRequest::new();
    let cluster = Cluster::start(&held).await?;
    let fixture = behind(&cluster).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, PATTERN);
    let of_a_start = [FIND_COORDINATOR, INIT_PRODUCER_ID, LIST_OFFSETS, FETCH];
    let of_a_start = of_a_start.map(|api| (Wanted::any(api), true));
    let of_a_transaction = [
        Wanted::any(ADD_PARTITIONS_TO_TXN),
        Wanted::with(PRODUCE, &fixture.topic),
        Wanted::with(PRODUCE, &progress_topic(&fixture)),
        Wanted::any(END_TXN),
    ];
    let of_a_transaction = of_a_transaction.map(|wanted| (wanted, false));
    let steps: Vec<_> = of_a_start.into_iter().chain(of_a_transaction).collect();
    for round in 0..rounds {
        for (wanted, at_start) in &steps {
            for fate in [Fate::Lost, Fate::Unanswered] {
                outboxd.wait_for_phase("streaming", LIMIT).await?;
                outboxd.wait_for_events(20, LIMIT).await?;
                held.next(wanted.clone(), fate);
                if *at_start {
                    outboxd.kill()?;
                    outboxd.respawn()?;
                }
                let come = held.has_come(LIMIT).await;
                come.with_context(|| format!("round {round}: {}", outboxd.log()))?;
                outboxd.kill()?;
                outboxd.respawn()?;
            }
        }
    }
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    outboxd.wait_for_events(20, LIMIT).await?;
    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_commit_and_mark_or_before_the_slot_moves_repeats_nothing() -> Result<()> {
    const EVENTS: i64 = 200;
    let server = postgres::shared(postgres::turn(15));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let (database, topic) = (&fixture.database, &fixture.topic);
    let proxy = Proxy::before(server.port()).await?;
    let settings = exactly_once(fixture.settings.clone(), &fixture);
    let settings = settings.set("REPLICATION_URL", proxy.url(database.url())?);
    let oracle = Oracle::create(database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let sent = async |events: i64| {
        wait_for("the events to be committed", LIMIT, async || {
            let sent = fixture.kafka.consume_all(&[topic]).await?.len() as i64;
            Ok((sent >= events).then_some(()))
        })
        .await
    };

    // Between the commit in Kafka and the marks: a mark waits for a lock that another session has.
    let holder = database.connect().await?;
    holder.batch_execute(WAITING_MARKS).await?;
    holder.batch_execute("SELECT pg_advisory_lock(7)").await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k' || i % 7, $1, '{}' FROM generate_series(1, $2::bigint) AS i";
    holder.execute(insert, &[topic, &EVENTS]).await?;
    sent(EVENTS).await?;
    outboxd.kill()?;
    ensure!(database.unpublished().await? == EVENTS, "a row is marked");
    holder.batch_execute("SELECT pg_advisory_unlock(7)").await?;
    outboxd.respawn()?;
    fixture.all_marked(LIMIT).await?;

    // Between the marks and the confirmation: what goes to the server's walsender is lost.
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let before = fixture.window().await?;
    proxy.set_direction(Direction::ToServer, Flow::Swallow);
    holder.execute(insert, &[topic, &EVENTS]).await?;
    sent(2 * EVENTS).await?;
    fixture.all_marked(LIMIT).await?;
    ensure!(fixture.window().await?.confirmed == before.confirmed);
    outboxd.kill()?;
    proxy.set_direction(Direction::ToServer, Flow::Pass);
    outboxd.respawn()?;
    fixture.all_confirmed(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}
