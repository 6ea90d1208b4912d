//! What most tests begin with: a database that `outboxd init` has prepared, a topic, and the
//! settings that connect the two.

use std::time::Duration;

use anyhow::{Context, Result};

use super::kafka::{Kafka, parse_lsn};
use super::oracle::{Oracle, Report, check};
use super::outboxd::{Settings, init};
use super::postgres::{Database, Server};
use super::wait::wait_until;

/// A prepared database and a topic of four partitions.
pub(crate) struct Fixture<'a> {
    pub(crate) database: Database,
    pub(crate) kafka: &'a Kafka,
    pub(crate) topic: String,
    pub(crate) settings: Settings,
}

/// The commits that may be published twice after an interruption: committed and not yet confirmed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The slot's `confirmed_flush_lsn`.
    pub(crate) confirmed: u64,
    /// The server's WAL insert position.
    pub(crate) written: u64,
}

impl Window {
    /// Whether a commit at this position is in the window.
    pub(crate) fn contains(&self, at: u64) -> bool {
        self.confirmed <= at && at < self.written
    }
}

impl<'a> Fixture<'a> {
    pub(crate) async fn create(server: &Server, kafka: &'a Kafka) -> Result<Fixture<'a>> {
        let database = Database::create(server).await?;
        let topic = kafka.topic("events", 4).await?;
        let settings = Settings::new(&database, kafka)?;
        init(&settings).await?;
        Ok(Fixture {
            database,
            kafka,
            topic,
            settings,
        })
    }

    /// The name of the slot that outboxd creates in this database.
    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.database.name)
    }

    /// The positions of the slot and the server now.
    pub(crate) async fn window(&self) -> Result<Window> {
        let session = self.database.connect().await?;
        let slot = self.database.slot(&self.slot()).await?;
        let confirmed = slot.and_then(|slot| slot.confirmed_flush);
        let written = "SELECT pg_current_wal_insert_lsn()::text";
        Ok(Window {
            confirmed: parse_lsn(&confirmed.context("the slot has a position")?)?,
            written: parse_lsn(&session.value::<String>(written).await?)?,
        })
    }

    /// Waits until the slot's confirmed position has reached what was written before.
    pub(crate) async fn all_confirmed(&self, limit: Duration) -> Result<()> {
        let written = self.window().await?.written;
        wait_until("the slot to be confirmed", limit, async || {
            let confirmed = self.window().await?.confirmed;
            Ok((confirmed >= written)
                .then_some(())
                .ok_or(confirmed.to_string()))
        })
        .await
    }

    /// Waits until every row is marked as published.
    pub(crate) async fn all_marked(&self, limit: Duration) -> Result<()> {
        self.database.all_marked(limit).await
    }

    /// Compares the topic's records with what the oracle saw committed.
    pub(crate) async fn verdict(&self, oracle: &Oracle<'_>) -> Result<Report> {
        let consumed = self.kafka.consume_all(&[&self.topic]).await?;
        Ok(check(&oracle.committed().await?, &consumed))
    }
}
