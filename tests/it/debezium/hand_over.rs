//! The hand-over from Debezium to outboxd as the imported file tells it, while services write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use super::groups::{ROUTE, STRINGS};
use super::{LIMIT, imported, offered, options};
use crate::support::debezium::{Connector, Distribution};
use crate::support::folder::Folder;
use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, Session};
use crate::support::wait::wait_until;

const DDL: &str = "CREATE TABLE outboxevent (
         id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
         aggregateid text NOT NULL, type text NOT NULL, payload text NOT NULL);
     CREATE PUBLICATION debezium FOR TABLE outboxevent";

/// A database that Debezium publishes from, and the settings that the import made.
struct Stage {
    /// It ends before its database.
    connector: Connector,
    session: Session,
    database: Database,
    kafka: &'static Kafka,
    topic: String,
    slot: String,
    settings: Settings,
    /// It has the file of the settings.
    _folder: Folder,
}

impl Stage {
    async fn create(debezium: &Distribution) -> Result<Stage> {
        let database = Database::create_empty(postgres::shared(postgres::turn(17))).await?;
        let session = database.connect().await?;
        session.batch_execute(DDL).await?;
        let kafka = kafka::shared();
        let prefix = format!("handover.{}.", database.name);
        let topic = format!("{prefix}Order");
        kafka.create_topic(&topic, 3, &[]).await?;
        let slot = format!("debezium_{}", database.name);
        let common = options(&database, &slot, kafka)? + STRINGS;
        let text = common + &ROUTE.replace("PREFIX", &prefix);
        let connector = Connector::start(debezium, &text)?;
        let folder = Folder::new("import")?;
        let settings = imported(&connector.file(), &folder).await?;
        connector.wait_streaming().await?;
        Ok(Stage {
            database,
            session,
            kafka,
            topic,
            slot,
            connector,
            settings,
            _folder: folder,
        })
    }

    async fn confirmed(&self) -> Result<String> {
        let row = self.database.slot(&self.slot).await?;
        row.and_then(|row| row.confirmed_flush)
            .context("a position")
    }

    /// Waits until the catalogs that Debezium's slot needs are newer than the publications: the
    /// server moves it with a record that it writes at each checkpoint.
    async fn past_publication(&self) -> Result<()> {
        let sql = "SELECT (SELECT min(age(xmin)) FROM pg_publication_rel) > \
                   (SELECT age(catalog_xmin) FROM pg_replication_slots WHERE slot_name = $1)";
        wait_until("the slot to move past the publication", LIMIT, async || {
            self.connector.must_run()?;
            self.session.batch_execute("CHECKPOINT").await?;
            let past: bool = self
                .session
                .query_one(sql, &[&self.slot])
                .await?
                .try_get(0)?;
            Ok(if past { Ok(()) } else { Err(String::new()) })
        })
        .await
    }

    /// How many events lie behind the position of Debezium's slot.
    async fn unconfirmed(&self) -> Result<i64> {
        let sql = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
                   'proto_version', '1', 'publication_names', 'debezium') \
                   WHERE get_byte(data, 0) = ascii('I')";
        Ok(self
            .session
            .query_one(sql, &[&self.slot])
            .await?
            .try_get(0)?)
    }

    /// Waits until the topic has this many records, and returns how often each event came.
    async fn arrived(&self, records: i64, outboxd: &Outboxd) -> Result<BTreeMap<i64, usize>> {
        wait_until("every event", LIMIT, async || {
            let count = self.kafka.record_count(&[&self.topic]).await?;
            Ok(if count >= records {
                Ok(())
            } else {
                Err(format!("{count} of {records}, {}", outboxd.log()))
            })
        })
        .await?;
        let records = self.kafka.consume_all(&[&self.topic]).await?;
        in_order(&records)?;
        let mut times = BTreeMap::new();
        for record in &records {
            *times.entry(number(record)?).or_default() += 1;
        }
        Ok(times)
    }
}

fn number(record: &ConsumedRecord) -> Result<i64> {
    let value = record.value.as_deref().context("a value")?;
    Ok(std::str::from_utf8(value)?.parse()?)
}

/// Fails unless the first copies of each key's events come in the order of their commits.
fn in_order(records: &[ConsumedRecord]) -> Result<()> {
    let mut last: BTreeMap<&[u8], i64> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for record in records {
        let (key, number) = (record.key.as_deref().context("a key")?, number(record)?);
        if seen.insert(number) {
            let before = last.insert(key, number);
            ensure!(before < Some(number), "{number} came behind {before:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_hands_over_without_a_gap_while_services_write() -> Result<()> {
    let Some(debezium) = offered("the hand-over from Debezium") else {
        return Ok(());
    };
    let _turn = heavy().await;
    let mut stage = Stage::create(&debezium).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(stage.database.connect().await?, Arc::clone(&stop)));
    init(&stage.settings).await?;
    stage.past_publication().await?;
    stage.connector.stop()?;
    let theirs = stage.kafka.record_count(&[&stage.topic]).await?;
    let start = stage.confirmed().await?;
    let settings = stage
        .settings
        .clone()
        .set("OUTBOX_START_LSN", start.as_str());
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    stop.store(true, Ordering::Relaxed);
    let written = writing.await??;
    let ours = stage.unconfirmed().await?;
    assert!(
        theirs > 0 && ours > 0,
        "{theirs} and {ours} of {written} events"
    );
    let times = stage.arrived(theirs + ours, &outboxd).await?;
    let all: Vec<i64> = (1..=written).collect();
    assert!(
        times.keys().copied().eq(all),
        "{} of {written} events",
        times.len()
    );
    // What Debezium had confirmed does not come again.
    let records: usize = times.values().sum();
    assert_eq!(i64::try_from(records)?, theirs + ours);

    // At a later start the position has no effect, also once the other slot is gone.
    stage.session.drop_slot(&stage.slot, LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    outboxd.respawn()?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let passed = ["the slot has passed the start position"];
    outboxd.wait_for_log(&passed, LIMIT).await?;
    let last = "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload) \
                VALUES ('Order', 'last', 'Created', '0')";
    stage.session.batch_execute(last).await?;
    let times = stage.arrived(theirs + ours + 1, &outboxd).await?;
    assert_eq!(times.get(&0), Some(&1));
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// Writes events of several keys until the stop; returns how many.
async fn write(writer: Session, stop: Arc<AtomicBool>) -> Result<i64> {
    let sql = "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload) \
               VALUES ('Order', 'k' || $1::bigint % 7, 'Created', ($1::bigint)::text)";
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        writer.execute(sql, &[&count]).await?;
    }
    Ok(count)
}

/// What ends `outboxd run` with this start position.
async fn refusal(settings: &Settings, start: &str) -> Result<String> {
    let outboxd = Outboxd::spawn(&settings.clone().set("OUTBOX_START_LSN", start))?;
    let code = outboxd.wait(LIMIT).await?;
    ensure!(code != 0, "{code}, {}", outboxd.log());
    Ok(outboxd.log())
}

/// A slot of SQL stands for the connector's: what is refused depends on the slot alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_position_that_would_leave_a_gap_is_refused() -> Result<()> {
    for major in postgres::MAJORS {
        let database = Database::create_empty(postgres::shared(major)).await?;
        let session = database.connect().await?;
        session.batch_execute(DDL).await?;
        let settings = Settings::new(&database, kafka::shared())?.set("OUTBOX_PRESET", "debezium");
        let slot = format!("debezium_{}", database.name);
        let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        session.batch_execute(&create).await?;
        init(&settings).await?;
        let at = async || -> Result<String> {
            let row = database.slot(&slot).await?;
            row.and_then(|row| row.confirmed_flush)
                .context("a position")
        };
        let start = at().await?;
        let said = refusal(&settings, &start).await?;
        assert!(said.contains("perhaps before publication"), "{said}");
        let said = refusal(&settings, "0/10").await?;
        assert!(said.contains("no slot of this database is at"), "{said}");
        assert!(said.contains(&format!("{slot} is at {start}")), "{said}");

        // The slot moves past the publication, and outboxd begins with a copy.
        let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
        let past = "SELECT (SELECT min(age(xmin)) FROM pg_publication_rel) > \
                    (SELECT age(catalog_xmin) FROM pg_replication_slots WHERE slot_name = $1)";
        wait_until("a newer catalog", LIMIT, async || {
            session.batch_execute("CHECKPOINT").await?;
            session.execute(advance, &[&slot]).await?;
            let past: bool = session.query_one(past, &[&slot]).await?.try_get(0)?;
            Ok(if past { Ok(()) } else { Err(String::new()) })
        })
        .await?;
        let start = at().await?;
        let with_start = settings.clone().set("OUTBOX_START_LSN", start.as_str());
        let mut outboxd = Outboxd::spawn(&with_start)?;
        outboxd
            .wait_for_log(&["slot created", &slot], LIMIT)
            .await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

        let said = refusal(&settings, "FFFFFFFF/0").await?;
        assert!(said.contains("before OUTBOX_START_LSN"), "{said}");
    }
    Ok(())
}
