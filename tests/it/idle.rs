//! The slot of an idle outbox does not retain the server's WAL.

use std::time::Duration;

use anyhow::Result;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: i64 = 1 << 20;

#[tokio::test]
async fn an_idle_outbox_follows_while_another_table_writes_a_gigabyte_of_log() -> Result<()> {
    for major in MAJORS {
        let server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let session = fixture.database.connect().await?;
        let begin: String = session.value("SELECT pg_current_wal_lsn()::text").await?;
        // Stored uncompressed: compressed text would write little WAL.
        let table =
            "CREATE TABLE noise (filler text); ALTER TABLE noise ALTER filler SET STORAGE EXTERNAL";
        session.batch_execute(table).await?;
        let noise = "INSERT INTO noise SELECT repeat('x', 1000000) FROM generate_series(1, 64)";
        let written = format!("SELECT (pg_current_wal_lsn() - '{begin}')::bigint");
        while session.value::<i64>(&written).await? < 1024 * MIB {
            session.batch_execute(noise).await?;
            session.batch_execute("TRUNCATE noise").await?;
        }
        wait_until("the slot to follow", LIMIT, async || {
            let slot = fixture.database.slot(&fixture.slot()).await?;
            Ok(match slot.and_then(|slot| slot.lag_bytes) {
                Some(lag) if lag < MIB => Ok(()),
                lag => Err(format!("it lags {lag:?} bytes")),
            })
        })
        .await?;
        assert_eq!(outboxd.status().await?["reconnects"], 0);
    }
    Ok(())
}
