//! Writers: services that commit events, and roll some transactions back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use super::postgres::{Database, Session};

/// Writers that run until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

/// What each transaction of a [`Writers`] inserts, and how long its writer pauses afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    pub(crate) rows: u64,
    pub(crate) rest: Duration,
}

impl Pattern {
    /// Small transactions without a rest that counts.
    pub(crate) const STEADY: Pattern = Pattern {
        rows: 5,
        rest: Duration::from_millis(5),
    };
}

impl Writers {
    /// Starts `writers` tasks that insert into `topic`; they share their keys.
    pub(crate) fn start(
        database: &Database,
        topic: &str,
        writers: usize,
        pattern: Pattern,
    ) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let events = Arc::new(AtomicU64::new(0));
        let task = |writer| {
            let (stop, events) = (Arc::clone(&stop), Arc::clone(&events));
            tokio::spawn(write(
                database.unix_url().to_owned(),
                topic.to_owned(),
                writer,
                pattern,
                stop,
                events,
            ))
        };
        let tasks = (0..writers).map(task).collect();
        Writers {
            stop,
            events,
            tasks,
        }
    }

    /// Events committed so far. A writer reconnects after it has lost its server.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Stops the writers; returns the number of events whose commit was acknowledged.
    pub(crate) async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(self.events.load(Ordering::Relaxed))
    }
}

async fn write(
    url: String,
    topic: String,
    writer: usize,
    pattern: Pattern,
    stop: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
) -> Result<()> {
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'key' || (i * 7 + $2::bigint) % 23, $1, \
                         jsonb_build_object('writer', $3::bigint, 'n', i, \
                                            'filler', repeat('x', 200)) \
                  FROM generate_series($2::bigint, $2::bigint + $4::bigint - 1) i";
    let mut session: Option<Session> = None;
    let mut n = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        let open = match session.take() {
            Some(open) => open,
            None => match Session::open(&url).await {
                Ok(open) => open,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let rows = pattern.rows as i64;
        // After a broken connection the outcome is unknown here; the oracle knows it.
        if open
            .execute(insert, &[&topic, &n, &(writer as i64), &rows])
            .await
            .is_ok()
        {
            events.fetch_add(pattern.rows, Ordering::Relaxed);
            session = Some(open);
        }
        n += rows;
        tokio::time::sleep(pattern.rest).await;
    }
    Ok(())
}

/// One writer that uses every kind of transaction for this many rounds, about a hundred committed
/// events each.
pub(crate) async fn write_every_kind(
    url: &str,
    topics: &[String],
    writer: usize,
    rounds: usize,
) -> Result<()> {
    let session = Session::open(url).await?;
    for round in 0..rounds {
        // Two semicolons end a statement here; a single one may stand in a shell command.
        let topic = &topics[(writer + round) % topics.len()];
        let insert = |rows: usize| {
            format!(
                "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 SELECT 'key' || (i + {round}) % 97, '{topic}', \
                        jsonb_build_object('w', {writer}, 'r', {round}, 'i', i, \
                                           'q', E'it''s \\\\ \"q\"', 'f', 1.50) \
                 FROM generate_series(1, {rows}) i;;"
            )
        };
        let (one, ten, many) = (insert(1), insert(10), insert(60));
        let prepared = format!("p_{writer}_{round}");
        let script = [
            // Plain, single and many.
            format!("{one} {one} BEGIN;; {ten} {one} COMMIT;"),
            // Rolled back, wholly and in part.
            format!("BEGIN;; {ten} ROLLBACK;"),
            format!("BEGIN;; {one} SAVEPOINT s;; {ten} ROLLBACK TO s;; {one} RELEASE s;; COMMIT;"),
            format!(
                "BEGIN;; {one} SAVEPOINT a;; {one} SAVEPOINT b;; {ten} \
                 ROLLBACK TO b;; {one} COMMIT;"
            ),
            // Inserted and deleted in one transaction: the insert is still published.
            format!(
                "BEGIN;; {one} DELETE FROM outbox.outbox WHERE id = \
                 (SELECT max(id) FROM outbox.outbox WHERE event_payload->>'w' = '{writer}' \
                  AND xmin::text::bigint = pg_current_xact_id()::text::bigint);; COMMIT;"
            ),
            // Prepared transactions, committed and rolled back.
            format!(
                "BEGIN;; {ten} PREPARE TRANSACTION '{prepared}';; COMMIT PREPARED '{prepared}';"
            ),
            format!(
                "BEGIN;; {ten} PREPARE TRANSACTION '{prepared}';; ROLLBACK PREPARED '{prepared}';"
            ),
            // COPY: all its rows share one LSN.
            format!(
                "COPY outbox.outbox (event_type, topic, event_payload) FROM PROGRAM \
                 'for i in 1 2 3 4 5; do echo \"key$i,{topic},{{}}\"; done' WITH (FORMAT csv);"
            ),
            many,
        ];
        for statements in script {
            for statement in statements
                .split(";;")
                .filter(|statement| !statement.trim().is_empty())
            {
                session
                    .batch_execute(statement)
                    .await
                    .with_context(|| statement.to_owned())?;
            }
        }
    }
    Ok(())
}
