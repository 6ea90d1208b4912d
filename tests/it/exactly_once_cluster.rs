//! Exactly once on a cluster of three brokers, while everything fails in turn: outboxd is killed or
//! suspended beside another instance, brokers and Postgres are stopped and killed, a topic is
//! deleted, and an event is refused.

use std::time::Duration;

use anyhow::Result;

use crate::exactly_once::{fixture, kill_in_a_large_transaction, refused_among_others};
use crate::support::ephemeral::Stop;
use crate::support::kafka::{self, Kafka};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, Server};
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};
use crate::topic_faults::deleted_and_back;

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
    /// A broker is stopped, or dies.
    Broker {
        number: usize,
        dies: bool,
    },
    /// Postgres is stopped, or dies.
    Postgres {
        dies: bool,
    },
    /// The instance that publishes is suspended while another takes over.
    Suspended,
}

/// A thousand, or so many as this variable says.
fn kills_of_a_long_run() -> usize {
    let given = std::env::var("OUTBOXD_TEST_KILLS").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or(1_000)
}

/// Of one more instance.
fn settings(database: &Database, broker: &Kafka) -> Result<Settings> {
    Ok(Settings::new(database, broker)?
        .set("OUTBOX_DELIVERY", "exactly-once")
        .set("OUTBOX_PROGRESS_TOPIC", PROGRESS))
}

struct World<'a> {
    server: Server,
    brokers: Vec<Kafka>,
    database: &'a Database,
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
        let settings = settings(database, &brokers[0])?;
        init(&settings).await?;
        let outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        Ok(World {
            server,
            brokers,
            database,
            outboxd,
            rng: fastrand::Rng::with_seed(seed),
        })
    }

    /// A load, so many kills of outboxd at any moment, and a trouble in their middle.
    async fn round(&mut self, kills: u32, trouble: Trouble) -> Result<()> {
        let writers = Writers::start(self.database, EVENTS, 4, PATTERN);
        self.kills(kills / 2).await?;
        match trouble {
            Trouble::Broker { number, dies } => {
                match dies {
                    true => self.brokers[number].kill()?,
                    false => self.brokers[number].stop()?,
                }
                self.kills(1).await?;
                self.brokers[number].resume()?;
            }
            Trouble::Suspended => self.suspend().await?,
            Trouble::None | Trouble::Postgres { .. } => {}
        }
        self.kills(kills.div_ceil(2)).await?;
        writers.stop().await?;
        // The writers would lose their sessions, too.
        match trouble {
            Trouble::Postgres { dies: true } => self.server.kill()?,
            Trouble::Postgres { dies: false } => self.server.stop(Stop::Fast)?,
            Trouble::None | Trouble::Broker { .. } | Trouble::Suspended => return Ok(()),
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
        self.outboxd.wait_for_phase("streaming", LIMIT).await?;
        let other = Outboxd::spawn(&settings(self.database, &self.brokers[0])?)?;
        self.outboxd.freeze()?;
        tokio::time::sleep(SUSPENDED).await;
        other.wait_for_events(200, LIMIT).await?;
        self.outboxd.thaw()?;
        self.outboxd.wait_for_phase("standby", LIMIT).await?;
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
            0 | 2 => Trouble::Broker {
                number: round / 8 % 3,
                dies: round % 8 == 2,
            },
            1 | 5 => Trouble::Postgres {
                dies: round % 8 == 1,
            },
            3 => Trouble::Suspended,
            _ => Trouble::None,
        };
        world.round(kills, trouble).await?;
        // A process that is killed every other second publishes less than the writers write.
        database.all_marked(LIMIT).await?;
        if rounds > 2 {
            eprintln!("round {round}: {trouble:?}");
        }
    }
    let outboxd = &mut world.outboxd;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = world.brokers[0].consume_all(&[EVENTS]).await?;
    check(&oracle.committed().await?, &consumed).expect_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_a_deleted_topic_and_a_kill_in_a_large_transaction_repeat_nothing()
-> Result<()> {
    let _alone = heavy().await;
    let brokers = kafka::cluster(&["default.replication.factor=3"])?;
    refused_among_others(&fixture(15, &brokers[0]).await?).await?;
    deleted_and_back(&fixture(17, &brokers[1]).await?).await?;
    kill_in_a_large_transaction(&fixture(17, &brokers[2]).await?).await
}
