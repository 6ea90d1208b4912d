//! A failover slot, which standbys synchronize, outlives its primary: the stream goes on where it
//! was, and confirmed events are marked as published on the standby too.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::kafka::{self, parse_lsn};
use crate::support::oracle::{Event, check};
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, Database, Server, Session};
use crate::support::process::{freeze, signal};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);

/// A primary, a standby that synchronizes its slots, and an outboxd that has both as hosts.
struct Pair {
    primary: Server,
    standby: Server,
    fixture: Fixture<'static>,
    outboxd: Outboxd,
}

impl Pair {
    async fn start(interval: &str) -> Result<Pair> {
        let mut primary = postgres::private(postgres::since(17), &[])?;
        let fixture = Fixture::create(&primary, kafka::shared()).await?;
        let physical = "SELECT pg_create_physical_replication_slot('standby', true)";
        fixture
            .database
            .connect()
            .await?
            .batch_execute(physical)
            .await?;
        primary.stop(Stop::Fast)?;
        let standby = postgres::standby(
            &primary,
            &[
                "primary_slot_name = 'standby'",
                "hot_standby_feedback = on",
                "sync_replication_slots = on",
            ],
        )?;
        primary.configure(&["synchronized_standby_slots = 'standby'"])?;
        primary.resume()?;
        let hosts = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}",
            primary.port(),
            standby.port(),
            fixture.database.name
        );
        let settings = fixture
            .settings
            .clone()
            .set("DATABASE_URL", hosts)
            .set("OUTBOX_BATCH_SIZE", "100000")
            .set("OUTBOX_PROCESS_INTERVAL", interval);
        let outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let pair = Pair {
            primary,
            standby,
            fixture,
            outboxd,
        };
        pair.synchronize_slot().await?;
        Ok(pair)
    }

    fn at_standby(&self) -> String {
        self.standby
            .unix_url(&self.fixture.database.name, "postgres")
    }

    /// A new slot is synchronized only once it has advanced, for which the server needs activity.
    async fn synchronize_slot(&self) -> Result<()> {
        let session = Session::open(&self.at_standby()).await?;
        let synced = format!(
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}' \
             AND synced AND NOT temporary AND invalidation_reason IS NULL)",
            self.fixture.slot()
        );
        let (database, topic) = (&self.fixture.database, &self.fixture.topic);
        let at_primary = database.connect().await?;
        wait_until(
            "the standby to synchronize the slot",
            LIMIT * 3,
            async || {
                // The server writes this record every 15 s by itself; a slot can advance at it.
                let note = "SELECT pg_log_standby_snapshot()";
                at_primary.execute(note, &[]).await?;
                database.insert("first", topic, "{}").await?;
                self.fixture.all_marked(LIMIT).await?;
                Ok(if session.value::<bool>(&synced).await? {
                    Ok(())
                } else {
                    let log = self.standby.log();
                    let lines: Vec<&str> =
                        log.lines().filter(|line| line.contains("slot")).collect();
                    Err(lines[lines.len().saturating_sub(6)..].join("\n"))
                })
            },
        )
        .await
    }

    /// Kills the primary and promotes the standby. Returns the slot's confirmed position on the
    /// standby.
    async fn fail_over(&mut self) -> Result<u64> {
        self.primary.kill()?;
        let session = Session::open(&self.at_standby()).await?;
        let confirmed = format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
            self.fixture.slot()
        );
        let confirmed = session.value::<String>(&confirmed).await?;
        session.batch_execute("SELECT pg_promote()").await?;
        parse_lsn(&confirmed)
    }

    /// The committed events as the new primary has them: one writer commits in id order.
    async fn committed(&self) -> Result<Vec<Event>> {
        let sql =
            "SELECT id, event_type, topic, event_payload::text FROM outbox.outbox ORDER BY id";
        let rows = Session::open(&self.at_standby())
            .await?
            .query(sql, &[])
            .await?;
        let event = |row: &tokio_postgres::Row| Event {
            id: row.get(0),
            event_type: row.get(1),
            topic: row.get(2),
            payload: row.get(3),
            published: false,
        };
        Ok(rows.iter().map(event).collect())
    }

    async fn all_marked_at_standby(&self) -> Result<()> {
        let session = Session::open(&self.at_standby()).await?;
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        wait_until("every row to be marked", LIMIT, async || {
            match session.value::<i64>(left).await? {
                0 => Ok(Ok(())),
                left => Ok(Err(format!("{left} rows are not"))),
            }
        })
        .await
    }

    /// No event is missing or invented, and those published twice were not confirmed on the
    /// standby.
    async fn expect_whole(&self, confirmed: u64) -> Result<()> {
        let consumed = self
            .fixture
            .kafka
            .consume_all(&[&self.fixture.topic])
            .await?;
        let report = check(&self.committed().await?, &consumed);
        report.expect_complete()?;
        let twice: HashSet<i64> = report.duplicates.iter().map(|(id, _)| *id).collect();
        for record in &consumed {
            let id = record.outbox_id().context("an id")?;
            if twice.contains(&id) {
                let at = record.committed_at()?;
                assert!(
                    at >= confirmed,
                    "{id} at {at} was published twice, confirmed {confirmed}"
                );
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_stream_goes_on_at_the_new_primary() -> Result<()> {
    let mut pair = Pair::start("50ms").await?;
    let pattern = Pattern {
        rows: 5,
        rest: Duration::from_millis(10),
    };
    let writers = Writers::start(&pair.fixture.database, &pair.fixture.topic, 1, pattern);
    pair.outboxd.wait_for_events(500, LIMIT).await?;
    let confirmed = pair.fail_over().await?;
    pair.outboxd
        .wait_for_status("the new primary", LIMIT, |status| {
            status["phase"] == "streaming" && status["timeline"] == 2
        })
        .await?;
    writers.stop().await?;
    // From here on the writers use the new primary.
    let session = Session::open(&pair.at_standby()).await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'later' || i % 7, $1, '{}' FROM generate_series(1, 100) i";
    session.execute(insert, &[&pair.fixture.topic]).await?;
    pair.all_marked_at_standby().await?;
    assert_eq!(pair.outboxd.stop(LIMIT).await?, 0, "{}", pair.outboxd.log());
    let heals = pair.outboxd.log().contains("creating a new slot");
    assert!(!heals, "the slot was lost: {}", pair.outboxd.log());
    pair.expect_whole(confirmed).await
}

/// When the primary dies, the standby has the event but not its mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_the_standby_lacks_holds_the_slot_so_that_the_event_comes_again() -> Result<()>
{
    let mut pair = Pair::start("4s").await?;
    let session = Session::open(&pair.at_standby()).await?;
    let before = pair.outboxd.status().await?["published_total"].as_u64();
    let id = pair
        .fixture
        .database
        .insert("unlucky", &pair.fixture.topic, "{}")
        .await?;
    pair.outboxd
        .wait_for_status("the event to be published", LIMIT, |status| {
            status["published_total"].as_u64() > before && status["unmarked_records"] == 1
        })
        .await?;
    let receiver: i32 = session
        .value("SELECT pid FROM pg_stat_wal_receiver")
        .await?;
    freeze(receiver)?;
    pair.fixture.all_marked(LIMIT).await?;
    // Longer than a status update and the standby's next synchronization take.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let status = pair.outboxd.status().await?;
    assert_eq!(status["waiting"]["on"], "standby", "{status}");
    let confirmed = pair.fail_over().await?;
    signal(receiver, "CONT")?;
    let marked = format!("SELECT published_at IS NOT NULL FROM outbox.outbox WHERE id = {id}");
    pair.outboxd
        .wait_for_status("the new primary", LIMIT, |status| {
            status["phase"] == "streaming" && status["timeline"] == 2
        })
        .await?;
    pair.all_marked_at_standby().await?;
    assert!(session.value::<bool>(&marked).await?);
    assert_eq!(pair.outboxd.stop(LIMIT).await?, 0, "{}", pair.outboxd.log());
    pair.expect_whole(confirmed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_away_is_named_and_neither_ends_the_session_nor_fails_livez() -> Result<()>
{
    let mut pair = Pair::start("50ms").await?;
    pair.standby.stop(Stop::Fast)?;
    pair.fixture
        .database
        .insert("held", &pair.fixture.topic, "{}")
        .await?;
    pair.outboxd
        .wait_for_status("the standby to be named", LIMIT, |status| {
            status["waiting"]["on"] == "standby"
        })
        .await?;
    let waiting = "outboxd_waiting_seconds{wait=\"standby\"}";
    assert!(pair.outboxd.metric(waiting).await? > Some(0.0));
    // Longer than any time-out for a silent server.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let status = pair.outboxd.status().await?;
    assert_eq!(
        (&status["reconnects"], &status["waiting"]["on"]),
        (&0.into(), &"standby".into())
    );
    assert_eq!(pair.outboxd.get("/livez").await?.0, 200);
    pair.standby.resume()?;
    pair.fixture.all_marked(LIMIT).await?;
    pair.outboxd
        .wait_for_status("the wait to end", LIMIT, |status| {
            status["waiting"].is_null()
        })
        .await?;
    Ok(())
}

/// A slot created earlier, by another version or by hand.
#[tokio::test]
async fn a_slot_that_standbys_do_not_keep_is_altered_at_the_next_start() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::since(17)), kafka::shared()).await?;
    let make = format!(
        "SELECT pg_create_logical_replication_slot('{}', 'pgoutput')",
        fixture.slot()
    );
    fixture
        .database
        .connect()
        .await?
        .batch_execute(&make)
        .await?;
    assert!(!is_failover(&fixture.database, &fixture.slot()).await?);
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert!(is_failover(&fixture.database, &fixture.slot()).await?);
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

async fn is_failover(database: &Database, slot: &str) -> Result<bool> {
    let sql = format!("SELECT failover FROM pg_replication_slots WHERE slot_name = '{slot}'");
    database.connect().await?.value(&sql).await
}
