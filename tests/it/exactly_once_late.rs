//! Exactly once, where a request that ends a transaction reaches its broker much later than it was
//! sent, and the producer that has sent it is not the last one any more.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::exactly_once::exactly_once;
use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka_proxy::{Cluster, END_TXN, Fate, HeldRequest, Wanted};
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(30);

/// A database, and settings with which outboxd reaches the brokers through their proxies.
pub(crate) async fn behind(cluster: &Cluster) -> Result<Fixture<'_>> {
    let server = postgres::shared(postgres::turn(17));
    let mut fixture = Fixture::create(server, &cluster.brokers[0]).await?;
    let settings = exactly_once(fixture.settings.clone(), &fixture);
    fixture.settings = settings.set("KAFKA_BROKERS", cluster.addresses.clone());
    Ok(fixture)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_transaction_that_comes_thirty_seconds_late_ends_no_other() -> Result<()> {
    let _alone = heavy().await;
    let late = HeldRequest::new();
    let cluster = Cluster::start(&late).await?;
    let fixture = behind(&cluster).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let pattern = Pattern {
        rows: 5,
        rest: Duration::from_millis(10),
    };
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
    for fate in [
        Fate::Late(LATE),
        Fate::LateAndCutOff(LATE),
        Fate::Late(LATE),
    ] {
        outboxd.wait_for_events(200, LIMIT).await?;
        late.next(Wanted::any(END_TXN), fate);
        late.has_come(LIMIT).await?;
        if fate == Fate::LateAndCutOff(LATE) {
            // A new process, while the request of the old one is on its way.
            outboxd.kill()?;
            outboxd.respawn()?;
            outboxd.wait_for_phase("streaming", LATE).await?;
        }
        outboxd.wait_for_events(200, LATE).await?;
        ensure!(late.is_holding(), "events go on before the request arrives");
        late.delivered(LIMIT).await?;
        outboxd.wait_for_events(200, LIMIT).await?;
    }
    writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    fixture.verdict(&oracle).await?.expect_exact()
}
