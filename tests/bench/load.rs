//! A load: events in the WAL of one database, and for each run a slot at the first of them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::stage::{Stage, Topics};
use crate::support::outboxd::{Settings, init};
use crate::support::postgres::{Database, Session};
use crate::support::wait::wait_for;

/// Time limit for the server to release a slot whose reader has gone.
const RELEASE: Duration = Duration::from_secs(30);

/// The events of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) events: u64,
    pub(crate) per_transaction: u64,
    /// Characters of filler in each payload, in addition to about sixty others.
    pub(crate) filler: usize,
    pub(crate) topics: usize,
}

pub(crate) const SHAPES: [Shape; 5] = [
    Shape {
        name: "tens",
        title: "500,000 events, 10 a transaction",
        events: 500_000,
        per_transaction: 10,
        filler: 290,
        topics: 1,
    },
    Shape {
        name: "singles",
        title: "200,000 events, 1 a transaction",
        events: 200_000,
        per_transaction: 1,
        filler: 290,
        topics: 1,
    },
    Shape {
        name: "one",
        title: "1,000,000 events in one transaction",
        events: 1_000_000,
        per_transaction: 1_000_000,
        filler: 290,
        topics: 1,
    },
    Shape {
        name: "large",
        title: "50,000 events of 10 KiB, 10 a transaction",
        events: 50_000,
        per_transaction: 10,
        filler: 10_240,
        topics: 1,
    },
    Shape {
        name: "topics",
        title: "500,000 events for eight topics, 10 a transaction",
        events: 500_000,
        per_transaction: 10,
        filler: 290,
        topics: 8,
    },
];

/// Events that wait in the WAL.
pub(crate) struct Load {
    pub(crate) events: u64,
    pub(crate) database: Database,
    pub(crate) topics: Topics,
    /// The LSN after the last transaction.
    pub(crate) end: String,
    session: Session,
    /// How many slots have started before the first event.
    rewinds: AtomicU32,
}

impl Load {
    /// Commits the events.
    pub(crate) async fn create(stage: &Stage, shape: &Shape, options: &Options) -> Result<Load> {
        let rows = shape.per_transaction.min(options.scaled(shape.events));
        let transactions = options.scaled(shape.events).div_ceil(rows);
        let mut load = Load::empty(stage, shape.topics).await?;
        load.events = rows * transactions;
        let work = statement(shape, &load.topics, transactions, rows);
        // One statement at a time: several in one message are one transaction, in which COMMIT is
        // not allowed.
        for statement in [
            "SET synchronous_commit = off",
            &work,
            "RESET synchronous_commit",
        ] {
            let done = load.session.batch_execute(statement).await;
            done.with_context(|| statement.to_owned())?;
        }
        let session = &load.session;
        load.end = session
            .value("SELECT pg_current_wal_insert_lsn()::text")
            .await?;
        session.batch_execute("ANALYZE outbox.outbox").await?;
        Ok(load)
    }

    /// A database and topics without events.
    pub(crate) async fn empty(stage: &Stage, topics: usize) -> Result<Load> {
        let database = Database::create(&stage.server).await?;
        let partitions = if topics == 1 { 4 } else { 1 };
        let topics = Topics::create(&stage.kafka, topics, partitions).await?;
        init(&Settings::new(&database, &stage.kafka)?).await?;
        let session = database.connect().await?;
        let first = first(&database);
        let slot = format!("SELECT pg_create_logical_replication_slot('{first}', 'pgoutput')");
        session.batch_execute(&slot).await?;
        Ok(Load {
            events: 0,
            database,
            topics,
            end: "0/0".to_owned(),
            session,
            rewinds: AtomicU32::new(0),
        })
    }

    /// Creates a slot of this name that starts before the first event.
    pub(crate) async fn rewind(&self, slot: &str) -> Result<()> {
        self.session.batch_execute("CHECKPOINT").await?;
        let first = first(&self.database);
        let copy = format!("SELECT pg_copy_logical_replication_slot('{first}', '{slot}')");
        self.session.batch_execute(&copy).await?;
        self.rewinds.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A name that only the runs on this slot have, until it is made again.
    pub(crate) fn run_name(&self, slot: &str) -> String {
        let rewind = self.rewinds.load(Ordering::Relaxed);
        format!("{}-{slot}-{rewind}", self.database.name)
    }

    /// The settings with which transactions begin at the slot, or go on behind their progress.
    pub(crate) async fn progress_settings(&self, slot: &str) -> Result<[String; 2]> {
        let position = format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        let position: String = self.session.value(&position).await?;
        Ok([
            format!("OUTBOX_PROGRESS_TOPIC=progress-{}", self.run_name(slot)),
            format!("OUTBOX_ACCEPT=no-progress@{position}"),
        ])
    }

    /// The walsender of this slot, if there is one.
    pub(crate) async fn walsender(&self, slot: &str) -> Result<Option<u32>> {
        let slot = self.database.slot(slot).await?;
        let pid = slot.and_then(|slot| slot.active_pid);
        Ok(pid.map(i32::cast_unsigned))
    }

    /// Whether the slot is confirmed to the end of the events.
    pub(crate) async fn is_confirmed(&self, slot: &str) -> Result<bool> {
        let sql = format!(
            "SELECT coalesce(confirmed_flush_lsn >= '{}', false) \
             FROM pg_replication_slots WHERE slot_name = '{slot}'",
            self.end
        );
        self.session.value(&sql).await
    }

    /// Bytes of WAL behind the confirmed position.
    pub(crate) async fn lag(&self, slot: &str) -> Result<i64> {
        let slot = self.database.slot(slot).await?;
        slot.and_then(|slot| slot.lag_bytes)
            .context("there is no slot")
    }

    /// The number of rows that are not marked as published.
    pub(crate) async fn unpublished(&self) -> Result<i64> {
        self.database.unpublished().await
    }

    /// Marks every row in batches, with the statement of outboxd, and does nothing else.
    pub(crate) async fn mark(&self) -> Result<()> {
        const BATCH: u64 = 5_000;
        let mark = "UPDATE outbox.outbox SET published_at = CURRENT_TIMESTAMP, \
                           times_attempted = times_attempted + 1 \
                    WHERE published_at IS NULL AND id > $1 AND id <= $2";
        let mark = self.session.prepare(mark).await?;
        let mut marked = 0;
        for first in (0..self.events).step_by(BATCH as usize) {
            let (first, last) = (first as i64, (first + BATCH) as i64);
            marked += self.session.execute(&mark, &[&first, &last]).await?;
        }
        ensure!(marked == self.events, "{marked} rows were marked");
        Ok(())
    }

    /// Drops the slot once the server has released it.
    pub(crate) async fn drop_slot(&self, slot: &str) -> Result<()> {
        wait_for(&format!("{slot} to be released"), RELEASE, async || {
            Ok(self.walsender(slot).await?.is_none().then_some(()))
        })
        .await?;
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        Ok(self.session.batch_execute(&drop).await?)
    }
}

/// The slot before the first event; each run gets a copy of it.
fn first(database: &Database) -> String {
    format!("first_{}", database.name)
}

/// The statement that commits all transactions of the load.
fn statement(shape: &Shape, topics: &Topics, transactions: u64, rows: u64) -> String {
    let names: Vec<String> = topics
        .names
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    let (names, count) = (names.join(", "), topics.names.len());
    // Varied text, since repeated characters would be compressed in the WAL.
    let filler = format!(
        "left((SELECT string_agg(md5(t::text || g::text), '') FROM generate_series(0, {}) g), {})",
        shape.filler / 32,
        shape.filler
    );
    format!(
        "DO $$
         DECLARE topics text[] := ARRAY[{names}]; filler text;
         BEGIN
             FOR t IN 1..{transactions} LOOP
                 filler := {filler};
                 INSERT INTO outbox.outbox (event_type, topic, event_payload)
                 SELECT 'key' || (t * 7 + n) % 1000, topics[1 + (t + n) % {count}],
                        jsonb_build_object('order', t, 'line', n, 'status', 'created',
                                          'note', filler)
                 FROM generate_series(1, {rows}) n;
                 COMMIT;
             END LOOP;
         END $$"
    )
}
