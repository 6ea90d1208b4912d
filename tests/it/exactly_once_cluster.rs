//! Exactly once on a cluster of three brokers, while everything fails in turn: outboxd is killed or
//! suspended beside another instance, brokers and Postgres are stopped and killed.

use std::time::Duration;

use anyhow::Result;

use crate::support::ephemeral::Stop;
use crate::support::kafka::{self, Kafka};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, Server};
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(180);
const EVENTS: &str = "events";
const PROGRESS: &str = "progress";
/// Light enough for one machine to take in while it starts brokers.
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(20),
};
/// Longer than the lock of a suspended instance is kept for it, and than its transaction may take.
const SUSPENDED: Duration = Duration::from_secs(40);

/// What happens in a round, beside the kills of outboxd.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    BrokerStops(usize),
    BrokerDies(usize),
    PostgresStops,
    PostgresDies,
    /// The instance that publishes is suspended while another takes over.
    Suspended,
}

/// A thousand, or so many as this variable says.
fn kills_of_a_long_run() -> usize {
    let given = std::env::var("OUTBOXD_TEST_KILLS").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or(1_000)
}

struct World<'a> {
    server: Server,
    brokers: Vec<Kafka>,
    database: &'a Database,
    settings: Settings,
    outboxd: Outboxd,
    rng: fastrand::Rng,
}

impl World<'_> {
    async fn create(server: Server, database: &Database) -> Result<World<'_>> {
        let brokers = kafka::cluster(&[])?;
        let two = ("min.insync.replicas", "2");
        brokers[0].create_replicated(EVENTS, 6, 3, &[two]).await?;
        let compacted = [two, ("cleanup.policy", "compact")];
        brokers[0]
            .create_replicated(PROGRESS, 1, 3, &compacted)
            .await?;
        let settings = Settings::new(database, &brokers[0])?
            .set("OUTBOX_DELIVERY", "exactly-once")
            .set("OUTBOX_PROGRESS_TOPIC", PROGRESS);
        init(&settings).await?;
        let outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        Ok(World {
            server,
            brokers,
            database,
            settings,
            outboxd,
            rng: fastrand::Rng::with_seed(seed),
        })
    }

    /// A load, so many kills of outboxd at any moment, and a trouble in their middle.
    async fn round(&mut self, kills: u32, trouble: Trouble) -> Result<()> {
        let writers = Writers::start(self.database, EVENTS, 4, PATTERN);
        self.kills(kills / 2).await?;
        match trouble {
            Trouble::BrokerStops(number) => {
                self.brokers[number].stop()?;
                self.kills(1).await?;
                self.brokers[number].resume()?;
            }
            Trouble::BrokerDies(number) => {
                self.brokers[number].kill()?;
                self.kills(1).await?;
                self.brokers[number].resume()?;
            }
            Trouble::Suspended => self.suspend().await?,
            Trouble::None | Trouble::PostgresStops | Trouble::PostgresDies => {}
        }
        self.kills(kills.div_ceil(2)).await?;
        writers.stop().await?;
        // The writers would lose their sessions, too.
        match trouble {
            Trouble::PostgresStops => self.server.stop(Stop::Fast)?,
            Trouble::PostgresDies => self.server.kill()?,
            _ => return Ok(()),
        }
        self.kills(1).await?;
        self.server.resume()
    }

    async fn kills(&mut self, kills: u32) -> Result<()> {
        for _ in 0..kills {
            let life = Duration::from_millis(self.rng.u64(0..2_500));
            tokio::time::sleep(life).await;
            self.outboxd.kill()?;
            self.outboxd.respawn()?;
        }
        Ok(())
    }

    async fn suspend(&mut self) -> Result<()> {
        let session = self.database.connect().await?;
        let marked = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NOT NULL";
        self.outboxd.wait_for_phase("streaming", LIMIT).await?;
        let other = Outboxd::spawn(&self.settings.clone())?;
        self.outboxd.freeze()?;
        let before: i64 = session.value(marked).await?;
        tokio::time::sleep(SUSPENDED).await;
        wait_for("the other one to publish", LIMIT, async || {
            let now: i64 = session.value(marked).await?;
            Ok((now > before + 200).then_some(()))
        })
        .await?;
        self.outboxd.thaw()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut late = std::mem::replace(&mut self.outboxd, other);
        assert_eq!(late.stop(LIMIT).await?, 0, "{}", late.log());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_each_event_is_there_once_and_in_order_on_three_brokers() -> Result<()> {
    let _alone = heavy().await;
    let what = "exactly once: a thousand kills, on three brokers that fail in turn";
    let (rounds, kills) = match is_long_run(what) {
        true => (kills_of_a_long_run().div_ceil(20), 20),
        false => (2, 4),
    };
    let server = postgres::private(17, &[])?;
    let database = Database::create(&server).await?;
    let mut world = World::create(server, &database).await?;
    let oracle = Oracle::create(&database).await?;
    for round in 0..rounds {
        let trouble = match round % 8 {
            0 => Trouble::BrokerStops(round / 8 % 3),
            1 => Trouble::PostgresDies,
            2 => Trouble::BrokerDies(round / 8 % 3),
            3 => Trouble::Suspended,
            5 => Trouble::PostgresStops,
            _ => Trouble::None,
        };
        world.round(kills, trouble).await?;
        if rounds > 2 {
            eprintln!("round {round}: {trouble:?}");
        }
    }
    database.all_marked(LIMIT).await?;
    let outboxd = &mut world.outboxd;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = world.brokers[0].consume_all(&[EVENTS]).await?;
    check(&oracle.committed().await?, &consumed).expect_exact()
}
