//! Each kind of log-in to Kafka on a real broker: SASL with passwords and with tokens, with TLS and
//! without, and client certificates. Each publishes; each refusal is a line with a hint, costs no
//! event and ends without a restart; renewed passwords, certificates and tokens are used.

mod accepted;
mod broker;
mod refused;
mod renewed;

pub(crate) use broker::{Broker, PASSWORD, SECRET};

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::kafka::Kafka;
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, turn};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(90);

/// outboxd with a table and a topic of its own. It polls, so that it needs no slot.
struct Publisher {
    outboxd: Outboxd,
    database: Database,
    topic: String,
}

impl Publisher {
    /// Starts it on the broker's listener of this name with these variables.
    async fn start(
        kafka: &Kafka,
        listener: &str,
        variables: &[(&str, String)],
    ) -> Result<Publisher> {
        let database = Database::create(postgres::shared(turn(17))).await?;
        let topic = kafka.topic("logins", 1).await?;
        let mut settings = Settings::new(&database, kafka)?.polling();
        init(&settings).await?;
        settings = settings
            .set("KAFKA_BROKERS", kafka.listener(listener)?)
            .set("OUTBOX_LOG", "info,outboxd=debug");
        for (name, value) in variables {
            settings = settings.set(name, value);
        }
        database.insert("first", &topic, r#"{"n": 0}"#).await?;
        let outboxd = Outboxd::spawn(&settings)?;
        Ok(Publisher {
            outboxd,
            database,
            topic,
        })
    }

    async fn insert(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.database.insert("next", &self.topic, "{}").await?;
        }
        Ok(())
    }

    /// Waits until a wait for Kafka is named with all of these words.
    async fn is_named(&self, words: &[&str]) -> Result<()> {
        wait_until(&format!("a wait with {words:?}"), LIMIT, async || {
            let why = match self.outboxd.get("/readyz").await {
                Ok((503, why)) => why,
                other => return Ok(Err(format!("{other:?}; {}", self.outboxd.log()))),
            };
            let is_named = words.iter().all(|word| why.contains(word));
            Ok(is_named.then_some(()).ok_or(why))
        })
        .await
    }

    /// Waits until all is published, ends it, and checks that each event came once and in order.
    async fn end(mut self, kafka: &Kafka) -> Result<()> {
        let marked = self.database.all_marked(LIMIT).await;
        marked.with_context(|| self.outboxd.log())?;
        let status = self.outboxd.status().await?;
        ensure!(status["reconnects"] == 0, "{status}");
        self.outboxd.get("/metrics").await?;
        self.outboxd.get("/").await?;
        let code = self.outboxd.stop(LIMIT).await?;
        ensure!(code == 0, "{code}: {}", self.outboxd.log());
        let session = self.database.connect().await?;
        let rows: i64 = session.value("SELECT count(*) FROM outbox.outbox").await?;
        let letters = "SELECT count(*) FROM outbox.dead_letter";
        ensure!(session.value::<i64>(letters).await? == 0);
        let records = kafka.consume_all(&[&self.topic]).await?;
        let ids: Vec<i64> = records.iter().filter_map(|it| it.outbox_id()).collect();
        let expected: Vec<i64> = (1..=rows).collect();
        ensure!(ids == expected, "{ids:?} of {rows}");
        Ok(())
    }
}
