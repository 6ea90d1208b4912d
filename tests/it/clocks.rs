//! Clocks that stand still or jump: a suspended machine, a paused virtual machine, a wall clock
//! that was set. An instance that was away for long proves that it still holds the lock before it
//! sends anything.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::clocks::Clocks;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings};
use crate::support::postgres;
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(60);
/// The server ends the session of a suspended process after 30 s.
const TAKEOVER: Duration = Duration::from_secs(45);

/// The first instance stands still together with its clock, as on a suspended machine. What it had
/// not read yet must not reach Kafka behind newer events.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_on_a_suspended_machine_sends_nothing_old_when_it_resumes() -> Result<()> {
    let server = postgres::shared(postgres::turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let clocks = Clocks::new()?;
    let mut first = Outboxd::spawn(&clocks.of(fixture.settings.clone()))?;
    first.wait_for_phase("streaming", LIMIT).await?;
    // The first event of a topic waits until Kafka has described the topic.
    fixture
        .database
        .insert("first", &fixture.topic, "{}")
        .await?;
    fixture.all_marked(LIMIT).await?;
    let mut second = Outboxd::spawn(&Settings::new(&fixture.database, fixture.kafka)?)?;
    second.wait_for_phase("standby", LIMIT).await?;

    let session = fixture.database.connect().await?;
    let events = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'key' || i % 10, $1, '{}' FROM generate_series(1, 2000) i";
    first.freeze()?;
    let frozen = Instant::now();
    session.execute(events, &[&fixture.topic]).await?;
    second.wait_for_phase("streaming", TAKEOVER).await?;
    session.execute(events, &[&fixture.topic]).await?;
    fixture.all_marked(LIMIT).await?;
    let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
    assert_eq!(count, 4_001);

    clocks.shift(-(frozen.elapsed().as_secs() as i64), 0)?;
    first.thaw()?;
    first.wait_for_phase("standby", LIMIT).await?;
    let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
    assert_eq!(
        count,
        4_001,
        "old events behind newer ones: {}",
        first.log()
    );
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    Ok(())
}

/// A paused virtual machine has no clock that goes on; afterwards its wall clock is set.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_costs_a_session_and_nothing_else() -> Result<()> {
    for source in ["slot", "poll"] {
        let server = postgres::shared(postgres::turn(15));
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let clocks = Clocks::new()?;
        let settings = fixture.settings.clone().set("OUTBOX_SOURCE", source);
        let mut outboxd = Outboxd::spawn(&clocks.of(settings))?;
        let phase = if source == "slot" {
            "streaming"
        } else {
            "polling"
        };
        outboxd.wait_for_phase(phase, LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        let sessions = async || anyhow::Ok(outboxd.status().await?["reconnects"].as_u64());
        // A step of the size that time servers correct is nothing.
        clocks.shift(0, 5)?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(sessions().await?, Some(0), "{}", outboxd.log());
        // Neither is a step backwards.
        clocks.shift(0, -3_600)?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(sessions().await?, Some(0), "{}", outboxd.log());
        clocks.shift(0, 0)?;
        // A stream begins again; a session that polls is asked whether it still has the lock.
        outboxd
            .wait_for_log(&["the clock has jumped"], LIMIT)
            .await?;
        let new = u64::from(source == "slot");
        wait_for("a new session of a stream", LIMIT, async || {
            Ok((sessions().await? == Some(new)).then_some(()))
        })
        .await?;
        outboxd.wait_for_phase(phase, LIMIT).await?;
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(sessions().await?, Some(new), "{}", outboxd.log());
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
        assert_eq!(count, 4, "{source}");
    }
    Ok(())
}
